"""Trees, bushes and marker posts as flat cut-outs that face the camera."""

import numpy as np
from einops import rearrange

from data.dashsim.camera import Camera, Pose
from data.dashsim.lighting import Lighting
from data.dashsim.noise import smoothstep
from data.dashsim.painter import OTHER, TREES, Scenery
from data.dashsim.roadside import Plants

_FAR_M = 190.0
_NEAR_M = 1.5
_VERTICES = 10


def _blob(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    angle = np.arange(_VERTICES) * 2 * np.pi / _VERTICES + 0.3
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=-1)


def _shape(*corners: tuple[float, float]) -> np.ndarray:
    points = list(corners) + [corners[-1]] * (_VERTICES - len(corners))
    return np.array(points)


def _cone(half_width: float, low: float, top: float) -> np.ndarray:
    return _shape((-half_width, low), (half_width, low), (0.0, top))


_TRUNK = _shape((-0.035, 0.0), (0.035, 0.0), (0.03, 0.4), (-0.03, 0.4))
# (kind, layer, vertex, 2): left of the middle and up, in heights of the plant.
_LAYERS = np.array(
    [
        [_TRUNK, _blob(0.0, 0.62, 0.32, 0.37), _blob(0.04, 0.68, 0.25, 0.27), _blob(0.08, 0.75, 0.15, 0.16)],
        [_TRUNK, _cone(0.25, 0.14, 0.66), _cone(0.2, 0.36, 0.84), _cone(0.14, 0.6, 1.0)],
        [_blob(0.0, 0.3, 0.75, 0.42), _blob(0.0, 0.42, 0.7, 0.5), _blob(0.1, 0.55, 0.5, 0.36), _blob(0.16, 0.66, 0.3, 0.22)],
    ]
)
_SHIFTS = np.array([[0.0, 0.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 2.0]])
"""How far each layer leans towards the sun."""
_SHADES = np.array([[0.0, 0.72, 0.94, 1.14], [0.0, 0.74, 0.9, 1.06], [0.7, 0.82, 0.98, 1.12]])
"""Brightness of each layer; 0 is bark."""
_LEAVES = np.array([[74.0, 104.0, 48.0], [50.0, 84.0, 58.0], [88.0, 108.0, 56.0]])
_BARK = np.array([88.0, 72.0, 58.0])
_POST_FAR_M = 70.0
_POST = np.array([[[0.06, 0.0], [-0.06, 0.0], [-0.06, 1.0], [0.06, 1.0]], [[0.06, 0.68], [-0.06, 0.68], [-0.06, 0.86], [0.06, 0.86]]])
"""A marker post and its dark band: left and up, metres."""
_POST_ALBEDO = np.array([[206.0, 206.0, 202.0], [52.0, 52.0, 54.0]])
_SNOWY = np.array([[0.0, 0.25, 0.6, 0.9], [0.0, 0.35, 0.6, 0.85], [0.4, 0.5, 0.8, 0.95]])


