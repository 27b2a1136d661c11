"""What the measuring networks read in drives: whether a road is there, whether it turns as commanded, whether the look has stayed.

Axes: B drives, F frames, H W pixels, D features, L looks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from worldgpt.evaluate.probes import Probes, frechet_distance

LEAST_SPREAD = 1e-3
"""Standard deviation of the truth below which R2 says nothing."""


@dataclass(frozen=True)
class ReadBack:
    """Readings of B drives, step by step; NaN for the first two steps of each."""

    numbers: Mapping[str, np.ndarray]
    """{yaw_rate_rps, ...: (B, F)} in their units."""
    looks: Mapping[str, np.ndarray]
    """{weather, time_of_day, ...: (B, F, L)} probabilities."""
    features: np.ndarray
    """(B, F, D)."""
    road_found: np.ndarray
    """(B, F) bool."""

    def drives(self, which: slice) -> "ReadBack":
        """Some of the drives."""
        numbers, looks = ({name: values[which] for name, values in table.items()} for table in (self.numbers, self.looks))
        return ReadBack(numbers, looks, self.features[which], self.road_found[which])

    @staticmethod
    def joined(parts: Sequence["ReadBack"]) -> "ReadBack":
        """The drives of all parts, one after the other."""
        numbers = {name: np.concatenate([part.numbers[name] for part in parts]) for name in parts[0].numbers}
        looks = {name: np.concatenate([part.looks[name] for part in parts]) for name in parts[0].looks}
        features, roads = (np.concatenate([getattr(part, name) for part in parts]) for name in ("features", "road_found"))
        return ReadBack(numbers, looks, features, roads)


def read_drives(probes: Probes, frames: np.ndarray) -> ReadBack:
    """Read drives (B, F, H, W, 3) uint8."""
    read = [probes.read(drive) for drive in frames]
    return ReadBack(
        numbers={name: np.stack([r.numbers[name] for r in read]) for name in read[0].numbers},
        looks={name: np.stack([r.looks[name] for r in read]) for name in read[0].looks},
        features=np.stack([r.features for r in read]),
        road_found=np.stack([r.road_found for r in read]),
    )


def read_figures(made: ReadBack, true: ReadBack, commanded: Mapping[str, np.ndarray], window: slice) -> dict[str, float | None]:
    """Figures of the steps in `window`: share of frames with a road; R2 of numbers read against those commanded (B, F), over all drives;
    share of steps whose weather and time of day are read as in the true drive; probe_frechet of the features against the true drives'.
    """
    figures: dict[str, float | None] = {"road_found": float(made.road_found[:, window].mean())}
    for name, values in commanded.items():
        if name in made.numbers:
            figures[f"{name}_r2"] = _r2(made.numbers[name][:, window], values[:, window])
    for name in made.looks:
        same = made.looks[name][:, window].argmax(-1) == true.looks[name][:, window].argmax(-1)
        figures[f"{name}_kept"] = float(same[np.isfinite(made.looks[name][:, window]).all(-1)].mean())
    figures["probe_frechet"] = frechet_distance(*(read.features[:, window].reshape(-1, read.features.shape[-1]) for read in (made, true)))
    return figures


def _r2(read: np.ndarray, true: np.ndarray) -> float | None:
    """1 - squared error / variance of the truth; None where the truth hardly varies."""
    known = np.isfinite(read) & np.isfinite(true)
    read, true = read[known].astype(np.float64), true[known].astype(np.float64)
    if len(true) < 2 or true.std() < LEAST_SPREAD:
        return None
    return float(1 - np.square(read - true).mean() / true.var())
