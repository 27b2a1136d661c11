"""Light that falls on things and air between them and the camera."""

import numpy as np

from data.dashsim.camera import Camera
from data.dashsim.looks import Look
from data.dashsim.noise import smoothstep


class Lighting:
    """Sun, sky, the ego car's headlights and the air of one drive."""

    beam_colour = np.array([1.0, 0.96, 0.86])
    lamp_colour = np.array([0.95, 0.92, 0.80], dtype=np.float32)

    def __init__(self, look: Look, sun_azimuth_rad: float) -> None:
        self.look = look
        self.ambient, self.direct = np.asarray(look.ambient), np.asarray(look.direct)
        self.haze = np.asarray(look.horizon, dtype=np.float64)
        elevation = np.radians(look.sun_elevation_deg)
        flat = np.array([np.cos(sun_azimuth_rad), np.sin(sun_azimuth_rad)]) * np.cos(elevation)
        self.sun = np.array([flat[0], flat[1], np.sin(elevation)])
        """Unit vector to the sun, world axes."""

    def beam(self, rig_m: np.ndarray) -> np.ndarray:
        """Strength (...,) of the ego car's low beam at (..., 3) rig metres."""
        x, y, z = rig_m[..., 0], rig_m[..., 1], rig_m[..., 2]
        spread = 1.9 + 0.16 * np.maximum(x, 0.0)
        # A low beam is cut off above and reaches further on the near side.
        cut = np.exp(-np.maximum(z - 0.6, 0.0) / 1.1)
        return self.look.beam * 0.95 * np.exp(-(((y + 0.02 * x) / spread) ** 2)) * smoothstep(1.5, 6.0, x) * np.exp(-np.maximum(x, 0) / 26.0) * cut

    def transmission(self, depth_m: np.ndarray) -> np.ndarray:
        """Share (...,) of light that the air lets through."""
        return np.exp(-np.maximum(depth_m, 0.0) * self.look.extinction_per_m)

    def through_air(self, colours: np.ndarray, depth_m: np.ndarray) -> np.ndarray:
        """(N, 3) colours as seen over (N,) metres."""
        air = self.transmission(depth_m)[:, None]
        return colours * air + self.haze * (1 - air)

    def scatter(self, camera: Camera) -> np.ndarray:
        """(H, W, 3) what fog throws back of the ego car's headlights, 0..255."""
        height, width = camera.config.height, camera.config.width
        rows, columns = np.arange(height)[:, None] / height, np.arange(width)[None, :] / width
        horizon = camera.horizon_row / height
        lobe = np.exp(-(((columns - 0.5) / 0.3) ** 2) - ((rows - horizon - 0.12) / 0.2) ** 2)
        strength = 900.0 * max(self.look.extinction_per_m - 1 / 300, 0.0) * self.look.beam
        return lobe[..., None] * strength * self.beam_colour