class Vegetation:
    """The plants and posts of one drive."""

    def __init__(self, plants: Plants, posts_m: np.ndarray, lighting: Lighting) -> None:
        self._plants, self._posts, self._light = plants, posts_m, lighting
        leaves = _LEAVES[plants.kind][:, None] * plants.tint[:, None] * _SHADES[plants.kind][..., None]
        albedo = np.where(_SHADES[plants.kind][..., None] == 0.0, _BARK, leaves)  # (N, K, 3)
        self._albedo = albedo + lighting.look.snow * _SNOWY[plants.kind][..., None] * (np.array([226.0, 231.0, 238.0]) - albedo)

    def add_to(self, scenery: Scenery, camera: Camera, pose: Pose) -> None:
        """Adds what is in front of the camera."""
        self._add_plants(scenery, camera, pose)
        self._add_posts(scenery, camera, pose)

    def _add_plants(self, scenery: Scenery, camera: Camera, pose: Pose) -> None:
        plants, light = self._plants, self._light
        rig = pose.to_rig(plants.xy_m)
        seen = _in_view(rig, camera, 0.6 * plants.height_m) & (light.transmission(rig[:, 0]) > 0.02)
        rig, kind = rig[seen], plants.kind[seen]
        # Plants grow in at the edge of sight instead of popping up.
        height = plants.height_m[seen] * smoothstep(_FAR_M, 0.7 * _FAR_M, rig[:, 0])
        sun_left = light.sun[1] * np.cos(pose.yaw_rad) - light.sun[0] * np.sin(pose.yaw_rad)
        shape = _LAYERS[kind].copy()  # (N, K, V, 2)
        lean = 0.035 * sun_left * any(light.look.direct)
        shape[..., 0] += lean * _SHIFTS[kind][..., None]
        points = np.empty((*shape.shape[:-1], 3))
        points[..., 0] = rig[:, 0, None, None]
        points[..., 1] = rig[:, 1, None, None] + shape[..., 0] * height[:, None, None]
        points[..., 2] = shape[..., 1] * height[:, None, None]
        pixels = camera.to_pixels(camera.to_view(points))
        middle = points.mean(axis=2)  # (N, K, 3)
        lit = light.ambient + 0.55 * light.direct + light.beam(middle)[..., None] * light.beam_colour
        colours = light.through_air(self._albedo[seen] * lit, middle)
        depth = np.repeat(np.linalg.norm(rig, axis=-1), shape.shape[1])
        faces = rearrange(pixels, "n k v xy -> (n k) v xy"), rearrange(colours, "n k rgb -> (n k) rgb")
        scenery.add_faces(*faces, depth, TREES, _size(camera))

    def _add_posts(self, scenery: Scenery, camera: Camera, pose: Pose) -> None:
        light = self._light
        rig = pose.to_rig(self._posts)
        rig = rig[_in_view(rig, camera, np.full(len(rig), 0.2)) & (rig[:, 0] < _POST_FAR_M)]
        points = np.empty((len(rig), *_POST.shape[:2], 3))
        points[..., 0] = rig[:, 0, None, None]
        points[..., 1] = rig[:, 1, None, None] + _POST[..., 0]
        points[..., 2] = _POST[..., 1] * smoothstep(_POST_FAR_M, 0.7 * _POST_FAR_M, rig[:, 0, None, None])
        middle = points.mean(axis=2)  # (N, 2, 3)
        lit = light.ambient + 0.5 * light.direct + 1.2 * light.beam(middle)[..., None] * light.beam_colour
        colours = light.through_air(_POST_ALBEDO * lit, middle)
        depth = np.repeat(np.linalg.norm(rig, axis=-1), 2)
        pixels = camera.to_pixels(camera.to_view(points))
        faces = rearrange(pixels, "n k v xy -> (n k) v xy"), rearrange(colours, "n k rgb -> (n k) rgb")
        scenery.add_faces(*faces, depth, OTHER, _size(camera))

    def shadows(self, camera: Camera, pose: Pose) -> np.ndarray:
        """(N, 12, 3) view outlines of the plants' shadows on the ground."""
        plants, light = self._plants, self._light
        rig = pose.to_rig(plants.xy_m)
        near = (rig[:, 0] > -20.0) & (rig[:, 0] < 110.0) & (np.abs(rig[:, 1]) < 70.0)
        height = plants.height_m[near]
        slope = -light.sun[:2] / light.sun[2]
        angle = np.arange(12) * np.pi / 6
        width = np.array([0.3, 0.18, 0.7])[plants.kind[near]] * height
        length = 0.8 * width + 0.29 * np.linalg.norm(slope) * height
        direction = slope / np.linalg.norm(slope)
        across = np.array([-direction[1], direction[0]])
        centre = plants.xy_m[near] + slope * (0.6 * height)[:, None]
        along = length[:, None, None] * np.cos(angle)[:, None] * direction
        aside = width[:, None, None] * np.sin(angle)[:, None] * across
        return camera.to_view(pose.to_rig(centre[:, None] + along + aside))


def _in_view(rig: np.ndarray, camera: Camera, radius_m: np.ndarray) -> np.ndarray:
    half_width = camera.config.width / 2 / camera.focal_px
    return (rig[:, 0] > _NEAR_M) & (rig[:, 0] < _FAR_M) & (np.abs(rig[:, 1]) < rig[:, 0] * half_width + radius_m)


def _size(camera: Camera) -> tuple[int, int]:
    return camera.config.height, camera.config.width
