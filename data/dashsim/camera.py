"""Pinhole camera on a car: from world metres to pixels and back to the ground.

Three frames, all ISO 8855 (x forward, y left, z up): `world`; `rig`, on the ground below the camera and turned with the car;
`view`, at the camera and tilted with it, as (depth, left, up). Pixel (row r, column c) covers c..c+1, r..r+1: its centre is at +0.5.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from einops import rearrange

from data.errors import UserError

NEAR_M = 0.3
"""Depth at which polygons are cut off."""


@dataclass(frozen=True)
class CameraConfig:
    """A dash camera: picture size, lens and mounting."""

    height: int = 64
    """Rows of the picture, pixels."""
    width: int = 128
    """Columns of the picture, pixels."""
    horizontal_fov_deg: float = 65.0
    """Horizontal field of view, degrees, between 10 and 150."""
    mount_height_m: float = 1.3
    """Height of the lens above the road, metres."""
    mount_forward_m: float = 0.4
    """Distance of the lens ahead of the car's centre, metres."""
    pitch_deg: float = 1.8
    """Downward tilt of the optical axis, degrees; the horizon must stay in the picture."""
    supersample: int = 2
    """Pictures are drawn this many times larger along both axes and averaged down."""

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 8:
            raise UserError(f"camera size: expected at least 8x8 pixels, got {self.height}x{self.width}")
        if not 10.0 <= self.horizontal_fov_deg <= 150.0:
            raise UserError(f"camera horizontal_fov_deg: expected 10 to 150, got {self.horizontal_fov_deg}")
        if self.mount_height_m <= 0.2:
            raise UserError(f"camera mount_height_m: expected more than 0.2, got {self.mount_height_m}")
        if self.supersample < 1:
            raise UserError(f"camera supersample: expected at least 1, got {self.supersample}")
        horizon = Camera(self).horizon_row / self.height
        if not 0.05 <= horizon <= 0.9:
            place = f"{self.pitch_deg}, which puts it at {100 * horizon:.0f} %"
            raise UserError(f"camera pitch_deg: expected the horizon at 5 to 90 % of the picture's height, got {place}")

    def enlarged(self) -> "CameraConfig":
        """The same view on the larger grid that pictures are drawn on."""
        return replace(self, height=self.height * self.supersample, width=self.width * self.supersample, supersample=1)


@dataclass(frozen=True)
class Pose:
    """Where the lens stands in the world."""

    x_m: float
    y_m: float
    yaw_rad: float

    @classmethod
    def of_car(cls, config: CameraConfig, x_m: float, y_m: float, yaw_rad: float) -> "Pose":
        """Pose of the lens of a car whose centre is at (x_m, y_m)."""
        ahead = config.mount_forward_m
        return cls(x_m + ahead * float(np.cos(yaw_rad)), y_m + ahead * float(np.sin(yaw_rad)), yaw_rad)

    def to_rig(self, world_m: np.ndarray) -> np.ndarray:
        """(..., 2) or (..., 3) world metres to the rig frame; heights stay."""
        cos, sin = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        dx, dy = world_m[..., 0] - self.x_m, world_m[..., 1] - self.y_m
        rig = np.array(world_m, dtype=np.float64)
        rig[..., 0] = cos * dx + sin * dy
        rig[..., 1] = cos * dy - sin * dx
        return rig


