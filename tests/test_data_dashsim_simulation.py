"""Drives: the laws of motion hold in what is recorded, seeds decide all, and the mix of drives is what a model needs."""

import hashlib
import pickle
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data.dashsim.config import HELD_OUT, ROADS, SPLITS, DashsimConfig
from data.dashsim.driver import MAX_STEERING_RAD
from data.dashsim.simulation import NO_LEAD_M, TRUTH, simulate
from data.dashsim.streets import OnStreets
from data.errors import UserError
from data.sources.dashsim import ACTIONS, CHUNK_STEPS, TELEMETRY, drives, find_drive, masked_frames, plan_drive

DT = 0.1
SMALL = DashsimConfig(episodes=26, steps=70, size="32x64", supersampling=1)


@cache
def recordings(road):
    return [simulate(road, traffic, 150, seed) for seed, traffic in enumerate(("none", "light", "moderate", "heavy") * 2)]


def every(road, name):
    return np.concatenate([recording.truth[name] for recording in recordings(road)])


@pytest.mark.parametrize("road", ROADS)
def test_speed_integrates_acceleration_and_heading_integrates_the_yaw_rate_of_the_interval_before(road):
    for recording in recordings(road):
        speed, yaw_rate = recording.telemetry.astype(float).T
        steering, acceleration = recording.actions.astype(float).T
        np.testing.assert_allclose(speed[1:], speed[:-1] + acceleration[:-1] * DT, atol=1e-4)
        np.testing.assert_allclose(np.diff(recording.truth["yaw_rad"]), yaw_rate[1:] * DT, atol=1e-4)
        slip = np.arctan(np.tan(steering[:-1]) / 2)
        np.testing.assert_allclose(yaw_rate[1:], speed[:-1] * np.sin(slip) / (OnStreets.LENGTH / 2), atol=1e-4)
        x, y, yaw = (np.array([getattr(shot, name) for shot in recording.snapshots]) for name in ("x_m", "y_m", "yaw_rad"))
        np.testing.assert_allclose(np.diff(x), speed[:-1] * DT * np.cos(yaw[:-1] + slip), atol=1e-4)
        np.testing.assert_allclose(np.diff(y), speed[:-1] * DT * np.sin(yaw[:-1] + slip), atol=1e-4)


@pytest.mark.parametrize("road", ROADS)
def test_channels_stay_in_range_and_truth_is_consistent(road):
    for recording in recordings(road):
        for values, specs in ((recording.telemetry, TELEMETRY), (recording.actions, ACTIONS)):
            for column, spec in zip(values.T, specs, strict=True):
                assert spec.low <= column.min() and column.max() <= spec.high, spec.name
        truth = recording.truth
        assert set(truth) == set(TRUTH) and all(np.isfinite(values).all() for values in truth.values())
        assert truth["done"].sum() == truth["done"][-1] == 1
        assert len(recording.snapshots) == 150 or truth["crashed"][-1] == 1
        assert truth["lead_distance_m"].min() >= 0 and truth["lead_distance_m"].max() <= NO_LEAD_M
        assert (truth["lane_index"] < truth["lane_count"]).all()
        assert truth["reward"].min() >= -1 and truth["reward"].max() <= 1


@pytest.mark.parametrize("road", ROADS)
def test_lateral_offset_and_heading_error_tell_the_same_story(road):
    """Inside a lane the offset grows by speed times the sine of the course error."""
    for recording in recordings(road):
        truth, speed = recording.truth, recording.telemetry[:-1, 0]
        slip = np.arctan(np.tan(recording.actions[:-1, 0]) / 2)
        drift = speed * DT * np.sin(truth["heading_error_rad"][:-1] + slip)
        moved = np.diff(truth["lateral_offset_m"])
        same_lane = (np.diff(truth["lane_index"]) == 0) & (np.diff(truth["in_junction"]) == 0) & (np.abs(moved) < 1)
        np.testing.assert_allclose(moved[same_lane], drift[same_lane], atol=0.12)


