"""Staged events: each one happens as it is named, is told at its moment, and leaves all other drives as they were."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from data.dashsim.config import ROADS, DashsimConfig
from data.dashsim.events import EVENTS, NO_EVENT, OF_OTHERS, SHORTEST_DRIVE_S, code_of, draw_event, event_words, moment_of
from data.dashsim.simulation import Recording, simulate
from data.sources.dashsim import drives, find_drive, plan_drive

FPS = 10.0
STEPS = 260
"""Enough for a left turn through a roundabout."""
LANE_M = 3.0
"""Less than the width of a lane."""


def possible(road):
    """Every event that can be drawn on a road."""
    rng = np.random.default_rng(0)
    return sorted({event for _ in range(300) if (event := draw_event(road, ("moderate",), STEPS / FPS, rng))})


@cache
def staged(road, event, seed=3) -> Recording:
    return simulate(road, "moderate", STEPS, seed, event=event)


def under_way(recording):
    """(first, last) step of the event."""
    steps = np.flatnonzero(recording.truth["event"])
    return int(steps[0]), int(steps[-1])


def beside(recording, step):
    """(ahead, to the left) in metres of the car that makes the event, seen from the ego car."""
    shot = recording.snapshots[step]
    car = next(car for car in shot.cars if car.car_id == recording.event_car_id)
    dx, dy = car.x_m - shot.x_m, car.y_m - shot.y_m
    along, across = math.cos(shot.yaw_rad), math.sin(shot.yaw_rad)
    return dx * along + dy * across, dy * along - dx * across


def turned(recording, first, last):
    """Degrees to the left."""
    yaw = np.unwrap(recording.truth["yaw_rad"])
    return math.degrees(yaw[last] - yaw[first])


EVERY = [(road, event) for road in ROADS for event in possible(road)]


def test_every_event_has_a_road():
    assert {event for _, event in EVERY} == set(EVENTS)


@pytest.mark.parametrize("road, event", EVERY)
def test_an_event_happens_once_without_a_crash(road, event):
    recording = staged(road, event)
    codes = recording.truth["event"]
    assert recording.event == event and not recording.truth["crashed"].any()
    assert set(codes) == {0, code_of(event)}
    assert (np.diff(codes) != 0).sum() == 2, "it begins once and ends once"


@pytest.mark.parametrize("road, event", [(road, event) for road, event in EVERY if event.startswith("cut_in")])
def test_a_cut_in_comes_from_its_side_and_ends_close_ahead(road, event):
    recording = staged(road, event)
    first, last = under_way(recording)
    side = 1 if event.endswith("left") else -1
    before, after = beside(recording, first), beside(recording, last)
    assert before[0] > 0 and side * before[1] > LANE_M * 0.7
    assert 0 < after[0] < 45 and abs(after[1]) < abs(before[1])


@pytest.mark.parametrize("road", [road for road, event in EVERY if event == "hard_brake"])
def test_hard_braking_is_hard_and_ahead(road):
    recording = staged(road, "hard_brake")
    first, last = under_way(recording)
    assert beside(recording, first)[0] > 0
    places = np.array([beside(recording, step)[0] for step in range(first, last + 1)])
    speeds = recording.telemetry[first : last + 1, 0]
    assert places.min() < places[0], "the ego car comes nearer"
    assert speeds.min() < speeds[0] - 2, "and has to slow down"


@pytest.mark.parametrize("road, event", [(road, event) for road, event in EVERY if event.startswith("change")])
def test_a_lane_change_goes_to_its_side(road, event):
    recording = staged(road, event)
    first, last = under_way(recording)
    side = 1 if event.endswith("left") else -1
    assert recording.truth["lane_change"][first : last + 1].mean() * side > 0.9
    assert recording.truth["lane_index"][last] - recording.truth["lane_index"][first] == -side


@pytest.mark.parametrize("road, event", [(road, event) for road, event in EVERY if event.startswith(("turn", "go"))])
def test_turns_turn(road, event):
    first, last = under_way(staged(road, event))
    wanted = {"turn_left": 90, "turn_right": -90, "go_straight": 0}[event]
    assert turned(staged(road, event), first, last) == pytest.approx(wanted, abs=20)


def test_an_exit_leaves_the_motorway_and_passing_it_does_not():
    leaving, staying = staged("highway", "exit"), staged("highway", "pass_exit")
    first, last = under_way(leaving)
    assert leaving.truth["lane_count"][first] > 1 and leaving.truth["lane_count"][last] == 1
    first, last = under_way(staying)
    assert staying.truth["lane_count"][last + 1 :].min() > 1
    assert staying.truth["lane_count"][first] == staying.truth["lane_count"][first - 1] + 1, "the lane that leads off begins"


def test_the_share_of_drives_with_an_event_is_the_one_asked_for_in_every_split():
    config = DashsimConfig(episodes=300, val_episodes=200, heldout_episodes=200, events=0.4)
    plans = [find_drive(config, drive.drive_id) for drive in drives(config)]
    for split in ("train", "val", "heldout"):
        share = np.mean([plan.event is not None for plan in plans if plan.split == split])
        assert share == pytest.approx(0.4, abs=0.1)
    assert {plan.event for plan in plans} == {None, *EVENTS}
    assert all(plan.traffic != "none" for plan in plans if plan.event in OF_OTHERS)


def test_other_drives_stay_as_they_were():
    """What is staged in one drive changes nothing in those in which nothing is."""
    plain, mixed = DashsimConfig(events=0.0), DashsimConfig(events=0.5)
    for number in range(60):
        one, other = plan_drive(plain, "train", number), plan_drive(mixed, "train", number)
        assert one.event is None
        assert replace(other, event=None, traffic=one.traffic, strays=one.strays) == one
        assert other.event or other == one


def test_short_or_slow_drives_hold_no_event():
    short = DashsimConfig(steps=int(SHORTEST_DRIVE_S * FPS) - 1, events=1.0)
    slow = DashsimConfig(fps=2.0, events=1.0)
    assert all(plan_drive(config, "train", number).event is None for config in (short, slow) for number in range(30))


def test_the_same_seed_stages_the_same():
    once, again = (simulate("highway", "light", 150, 7, event="cut_in_left") for _ in range(2))
    assert once.snapshots == again.snapshots and once.event_car_id == again.event_car_id
    np.testing.assert_array_equal(once.truth["event"], again.truth["event"])


def test_a_drive_tells_its_event_at_its_moment_and_only_then():
    config = DashsimConfig(episodes=60, size="16x32", supersampling=1, events=1.0)
    drive = next(drive for drive in drives(config) if find_drive(config, drive.drive_id).event == "hard_brake")
    chunks = list(drive.episodes())
    assert {chunk.labels["event"] for chunk in chunks} == {"hard_brake"}
    codes = np.concatenate([chunk.truth["event"] for chunk in chunks])
    captions = {(caption.start, caption.end, caption.text) for chunk in chunks for caption in chunk.captions}
    moment = moment_of(codes, FPS, 2.0)
    assert moment is not None and moment.start < np.flatnonzero(codes)[0] and moment.end > np.flatnonzero(codes)[-1]
    rng = np.random.default_rng(0)
    words = {event_words("hard_brake", "highway", rng) for _ in range(200)}
    told = [(start, end) for start, end, text in captions if any(word in text for word in words)]
    assert set(told) == {(moment.start, moment.end)}
    assert all(end <= moment.start or start >= moment.end for start, end, _ in captions - {c for c in captions if c[:2] in told})
    covered = np.zeros(len(codes), int)
    for start, end in {(start, end) for start, end, _ in captions}:
        covered[start:end] += 1
    assert (covered == 1).all()


def test_nothing_is_labelled_where_nothing_is_staged():
    config = DashsimConfig(episodes=1, steps=20, size="16x32", supersampling=1)
    assert next(next(drives(config)).episodes()).labels["event"] == NO_EVENT


def test_what_never_comes_about_is_said():
    with pytest.warns(UserWarning, match="exit did not come about on highway in 30 steps"):
        recording = simulate("highway", "none", 30, 0, event="exit")
    assert recording.event is None and not recording.truth["event"].any()
