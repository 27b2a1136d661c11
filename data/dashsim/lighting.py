"""Light that falls on things and air between them and the camera."""

import numpy as np

from data.dashsim.looks import Look
from data.dashsim.noise import smoothstep


class Lighting:
    """Sun, sky, the ego car's headlights and the air of one drive."""

    beam_colour = np.array([1.0, 0.96, 0.86])
    lamp_colour = np.array([0.95, 0.92, 0.80], dtype=np.float32)

    def __init__(self, look: Look, sun_azimuth_rad: float, lens_height_m: float) -> None:
        self.look = look
        self._lens_m = lens_height_m
        self._scatter = 1700.0 * max(look.extinction_per_m - 1 / 300, 0.0) * look.beam
        self.ambient, self.direct = np.asarray(look.ambient), np.asarray(look.direct)
        self.haze = np.asarray(look.horizon, dtype=np.float64)
        elevation = np.radians(look.sun_elevation_deg)
        flat = np.array([np.cos(sun_azimuth_rad), np.sin(sun_azimuth_rad)]) * np.cos(elevation)
        self.sun = np.array([flat[0], flat[1], np.sin(elevation)])
        """Unit vector to the sun, world axes."""

    def beam(self, rig_m: np.ndarray) -> np.ndarray:
        """Strength (...,) of the ego car's low beam at (..., 3) rig metres."""
        x, y, z = rig_m[..., 0], rig_m[..., 1], rig_m[..., 2]
        ahead = np.maximum(x, 0.0)
        across = np.exp(-(((y + 0.02 * x) / (1.9 + 0.16 * ahead)) ** 2))
        # A low beam is cut off above.
        upward = np.exp(-np.maximum(z - 0.6, 0.0) / 1.1)
        return 1.25 * self.look.beam * across * upward * smoothstep(1.5, 6.0, x) * np.exp(-ahead / 26.0)

    def transmission(self, depth_m: np.ndarray) -> np.ndarray:
        """Share (...,) of light that the air lets through."""
        return np.exp(-np.maximum(depth_m, 0.0) * self.look.extinction_per_m)

    def through_air(self, colours: np.ndarray, rig_m: np.ndarray) -> np.ndarray:
        """(..., 3) colours as seen at (..., 3) rig metres from the lens."""
        air = self.transmission(np.linalg.norm(rig_m[..., :2], axis=-1))[..., None]
        return colours * air + self.veil(rig_m - [0.0, 0.0, self._lens_m]) * (1 - air)

    def veil(self, rays: np.ndarray) -> np.ndarray:
        """(..., 3) what endless air shows along (..., 3) rig directions from the lens: haze, and in fog the headlights thrown back."""
        if not self._scatter:
            return self.haze
        ahead = np.maximum(rays[..., 0], 1e-3)
        lobe = np.exp(-((rays[..., 1] / ahead / 0.4) ** 2) - ((rays[..., 2] / ahead + 0.08) / 0.13) ** 2)
        return self.haze + self._scatter * lobe[..., None] * self.beam_colour
