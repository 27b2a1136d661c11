"""Is what a prompt tells to be seen: looks read back from drives, class by class, with a confusion matrix.

A drive is one reading: steps of a drive hang together. Axes: B drives, F frames, L names of a look.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldgpt.evaluate.intervals import Estimate, wilson
from worldgpt.evaluate.probes import EVENT, NO_EVENT
from worldgpt.evaluate.prompt_cases import PromptCase, told_names
from worldgpt.evaluate.read_back import ReadBack

JOINT = "weather_x_time_of_day"
EVENT_STEPS = 5
"""Steps over which an event's probability is averaged before its peak is taken."""
EVENT_LEAST = 0.5
"""Peak of that mean below which nothing is said to have happened."""


@dataclass(frozen=True)
class LookScore:
    """How drives were read of which the look was told."""

    names: tuple[str, ...]
    confusion: np.ndarray
    """(L, L) int: drives by what was told (row) and read (column)."""

    @property
    def accuracy(self) -> Estimate:
        return wilson(int(np.trace(self.confusion)), int(self.confusion.sum()))

    @property
    def by_name(self) -> dict[str, Estimate]:
        """{name: share of its drives that are read as it}, those that were told."""
        told = self.confusion.sum(1)
        return {name: wilson(int(self.confusion[k, k]), int(told[k])) for k, name in enumerate(self.names) if told[k]}

    def to_dict(self) -> dict[str, Any]:
        by_name = {name: estimate.to_dict() for name, estimate in self.by_name.items()}
        return {"accuracy": self.accuracy.to_dict(), "by_name": by_name, "names": list(self.names), "confusion": self.confusion.tolist()}


def read_look(look: str, probabilities: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """(B,) int: the name that each drive (B, F, L) shows; -1 where no step of it can be read.

    The largest mean over the steps that are read; of events, which last for a few steps, the largest peak, or none.
    """
    known = np.asarray(np.isfinite(probabilities).all(-1))
    if look == EVENT:
        return _read_event(probabilities, known, list(names).index(NO_EVENT))
    mean = np.where(known[..., None], probabilities, 0.0).sum(1)
    return np.where(known.any(1), mean.argmax(-1), -1)


def _read_event(probabilities: np.ndarray, known: np.ndarray, none: int) -> np.ndarray:
    found = np.full(len(probabilities), -1)
    for row, (values, there) in enumerate(zip(probabilities, known, strict=True)):
        steps = values[there]
        if not len(steps):
            continue
        kernel = np.ones(min(EVENT_STEPS, len(steps))) / min(EVENT_STEPS, len(steps))
        peaks = np.array([np.convolve(column, kernel, "valid").max() for column in steps.T])
        peaks[none] = -1.0
        found[row] = int(peaks.argmax()) if peaks.max() > EVENT_LEAST else none
    return found


def look_scores(read: ReadBack, cases: Sequence[PromptCase], look_names: dict[str, list[str]]) -> dict[str, LookScore]:
    """{look: score} of drives that were told what `cases` (B,) say; looks that nobody told, or no network reads, are left out.

    A name that the networks do not know counts as missed: it has a row, and nothing is ever read as it.
    """
    found = {}
    for look, names in look_names.items():
        told = told_names(cases, look)
        every = [*names, *sorted({name for name in told if name is not None} - set(names))]
        seen = read_look(look, read.looks[look], names)
        pairs = [(every.index(name), int(column)) for name, column in zip(told, seen, strict=True) if name is not None and column >= 0]
        if pairs:
            confusion = np.zeros((len(every), len(every)), int)
            np.add.at(confusion, tuple(np.array(pairs).T), 1)
            found[look] = LookScore(tuple(every), confusion)
    return found


def joint_accuracy(read: ReadBack, cases: Sequence[PromptCase], look_names: dict[str, list[str]]) -> Estimate | None:
    """Share of drives whose weather and time of day are both read as told; None where they are not told or not read."""
    looks = ("weather", "time_of_day")
    if not all(look in look_names for look in looks):
        return None
    right = []
    for look in looks:
        seen = read_look(look, read.looks[look], look_names[look])
        right.append(
            [
                None if name is None else k >= 0 and look_names[look][k] == name
                for name, k in zip(told_names(cases, look), seen, strict=True)
            ]
        )
    both = [a and b for a, b in zip(*right, strict=True) if a is not None and b is not None]
    return wilson(sum(both), len(both)) if both else None
