"""Does what is realised follow what was commanded: a regression with its delay. Axes: B rollouts, F frames."""

from dataclasses import dataclass

import numpy as np

from worldgpt.evaluate.intervals import Estimate, bootstrap, undefined

LONGEST_DELAY = 10
"""Frames by which what is realised may lag behind, at most."""
LEAST_SPREAD = 1e-3
"""Standard deviation of the commands below which nothing can be said."""
LEAST_GAIN = 0.01
"""A longer delay must explain so much more of the variance, as a share, to be believed."""


@dataclass(frozen=True)
class Response:
    """realised(t + delay) = intercept + slope * commanded(t), by least squares over all rollouts."""

    slope: Estimate
    intercept: Estimate
    r2: Estimate
    """Share of the variance of what is realised that the line explains."""
    delay_frames: int
    """The delay at which the line explains most."""
    r2_without_delay: float
    mae: Estimate
    """Mean absolute difference between realised, delay taken out, and commanded."""

    def to_dict(self) -> dict[str, object]:
        return {name: value.to_dict() if isinstance(value, Estimate) else _json(value) for name, value in vars(self).items()}


def response(commanded: np.ndarray, realised: np.ndarray, *, longest_delay: int = LONGEST_DELAY, seed: int = 0) -> Response:
    """Of commands and what was realised, both (B, F), NaN where not known; not defined where the commands hardly vary.

    Delays are compared on the same frames of `realised`, so that none gains by leaving some out.
    """
    longest = min(longest_delay, commanded.shape[1] // 3)
    fits = [line(*_pairs(commanded, realised, delay, longest)) for delay in range(longest + 1)]
    explained = np.array([fit[2] for fit in fits])
    if not np.isfinite(explained).any():
        nothing = undefined()
        return Response(nothing, nothing, nothing, 0, np.nan, nothing)
    best = int(np.flatnonzero(explained >= np.nanmax(explained) - LEAST_GAIN)[0])
    given, made = _pairs(commanded, realised, best, longest)
    slope, intercept, r2 = fits_of(given, made, seed)
    mae = bootstrap(len(given), lambda rows: float(np.nanmean(np.abs(given[rows] - made[rows]))), seed=seed)
    return Response(slope, intercept, r2, best, float(explained[0]), mae)


def fits_of(commanded: np.ndarray, realised: np.ndarray, seed: int = 0) -> tuple[Estimate, Estimate, Estimate]:
    """Slope, intercept and R2 of `line` over pairs (B, n), with intervals over the B rollouts."""
    slope, intercept, r2 = (
        bootstrap(len(commanded), lambda rows, k=k: line(commanded[rows], realised[rows])[k], seed=seed)
        for k in range(3)  # type: ignore[misc]
    )
    return slope, intercept, r2


def line(commanded: np.ndarray, realised: np.ndarray) -> tuple[float, float, float]:
    """(slope, intercept, R2) of the least-squares line through the pairs that are known; R2 is 0 where `realised` does not vary."""
    known = np.isfinite(commanded) & np.isfinite(realised)
    x, y = commanded[known].astype(np.float64), realised[known].astype(np.float64)
    if len(x) < 3 or x.std() < LEAST_SPREAD:
        return np.nan, np.nan, np.nan
    slope = float(((x - x.mean()) * (y - y.mean())).mean() / x.var())
    intercept = float(y.mean() - slope * x.mean())
    left = np.square(y - intercept - slope * x).mean()
    return slope, intercept, float(1 - left / y.var()) if y.std() > 1e-9 else 0.0


def _pairs(commanded: np.ndarray, realised: np.ndarray, delay: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Both (B, F - longest): what is realised from frame `longest` on, and what was commanded `delay` frames before."""
    return commanded[:, longest - delay : commanded.shape[1] - delay], realised[:, longest:]


def _json(value: float | int) -> float | int | None:
    return value if isinstance(value, int) or np.isfinite(value) else None
