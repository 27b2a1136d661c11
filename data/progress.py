"""The progress bar of every long job on data: done, rate, time left."""

from types import TracebackType
from typing import Any


class Bar:
    """`with Bar("drives", total=1000, unit="frames") as bar: bar.advance(32)`; shows nothing when not `enabled`."""

    def __init__(self, description: str, *, total: int | None, unit: str, enabled: bool = True) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress: Any = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
            disable=not enabled,
        )
        self._unit = unit
        self._task = self._progress.add_task(description, total=total, rate="")
        self.done = 0

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._progress.update(self._task, total=self.done)  # the total was an estimate
        self._progress.stop()

    def advance(self, count: int) -> None:
        self.move_to(self.done + count)

    def move_to(self, done: int) -> None:
        """Say that `done` units are complete by now."""
        self.done = done
        elapsed = self._progress.tasks[self._task].elapsed or 0
        rate = f"{done / elapsed:,.0f} {self._unit}/s" if elapsed > 0.5 else ""
        self._progress.update(self._task, completed=done, rate=rate)
