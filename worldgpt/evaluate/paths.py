"""Paths of the ego car from its speed and yaw rate, and how far two paths lie apart.

x forward and y left of the first pose, in metres. Axes: B rollouts, F frames.
"""

import numpy as np

from worldgpt.evaluate.intervals import Estimate, mean_of


def integrate(speed_mps: np.ndarray, yaw_rate_rps: np.ndarray, fps: float, speed_before: np.ndarray | None = None) -> np.ndarray:
    """Poses (B, F, 3) of x_m, y_m and yaw_rad at each frame, from speeds and yaw rates (B, F), as seen from the frame before the first.

    The yaw rate of a frame is that of the interval that ends there; the speed of an interval is the mean of its ends' (`speed_before`
    (B,) at its very start; without it, as at the first frame). Within an interval the car runs straight along its middle heading.
    """
    speed, rate = np.asarray(speed_mps, np.float64), np.asarray(yaw_rate_rps, np.float64)
    earlier = np.concatenate([speed[:, :1] if speed_before is None else speed_before[:, None], speed[:, :-1]], axis=1)
    yaw = np.cumsum(rate, axis=1) / fps
    middle = yaw - rate / fps / 2
    way = (speed + earlier) / 2 / fps
    return np.stack([np.cumsum(way * np.cos(middle), axis=1), np.cumsum(way * np.sin(middle), axis=1), yaw], axis=-1)


def seen_from(poses: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Poses (B, F, 3) in the world as seen from the pose `start` (B, 3), which becomes (0, 0, 0)."""
    offset, turn = poses[..., :2] - start[:, None, :2], start[:, None, 2]
    x = offset[..., 0] * np.cos(turn) + offset[..., 1] * np.sin(turn)
    y = offset[..., 1] * np.cos(turn) - offset[..., 0] * np.sin(turn)
    return np.stack([x, y, poses[..., 2] - turn], axis=-1)


def path_errors(path: np.ndarray, true: np.ndarray, fps: float, seconds: tuple[float, ...]) -> dict[str, dict[str, Estimate] | None]:
    """{seconds: {ade_m, fde_m}} of paths (B, F, 2 or 3) against the true ones: mean distance up to that time, and distance at it.

    None past the last frame.
    """
    apart = np.hypot(*np.moveaxis(path[..., :2] - true[..., :2], -1, 0))  # (B, F)
    found: dict[str, dict[str, Estimate] | None] = {}
    for second in seconds:
        end = round(second * fps)
        within = 0 < end <= apart.shape[1]
        found[f"{second:g}"] = {"ade_m": mean_of(apart[:, :end].mean(1)), "fde_m": mean_of(apart[:, end - 1])} if within else None
    return found
