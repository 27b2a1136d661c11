"""From poses to motion: rotations to yaw, places on the earth to metres, speeds and rates by timestamps.

World axes are x east or forward, y north or left, z up; the body's are x forward, y left, z up; yaw is positive to the left.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data.errors import UserError

WINDOW_S = 0.1
"""Speeds are differences over this time: poses a few milliseconds apart would turn their rounding into noise."""
_EQUATOR_M = 6378137.0
_ECCENTRICITY2 = 6.69437999014e-3
"""WGS84: radius at the equator, squared eccentricity."""


@dataclass(frozen=True)
class Motion:
    """A drive seen from above at N times; every array is float64 (N,)."""

    times_s: np.ndarray
    x_m: np.ndarray
    y_m: np.ndarray
    yaw_rad: np.ndarray
    """Without jumps: a full turn to the left adds 2 pi."""
    speed_mps: np.ndarray
    """Along the heading: negative in reverse."""
    yaw_rate_rps: np.ndarray
    acceleration_mps2: np.ndarray
    """Change of the speed."""

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Everything but the times, by name."""
        return {name: values for name, values in vars(self).items() if name != "times_s"}


def planar_motion(times_s: np.ndarray, x_m: np.ndarray, y_m: np.ndarray, yaw_rad: np.ndarray, *, name: str) -> Motion:
    """Motion of N poses at rising times (yaw may wrap around); UserError, naming their file `name`, where there are fewer than two."""
    if len(times_s) < 2:
        raise UserError(f"{name}: expected at least 2 poses, got {len(times_s)}: no speed can be told")
    yaw = np.unwrap(yaw_rad)
    speed = _rate(x_m, times_s) * np.cos(yaw) + _rate(y_m, times_s) * np.sin(yaw)
    return Motion(times_s, x_m, y_m, yaw, speed, _rate(yaw, times_s), _rate(speed, times_s))


def local_path(x_m: np.ndarray, y_m: np.ndarray, yaw_rad: np.ndarray) -> dict[str, np.ndarray]:
    """The path as seen from its first pose, which becomes (0, 0, 0): x_m forward, y_m left, yaw_rad."""
    east, north, turn = x_m - x_m[0], y_m - y_m[0], yaw_rad[0]
    return {
        "x_m": east * np.cos(turn) + north * np.sin(turn),
        "y_m": north * np.cos(turn) - east * np.sin(turn),
        "yaw_rad": yaw_rad - turn,
    }


def rotations(quaternions: np.ndarray, *, name: str) -> np.ndarray:
    """Matrices (N, 3, 3) of unit quaternions (N, 4), real part first; UserError, naming their file, where one has another length."""
    length = np.linalg.norm(quaternions, axis=1)
    bad = np.flatnonzero(~(np.abs(length - 1) < 0.01))
    if len(bad):
        raise UserError(f"{name}: quaternion {bad[0]} expected the length 1, got {length[bad[0]]:.3g}")
    w, x, y, z = (quaternions / length[:, None]).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def yaw_of(forward: np.ndarray) -> np.ndarray:
    """Yaw (N,) of forward directions (N, 3) in world axes; what they rise or fall does not count."""
    return np.arctan2(forward[:, 1], forward[:, 0])


def ecef_of(latitude_deg: np.ndarray, longitude_deg: np.ndarray, altitude_m: np.ndarray) -> np.ndarray:
    """Earth-centred, earth-fixed places (N, 3) in metres of places on the WGS84 ellipsoid."""
    latitude, longitude = np.radians(latitude_deg), np.radians(longitude_deg)
    normal = _EQUATOR_M / np.sqrt(1 - _ECCENTRICITY2 * np.sin(latitude) ** 2)
    outward = (normal + altitude_m) * np.cos(latitude)
    upward = (normal * (1 - _ECCENTRICITY2) + altitude_m) * np.sin(latitude)
    return np.stack([outward * np.cos(longitude), outward * np.sin(longitude), upward], axis=1)


def ground_axes(place: np.ndarray) -> np.ndarray:
    """Rows (3, 3): the directions east, north and up at an ECEF place (3,), in ECEF axes."""
    longitude = np.arctan2(place[1], place[0])
    outward = np.hypot(place[0], place[1])
    latitude = np.arctan2(place[2], outward * (1 - _ECCENTRICITY2))
    for _ in range(4):  # each round takes off two more digits of the error
        normal = _EQUATOR_M / np.sqrt(1 - _ECCENTRICITY2 * np.sin(latitude) ** 2)
        latitude = np.arctan2(place[2] + _ECCENTRICITY2 * normal * np.sin(latitude), outward)
    east = [-np.sin(longitude), np.cos(longitude), 0.0]
    north = [-np.sin(latitude) * np.cos(longitude), -np.sin(latitude) * np.sin(longitude), np.cos(latitude)]
    up = [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)]
    return np.array([east, north, up])


def _rate(values: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Change a second over the window about each time, cut at the ends of the drive."""
    before = np.maximum(times_s - WINDOW_S / 2, times_s[0])
    after = np.minimum(times_s + WINDOW_S / 2, times_s[-1])
    return (np.interp(after, times_s, values) - np.interp(before, times_s, values)) / (after - before)
