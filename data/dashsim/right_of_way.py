"""Who gives way where paths cross: everybody's next seconds are foreseen, and one of two who would meet has to wait."""

from itertools import combinations

import numpy as np

from data.dashsim.streets import OnStreets, Streets

TIMES_S = np.arange(0.5, 4.51, 0.5)
MEETING_M = 4.2
"""Centres that come this near to one another meet."""
STAND_BACK_M = 7.0
"""Where to wait: this far, along the path, before the place of the meeting."""
TOO_FAR_M = -3.0
"""Who is that much past its place to wait stands in the way already, and had better clear off."""
ROLLING_MPS = 3.5
"""Who waits is foreseen to go on at this speed, so that it does not take its own waiting for a free road."""


def holds(road: Streets) -> dict[int, float]:
    """{car_id: distance in metres within which it should stop} for those who have to give way now."""
    users = road.vehicles
    paths = {user.car_id: _foreseen(road, user) for user in users}
    held: dict[int, float] = {}
    for one, two in combinations(users, 2):
        if np.abs(one.position - two.position).max() > 90 or _queue(one, two):
            continue
        meeting = _meeting(paths[one.car_id][0], paths[two.car_id][0])
        if meeting is None:
            continue
        rooms = [float(paths[user.car_id][1][step]) - STAND_BACK_M for user, step in zip((one, two), meeting, strict=True)]
        waits = 0 if _rank(one, rooms[0]) < _rank(two, rooms[1]) else 1
        if rooms[waits] > TOO_FAR_M:
            car_id = (one, two)[waits].car_id
            held[car_id] = min(held.get(car_id, np.inf), max(rooms[waits], 0.0))
    return held


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
    return room_m <= TOO_FAR_M, _priority(user), -room_m, user.car_id


def _priority(user: OnStreets) -> int:
    """Priority of the lane through the junction that it is on or comes to next."""
    if user.lane.priority:
        return user.lane.priority
    edge = user.edge_ahead(1)
    following = user.road.following(user.lane_index, edge) if edge else None
    return user.road.lane(following).priority if following else 0