class Camera:
    """Projection of one camera; `config.supersample` is not applied here."""

    def __init__(self, config: CameraConfig) -> None:
        self.config = config
        self.focal_px = config.width / 2 / float(np.tan(np.radians(config.horizontal_fov_deg) / 2))
        pitch = np.radians(config.pitch_deg)
        self._cos, self._sin = float(np.cos(pitch)), float(np.sin(pitch))

    def to_view(self, rig_m: np.ndarray) -> np.ndarray:
        """(..., 3) rig metres to (..., 3) depth, left, up; (..., 2) points lie on the ground."""
        forward = rig_m[..., 0]
        height = (rig_m[..., 2] if rig_m.shape[-1] == 3 else 0.0) - self.config.mount_height_m
        view = np.empty((*rig_m.shape[:-1], 3))
        view[..., 0] = forward * self._cos - height * self._sin
        view[..., 1] = rig_m[..., 1]
        view[..., 2] = forward * self._sin + height * self._cos
        return view

    def to_pixels(self, view_m: np.ndarray) -> np.ndarray:
        """(..., 3) view metres with depth > 0 to (..., 2) continuous x (column), y (row)."""
        scale = self.focal_px / view_m[..., 0]
        pixels = np.empty((*view_m.shape[:-1], 2))
        pixels[..., 0] = self.config.width / 2 - view_m[..., 1] * scale
        pixels[..., 1] = self.config.height / 2 - view_m[..., 2] * scale
        return pixels

    def project(self, world_m: np.ndarray, pose: Pose) -> np.ndarray:
        """(..., 2 or 3) world metres to (..., 2) pixels; NaN behind the near plane."""
        view = self.to_view(pose.to_rig(world_m))
        behind = view[..., :1] < NEAR_M
        return np.where(behind, np.nan, self.to_pixels(np.where(behind, 1.0, view)))

    @property
    def horizon_row(self) -> float:
        """Row of the horizon, continuous; may lie outside the picture."""
        return self.config.height / 2 - self.focal_px * self._sin / self._cos

    @property
    def first_ground_row(self) -> int:
        """First row whose pixel centres look down at the ground."""
        return int(np.clip(np.ceil(self.horizon_row - 0.5), 0, self.config.height))

    @cached_property
    def rays(self) -> np.ndarray:
        """(H, W, 3) float64 rig directions through the pixel centres, depth component 1 in the view frame."""
        rows = np.arange(self.config.height) + 0.5
        columns = np.arange(self.config.width) + 0.5
        up = ((self.config.height / 2 - rows) / self.focal_px)[:, None]
        left = ((self.config.width / 2 - columns) / self.focal_px)[None, :]
        rays = np.empty((self.config.height, self.config.width, 3))
        rays[..., 0] = self._cos + self._sin * up
        rays[..., 1] = left
        rays[..., 2] = self._cos * up - self._sin
        return rays

    def ground_grid(self, far_m: float = 3000.0) -> np.ndarray:
        """(H - first_ground_row, W, 2) rig metres where the pixels below the horizon meet the ground, at most far_m deep."""
        rays = self.rays[self.first_ground_row :]
        reach = np.minimum(self.config.mount_height_m / np.maximum(-rays[..., 2], 1e-9), far_m)
        return rays[..., :2] * reach[..., None]


def clip_near(polygons: np.ndarray, near_m: float = NEAR_M) -> np.ndarray:
    """Cuts (N, V, 3) view polygons at depth near_m: (N, 2V, 3), where surplus vertices repeat the one before them.

    Every edge gives its start, if in front, and the point where it crosses the plane. Each polygon needs a vertex in front.
    """
    following = np.roll(polygons, -1, axis=1)
    inside, inside_next = polygons[..., 0] >= near_m, following[..., 0] >= near_m
    crosses = inside != inside_next
    gap = np.where(crosses, following[..., 0] - polygons[..., 0], 1.0)
    crossing = polygons + ((near_m - polygons[..., 0]) / gap)[..., None] * (following - polygons)
    points = rearrange([polygons, crossing], "two n v xyz -> n (v two) xyz")
    valid = rearrange([inside, crosses], "two n v -> n (v two)")
    source = np.maximum.accumulate(np.where(valid, np.arange(valid.shape[1]), -1), axis=1)
    source = np.where(source < 0, valid.argmax(axis=1)[:, None], source)
    return np.take_along_axis(points, source[..., None], axis=1)
