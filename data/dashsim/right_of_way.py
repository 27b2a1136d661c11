"""Who gives way where paths cross: everybody's next seconds are foreseen, and one of two who would meet has to wait."""

from itertools import combinations

import numpy as np

from data.dashsim.streets import OnStreets, Streets

TIMES_S = np.arange(0.5, 4.51, 0.5)
MEETING_M = 4.2
"""Centres that come this near to one another meet."""
STAND_BACK_M = 7.0
"""Where to wait: this far, along the path, before the place of the meeting."""
IN_THE_WAY_M = -3.0
"""Who is that much past its place to wait stands in the way already, and had better clear off."""
MIND_STEPS = 50
"""A decision is thought over after that many steps."""
ROLLING_MPS = 3.5
"""Who waits is foreseen to go on at this speed, so that it does not take its own waiting for a free road."""


class RightOfWay:
    """Decides, step by step, who has to wait for whom, and sticks to it for a while: drivers who change their minds collide."""

    def __init__(self, road: Streets) -> None:
        self.road = road
        self._step = 0
        self._decided: dict[tuple[int, int], tuple[int, int]] = {}
        """{pair of car_ids: (the car_id that waits, the step of that decision)}."""

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
                rooms = [float(paths[user.car_id][1][step]) - STAND_BACK_M for user, step in zip(pair, meeting, strict=True)]
                waits = self._who_waits(pair, rooms)
                held[pair[waits].car_id] = min(held.get(pair[waits].car_id, np.inf), max(rooms[waits], 0.0))
        return held

    def _who_waits(self, pair: tuple[OnStreets, OnStreets], rooms_m: list[float]) -> int:
        """0 or 1, as decided before, unless the one who should wait stands in the way by now and the other still can stop."""
        ids = pair[0].car_id, pair[1].car_id
        waiting, since = self._decided.get(ids, (None, self._step))
        if waiting is None or self._step - since > MIND_STEPS:
            waits, since = (0 if _rank(pair[0], rooms_m[0]) < _rank(pair[1], rooms_m[1]) else 1), self._step
        else:
            waits = ids.index(waiting)
            if rooms_m[waits] < IN_THE_WAY_M and rooms_m[1 - waits] > 0.0:
                waits, since = 1 - waits, self._step
        self._decided[ids] = ids[waits], since
        return waits


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


def _rank(user: OnStreets, room_m: float) -> tuple[bool, int, float, int]:
    """The lower one waits: who is not in the way yet, then lower priority through the junction, then farther from the meeting."""
    return room_m < IN_THE_WAY_M, _priority(user), -room_m, user.car_id


def _priority(user: OnStreets) -> int:
    """Priority of the lane through the junction that it is on or comes to next."""
    if user.lane.priority:
        return user.lane.priority
    edge = user.edge_ahead(1)
    following = user.road.following(user.lane_index, edge) if edge else None
    return user.road.lane(following).priority if following else 0
