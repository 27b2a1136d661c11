"""highway-env's Road with a search for neighbours that follows routes from lane to lane, and the road users that it needs for that.

highway-env projects every vehicle on every lane at every step, which is slow with many lanes and ambiguous where they cross.
Here each road user knows its road, its lane and its place on it, and looks for others along its own route.
"""

import math
from collections import defaultdict
from typing import cast

import numpy as np
from highway_env.road.road import LaneIndex, Road
from highway_env.vehicle.kinematics import Vehicle

from data.dashsim.lanes import CurveLane, Edge, LaneNetwork

SIGHT_M = 120.0
"""How far ahead along its route a driver looks for others."""
JOINT_M = 1.5
"""Lanes follow one another when the end of one is this near to the start of the next."""


class Streets(Road):
    """A road network and those who drive on it."""

    network: LaneNetwork

    def __init__(self, network: LaneNetwork, rng: np.random.Generator) -> None:
        super().__init__(network, np_random=rng)  # type: ignore[arg-type]
        self.users: dict[Edge, list[OnStreets]] = defaultdict(list)
        self._next: dict[LaneIndex, dict[Edge, int]] = {index: self._followers(index) for index in network.lanes()}
        self._previous: dict[LaneIndex, list[LaneIndex]] = defaultdict(list)
        for index, followers in self._next.items():
            for edge, lane in followers.items():
                self._previous[(*edge, lane)].append(index)

    def _followers(self, index: LaneIndex) -> dict[Edge, int]:
        end = self.lane(index).position(self.lane(index).length, 0.0)
        found = {}
        for edge in self.network.roads_from(index[1]):
            gaps = [float(np.hypot(*(lane.position(0.0, 0.0) - end))) for lane in self.network.road(edge)]
            if min(gaps) < JOINT_M:
                found[edge] = int(np.argmin(gaps))
        return found

    def lane(self, index: LaneIndex) -> CurveLane:
        return self.network.lane(index)

    @property
    def drivers(self) -> "list[OnStreets]":
        """Everybody on the roads; highway-env calls them vehicles."""
        return cast("list[OnStreets]", self.vehicles)

    def following(self, index: LaneIndex, edge: Edge) -> LaneIndex | None:
        """The lane of `edge` that carries this one on, or None where it ends."""
        lane = self._next[index].get(edge)
        return None if lane is None else (*edge, lane)

    def refresh(self) -> None:
        """Note who is where; call it whenever road users have moved, come or gone."""
        self.users = defaultdict(list)
        for user in self.drivers:
            self.users[user.edges[0]].append(user)

    def step(self, dt: float) -> None:
        """Move everybody; collisions are the caller's business."""
        for vehicle in self.vehicles:
            vehicle.step(dt)
        self.refresh()

    def lanes_ahead(self, user: "OnStreets", index: LaneIndex) -> list[tuple[LaneIndex, float]]:
        """(lane, distance from the start of `index` to its start) along the user's route, as far as SIGHT_M ahead of the user."""
        lanes, start = [(index, 0.0)], 0.0
        here = self._station_on(user, index)
        for depth in range(1, 9):
            start += self.lane(lanes[-1][0]).length
            if start - here > SIGHT_M:
                break
            edge = user.edge_ahead(depth)
            following = self.following(lanes[-1][0], edge) if edge else None
            if following is None:
                break
            lanes.append((following, start))
        return lanes

    def _station_on(self, user: "OnStreets", index: LaneIndex) -> float:
        """Where the user is along a lane of its own road."""
        return user.station_m * self.lane(index).length / user.lane.length

    def _overlaps(self, user: "OnStreets", lane: CurveLane) -> bool:
        return abs(user.lateral_m + user.lane.offset_m - lane.offset_m) < lane.width / 2 + 0.4

    def neighbour_vehicles(self, vehicle: "OnStreets", lane_index: LaneIndex | None = None) -> "tuple[OnStreets | None, OnStreets | None]":
        """Next road user ahead and next behind, if the vehicle were on `lane_index` of its road (default: its own lane)."""
        searched = lane_index or vehicle.lane_index
        if searched[:2] != vehicle.edges[0]:
            return None, None
        here = self._station_on(vehicle, searched)
        before = [(previous, -self.lane(previous).length) for previous in self._previous[searched]]
        front, rear, ahead, behind = None, None, SIGHT_M, -SIGHT_M
        for index, start in [*before, *self.lanes_ahead(vehicle, searched)]:
            if start - here > ahead:
                break
            lane = self.lane(index)
            for other in self.users[index[:2]]:
                if other is vehicle or not self._overlaps(other, lane):
                    continue
                gap = start + self._station_on(other, index) - here
                if 0 <= gap < ahead:
                    front, ahead = other, gap
                elif behind < gap < 0:
                    rear, behind = other, gap
            for other in self._turning_off(index):
                station, lateral = lane.local_coordinates(other.position)
                if 0 <= start + station - here < ahead and abs(lateral) < lane.width / 2 + 0.4 and other is not vehicle:
                    front, ahead = other, start + station - here
        return front, rear

    def _turning_off(self, index: LaneIndex) -> "list[OnStreets]":
        """Those on other roads that begin where this one does: they are in the way until they have turned off."""
        edges = self.network.roads_from(index[0])
        return [user for edge in edges if edge != index[:2] for user in self.users[edge]] if len(edges) > 1 else []

    def distance_along(self, user: "OnStreets", other: "OnStreets") -> float:
        """Distance in metres from one road user to another along the route of whoever is behind; negative when `other` is behind."""
        for sign, behind, ahead in ((1.0, user, other), (-1.0, other, user)):
            for index, start in self.lanes_ahead(behind, behind.lane_index):
                if index[:2] == ahead.edges[0]:
                    gap = start + self._station_on(ahead, index) - behind.station_m
                    if gap >= 0 or index[:2] == behind.edges[0]:
                        return sign * gap
        return float(np.hypot(*(other.position - user.position)))


