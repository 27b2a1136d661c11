"""SIGTERM, as a cluster sends it before it takes a machine away: told to the training, which saves and ends."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

EXIT_STATUS = 128 + signal.SIGTERM
"""What a shell reports of a program that SIGTERM ended."""


class Termination:
    """Within the block SIGTERM sets `asked`, however often it comes: launchers pass it on to who has had it already.

    Threads other than the main one cannot listen, and never do.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> "Termination":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
