"""Sky and horizon as a panorama: gradient, clouds, sun, moon, stars, hills and town lights, all anchored in azimuth."""

import cv2
import numpy as np

from data.dashsim.camera import Camera
from data.dashsim.looks import Look
from data.dashsim.noise import band_noise, smoothstep

_BELOW_RAD = np.radians(2.0)
"""The panorama reaches this far below the horizon, so that sampling never leaves it there."""

_CLOUD_GRID = (180, 1080)
"""Rows and columns of the clouds' field: 60 by 360 degrees."""
_CLOUDS_PER_RAD = 1080 / (2 * np.pi)


class Sky:
    """The panorama of one drive and the map from the picture into it."""

    def __init__(self, look: Look, camera: Camera, sun_azimuth_rad: float, rng: np.random.Generator) -> None:
        rays = camera.rays
        azimuth = np.arctan2(rays[..., 1], rays[..., 0])
        # Below the horizon the map looks at the mirror image: what a wet road shows.
        elevation = np.abs(np.arctan2(rays[..., 2], np.hypot(rays[..., 0], rays[..., 1])))
        self._columns = int(np.ceil(2 * np.pi * camera.focal_px))
        self._per_rad = self._columns / (2 * np.pi)
        top = float(elevation.max()) + 4 / self._per_rad
        self._margin = int(np.ceil(np.abs(azimuth).max() * self._per_rad)) + 2
        panorama = _paint(look, top, self._columns, self._per_rad, sun_azimuth_rad, rng)
        self._panorama = np.concatenate([panorama[:, -self._margin :], panorama, panorama[:, : self._margin + 1]], axis=1)
        self._map_x = (-azimuth * self._per_rad).astype(np.float32)
        self._map_y = ((top - elevation) * self._per_rad - 0.5).astype(np.float32)

    def render(self, yaw_rad: float, rows: slice) -> np.ndarray:
        """(rows, W, 3) uint8: the sky, and below the horizon its mirror image."""
        start = (-yaw_rad * self._per_rad) % self._columns + self._margin - 0.5
        return cv2.remap(self._panorama, self._map_x[rows] + np.float32(start), self._map_y[rows], cv2.INTER_LINEAR)


def _paint(look: Look, top: float, columns: int, per_rad: float, sun_azimuth_rad: float, rng: np.random.Generator) -> np.ndarray:
    """(rows, columns, 3) uint8; column c looks to azimuth -(c + 0.5) / per_rad, row r to elevation top - (r + 0.5) / per_rad."""
    rows = int(np.ceil((top + _BELOW_RAD) * per_rad))
    elevation = (top - (np.arange(rows) + 0.5) / per_rad)[:, None]
    azimuth = -(np.arange(columns) + 0.5)[None, :] / per_rad
    from_sun = np.abs((azimuth - sun_azimuth_rad + np.pi) % (2 * np.pi) - np.pi)
    sky = _gradient(look, elevation, from_sun)
    _add_clouds(sky, look, elevation, azimuth, rng)
    _add_disc(sky, look, elevation, from_sun)
    if look.stars:
        _add_points(sky, rng, 170, (3.0, np.degrees(top)), (40.0, 170.0), np.array([1.0, 1.0, 1.1]), top, per_rad)
    _add_hills(sky, look, elevation, azimuth, per_rad, rng)
    if look.town:
        _add_points(sky, rng, 90, (0.25, 1.1), (40.0, 130.0), np.array([1.0, 0.8, 0.45]), top, per_rad, bunches=5)
    return np.clip(sky + 0.5, 0, 255).astype(np.uint8)


def _gradient(look: Look, elevation: np.ndarray, from_sun: np.ndarray) -> np.ndarray:
    share = np.clip(elevation / np.radians(25.0), 0.0, 1.0)[..., None] ** 0.7
    sky = np.asarray(look.horizon) * (1 - share) + np.asarray(look.zenith) * share
    near_sun = np.exp(-((from_sun / 0.9) ** 2)) * np.exp(-np.maximum(elevation, 0) / np.radians(12.0))
    return sky + near_sun[..., None] * np.asarray(look.glow)