def test_the_mix_of_drives_has_curves_both_ways_and_seldom_stands_still():
    steering = np.concatenate([recording.actions[:, 0] for road in ROADS for recording in recordings(road)])
    acceleration = np.concatenate([recording.actions[:, 1] for road in ROADS for recording in recordings(road)])
    speed = np.concatenate([recording.telemetry[:, 0] for road in ROADS for recording in recordings(road)])
    curvature, offset = (np.concatenate([every(road, name) for road in ROADS]) for name in ("curvature_inv_m", "lateral_offset_m"))
    assert (np.abs(curvature) > 1 / 400).mean() > 0.4
    assert (curvature > 1 / 400).mean() > 0.1 and (curvature < -1 / 400).mean() > 0.1
    assert (speed < 0.3).mean() < 0.05
    assert (steering > 0.02).mean() > 0.05 and (steering < -0.02).mean() > 0.05
    assert (acceleration < -1.0).mean() > 0.03 and (acceleration > 1.0).mean() > 0.03
    assert (offset > 0.7).mean() > 0.01 and (offset < -0.7).mean() > 0.01
    assert np.concatenate([every(road, "off_road") for road in ROADS]).mean() < 0.01
    assert sum(recording.truth["crashed"].max() for road in ROADS for recording in recordings(road)) <= 2
    assert np.abs(steering).max() <= MAX_STEERING_RAD


def test_lanes_are_changed_where_there_are_several():
    assert {-1.0, 0.0, 1.0} == set(every("highway", "lane_change"))
    assert set(every("two_way", "lane_change")) == {0.0}


def test_a_steady_driver_recovers_from_an_off_centre_start():
    seen = 0
    for seed in range(24):
        offset = simulate("two_way", "none", 60, seed, noise=1e-6).truth["lateral_offset_m"]
        if abs(offset[0]) > 0.5:
            seen += 1
            assert np.abs(offset[40:]).max() < 0.6 and np.abs(offset[1:]).max() < abs(offset[0]) + 0.4
    assert seen >= 4


def test_without_noise_the_driver_keeps_to_its_lane():
    for seed in range(4):
        assert np.abs(simulate("two_way", "none", 100, seed, noise=0.0).truth["lateral_offset_m"]).max() < 0.45


def fingerprint(recording):
    arrays = [recording.telemetry, recording.actions, *recording.truth.values(), *[lane.centre_m for lane in recording.road_map.lanes]]
    text = repr(recording.snapshots).encode() + b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("road", ["highway", "two_way", "racetrack"])
def test_a_driver_who_strays_leaves_the_road_where_it_is_open_and_comes_back(road):
    strayed = 0
    for seed in range(6):
        recording = simulate(road, "light", 300, seed, strays=True)
        aside, off = recording.truth["lateral_offset_m"], recording.truth["off_road"] > 0
        strayed += off.any()
        assert np.abs(aside).max() < 7.5  # as far as the road can still be seen
        starts, ends = (np.flatnonzero(np.diff(off.astype(int)) == sign) for sign in (1, -1))
        assert len(starts) - len(ends) <= 1  # the last time may last to the end of the drive
        assert road != "two_way" or aside[off].max(initial=-1) < 0  # left is oncoming traffic
    assert strayed >= 3


def test_only_drives_of_the_train_split_without_an_event_stray():
    config = DashsimConfig(episodes=60, val_episodes=30)
    plans = [plan_drive(config, split, number) for split in SPLITS for number in range(config.drives_in(split))]
    assert 3 <= sum(plan.strays for plan in plans) <= 20
    assert all(plan.split == "train" and plan.event is None for plan in plans if plan.strays)
    still = [plan_drive(replace(config, strays=0.0), "train", number) for number in range(60)]
    assert [replace(plan, strays=False) for plan in plans[:60]] == still  # nothing else depends on it


def test_same_seed_same_drive_in_any_process_whatever_went_before():
    here = {road: fingerprint(simulate(road, "heavy", 60, seed=11)) for road in ROADS}
    np.random.seed(123)  # noqa: NPY002  global state must not matter
    assert {road: fingerprint(simulate(road, "heavy", 60, seed=11)) for road in reversed(ROADS)} == here
    script = (
        "from tests.test_data_dashsim_simulation import *\n"
        "for road in ROADS[::2]: print(road, fingerprint(simulate(road, 'heavy', 60, seed=11)))"
    )
    root = Path(__file__).parents[1]
    output = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True).stdout
    assert dict(line.split() for line in output.splitlines()) == {road: here[road] for road in ROADS[::2]}
    assert fingerprint(simulate("highway", "heavy", 60, seed=12)) != here["highway"]