class OnStreets(Vehicle):
    """Mixed into a highway-env vehicle: keeps its place on the road network up to date from the route it takes."""

    LENGTH = 2.7
    """highway-env takes LENGTH for the wheelbase; bodies have `body_length_m`."""
    MIN_SPEED = 0.0

    position: np.ndarray
    heading: float
    speed: float
    action: dict[str, float]
    road: Streets
    lane: CurveLane
    lane_index: LaneIndex
    target_lane_index: LaneIndex
    edges: list[Edge]
    """Its road and those that it will take next."""
    station_m: float
    lateral_m: float
    body_length_m: float = 4.6
    body_width_m: float = 1.9
    body_height_m: float = 1.5
    car_id: int

    def settle(self, road: Streets, edges: list[Edge], lane: int, rng: np.random.Generator) -> None:
        """Put it on a road network where it stands; `rng` picks the turns that its route leaves open."""
        self.road, self.edges, self.rng = road, list(edges), rng
        self.lane_index = self.target_lane_index = (*edges[0], lane)
        self.lane = road.lane(self.lane_index)
        self.station_m, self.lateral_m = self.lane.local_coordinates(self.position)
        self.finished = False

    def edge_ahead(self, depth: int) -> Edge | None:
        """The road that it will be on after `depth` more junctions; None where the network ends before."""
        while len(self.edges) <= depth:
            choices = self.road.network.ways_on(self.edges[-1][1])
            if not choices:
                return None
            self.edges.append(choices[int(self.rng.integers(len(choices)))])
        return self.edges[depth]

    def on_state_update(self) -> None:
        if not hasattr(self, "edges"):
            return
        self.station_m, self.lateral_m = self.lane.local_coordinates(self.position)
        if self.station_m > self.lane.length:
            self._enter_next_road()
        aside = self.lateral_m + self.lane.offset_m
        lanes = self.road.network.road(self.edges[0])
        nearest = min(range(len(lanes)), key=lambda lane: abs(lanes[lane].offset_m - aside))
        if nearest != self.lane_index[2]:
            self.lane_index, self.lane = (*self.edges[0], nearest), lanes[nearest]
            self.station_m, self.lateral_m = self.lane.local_coordinates(self.position)

    def _enter_next_road(self) -> None:
        edge = self.edge_ahead(1)
        following = self.road.following(self.lane_index, edge) if edge else None
        if edge is None or following is None:
            self.finished = True
            return
        self.target_lane_index = self.road.following(self.target_lane_index, edge) or following
        self.edges.pop(0)
        self.lane_index, self.lane = following, self.road.lane(following)
        self.station_m, self.lateral_m = self.lane.local_coordinates(self.position)

    def curvature_ahead(self, station_m: float) -> float:
        """Curvature of its way along its target lane, where it will be in the middle of the next step or so."""
        station = station_m + 0.12 * self.speed
        lane = self.road.lane(self.target_lane_index)
        if station > lane.length and (edge := self.edge_ahead(1)) and (following := self.road.following(self.target_lane_index, edge)):
            return self.road.lane(following).curvature_at(station - lane.length)
        return lane.curvature_at(station)

    def lane_distance_to(self, other: "OnStreets", lane: CurveLane | None = None) -> float:
        return self.road.distance_along(self, other)

    def room_to_lane_end(self) -> float:
        """Distance in metres to where its target lane stops without another to carry it on; infinite where one does."""
        edge = self.edge_ahead(1)
        ends = edge is not None and self.road.following(self.target_lane_index, edge) is None
        return self.lane.length - self.station_m if ends else math.inf

    def corners(self) -> np.ndarray:
        """(4, 2) the corners of its body."""
        half_length, half_width = self.body_length_m / 2, self.body_width_m / 2
        outline = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * [half_length, half_width]
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        return self.position + outline @ np.array([[cos, sin], [-sin, cos]])
