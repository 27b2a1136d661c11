"""Other actions for the same drives, and the motion that actions command.

Axes: B drives, F frames, A action channels. action[t] acts between frame t and t + 1; what it commands is seen at frame t + 1.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from conditioning.steering import WHEELBASE_M
from data.episode import ChannelSpec

STEERING = ("steering_rad", "curvature_inv_m")
"""Action channels whose yaw rate can be told without knowing the car."""
MIRRORED = ("steering_rad", "steering_norm", "curvature_inv_m", "yaw_rate_rps")
"""Action channels that turn round when left and right are exchanged."""
LEAST_SPEED_MPS = 4.0
"""Below this speed a lateral deviation would need more steering than any drive shows."""


def scaled(actions: np.ndarray, specs: Sequence[ChannelSpec], factor: float) -> np.ndarray:
    """Actions (B, F, A) times `factor`, kept within their ranges."""
    return _within(actions * np.float32(factor), specs)


def mirrored(actions: np.ndarray, specs: Sequence[ChannelSpec]) -> np.ndarray:
    """Left for right; accelerating and braking stay."""
    signs = np.array([-1.0 if spec.name in MIRRORED else 1.0 for spec in specs], np.float32)
    return _within(actions * signs, specs)


def held(actions: np.ndarray, specs: Sequence[ChannelSpec]) -> np.ndarray:
    """The first frame's actions all the way."""
    return np.repeat(actions[:, :1], actions.shape[1], axis=1)


def shuffled(actions: np.ndarray, specs: Sequence[ChannelSpec]) -> np.ndarray:
    """Those of another drive, half of the drives away: never a drive's own where there are two."""
    return np.roll(actions, max(1, len(actions) // 2), axis=0)


COUNTERFACTUALS: dict[str, Callable[[np.ndarray, Sequence[ChannelSpec]], np.ndarray]] = {
    "x0.5": lambda actions, specs: scaled(actions, specs, 0.5),
    "x1.5": lambda actions, specs: scaled(actions, specs, 1.5),
    "mirrored": mirrored,
    "held": held,
    "shuffled": shuffled,
}
"""{name: (actions (B, F, A), channels) -> other actions}."""


def commanded_motion(
    actions: np.ndarray, last: np.ndarray, specs: Sequence[ChannelSpec], speed_mps: np.ndarray, start_mps: np.ndarray, fps: float
) -> dict[str, np.ndarray]:
    """{yaw_rate_rps, speed_change_mps: (B, F)} that actions (B, F, A) ask for, after the context's `last` (B, A).

    What cannot be told is absent. Speeds are those that the accelerations lead to from `start_mps` (B,); without such a channel, the
    logged `speed_mps` (B, F).
    """
    names = [spec.name for spec in specs]
    acting = np.concatenate([last[:, None], actions[:, :-1]], axis=1).astype(np.float64)  # (B, F, A), seen at that frame
    found: dict[str, np.ndarray] = {}
    speeds = np.concatenate([start_mps[:, None], speed_mps[:, :-1]], axis=1)  # at the start of the interval
    if "acceleration_mps2" in names:
        change = np.cumsum(acting[..., names.index("acceleration_mps2")], axis=1) / fps
        after = np.maximum(start_mps[:, None] + change, 0.0)
        found["speed_change_mps"] = after - start_mps[:, None]
        speeds = np.concatenate([start_mps[:, None], after[:, :-1]], axis=1)
    for name in STEERING:
        if name in names:
            value = acting[..., names.index(name)]
            found["yaw_rate_rps"] = speeds * (np.tan(value) / WHEELBASE_M if name == "steering_rad" else value)
            break
    return found


def lateral_commands(
    actions: np.ndarray, specs: Sequence[ChannelSpec], speed_mps: np.ndarray, deviation_m: float, steps: int, fps: float
) -> np.ndarray | None:
    """Actions (B, F, A) with an S-curve on top that leads `deviation_m` to the left of the drives' own course within `steps` steps.

    The deviation grows along a minimum-jerk curve (Flash & Hogan 1985), 10u^3 - 15u^4 + 6u^5, whose curvature at speeds (B, F) is added to
    that of the actions. None where no channel's curvature can be told.
    """
    names = [spec.name for spec in specs]
    name = next((n for n in STEERING if n in names), None)
    if name is None:
        return None
    column, count = names.index(name), min(steps, actions.shape[1])
    u = (np.arange(count) + 0.5) / steps
    sideways = deviation_m * (60 * u - 180 * u**2 + 120 * u**3) / (steps / fps) ** 2  # m/s^2
    bend = sideways / np.maximum(speed_mps[:, :count], LEAST_SPEED_MPS) ** 2  # (B, count) 1/m
    given = actions.astype(np.float64)
    course = given[:, :count, column]
    curved = np.arctan(np.tan(course) + WHEELBASE_M * bend) if name == "steering_rad" else course + bend
    made = actions.copy()
    made[:, :count, column] = curved
    return _within(made, specs)


def straightest(curvature_inv_m: np.ndarray, speed_mps: np.ndarray, offset_m: np.ndarray, count: int) -> np.ndarray:
    """Rows of up to `count` drives to try lateral deviations on: fast enough, then the straightest and best centred.

    curvature (B, F) of the course, speed (B, F), offset (B,) from the lane's centre at the start (NaN where not known).
    """
    score = np.abs(curvature_inv_m).max(1) * 100 + np.nan_to_num(np.abs(offset_m))
    score = np.where(speed_mps.min(1) < LEAST_SPEED_MPS, math.inf, score)
    order = np.argsort(score, kind="stable")
    return np.sort(order[np.isfinite(score[order])][:count])


def _within(actions: np.ndarray, specs: Sequence[ChannelSpec]) -> np.ndarray:
    low, high = (np.array([getattr(spec, end) for spec in specs], np.float32) for end in ("low", "high"))
    return np.clip(actions, low, high).astype(np.float32)
