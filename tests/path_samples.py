"""A made-up path, and rotations written in another way than the code under test does it."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from data.episode import Drive
from data.manifest import Manifest
from data.store import write_store

SPEED, YAW_RATE = 8.0, 0.25
"""m/s, rad/s of `left_turn`."""


def left_turn(
    times_s: np.ndarray, heading: float = 0.7, origin: Sequence[float] = (100.0, -40.0)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, y, yaw) of a circle to the left at steady speed; yaw wraps around."""
    yaw = heading + YAW_RATE * (times_s - times_s[0])
    radius = SPEED / YAW_RATE
    x = origin[0] + radius * (np.sin(yaw) - np.sin(heading))
    y = origin[1] - radius * (np.cos(yaw) - np.cos(heading))
    return x, y, (yaw + np.pi) % (2 * np.pi) - np.pi


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """(w, x, y, z) of a rotation matrix, by way of its axis and angle."""
    vector = cv2.Rodrigues(np.asarray(matrix, float))[0][:, 0]
    angle = float(np.linalg.norm(vector))
    axis = vector / angle if angle else vector
    return np.array([np.cos(angle / 2), *(np.sin(angle / 2) * axis)])


def store_of(drives: Sequence[Drive], folder: Path, fps: float = 10) -> Manifest:
    return write_store(drives, folder, source="test", fps=fps, workers=1, progress=False)
