"""What may be staged in a drive: the events, the roads where each can happen, and the words for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from data.dashsim.config import Road, Traffic

Event = Literal[
    "cut_in_left",
    "cut_in_right",
    "hard_brake",
    "change_left",
    "change_right",
    "turn_left",
    "turn_right",
    "go_straight",
    "exit",
    "pass_exit",
]
"""cut_in_*: another car changes into the ego lane close ahead, from that side. hard_brake: the car ahead brakes hard. change_*: the
ego car changes lanes. turn_*, go_straight: it takes that way through an intersection or a roundabout. exit, pass_exit: it
leaves a motorway at an exit, or stays on it there."""
EVENTS: tuple[Event, ...] = get_args(Event)
NO_EVENT = "none"
"""The label of a drive in which nothing is staged."""

OF_OTHERS: frozenset[Event] = frozenset({"cut_in_left", "cut_in_right", "hard_brake"})
"""Events that other cars make: they need traffic."""
SHORTEST_DRIVE_S = 10.0
"""Nothing is staged in shorter drives."""
_TAKES_S: dict[tuple[Road, Event], float] = {
    ("highway", "exit"): 14.0,
    ("highway", "pass_exit"): 12.0,
    ("intersection", "turn_left"): 14.0,
    ("intersection", "go_straight"): 14.0,
    ("roundabout", "turn_left"): 25.0,
    ("roundabout", "go_straight"): 15.0,
}
"""Events for which a drive of SHORTEST_DRIVE_S would be too short."""
LOWEST_FPS = 5.0
"""Nothing is staged at fewer frames a second: a cut-in would be over in a few of them."""

_WEIGHTS: dict[Road, dict[Event, float]] = {
    "highway": {
        "exit": 3,
        "pass_exit": 1.5,
        "cut_in_left": 1,
        "cut_in_right": 1,
        "hard_brake": 0.7,
        "change_left": 0.6,
        "change_right": 0.6,
    },
    "merge": {"cut_in_left": 1.5, "cut_in_right": 1.5, "hard_brake": 1, "change_left": 0.8, "change_right": 0.8},
    "two_way": {"hard_brake": 1},
    "roundabout": {"turn_left": 1, "turn_right": 1, "go_straight": 1},
    "intersection": {"turn_left": 1, "turn_right": 1, "go_straight": 1},
    "racetrack": {"cut_in_left": 1, "cut_in_right": 1, "hard_brake": 1},
}
"""How often each event is drawn on a road, relative to the others there. Exits are for the highway alone, so they come more often."""


def draw_event(road: Road, traffic: Sequence[Traffic], duration_s: float, rng: np.random.Generator) -> Event | None:
    """An event that the road, one of the densities of traffic and the length of the drive allow; None where there is none."""
    impossible: frozenset[Event] = OF_OTHERS if set(traffic) <= {"none"} else frozenset()
    impossible |= frozenset[Event](event for event in EVENTS if duration_s < _TAKES_S.get((road, event), SHORTEST_DRIVE_S))
    weights: dict[Event, float] = {event: weight for event, weight in _WEIGHTS[road].items() if event not in impossible}
    if not weights:
        return None
    shares = np.array(list(weights.values()))
    return list(weights)[int(rng.choice(len(shares), p=shares / shares.sum()))]


def code_of(event: Event) -> int:
    """The event's number in the truth, 1 or more; 0 is for no event."""
    return EVENTS.index(event) + 1


@dataclass(frozen=True)
class Moment:
    """When an event is told, in steps start <= t < end."""

    event: Event
    start: int
    end: int


_MARGINS_S: dict[Event, tuple[float, float]] = {
    "cut_in_left": (1.0, 1.0),
    "cut_in_right": (1.0, 1.0),
    "hard_brake": (0.8, 1.0),
    "change_left": (0.6, 0.4),
    "change_right": (0.6, 0.4),
    "turn_left": (1.5, 0.5),
    "turn_right": (1.5, 0.5),
    "go_straight": (1.5, 0.5),
    "exit": (1.5, 0.5),
    "pass_exit": (1.0, 0.5),
}
"""How long before an event its caption begins, and how long after it the caption ends."""


def moment_of(codes: np.ndarray, fps: float, shortest_s: float) -> Moment | None:
    """When to tell the event whose number stands in `codes` (T,), 0 elsewhere; None where there is none.

    It lasts at least `shortest_s`, and reaches to the drive's start or end where less than that would be left of it.
    """
    steps = np.flatnonzero(codes)
    if not len(steps):
        return None
    event = EVENTS[int(codes[steps[0]]) - 1]
    before, after = (round(seconds * fps) for seconds in _MARGINS_S[event])
    shortest = round(shortest_s * fps)
    start = int(steps[0]) - before
    start = start if start >= shortest else 0
    end = max(int(steps[-1]) + 1 + after, start + shortest)
    return Moment(event, start, end if len(codes) - end >= shortest else len(codes))


_PLACES: dict[Road, tuple[str, ...]] = {
    "intersection": ("intersection", "intersection", "crossroads", "junction", "next intersection"),
    "roundabout": ("roundabout", "roundabout", "next roundabout"),
}
_WORDS: dict[Event, tuple[str, ...]] = {
    "cut_in_left": (
        "a car cuts in from the left",
        "a car from the left cuts in",
        "another car cuts in from the left",
        "cut-in from the left",
        "a car pulls in front of us from the left",
        "a car in the left lane cuts in ahead",
    ),
    "cut_in_right": (
        "a car cuts in from the right",
        "a car from the right cuts in",
        "another car cuts in from the right",
        "cut-in from the right",
        "a car pulls in front of us from the right",
        "a car in the right lane cuts in ahead",
    ),
    "hard_brake": (
        "traffic ahead brakes hard",
        "the car ahead brakes hard",
        "the car in front brakes suddenly",
        "hard braking ahead",
        "sudden braking of the car ahead",
        "the car ahead slams on the brakes",
    ),
    "change_left": (
        "changes to the left lane",
        "changing to the left lane",
        "change lanes to the left",
        "moves over to the left lane",
        "lane change to the left",
    ),
    "change_right": (
        "changes to the right lane",
        "changing to the right lane",
        "change lanes to the right",
        "moves over to the right lane",
        "lane change to the right",
    ),
    "turn_left": (
        "turn left at the {place}",
        "turning left at the {place}",
        "turns left at the {place}",
        "a left turn at the {place}",
        "take a left at the {place}",
    ),
    "turn_right": (
        "turn right at the {place}",
        "turning right at the {place}",
        "turns right at the {place}",
        "a right turn at the {place}",
        "take a right at the {place}",
    ),
    "go_straight": (
        "go straight on at the {place}",
        "going straight on at the {place}",
        "goes straight ahead at the {place}",
        "straight on at the {place}",
        "drive straight through the {place}",
    ),
    "exit": (
        "leave at the exit",
        "leaving at the exit",
        "take the exit",
        "taking the exit",
        "leave the highway at the exit",
        "leaving the motorway at the next exit",
        "exiting the highway",
    ),
    "pass_exit": (
        "stay on the highway at the exit",
        "staying on the motorway",
        "passing the exit",
        "drive past the exit",
        "goes past the exit",
    ),
}


def event_words(event: Event, road: Road, rng: np.random.Generator) -> str:
    """One wording of an event on a road."""
    words = _WORDS[event][int(rng.integers(len(_WORDS[event])))]
    if "{place}" not in words:
        return words
    places = _PLACES[road]
    return words.format(place=places[int(rng.integers(len(places)))])
