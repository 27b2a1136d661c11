"""Lanes as highway-env wants them, on our curves, and the map that the renderer draws.

highway-env's mathematics does not care which way y points. Its own networks have y to the right of x; ours are built in
ISO 8855 axes from the start (y left, yaw to the left), so lateral offsets, headings and steering angles in its classes are
positive to the left here and nothing is ever flipped. As in highway-env, lane 0 of a road is the leftmost.
"""

import math
from typing import Literal, cast

import numpy as np
from highway_env.road.lane import AbstractLane, LineType
from highway_env.road.road import LaneIndex, RoadNetwork

from data.dashsim.curves import Curve
from data.dashsim.scene import LaneStrip, PaintLine, RoadMap

Edge = tuple[str, str]
"""A road of one or more parallel lanes, by its first and last node."""

NONE, DASHED, SOLID = LineType.NONE, LineType.STRIPED, LineType.CONTINUOUS_LINE

COMFORT_LATERAL_MPS2 = 2.5
COMFORT_BRAKING_MPS2 = 1.8
SHOULDER_M = 0.5
"""Asphalt beside the outer paint."""
SHORTEST_LINE = 5
"""Lines of fewer vertices that are left between overlapping lanes are not painted."""


class CurveLane(AbstractLane):
    """A lane along any curve. Near a vertex the curve is taken as its osculating circle; past its ends it goes straight on."""

    def __init__(
        self,
        curve: Curve,
        width: float,
        line_types: tuple[int, int] = (NONE, NONE),
        speed_limit: float = 30.0,
        offset_m: float = 0.0,
        priority: int = 0,
        forbidden: bool = False,
        left_colour: Literal["white", "yellow"] = "white",
    ) -> None:
        """`line_types` are (left, right), `offset_m` is where it lies on its road, left positive; nobody changes to a `forbidden` lane."""
        self.curve = curve
        self.width = width
        self.length = curve.length_m
        self.line_types = line_types  # type: ignore[assignment]
        self.speed_limit = speed_limit
        self.offset_m = offset_m
        self.priority = priority
        self.forbidden = forbidden
        self.left_colour: Literal["white", "yellow"] = left_colour
        self.limit_curve_speed(end_mps=math.inf)
        self._x, self._y = np.ascontiguousarray(curve.points_m.T)
        self._headings, self._curvatures = curve.headings_rad.tolist(), curve.curvatures_inv_m.tolist()
        self._last = len(self._headings) - 1
        self._step = curve.step_m

    def limit_curve_speed(self, end_mps: float) -> None:
        """Set `curve_speed_mps` (N,): how fast to be at each vertex, to take the bends from there on and leave at `end_mps`."""
        stations = np.linspace(0.0, self.length, len(self.curve.points_m))
        squares = COMFORT_LATERAL_MPS2 / np.maximum(np.abs(self.curve.curvatures_inv_m), 1e-4)
        squares[-1] = min(squares[-1], end_mps**2)
        reachable = np.minimum.accumulate((squares + 2 * COMFORT_BRAKING_MPS2 * stations)[::-1])[::-1]
        self.curve_speed_mps = np.sqrt(reachable - 2 * COMFORT_BRAKING_MPS2 * stations)

    def _vertex(self, longitudinal: float) -> tuple[int, float, float]:
        """Nearest vertex, distance past it, curvature to use there."""
        index = min(max(round(longitudinal / self._step), 0), self._last)
        past = longitudinal - index * self._step
        return index, past, self._curvatures[index] if abs(past) <= self._step else 0.0

    def curvature_at(self, longitudinal: float) -> float:
        return self._vertex(longitudinal)[2]

    def curve_speed_at(self, longitudinal: float) -> float:
        return float(self.curve_speed_mps[self._vertex(longitudinal)[0]])

    def heading_at(self, longitudinal: float) -> float:
        index, past, curvature = self._vertex(longitudinal)
        return self._headings[index] + curvature * past

    def width_at(self, longitudinal: float) -> float:
        return self.width

    def position(self, longitudinal: float, lateral: float) -> np.ndarray:
        index, past, curvature = self._vertex(longitudinal)
        heading = self._headings[index]
        cos, sin = math.cos(heading), math.sin(heading)
        aside = curvature * past * past / 2 + lateral
        ahead = past - lateral * curvature * past
        return np.array([self._x[index] + cos * ahead - sin * aside, self._y[index] + sin * ahead + cos * aside])

    def local_coordinates(self, position: np.ndarray) -> tuple[float, float]:
        """(longitudinal, lateral) in metres, lateral positive to the left."""
        x, y = float(position[0]), float(position[1])
        east, north = self._x - x, self._y - y
        index = int(np.argmin(east * east + north * north))
        heading, curvature = self._headings[index], self._curvatures[index]
        cos, sin = math.cos(heading), math.sin(heading)
        dx, dy = -float(east[index]), -float(north[index])
        ahead, aside = cos * dx + sin * dy, cos * dy - sin * dx
        if abs(ahead) > self._step:
            return index * self._step + ahead, aside
        along = ahead / max(1 - curvature * aside, 0.2)
        return index * self._step + along, aside - curvature * along * along / 2


