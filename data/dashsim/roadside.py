"""Where trees and marker posts stand: drawn once from the road's seed, anchored in the world, never on asphalt."""

from dataclasses import dataclass

import cv2
import numpy as np

from data.dashsim.ground import ASPHALT_MARGIN_M
from data.dashsim.scene import RoadMap
from data.dashsim.strips import Ribbon

_TREE_SPACING_M, _POST_SPACING_M = 5.0, 18.0
_MAP_SIDE = 3000
"""Longest side of the occupancy map, cells."""


@dataclass(frozen=True, eq=False)
class Plants:
    """Trees and bushes, N of them."""

    xy_m: np.ndarray
    """(N, 2)."""
    height_m: np.ndarray
    """(N,)."""
    kind: np.ndarray
    """(N,) int: 0 broadleaf, 1 conifer, 2 bush."""
    tint: np.ndarray
    """(N, 3) factor on the leaves' colour."""


class Clearance:
    """Distance to the nearest asphalt, from a coarse map of the road."""

    def __init__(self, lanes: list[Ribbon], halves: list[float], reach_m: float = 50.0) -> None:
        points = np.concatenate([lane.points_m for lane in lanes])
        self._low = points.min(axis=0) - reach_m
        extent = points.max(axis=0) + reach_m - self._low
        self._cell_m = max(0.5, float(extent.max()) / _MAP_SIDE)
        columns, rows = (int(np.ceil(side / self._cell_m)) + 1 for side in extent)
        free = np.full((rows, columns), 255, np.uint8)
        for lane, half in zip(lanes, halves, strict=True):
            line = np.rint((lane.points_m - self._low) / self._cell_m * 16).astype(np.int32)
            thickness = int(np.ceil(2 * (half + ASPHALT_MARGIN_M) / self._cell_m)) + 1
            cv2.polylines(free, [line], False, 0, thickness, cv2.LINE_8, 4)
        self._distance = cv2.distanceTransform(free, cv2.DIST_L2, 5)

    def __call__(self, xy_m: np.ndarray) -> np.ndarray:
        """(N,) metres from (N, 2) points to asphalt, never too large by more than the map's cell; 0 outside the map."""
        cell = np.rint((xy_m - self._low) / self._cell_m).astype(int)
        inside = ((cell >= 0) & (cell < self._distance.shape[::-1])).all(axis=1)
        cell = np.where(inside[:, None], cell, 0)
        return np.where(inside, self._distance[cell[:, 1], cell[:, 0]] * self._cell_m - self._cell_m, 0.0)


def place(road: RoadMap, rng: np.random.Generator) -> tuple[Plants, np.ndarray]:
    """Plants, and (M, 2) marker posts along the outer edges of the road."""
    lanes = [Ribbon.through(lane.centre_m) for lane in road.lanes]
    halves = [lane.width_m / 2 for lane in road.lanes]
    clearance = Clearance(lanes, halves)
    return _plants(lanes, halves, clearance, rng), _posts(lanes, halves, clearance)


def _plants(lanes: list[Ribbon], halves: list[float], clearance: Clearance, rng: np.random.Generator) -> Plants:
    spots = []
    for lane, half in zip(lanes, halves, strict=True):
        at = np.arange(0.0, lane.along_m[-1], 3.0)
        at = at + rng.uniform(-1.5, 1.5, len(at))
        points, normals = lane.piece(at)
        side = rng.choice([-1.0, 1.0], len(at))
        # Most plants stand near the road, where they are seen.
        beyond = half + 3.5 + 34.0 * rng.uniform(0, 1, len(at)) ** 1.7
        spots.append(points + normals * (side * beyond)[:, None])
    xy = np.concatenate(spots)
    # Woods and open land alternate over some 100 m.
    phase = rng.uniform(0, 2 * np.pi, 2)
    woods = np.sin(xy[:, 0] / 38.0 + phase[0]) + np.sin(xy[:, 1] / 31.0 + phase[1])
    xy = xy[rng.uniform(-1.9, 2.0, len(xy)) < woods]
    xy = _thin(xy, _TREE_SPACING_M)
    kind = rng.choice(3, len(xy), p=[*rng.permutation([0.55, 0.2]), 0.25])
    height = np.array([6.5, 8.0, 1.7])[kind] * rng.uniform(0.75, 1.35, len(xy))
    tint = 1.0 + rng.uniform(-0.16, 0.16, (len(xy), 1)) + rng.uniform(-0.08, 0.08, (len(xy), 3))
    free = clearance(xy) > 0.9 + 0.3 * height
    return Plants(xy[free], height[free], kind[free], tint[free])


def _posts(lanes: list[Ribbon], halves: list[float], clearance: Clearance) -> np.ndarray:
    spots = []
    for lane, half in zip(lanes, halves, strict=True):
        points, normals = lane.piece(np.arange(_POST_SPACING_M / 2, lane.along_m[-1], _POST_SPACING_M))
        spots.extend(points + side * (half + ASPHALT_MARGIN_M + 1.6) * normals for side in (-1.0, 1.0))
    xy = np.concatenate(spots)
    return _thin(xy[clearance(xy) > 0.3], 6.0)


def _thin(xy: np.ndarray, spacing_m: float) -> np.ndarray:
    """At most one of the points (N, 2) in every cell of a grid."""
    _, first = np.unique(np.floor(xy / spacing_m).astype(int), axis=0, return_index=True)
    return xy[np.sort(first)]
