"""Ribbons on the flat ground (asphalt, verges, paint) in short pieces, ready to be projected many at a time."""

from dataclasses import dataclass

import cv2
import numpy as np

from data.dashsim.camera import NEAR_M, Camera, Pose, clip_near
from data.dashsim.painter import SHIFT, to_fixed

_AA_WIDENS_PX = 1.4
"""OpenCV's antialiased fill makes a band this much wider (measured), and no band narrower than _AA_LEAST_PX."""
_AA_LEAST_PX = 1.8
_THIN_BOLDNESS = 0.65
"""Exponent on a thin line's share of its drawn area: below 1, lines thinner than a pixel look bolder than they are."""


@dataclass(frozen=True, eq=False)
class Ribbon:
    """A polyline with arc lengths and unit normals to its left."""

    points_m: np.ndarray
    """(N, 2)."""
    normals: np.ndarray
    """(N, 2)."""
    along_m: np.ndarray
    """(N,) arc length from the first point."""

    @classmethod
    def through(cls, points_m: np.ndarray, spacing_m: float = 3.0) -> "Ribbon":
        """Through (N, 2) points, resampled to at most spacing_m; N >= 2."""
        steps = np.linalg.norm(np.diff(points_m, axis=0), axis=1)
        keep = np.concatenate([[True], steps > 1e-6])
        points_m, along = points_m[keep], np.concatenate([[0.0], np.cumsum(steps[steps > 1e-6])])
        at = np.linspace(0.0, along[-1], max(int(np.ceil(along[-1] / spacing_m)), 1) + 1)
        return cls(*_interpolate(points_m, along, at), at)

    def piece(self, at_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points and normals (N, 2) at arc lengths (N,)."""
        return _interpolate(self.points_m, self.along_m, at_m)


def _interpolate(points: np.ndarray, along: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    def position(s: np.ndarray) -> np.ndarray:
        s = np.clip(s, 0.0, along[-1])
        return np.stack([np.interp(s, along, points[:, axis]) for axis in range(2)], axis=-1)

    tangent = position(at + 0.5) - position(at - 0.5)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=-1, keepdims=True), 1e-9)
    return position(at), np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1)


class StripSet:
    """Many short pieces of ribbons with P points along each: what stands still and lies flat."""

    def __init__(self, pieces: list[tuple[np.ndarray, np.ndarray]], half_width_m: list[float]) -> None:
        """`pieces`: centre points and normals, each (P, 2), the same P in all."""
        length = len(pieces[0][0]) if pieces else 1
        points = np.array([piece[0] for piece in pieces]).reshape(len(pieces), length, 2)
        normals = np.array([piece[1] for piece in pieces]).reshape(points.shape)
        offset = normals * np.asarray(half_width_m, dtype=np.float64).reshape(-1, 1, 1)
        self._edges = np.stack([points + offset, points - offset], axis=1)  # (C, 2, P, 2)
        flat = self._edges.reshape(len(pieces), 2 * length, 2)
        self._centres = flat.mean(axis=1)
        self._radii = np.linalg.norm(flat - self._centres[:, None], axis=-1).max(axis=-1, initial=0.0)

    @classmethod
    def along(cls, ribbons: list[Ribbon], half_width_m: list[float], offset_m: float = 0.0, segments: int = 4) -> "StripSet":
        """Whole ribbons, shifted to their left by offset_m and cut into pieces of `segments` segments."""
        pieces, halves = [], []
        for ribbon, half in zip(ribbons, half_width_m, strict=True):
            points = ribbon.points_m + offset_m * ribbon.normals
            for start in range(0, len(points) - 1, segments):
                at = np.minimum(np.arange(start, start + segments + 1), len(points) - 1)
                pieces.append((points[at], ribbon.normals[at]))
                halves.append(half)
        return cls(pieces, halves)

    @classmethod
    def dashes(cls, ribbons: list[Ribbon], half_width_m: list[float], length_m: float, gap_m: float) -> "StripSet":
        """Dashes counted from each ribbon's first point."""
        pieces, halves = [], []
        for ribbon, half in zip(ribbons, half_width_m, strict=True):
            for start in np.arange(0.0, ribbon.along_m[-1] - 0.1, length_m + gap_m):
                end = min(start + length_m, ribbon.along_m[-1])
                pieces.append(ribbon.piece(np.linspace(start, end, 3)))
                halves.append(half)
        return cls(pieces, halves)

    def visible(self, camera: Camera, pose: Pose, far_m: float) -> tuple[np.ndarray, np.ndarray]:
        """View coordinates (K, 2, P, 3) and mean depth (K,) of the pieces that may be in the picture."""
        rig = pose.to_rig(self._centres)
        half_width = camera.config.width / 2 / camera.focal_px
        seen = (rig[:, 0] > NEAR_M - self._radii) & (rig[:, 0] < far_m)
        seen &= np.abs(rig[:, 1]) < np.maximum(rig[:, 0], 0.0) * half_width + 1.5 * self._radii + 1.0
        edges = camera.to_view(pose.to_rig(self._edges[seen]))
        near_enough = edges[..., 0].max(axis=(1, 2)) > NEAR_M
        return edges[near_enough], np.maximum(rig[seen][near_enough, 0], 1.0)


def fill_strips(mask: np.ndarray, edges: np.ndarray, values: np.ndarray, camera: Camera, thin: bool = False) -> None:
    """Draws (K, 2, P, 3) view pieces with (K,) values 0..255 onto (H', W) uint8, the rows from camera.first_ground_row on.

    `thin` pieces stay thin: they are narrowed by what antialiasing adds, and fainter where they fall below its least width.
    """
    if not len(edges):
        return
    crosses = edges[..., 0].min(axis=(1, 2)) < NEAR_M
    if thin:
        edges, values = _narrow(edges, values, crosses, camera)
    outline = np.concatenate([edges[:, 0], edges[:, 1, ::-1]], axis=1)  # (K, 2P, 3)
    shift = np.array([0.0, camera.first_ground_row])
    for group, view in ((~crosses, outline[~crosses]), (crosses, clip_near(outline[crosses]))):
        for polygon, value in zip(to_fixed(camera.to_pixels(view) - shift), values[group].tolist(), strict=True):
            cv2.fillPoly(mask, [polygon], value, cv2.LINE_AA, SHIFT)


def _narrow(edges: np.ndarray, values: np.ndarray, crosses: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Moves both edges inward by what antialiasing will add, in view space; pieces at the near plane are wide and stay."""
    pixels = camera.to_pixels(np.maximum(edges, [NEAR_M, -np.inf, -np.inf]))
    across = pixels[:, 0] - pixels[:, 1]  # (K, P, 2)
    along = np.gradient(pixels.mean(axis=1), axis=1)
    width = np.abs(across[..., 0] * along[..., 1] - across[..., 1] * along[..., 0]) / np.maximum(np.linalg.norm(along, axis=-1), 1e-6)
    keep = np.clip((width - _AA_WIDENS_PX) / np.maximum(width, 1e-6), 0.0, 1.0)[:, None, :, None]
    middle = edges.mean(axis=1, keepdims=True)
    narrowed = np.where(crosses[:, None, None, None], edges, middle + keep * (edges - middle))
    faint = np.where(crosses, 1.0, np.minimum(width.mean(axis=1) / _AA_LEAST_PX, 1.0) ** _THIN_BOLDNESS)
    return narrowed, values * faint
