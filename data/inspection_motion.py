"""How far the pictures of a set move, and whether its telemetry says the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

_WIDTH = 128
"""Pictures are looked at in this width, in pixels."""
_CELL, _TEXTURE = 8, 6.0
"""Side of the cells that are compared, in pixels, and the deviation of gray levels from which a cell has something to compare."""
_CHANGED, _UNCHANGED = 4.0, 2.0
"""Mean difference in gray levels above which a cell has moved for sure, and below which it has not: noise stays below."""
_MOVES, _STANDS = 0.3, 0.02
"""Share of cells that have moved: above the first the whole picture moves, below the second it stands; traffic passing by is between."""
_CLEAR_SHIFT = 0.2
"""Response of the phase correlation from which on a shift counts."""
STANDING_MPS, DRIVING_MPS = 0.1, 3.0
TURNS = ("yaw_rate_rps", "curvature_inv_m", "steering_rad", "steering_wheel_rad", "steering_norm")
"""Channels that are positive where the car turns to the left, and the picture shifts to the right."""


@dataclass(frozen=True)
class MotionFigures:
    """Pairs of neighbouring pictures and what their channels say of them."""

    camera: str
    pairs: int
    standing: int
    """Pairs at a speed below 0.1 m/s (0 where there is no `speed_mps`)."""
    standing_but_moves: int
    driving: int
    """Pairs at a speed above 3 m/s."""
    driving_but_stands: int
    turning: Mapping[str, float]
    """{channel: correlation with the shift of the upper half of the picture to the right}, -1..1; where both of them vary."""
    turning_pairs: int
    """Pairs whose shift was clear."""


def picture_motion(frames: np.ndarray) -> np.ndarray:
    """(T - 1, 4) for T frames (T, H, W, 3): share of cells that moved, share that did not stand, shift to the right in pixels, response."""
    pictures = [_small_gray(frame) for frame in frames]
    window = cv2.createHanningWindow((pictures[0].shape[1], pictures[0].shape[0] // 2), cv2.CV_32F)
    return np.array([_pair(before, after, window) for before, after in pairwise(pictures)]).reshape(-1, 4)


def motion_figures(camera: str, motion: np.ndarray, channels: np.ndarray, names: Sequence[str]) -> MotionFigures:
    """Compare motion (N, 4) of N pairs with the channels (N, C) that hold between the two pictures."""
    moved, unsettled, shift, response = motion.T
    speed = np.abs(channels[:, names.index("speed_mps")]) if "speed_mps" in names else np.full(len(motion), np.nan)
    standing, driving = speed < STANDING_MPS, speed > DRIVING_MPS
    clear = response > _CLEAR_SHIFT
    turning = {name: _correlation(channels[clear, names.index(name)], shift[clear]) for name in TURNS if name in names}
    return MotionFigures(
        camera=camera,
        pairs=len(motion),
        standing=int(standing.sum()),
        standing_but_moves=int((standing & (moved > _MOVES)).sum()),
        driving=int(driving.sum()),
        driving_but_stands=int((driving & (unsettled < _STANDS)).sum()),
        turning={name: value for name, value in turning.items() if value is not None},
        turning_pairs=int(clear.sum()),
    )


def _small_gray(frame: np.ndarray) -> np.ndarray:
    """float32 (h, w), not wider than 128, of whole cells."""
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    height, width = gray.shape
    if width > _WIDTH:
        gray = cv2.resize(gray, (_WIDTH, max(_CELL, round(height * _WIDTH / width))), interpolation=cv2.INTER_AREA)
    height, width = (max(1, side // _CELL) * _CELL for side in gray.shape)
    return gray[:height, :width].astype(np.float32)


def _pair(before: np.ndarray, after: np.ndarray, window: np.ndarray) -> tuple[float, float, float, float]:
    """Without a textured cell nothing is said of motion: NaN."""
    cells = _cells(before)
    textured = cells.std(axis=1) > _TEXTURE
    difference = np.abs(_cells(after) - cells).mean(axis=1)[textured]
    moved, unsettled = (float(np.mean(difference > limit)) if len(difference) else np.nan for limit in (_CHANGED, _UNCHANGED))
    half = before.shape[0] // 2
    # Some versions of OpenCV multiply their inputs by the window in place.
    (right, _), response = cv2.phaseCorrelate(before[:half].copy(), after[:half].copy(), window)
    return moved, unsettled, right, response


def _cells(picture: np.ndarray) -> np.ndarray:
    """(n, 64)."""
    height, width = picture.shape
    return picture.reshape(height // _CELL, _CELL, width // _CELL, _CELL).swapaxes(1, 2).reshape(-1, _CELL * _CELL)


def _correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    if len(one) < 2 or one.std() < 1e-6 or other.std() < 1e-6:
        return None
    return float(np.corrcoef(one, other)[0, 1])
