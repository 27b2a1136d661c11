"""Raindrops and snowflakes: a few points that fall through a box that repeats in space, so that each keeps its path."""

import cv2
import numpy as np

from data.dashsim.camera import Camera, Pose
from data.dashsim.looks import Look
from data.dashsim.noise import smoothstep
from data.dashsim.painter import SHIFT, to_fixed

_BOX_M = np.array([18.0, 18.0, 9.0])
_NEAREST_M, _FARTHEST_M = 2.6, 9.0


class Particles:
    """A function of time and pose alone. Their motion is slower than nature's, so that it can be followed at 10 frames a second."""

    def __init__(self, look: Look, camera: Camera, rng: np.random.Generator) -> None:
        self._camera = camera
        snow = look.snow > 0
        self._count = 440 if snow else 300
        self._start = rng.uniform(0, 1, (self._count, 3)) * _BOX_M
        self._fall = (0.9 if snow else 3.2) * rng.uniform(0.85, 1.15, self._count)
        self._wind = rng.uniform(-0.5, 0.5, 2)
        self._sway = rng.uniform(0, 2 * np.pi, self._count) if snow else None
        self._drag = 0.35 if snow else 0.3
        """Share of the car's motion that the particles show."""
        self._exposure_s = 0.02 if snow else 0.16
        self._strength = 0.55 if snow else 0.28
        self._thickness = max(round(camera.config.width / (110 if snow else 256)), 1)
        horizon = np.asarray(look.horizon, dtype=np.float32)
        self._colour = horizon + np.float32(0.75 if snow else 0.4) * (np.float32(250.0) - horizon)

    def draw(self, picture: np.ndarray, time_s: float, pose: Pose, speed_mps: float) -> None:
        """Mixes them into (H, W, 3) uint8."""
        ends, strength = self._streaks(time_s, pose, speed_mps)
        cover = np.zeros(picture.shape[:2], np.uint8)
        for (first, second), value in zip(to_fixed(ends).tolist(), (255 * strength).tolist(), strict=True):
            cv2.line(cover, first, second, value, self._thickness, cv2.LINE_AA, SHIFT)
        rows = np.flatnonzero(cover.any(axis=1))
        if len(rows):
            cover = cv2.GaussianBlur(cover, (3, 3), 0)
            weight = (cover * np.float32(1 / 255))[..., None]
            picture[...] = picture + weight * (self._colour - picture)

    def _streaks(self, time_s: float, pose: Pose, speed_mps: float) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (N, 2 ends, 2) and strengths (N,)."""
        velocity = np.empty((self._count, 3))
        velocity[:, :2], velocity[:, 2] = self._wind, -self._fall
        at = self._start + velocity * time_s
        if self._sway is not None:
            at[:, 0] += 0.25 * np.sin(1.7 * time_s + self._sway)
            at[:, 1] += 0.25 * np.cos(1.3 * time_s + self._sway)
        lens = np.array([self._drag * pose.x_m, self._drag * pose.y_m, self._camera.config.mount_height_m])
        offset = (at - lens + _BOX_M / 2) % _BOX_M - _BOX_M / 2
        edge = (1 - np.abs(offset) / (_BOX_M / 2)).min(axis=1)
        still = Pose(0.0, 0.0, pose.yaw_rad)
        head = still.to_rig(offset)
        motion = still.to_rig(velocity)
        motion[:, 0] -= self._drag * speed_mps
        ends = np.stack([head, head - motion * self._exposure_s], axis=1)
        ends[..., 2] += lens[2]
        view = self._camera.to_view(ends)
        depth = view[:, 0, 0]
        strength = smoothstep(0.0, 0.15, edge) * smoothstep(_NEAREST_M, 4.0, depth) * smoothstep(_FARTHEST_M, 6.0, depth) * self._strength
        pixels = self._camera.to_pixels(np.maximum(view, [1.0, -np.inf, -np.inf]))
        inside = ((pixels > -20) & (pixels < [self._camera.config.width + 20, self._camera.config.height + 20])).all(axis=(1, 2))
        seen = inside & (strength > 0.01) & (view[:, 1, 0] > 1.0)
        return pixels[seen], strength[seen]