class LaneNetwork(RoadNetwork):
    """A highway-env network all of whose lanes are CurveLanes."""

    def __init__(self) -> None:
        super().__init__()
        self.exits: set[Edge] = set()
        """Roads that only a forbidden lane leads to: taken on purpose, never at random."""

    def lanes(self) -> dict[LaneIndex, CurveLane]:
        return cast(dict[LaneIndex, CurveLane], self.lanes_dict())

    def lane(self, index: LaneIndex) -> CurveLane:
        return self.road(index[:2])[index[2]]

    def road(self, edge: Edge) -> list[CurveLane]:
        """Its lanes, the leftmost first."""
        return cast(list[CurveLane], self.graph[edge[0]][edge[1]])

    def roads(self) -> list[Edge]:
        return [(start, end) for start, ends in self.graph.items() for end in ends]

    def roads_from(self, node: str) -> list[Edge]:
        return [(node, end) for end in self.graph.get(node, {})]

    def ways_on(self, node: str) -> list[Edge]:
        """The roads among which somebody without a plan chooses."""
        return [edge for edge in self.roads_from(node) if edge not in self.exits]


def settle_curve_speeds(network: LaneNetwork) -> None:
    """Make every lane slow down in time for the bends of those that follow it."""
    for _ in range(3):
        for index, lane in network.lanes().items():
            edges = network.roads_from(index[1]) if lane.forbidden else network.ways_on(index[1])
            starts = [float(following.curve_speed_mps[0]) for edge in edges for following in network.road(edge)]
            lane.limit_curve_speed(min(starts, default=math.inf))


def road_map(network: LaneNetwork, seed: int, aprons: tuple[CurveLane, ...] = (), paint: tuple[PaintLine, ...] = ()) -> RoadMap:
    """The map of a network: asphalt of its lanes and of `aprons` (paved, not driven), their lines, and `paint` as it is.

    Where lanes of different roads overlap, lines that would lie on another's asphalt are left out, so junctions are clear.
    """
    roads = [network.road(edge) for edge in network.roads()] + [[apron] for apron in aprons]
    strips = tuple(LaneStrip(lane.curve.points_m, lane.width + 2 * SHOULDER_M) for lanes in roads for lane in lanes)
    lines: list[PaintLine] = []
    for index, lanes in enumerate(roads):
        others = [lane for other, group in enumerate(roads) if other != index for lane in group]
        for lane in lanes:
            for kind, side in zip(lane.line_types, (1, -1), strict=True):
                if kind != NONE:
                    points = lane.curve.offset(side * lane.width / 2).points_m
                    colour: Literal["white", "yellow"] = lane.left_colour if side == 1 else "white"
                    lines += [PaintLine(part, kind == DASHED, colour=colour) for part in _clear_parts(points, others)]
    return RoadMap(lanes=strips, paint=(*lines, *paint), seed=seed)


def _clear_parts(points_m: np.ndarray, lanes: list[CurveLane]) -> list[np.ndarray]:
    """Split a line (N, 2) into its stretches that do not lie well inside any of the lanes."""
    clear = np.ones(len(points_m), bool)
    low, high = points_m.min(0) - 3, points_m.max(0) + 3
    for lane in lanes:
        centre = lane.curve.points_m
        near = centre[((centre > low) & (centre < high)).all(1)]
        if len(near):
            gaps = ((points_m[:, None] - near[None]) ** 2).sum(-1).min(1)
            clear &= gaps > (lane.width / 2 - 0.3) ** 2 + (lane.curve.step_m / 2) ** 2
    edges = np.flatnonzero(np.diff(np.concatenate([[False], clear, [False]]).astype(int)))
    return [points_m[first:last] for first, last in zip(edges[::2], edges[1::2], strict=True) if last - first >= SHORTEST_LINE]
