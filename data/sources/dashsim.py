"""Drives of the embedded driving world. Each is a function of its config and its `drive_id` alone, so it can be made again at any time.

A drive_id reads `<split>-<number>-<road>`, such as `val-00012-racetrack`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, get_args

import numpy as np

from data.dashsim.config import SPLITS, DashsimConfig, Road, Split, Traffic
from data.dashsim.events import LOWEST_FPS, NO_EVENT, OF_OTHERS, Event, draw_event, moment_of
from data.dashsim.scene import Conditions
from data.episode import Camera, ChannelSpec, Drive, Episode
from data.errors import UserError
from data.source import Source

if TYPE_CHECKING:
    from data.dashsim.renderer import Renderer
    from data.dashsim.simulation import Recording

CHUNK_STEPS = 64
CAMERA = "front"
TELEMETRY = (ChannelSpec("speed_mps", "m/s", 0.0, 40.0), ChannelSpec("yaw_rate_rps", "rad/s", -0.8, 0.8))
ACTIONS = (ChannelSpec("steering_rad", "rad", -0.4, 0.4, bins=256), ChannelSpec("acceleration_mps2", "m/s^2", -6.0, 4.0))
"""Steering has more bins: at 20 m/s one of 128 would change the sideways acceleration by 0.9 m/s²."""


@dataclass(frozen=True)
class DrivePlan:
    """What is decided about a drive before it is driven."""

    drive_id: str
    split: Split
    steps: int
    road: Road
    traffic: Traffic
    conditions: Conditions
    seed: int
    event: Event | None = None
    """What is to be staged."""
    strays: bool = False
    """Whether the driver leaves the road now and then."""


def drives(config: DashsimConfig) -> Iterator[Drive]:
    """Every drive of the splits train, val and heldout; nothing is simulated before its `episodes` are read."""
    for split in SPLITS:
        for number in range(config.drives_in(split)):
            plan = plan_drive(config, split, number)
            yield Drive(plan.drive_id, partial(episodes, config, plan.drive_id), split, plan.steps)


def plan_drive(config: DashsimConfig, split: Split, number: int) -> DrivePlan:
    """Roads take turns, and so do looks, in a shuffled order: over many drives every pair comes up as often as any other."""
    look_rng = np.random.default_rng([config.seed, SPLITS.index(split), 0])
    looks = config.looks(split)
    shuffled = [looks[index] for index in look_rng.permutation(len(looks))]
    road = config.roads[number % len(config.roads)]
    turn = number // len(config.roads)
    weather, time_of_day = shuffled[(number + turn * (len(config.roads) % len(looks) == 0)) % len(looks)]
    rng = np.random.default_rng([config.seed, SPLITS.index(split), 1, number])
    weights = np.array([0.5 if traffic == "none" else 1.0 for traffic in config.traffic])
    plan = DrivePlan(
        drive_id=f"{split}-{number:05d}-{road}",
        split=split,
        steps=config.long_steps if split == "val" and number % 5 == 0 else config.steps,
        road=road,
        traffic=config.traffic[int(rng.choice(len(weights), p=weights / weights.sum()))],
        conditions=Conditions(weather, time_of_day),
        seed=int(rng.integers(2**62)),
    )
    plan = _with_event(config, plan, np.random.default_rng([config.seed, SPLITS.index(split), 2, number]))
    strays = np.random.default_rng([config.seed, SPLITS.index(split), 3, number]).random() < config.strays
    return replace(plan, strays=bool(strays and split == "train" and plan.event is None))


def _with_event(config: DashsimConfig, plan: DrivePlan, rng: np.random.Generator) -> DrivePlan:
    """Stage something in a share of the drives; the others stay as they are. Events that other cars make come with traffic."""
    if rng.random() >= config.events or config.fps < LOWEST_FPS:
        return plan
    event = draw_event(plan.road, config.traffic, plan.steps / config.fps, rng)
    if event not in OF_OTHERS or plan.traffic != "none":
        return replace(plan, event=event)
    busy = [traffic for traffic in config.traffic if traffic != "none"]
    return replace(plan, event=event, traffic=busy[int(rng.integers(len(busy)))])


def find_drive(config: DashsimConfig, drive_id: str) -> DrivePlan:
    """The plan behind a drive_id; UserError where the config has no such drive."""
    match = re.fullmatch(r"([a-z]+)-(\d+)-([a-z_]+)", drive_id)
    if match and match[1] in get_args(Split):
        plan = plan_drive(config, match[1], int(match[2]))  # type: ignore[arg-type]
        if plan.drive_id == drive_id and int(match[2]) < config.drives_in(plan.split):
            return plan
    raise UserError(f"dashsim: no drive {drive_id!r} with this config; expected an id such as {plan_drive(config, 'train', 0).drive_id!r}")


def episodes(config: DashsimConfig, drive_id: str) -> Iterator[Episode]:
    """Simulate a drive, then render it chunk by chunk."""
    from data.dashsim.captions import SHORTEST_S, Facts, caption_drive, doing_at_each_step

    plan = find_drive(config, drive_id)
    recording, renderer = _prepare(config, plan)
    facts = Facts(plan.conditions.weather, plan.conditions.time_of_day, plan.road, plan.traffic, recording.lane_count)
    doings = doing_at_each_step(plan.road, recording.telemetry[:, 0], recording.truth, config.fps)
    moment = moment_of(recording.truth["event"], config.fps, SHORTEST_S) if recording.event else None
    captions = caption_drive(facts, doings, config.fps, np.random.default_rng([plan.seed, 1]), moment)
    labels = {name: str(getattr(facts, name)) for name in ("weather", "time_of_day", "road", "traffic")}
    labels |= {"lanes": str(facts.lane_count), "event": recording.event or NO_EVENT}
    camera = Camera(config.horizontal_fov_deg, config.camera.mount_height_m, config.camera.pitch_deg, 0.0)
    for start in range(0, len(recording.snapshots), CHUNK_STEPS):
        part = slice(start, min(start + CHUNK_STEPS, len(recording.snapshots)))
        yield Episode(
            drive_id=drive_id,
            fps=config.fps,
            timestamps_s=np.array([snapshot.time_s for snapshot in recording.snapshots[part]]),
            frames={CAMERA: np.stack([renderer.render(snapshot) for snapshot in recording.snapshots[part]])},
            telemetry=recording.telemetry[part],
            telemetry_channels=TELEMETRY,
            actions=recording.actions[part],
            action_channels=ACTIONS,
            captions=tuple(caption for caption in captions if caption.start < part.stop and caption.end > part.start),
            truth={name: values[part] for name, values in recording.truth.items()},
            labels=labels,
            cameras={CAMERA: camera},
            start=start,
        )


def masked_frames(config: DashsimConfig, drive_id: str, steps: Sequence[int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Frames of a drive, uint8 (N, H, W, 3), and what they show, {mask: bool (N, H, W)}, made anew from its id.

    Masks are those of `Renderer.masks`: paint, cars, trees, road.
    """
    recording, renderer = _prepare(config, find_drive(config, drive_id))
    wrong = [step for step in steps if not 0 <= step < len(recording.snapshots)]
    if wrong:
        raise UserError(f"{drive_id}: expected steps within 0..{len(recording.snapshots) - 1}, got {wrong[0]}")
    snapshots = [recording.snapshots[step] for step in steps]
    masks = [renderer.masks(snapshot) for snapshot in snapshots]
    return np.stack([renderer.render(snapshot) for snapshot in snapshots]), {name: np.stack([m[name] for m in masks]) for name in masks[0]}


def _prepare(config: DashsimConfig, plan: DrivePlan) -> "tuple[Recording, Renderer]":
    """Simulate a drive and set up its camera. highway-env and OpenCV are imported here, for listing drives needs neither."""
    from data.dashsim.renderer import Renderer
    from data.dashsim.simulation import simulate

    recording = simulate(plan.road, plan.traffic, plan.steps, plan.seed, config.fps, config.noise, plan.event, plan.strays)
    return recording, Renderer(recording.road_map, plan.conditions, config.camera, seed=plan.seed % 2**31)


SOURCE = Source(DashsimConfig, drives, frames_a_second=40, license="Apache-2.0", counts=("episodes", "val_episodes", "heldout_episodes"))
