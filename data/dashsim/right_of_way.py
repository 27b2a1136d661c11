"""Who gives way where paths cross: everybody's next seconds are foreseen, and one of two who would meet has to wait."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from data.dashsim.streets import OnStreets, Streets

TIMES_S = np.arange(0.5, 4.51, 0.5)
MEETING_M = 3.3
"""Centres that come this near to one another meet; oncoming cars pass one another at 3.5 m or more."""
STAND_BACK_M = 7.0
"""Where to wait: this far, along the path, before the place of the meeting."""
IN_THE_WAY_M = -3.0
"""Who is that much past its place to wait stands in the way already, and had better clear off."""
PATIENCE_STEPS = 15
"""Who may go but stands for that many steps loses its right to the one who waits."""
CRAWLING_MPS = 0.5
ROLLING_MPS = 3.5
"""Who waits is foreseen to go on at this speed, so that it does not take its own waiting for a free road."""


class RightOfWay:
    """Decides, step by step, who has to wait for whom, and sticks to it for a while: drivers who change their minds collide."""

    def __init__(self, road: Streets) -> None:
        self.road = road
        self._step = 0
        self._decided: dict[tuple[int, int], tuple[int, int]] = {}
        """{pair of car_ids: (the car_id that waits, the last step at which the other one was on its way)}."""

    def holds(self) -> dict[int, float]:
        """{car_id: distance in metres within which it should stop} for those who have to wait now. Call it once a step."""
        self._step += 1
        users = self.road.drivers
        paths = {user.car_id: _foreseen(self.road, user) for user in users}
        held: dict[int, float] = {}
        for pair in combinations(users, 2):
            if np.abs(pair[0].position - pair[1].position).max() > 90 or _queue(*pair):
                continue
            meeting = _meeting(paths[pair[0].car_id][0], paths[pair[1].car_id][0])
            if meeting is not None:
                places = [_place(paths[user.car_id], step, other) for user, step, other in zip(pair, meeting, pair[::-1], strict=True)]
                waits = self._who_waits(pair, places)
                held[pair[waits].car_id] = min(held.get(pair[waits].car_id, np.inf), max(places[waits].room_m, 0.0))
        return held

    def _who_waits(self, pair: tuple[OnStreets, OnStreets], places: "list[_Place]") -> int:
        """0 or 1: as decided before, but who stands in the way should clear off, and who does not use its right loses it."""
        ids = pair[0].car_id, pair[1].car_id
        in_the_way = [places[1].blocked or places[0].room_m < IN_THE_WAY_M, places[0].blocked or places[1].room_m < IN_THE_WAY_M]
        if ids in self._decided:
            waiting, since = self._decided[ids]
            waits = ids.index(waiting)
            if pair[1 - waits].speed > CRAWLING_MPS:
                since = self._step
            if self._step - since > PATIENCE_STEPS or (in_the_way[waits] and not in_the_way[1 - waits]):
                waits, since = 1 - waits, self._step
        else:
            ranks = [(in_the_way[i], _priority(pair[i]), -places[i].room_m, ids[i]) for i in (0, 1)]
            waits, since = ranks.index(min(ranks)), self._step
        self._decided[ids] = ids[waits], since
        return waits


@dataclass(frozen=True)
class _Place:
    """Where one of two who would meet can wait for the other."""

    room_m: float
    """Distance to it along its path; negative where it is too late."""
    blocked: bool
    """Whether the other stands on its path by now."""


def _place(path: tuple[np.ndarray, np.ndarray], step: int, other: OnStreets) -> _Place:
    points, distances = path
    on_path = np.flatnonzero(np.hypot(*(points - other.position).T) < MEETING_M)
    first = min(step, int(on_path[0])) if len(on_path) else step
    return _Place(float(distances[first]) - STAND_BACK_M, bool(len(on_path)))


def _foreseen(road: Streets, user: OnStreets) -> tuple[np.ndarray, np.ndarray]:
    """((K, 2) points, (K,) distances from now) along the user's route at TIMES_S."""
    distances = max(user.speed, ROLLING_MPS) * TIMES_S
    lanes = road.lanes_ahead(user, user.lane_index)
    starts = np.array([start for _, start in lanes])
    stations = user.station_m + distances
    which = np.maximum(np.searchsorted(starts, stations, side="right") - 1, 0)
    points = [road.lane(lanes[lane][0]).position(station - starts[lane], 0.0) for lane, station in zip(which, stations, strict=True)]
    return np.array(points), distances


def _queue(one: OnStreets, two: OnStreets) -> bool:
    """Whether one drives behind the other: then keeping one's distance is enough."""
    return one.edges[0] == two.edges[0] or one.edges[0] in two.edges[1:4] or two.edges[0] in one.edges[1:4]


def _meeting(one_m: np.ndarray, two_m: np.ndarray) -> tuple[int, int] | None:
    """First pair of time steps, at most one apart, at which two foreseen paths (K, 2) come too near."""
    gaps = np.hypot(*(one_m[:, None] - two_m[None]).transpose(2, 0, 1))
    steps = np.arange(len(TIMES_S))
    gaps[np.abs(steps[:, None] - steps[None]) > 2] = np.inf
    close = np.argwhere(gaps < MEETING_M)
    return None if not len(close) else (int(close[0][0]), int(close[0][1]))


def _priority(user: OnStreets) -> int:
    """Priority of the lane through the junction that it is on or comes to next."""
    if user.lane.priority:
        return user.lane.priority
    edge = user.edge_ahead(1)
    following = user.road.following(user.lane_index, edge) if edge else None
    return user.road.lane(following).priority if following else 0
