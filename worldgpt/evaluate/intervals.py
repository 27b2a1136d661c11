"""Figures with their 95 % intervals: Wilson's for shares, the bootstrap over rollouts for all else.

Rollouts are drawn again, never steps: steps of one rollout hang together, and counting them as independent makes intervals too narrow.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 1000
"""Bootstrap samples."""
Z = 1.959963984540054
"""Standard deviations of a normal distribution within which 95 % lie."""


@dataclass(frozen=True)
class Estimate:
    """A figure and where 95 % of its like would lie; NaN where it is not defined."""

    value: float
    low: float
    high: float
    count: int
    """Rollouts that it comes from."""

    def to_dict(self) -> dict[str, float | int | None]:
        """As JSON takes it; None where it is not defined."""
        return {name: value if isinstance(value, int) or math.isfinite(value) else None for name, value in vars(self).items()}

    def over(self, divisor: float) -> "Estimate":
        """The same divided by a number above 0 that is taken as exact; not defined where there is none."""
        if not divisor > 0:
            return undefined()
        return Estimate(self.value / divisor, self.low / divisor, self.high / divisor, self.count)


def undefined() -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, 0)


def wilson(hits: int, count: int) -> Estimate:
    """Share hits / count with Wilson's score interval (1927), which stays within 0..1 and has a width even at 0 and 1."""
    if not 0 <= hits <= count:
        raise ValueError(f"hits: expected 0..{count}, got {hits}")
    if count == 0:
        return undefined()
    share, square = hits / count, Z**2 / count
    middle = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return Estimate(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)), count)


def bootstrap(count: int, statistic: Callable[[np.ndarray], float], *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """`statistic` of the rollouts 0..count-1, and the middle 95 % of its values on rollouts drawn again with replacement (percentiles).

    `statistic` takes row numbers (n,), some of them more than once; samples on which it is NaN are left out.
    """
    if count == 0:
        return undefined()
    value, rng = statistic(np.arange(count)), np.random.default_rng(seed)
    found = np.array([statistic(rng.integers(count, size=count)) for _ in range(draws)])
    found = found[np.isfinite(found)]
    if not math.isfinite(value) or not len(found):
        return Estimate(value if math.isfinite(value) else math.nan, math.nan, math.nan, count)
    low, high = np.percentile(found, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high), count)


def mean_of(values: np.ndarray, *, seed: int = 0) -> Estimate:
    """Mean over rollouts of values (B,), NaN left out."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    return bootstrap(len(known), lambda rows: float(known[rows].mean()), seed=seed)


def ratio_of(sums: np.ndarray, counts: np.ndarray, *, seed: int = 0) -> Estimate:
    """Sum of `sums` (B,) over the sum of `counts` (B,), rollout by rollout; those that count nothing are left out."""
    there = np.asarray(counts) > 0
    above, below = np.asarray(sums, np.float64)[there], np.asarray(counts, np.float64)[there]
    return bootstrap(len(below), lambda rows: float(above[rows].sum() / below[rows].sum()), seed=seed)


def estimate_text(estimate: Mapping[str, Any] | None) -> str:
    """An estimate, as `to_dict` gives it, with its interval in few digits; "-" where it is not defined.

    >>> estimate_text({"value": 0.98765, "low": 0.9, "high": 1.0, "count": 8})
    '0.988 (0.9 to 1)'
    """
    if not estimate or estimate["value"] is None:
        return "-"
    ends = "" if estimate["low"] is None else f" ({estimate['low']:.2g} to {estimate['high']:.2g})"
    return f"{estimate['value']:.3g}{ends}"
