"""Who gives way where paths cross: everybody's next seconds are foreseen, and one of two who would meet has to wait."""

from itertools import combinations

import numpy as np

from data.dashsim.streets import OnStreets, Streets

TIMES_S = np.arange(0.5, 4.51, 0.5)
MEETING_M = 4.2
"""Centres that come this near to one another meet."""
STAND_BACK_M = 7.0
"""Where to wait: this far, along the path, before the place of the meeting."""
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
        waits, step = _who_waits(one, two, meeting, paths)
        room = float(paths[waits.car_id][1][step]) - STAND_BACK_M
        if room > -3.0:  # past that it stands in the way already: better to clear off
            held[waits.car_id] = min(held.get(waits.car_id, np.inf), max(room, 0.0))
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


def _who_waits(
    one: OnStreets, two: OnStreets, meeting: tuple[int, int], paths: dict[int, tuple[np.ndarray, np.ndarray]]
) -> tuple[OnStreets, int]:
    """The one of lower priority on its way through the junction; of equals, the one that is farther from the meeting."""
    ranks = [
        (_priority(user), -float(paths[user.car_id][1][step]), user.car_id) for user, step in zip((one, two), meeting, strict=True)
    ]
    return (one, meeting[0]) if ranks[0] < ranks[1] else (two, meeting[1])


def _priority(user: OnStreets) -> int:
    """Priority of the lane through the junction that it is on or comes to next."""
    if user.lane.priority:
        return user.lane.priority
    edge = user.edge_ahead(1)
    following = user.road.following(user.lane_index, edge) if edge else None
    return user.road.lane(following).priority if following else 0