def _add_clouds(sky: np.ndarray, look: Look, elevation: np.ndarray, azimuth: np.ndarray, rng: np.random.Generator) -> None:
    # Clouds are seen from below at a flat angle: wide and thin. The field does not depend on the picture's size.
    field = sum(
        share * band_noise(rng, *_CLOUD_GRID, *(np.radians(degrees) * _CLOUDS_PER_RAD for degrees in waves))
        for share, waves in ((1.0, (6.0, 26.0)), (0.35, (2.5, 9.0)))
    )
    map_x, map_y = np.zeros((2, *sky.shape[:2]), np.float32)
    map_x += (-azimuth * _CLOUDS_PER_RAD).astype(np.float32)
    map_y += (elevation * _CLOUDS_PER_RAD).astype(np.float32)
    field = cv2.remap(np.asarray(field), map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    threshold = 1.3 - 2.2 * look.cloud_cover
    cover = smoothstep(threshold - 0.5, threshold + 0.9, field) * np.clip(elevation / np.radians(5.0), 0.0, 1.0)
    sky += (0.8 * cover)[..., None] * (np.asarray(look.cloud) - sky)


def _add_disc(sky: np.ndarray, look: Look, elevation: np.ndarray, from_sun: np.ndarray) -> None:
    """The low sun of a clear dusk, or the moon of a clear night."""
    sunny = any(look.direct)
    if not sunny and not look.stars:
        return
    height = np.radians(look.sun_elevation_deg if sunny else 9.0)
    colour = np.array([255.0, 214.0, 150.0]) if sunny else np.array([226.0, 226.0, 212.0])
    angle = np.hypot(from_sun * np.cos(elevation), elevation - height)
    halo, size = (0.5, 0.14) if sunny else (0.14, 0.05)
    sky += (halo * np.exp(-angle / size))[..., None] * (colour - sky)
    disc = smoothstep(np.radians(1.7), np.radians(1.2), angle)
    sky += disc[..., None] * (colour - sky)


def _add_points(
    sky: np.ndarray,
    rng: np.random.Generator,
    count: int,
    elevation_deg: tuple[float, float],
    brightness: tuple[float, float],
    tint: np.ndarray,
    top: float,
    per_rad: float,
    bunches: int = 0,
) -> None:
    """Stars, or in bunches the lights of towns: soft dots about as wide as a pixel of the final picture."""
    rows, columns = sky.shape[:2]
    at = rng.uniform(0, columns, count)
    if bunches:
        at = (at[:bunches][rng.integers(0, bunches, count)] + rng.normal(0, 0.1 * per_rad, count)) % columns
    row = (top - np.radians(rng.uniform(*elevation_deg, count))) * per_rad
    strength = rng.uniform(*brightness, count)
    for x, y, value in zip(at, row, strength, strict=True):
        ys = np.arange(max(int(y) - 3, 0), min(int(y) + 4, rows))
        xs = np.arange(int(x) - 3, int(x) + 4)
        dot = np.exp(-(((ys[:, None] + 0.5 - y) ** 2 + (xs[None, :] + 0.5 - x) ** 2) / 1.4))
        sky[ys[:, None], xs[None, :] % columns] += value * dot[..., None] * tint


def _add_hills(sky: np.ndarray, look: Look, elevation: np.ndarray, azimuth: np.ndarray, per_rad: float, rng: np.random.Generator) -> None:
    """A far and a near ridge and a line of woods; each a periodic sum of waves in azimuth."""
    albedo = np.array([210.0, 216.0, 226.0]) if look.snow else np.array([70.0, 92.0, 62.0])
    light = np.asarray(look.ambient) + 0.5 * np.asarray(look.direct)
    ridges = (  # height, swing, waves, haze
        (2.6, 2.0, (2, 9), 0.45 + 0.55 * look.hill_haze),
        (1.5, 1.1, (4, 16), look.hill_haze + 0.15 * (1 - look.hill_haze)),
        (0.7, 0.35, (14, 60), look.hill_haze),
    )
    for height, swing, (low, high), haze in ridges:
        waves = rng.integers(low, high, 6)
        phase = rng.uniform(0, 2 * np.pi, 6)
        shape = (np.sin(waves[:, None] * azimuth + phase[:, None]) / np.sqrt(6)).sum(axis=0)
        crest = np.radians(height + swing * shape)[None, :]
        cover = np.clip((crest - elevation) * per_rad * 0.7 + 0.5, 0.0, 1.0)[..., None]
        colour = albedo * light * (0.8 if high > 20 else 1.0)
        sky += cover * (colour * (1 - haze) + np.asarray(look.horizon) * haze - sky)
