"""From a camera's calibration to what an episode says of it."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from data.episode import Camera


def pinhole_camera(
    focal_px: float,
    centre_px: float,
    source_size: tuple[int, int],
    size: tuple[int, int],
    *,
    axis: Sequence[float] | None = None,
    height_m: float | None = None,
) -> Camera:
    """A camera whose pictures of `source_size` (H, W) are cut and resized to `size` (H, W), as `data.image.fit` does.

    The focal length and the centre's column are in pixels of the source. `axis` is the direction of sight in the vehicle's axes (x
    forward, y left, z up).
    """
    height, width = source_size
    columns = min(width, round(height * size[1] / size[0]))
    left = (width - columns) // 2
    fov = np.arctan((centre_px - left) / focal_px) + np.arctan((left + columns - centre_px) / focal_px)
    pitch = None if axis is None else float(-np.degrees(np.arctan2(axis[2], np.hypot(axis[0], axis[1]))))
    yaw = None if axis is None else float(np.degrees(np.arctan2(axis[1], axis[0])))
    return Camera(float(np.degrees(fov)), height_m, pitch, yaw)


def mean_camera(cameras: Sequence[Camera]) -> Camera:
    """The mean, in tenths (metres in hundredths), of a camera's calibrations over a data set; unknown where none knows.

    A store has one calibration a camera, but cars and days differ by a hair.
    """

    def mean(name: str) -> float | None:
        known = [value for camera in cameras if (value := getattr(camera, name)) is not None]
        if not known:
            return None
        if not name.endswith("_deg"):
            return round(float(np.mean(known)), 2)
        return round(float(np.degrees(np.angle(np.mean(np.exp(1j * np.radians(known)))))), 1)  # 179 and -179 are 2 degrees apart

    return Camera(**{field.name: mean(field.name) for field in fields(Camera)})
