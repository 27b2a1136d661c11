"""From the clock of a source to a steady rate, by timestamps."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

from data.errors import UserError

Item = TypeVar("Item")
SAME_RATE = 0.05
"""A source whose rate is this near to the wanted one (relative) keeps every item: dropping or doubling one now and then would be worse."""


def check_rates(fps: float, source_fps: float | None) -> None:
    """UserError where a rate is not above 0, or the wanted one lies above that of the source."""
    if not fps > 0:
        raise UserError(f"--fps: expected a rate above 0, got {fps}")
    if source_fps is not None and not source_fps > 0:
        raise UserError(f"--source-fps: expected a rate above 0, got {source_fps}")
    if source_fps is not None and fps > source_fps * (1 + SAME_RATE):
        raise UserError(f"--fps: expected at most the source's {source_fps}, got {fps}")


def resample(stream: Iterable[tuple[float, Item]], fps: float, *, source_fps: float, name: str) -> Iterator[tuple[float, Item]]:
    """Of (timestamp in s, item) pairs, those nearest to a grid of `fps` that begins at the first; timestamps stay the true ones.

    No item comes twice. UserError, naming the source `name`, where time does not rise, and where no item lies within half a period of
    the grid: a gap in the source, or a rate above its own.
    """
    if abs(source_fps / fps - 1) <= SAME_RATE:
        yield from _without_gaps(rising(stream, name), fps, name)
        return
    start, count = 0.0, 0
    before: tuple[float, Item] | None = None
    last: tuple[float, Item] | None = None
    for now in rising(stream, name):
        if before is None:
            start = now[0]
        while (target := start + count / fps) <= now[0] + 1e-6:
            last = _nearest(before, now, last, target, fps, name)
            yield last
            count += 1
        before = now


def rising(stream: Iterable[tuple[float, Item]], name: str) -> Iterator[tuple[float, Item]]:
    """The stream itself; UserError where a timestamp is not above the one before."""
    before = float("-inf")
    for index, (time, item) in enumerate(stream):
        if not time > before:
            raise UserError(f"{name}: timestamps expected to rise, got {time:.3f} s after {before:.3f} s at item {index}")
        before = time
        yield time, item


def unbroken_runs(indices: Sequence[int], *, fps: float, source_fps: float) -> list[slice]:
    """Stretches of `indices` (rising numbers of the frames that are there) without a gap too wide for `resample`."""
    widest = 1 if abs(source_fps / fps - 1) <= SAME_RATE else max(1, int(source_fps / fps))
    breaks = [k for k in range(1, len(indices)) if indices[k] - indices[k - 1] > widest]
    return [slice(first, last) for first, last in pairwise([0, *breaks, len(indices)])]


def _without_gaps(stream: Iterable[tuple[float, Item]], fps: float, name: str) -> Iterator[tuple[float, Item]]:
    before: float | None = None
    for time, item in stream:
        if before is not None and time - before > 1.5 / fps:
            raise UserError(f"{name}: no frame between {before:.2f} s and {time:.2f} s, expected one every {1000 / fps:.0f} ms")
        before = time
        yield time, item


def _nearest(
    before: tuple[float, Item] | None, now: tuple[float, Item], last: tuple[float, Item] | None, target: float, fps: float, name: str
) -> tuple[float, Item]:
    """Whichever of two neighbours lies nearer to `target` and has not been given out as `last`."""
    pick = now if before is None or before is last or now[0] - target <= target - before[0] else before
    if pick is last or abs(pick[0] - target) > 0.5 / fps + 1e-6:
        raise UserError(
            f"{name}: no frame within {500 / fps:.0f} ms of {target:.2f} s, expected one every {1000 / fps:.0f} ms; give a lower --fps"
        )
    return pick