def test_splits_share_no_drive_and_held_out_looks_stay_out_of_training():
    config = DashsimConfig(episodes=156)
    plans = [find_drive(config, drive.drive_id) for drive in drives(config)]
    assert Counter(plan.split for plan in plans) == {"train": 156, "val": 15, "heldout": 15}
    assert len({plan.seed for plan in plans}) == len({plan.drive_id for plan in plans}) == len(plans)
    for plan in plans:
        look = (plan.conditions.weather, plan.conditions.time_of_day)
        assert (look in HELD_OUT) == (plan.split == "heldout")
    looks = Counter((plan.conditions.weather, plan.conditions.time_of_day) for plan in plans if plan.split == "train")
    assert len(looks) == 13 and max(looks.values()) == min(looks.values()) == 12
    pairs = Counter((plan.road, plan.conditions) for plan in plans if plan.split == "train")
    assert len(pairs) == 6 * 13 and set(pairs.values()) == {2}
    assert {plan.steps for plan in plans if plan.split == "val"} == {150, 600}


def test_held_out_looks_meet_every_kind_of_road():
    config = DashsimConfig(heldout_episodes=12)
    plans = [plan_drive(config, "heldout", number) for number in range(12)]
    assert len({(plan.road, plan.conditions) for plan in plans}) == 12


def test_another_seed_gives_other_drives():
    first, second = (plan_drive(DashsimConfig(seed=seed), "train", 0) for seed in (0, 1))
    assert first.seed != second.seed


def test_a_drive_comes_in_chunks_that_fit_together():
    drive = next(drives(SMALL))
    chunks = list(pickle.loads(pickle.dumps(drive)).episodes())
    assert drive.split == "train" and [chunk.steps for chunk in chunks] == [CHUNK_STEPS, 70 - CHUNK_STEPS]
    assert [chunk.start for chunk in chunks] == [0, CHUNK_STEPS]
    times = np.concatenate([chunk.timestamps_s for chunk in chunks])
    np.testing.assert_allclose(times, np.arange(70) / 10)
    assert all(chunk.frames["front"].shape[1:] == (32, 64, 3) for chunk in chunks)
    spans = list(dict.fromkeys((caption.start, caption.end) for chunk in chunks for caption in chunk.captions))
    assert spans[0][0] == 0 and spans[-1][1] == 70
    assert all(one[1] == two[0] for one, two in pairwise(spans))
    assert set(chunks[0].labels) == {"weather", "time_of_day", "road", "traffic", "lanes", "event"}
    assert chunks[0].cameras["front"].horizontal_fov_deg == 65.0


def test_masked_frames_are_the_frames_of_the_drive():
    config = replace(SMALL, supersampling=2)
    drive = next(drives(config))
    whole = np.concatenate([chunk.frames["front"] for chunk in drive.episodes()])
    frames, masks = masked_frames(config, drive.drive_id, [0, 33, 69])
    np.testing.assert_array_equal(frames, whole[[0, 33, 69]])
    assert {"paint", "cars"} <= set(masks) and all(mask.shape == (3, 32, 64) and mask.dtype == bool for mask in masks.values())
    assert masks["paint"].any() and not (masks["paint"] & masks["cars"]).any()


@pytest.mark.parametrize("drive_id", ["train-00000-merge", "train-99999-highway", "test-00000-highway", "nonsense", "val-00000-highway-1"])
def test_an_unknown_drive_is_named(drive_id):
    with pytest.raises(UserError, match=drive_id):
        find_drive(SMALL, drive_id)


def test_steps_outside_a_drive_are_refused():
    with pytest.raises(UserError, match=r"0\.\.69, got 70"):
        masked_frames(SMALL, next(drives(SMALL)).drive_id, [70])


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"episodes": 0}, "episodes expected at least 1, got 0"),
        ({"steps": 1}, "steps expected at least 2"),
        ({"val_episodes": -1}, "val_episodes expected at least 0"),
        ({"fps": 0.0}, "fps expected"),
        ({"noise": -0.5}, "noise expected"),
        ({"events": 1.5}, "events expected a share from 0 to 1"),
        ({"roads": ()}, "roads expected some of highway"),
        ({"weathers": ("hail",)}, "got hail"),
        ({"weathers": ("snow",), "times": ("night",)}, "only held-out looks"),
        ({"size": "4x128"}, "divide by 8, got 4x128"),
    ],
)
def test_bad_config_is_told_in_one_line(wrong, message):
    with pytest.raises(UserError, match=message) as caught:
        DashsimConfig(**wrong)
    assert "\n" not in str(caught.value)


def test_no_drives_are_held_out_where_the_looks_do_not_allow_it():
    config = DashsimConfig(weathers=("clear",))
    assert {split: config.drives_in(split) for split in SPLITS} == {"train": 200, "val": 20, "heldout": 0}
