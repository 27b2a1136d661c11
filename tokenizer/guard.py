"""Which updates are made: none with a loss or a gradient that is not finite, or with a loss that has exploded."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from data.errors import UserError

BAD_STEPS_IN_A_ROW = 3
RECENT = 50
"""Updates that an explosion is measured against."""
ENOUGH = 20
"""Updates that must have been made before a loss can count as exploded."""


class Guard:
    """Judges every update by those before it; `state` and `restore` carry that over an interruption."""

    def __init__(self, explosion: float) -> None:
        self.explosion = explosion
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.in_a_row = 0
        self.skipped = 0
        """Updates not made so far."""

    def objection(self, loss: float, norm: float) -> str | None:
        """Why no update must be made with this loss and this norm of the gradient, or None; each update is asked about once."""
        why = self._why(loss, norm)
        if why is None:
            self.in_a_row = 0
            self.recent.append(loss)
        else:
            self.in_a_row += 1
            self.skipped += 1
        return why

    def _why(self, loss: float, norm: float) -> str | None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return "not finite"
        if self.explosion and len(self.recent) >= ENOUGH and loss > self.explosion * max(self.recent) > 0:
            return f"exploded (more than {self.explosion:g} times the largest of the last {len(self.recent)})"
        return None

    def check(self, step: int) -> None:
        """UserError after a few bad updates in a row: the next ones would be no better."""
        if self.in_a_row >= BAD_STEPS_IN_A_ROW:
            told = f"training stopped at update {step}: {self.in_a_row} updates in a row were not finite or exploded"
            raise UserError(f"{told}; lower loop.learning_rate (their batches: bad_updates.jsonl)")

    def state(self) -> dict[str, Any]:
        return {"recent": list(self.recent), "in_a_row": self.in_a_row, "skipped": self.skipped}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.recent = deque(state["recent"], maxlen=RECENT)
        self.in_a_row, self.skipped = state["in_a_row"], state["skipped"]
