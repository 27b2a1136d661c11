"""Several clocks in one recording: columns of a log at the times of frames, and frames on a steady grid."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import UserError
from data.resample import SAME_RATE


@dataclass(frozen=True)
class Log:
    """Columns that were written by a clock of their own.

    UserError, naming file and field, for no row, time that goes back, more times than values or fewer, and what is no finite number.
    """

    file: Path
    times_s: np.ndarray
    """(N,) float64, never falling; the same zero as the times of the frames."""
    columns: Mapping[str, np.ndarray]
    """{field: (N,)}; angles without jumps, since values between two rows are interpolated."""
    tolerance_s: float
    """A frame farther than this from every row has no value."""

    def __post_init__(self) -> None:
        times = self.times_s
        if not len(times):
            raise UserError(f"{self.file}: expected at least one row, got none")
        for name, values in {"time": times, **self.columns}.items():
            if len(values) != len(times):
                raise UserError(f"{self.file}: {name!r} expected {len(times)} values, one a time, got {len(values)}")
            bad = np.flatnonzero(~np.isfinite(values))
            if len(bad):
                raise UserError(f"{self.file}: {name!r} expected a finite number, got {values[bad[0]]} in row {bad[0]}")
        falls = np.flatnonzero(np.diff(times) < 0)
        if len(falls):
            row = falls[0] + 1
            raise UserError(f"{self.file}: 'time' expected to rise, got {times[row]:.3f} s after {times[row - 1]:.3f} s in row {row}")

    def at(self, times_s: np.ndarray) -> dict[str, np.ndarray]:
        """{field: (T,)} at the times of T frames: on the line between the rows before and after, or held at the ends.

        UserError, naming file and field, for a frame farther than `tolerance_s` from every row.
        """
        after = np.clip(np.searchsorted(self.times_s, times_s), 0, len(self.times_s) - 1)
        before = np.maximum(after - 1, 0)
        distance = np.minimum(np.abs(self.times_s[after] - times_s), np.abs(times_s - self.times_s[before]))
        lonely = np.flatnonzero(distance > self.tolerance_s + 1e-6)
        if len(lonely):
            fields, time, gap = ", ".join(self.columns), times_s[lonely[0]], distance[lonely[0]]
            raise UserError(
                f"{self.file}: {fields} expected within {self.tolerance_s:g} s of {time:.3f} s, got the nearest {gap:.3f} s away"
            )
        return {name: np.interp(times_s, self.times_s, values) for name, values in self.columns.items()}


def covered(times_s: np.ndarray, logs: Sequence[Log], *, name: str) -> slice:
    """Which of the frames of `name` (at rising times) lie between the ends of every log; says on stderr what is left out.

    UserError where that is none.
    """
    kept = slice(0, len(times_s))
    for log in logs:
        first = int(np.searchsorted(times_s, log.times_s[0] - log.tolerance_s - 1e-6))
        last = int(np.searchsorted(times_s, log.times_s[-1] + log.tolerance_s + 1e-6, side="right"))
        span = f"{log.file} from {log.times_s[0]:.2f} s to {log.times_s[-1]:.2f} s"
        if max(first, kept.start) >= min(last, kept.stop):
            raise UserError(f"{name}: expected frames in the time of {span}, got them from {times_s[0]:.2f} s to {times_s[-1]:.2f} s")
        if last - first < len(times_s):
            print(f"{name}: left out {len(times_s) - (last - first)} of {len(times_s)} frames, outside the time of {span}", file=sys.stderr)
        kept = slice(max(first, kept.start), min(last, kept.stop))
    return kept


def grid_runs(times_s: np.ndarray, fps: float, *, name: str) -> list[np.ndarray]:
    """Frames nearest to a steady grid of `fps`, as indices, in runs: a gap in the source ends a run, and the next one has its own grid.

    No frame comes twice. Frames at unsteady intervals are taken as they are (nuScenes' come 50 or 100 ms apart): at 10 a second they lie up
    to 55 ms off the grid. UserError, naming `name`, where time does not rise or the source is slower than `fps`.
    """
    steps = np.diff(times_s)
    falls = np.flatnonzero(~(steps > 0))
    if len(falls):
        row = falls[0] + 1
        raise UserError(f"{name}: timestamps expected to rise, got {times_s[row]:.3f} s after {times_s[row - 1]:.3f} s at frame {row}")
    if len(times_s) < 2:
        return [np.arange(len(times_s))]
    rate = 1 / float(np.mean(steps[steps <= 1.75 * np.median(steps)]))
    if fps > rate * (1 + SAME_RATE):
        raise UserError(f"{name}: --fps: expected at most the source's {rate:.3g}, got {fps:g}")
    same = abs(rate / fps - 1) <= SAME_RATE
    whole = rate / round(rate / fps)  # every 2nd, 3rd, ... frame, where that is as good as `fps`
    fps = whole if abs(whole / fps - 1) <= SAME_RATE else fps
    gaps = np.flatnonzero(steps > (1.5 if same else 1.1) / fps) + 1
    runs = [run for run in np.split(np.arange(len(times_s)), gaps) if len(run)]
    return runs if same else [run[_nearest_to_grid(times_s[run], fps)] for run in runs]


def nearest(times_s: np.ndarray, wanted_s: np.ndarray) -> np.ndarray:
    """Index of the time nearest to each wanted one; the later of two that are as near."""
    after = np.clip(np.searchsorted(times_s, wanted_s), 0, len(times_s) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(np.abs(times_s[after] - wanted_s) <= np.abs(wanted_s - times_s[before]) + 1e-6, after, before)


def _nearest_to_grid(times_s: np.ndarray, fps: float) -> np.ndarray:
    wanted = np.arange(times_s[0], times_s[-1] + 1e-6, 1 / fps)
    return np.unique(nearest(times_s, wanted))
