"""Bouncing balls: the smallest world whose truth is known exactly, to see what a world model has understood.

Each drive is a function of its config and its `drive_id` alone. A drive_id reads `<split>-<number>-<balls>`, such as
`val-00003-two_balls`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from data.balls import Balls, Box, Hits, advance, draw
from data.drive_log import DriveLog, channel_table, log_episodes
from data.episode import Caption, ChannelSpec, Drive, Episode
from data.errors import UserError
from data.image import parse_size
from data.source import Source

CAMERA = "front"
BOX_WIDTH_M = 1.0
MASS_KG = 1.0
"""Of ball 0."""
_SPLITS = ("train", "val")
_WORDS = {1: "one_ball", 2: "two_balls"}
COLOURS = np.array([(230.0, 90.0, 60.0), (70.0, 140.0, 230.0)])
BACKGROUND = np.array((24.0, 24.0, 28.0))
_HOLD_S = (0.5, 1.5)
"""A force stays the same for a time drawn from this range."""
_FASTEST_MPS = 1.5
"""Above this speed of ball 0 the force brakes, so that a long drive does not heat up."""


@dataclass(frozen=True)
class PhysicsConfig:
    """One or two balls bouncing in a box, with the exact state of every ball as truth."""

    balls: Literal[1, 2] = 2
    """Number of balls: red is pushed by the force, blue is hit by it."""
    episodes: int = 200
    """Drives to train on."""
    val_episodes: int = 20
    """Drives to measure on."""
    steps: int = 100
    """Frames a drive."""
    size: str = "64x64"
    """Height x width of the frames in pixels; the box is 1 m wide and as high as the frames' aspect makes it."""
    fps: float = 10.0
    """Frames a second."""
    radius: float = 0.1
    """Radius of the red ball in metres. The blue one is larger or smaller as its mass is, so that the mass can be seen."""
    mass_ratio: float = 1.0
    """Mass of the blue ball in units of the red one's, which is 1 kg."""
    speed: float = 0.6
    """Speed of every ball at the start in m/s; the direction is drawn."""
    force: float = 1.0
    """Largest force on the red ball in newtons, the action. 0: no force and no action channels."""
    seed: int = 0
    """Of everything that is drawn."""

    def __post_init__(self) -> None:
        parse_size(self.size)
        for name in ("episodes", "steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} expected at least 1, got {getattr(self, name)}")
        for name in ("fps", "radius", "mass_ratio"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} expected a number above 0, got {getattr(self, name)}")
        for name in ("val_episodes", "speed", "force", "seed"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} expected 0 or more, got {getattr(self, name)}")
        box = make_box(self)
        if 2 * box.radii.sum() > 0.9 * min(box.width, box.height):
            raise UserError(f"radius expected balls that fit side by side into {box.width:g} x {box.height:g} m, got {box.radii.tolist()}")


@dataclass(frozen=True)
class Motion:
    """All T steps of a drive."""

    box: Box
    states: tuple[Balls, ...]
    hits: tuple[Hits, ...]
    """What happened between the step before and this one."""
    forces: np.ndarray
    """(T, 2) N, acting from each step to the next."""


def drives(config: PhysicsConfig) -> Iterator[Drive]:
    """Every drive of train and val; nothing is computed before its `episodes` are read."""
    for split, count in zip(_SPLITS, (config.episodes, config.val_episodes), strict=True):
        for number in range(count):
            drive_id = f"{split}-{number:05d}-{_WORDS[config.balls]}"
            yield Drive(drive_id, partial(episodes, config, drive_id), split, config.steps)


def make_box(config: PhysicsConfig) -> Box:
    height, width = parse_size(config.size)
    ratios = np.array([1.0, config.mass_ratio])[: config.balls]
    return Box(BOX_WIDTH_M, BOX_WIDTH_M * height / width, config.radius * np.sqrt(ratios), MASS_KG * ratios)


def simulate(config: PhysicsConfig, drive_id: str) -> Motion:
    """The motion of a drive; UserError where the config has no such drive."""
    rng = np.random.default_rng([config.seed, *_numbers(config, drive_id)])
    box = make_box(config)
    balls = _begin(config, box, rng)
    states, hits, forces = [balls], [Hits((False,) * config.balls, False)], []
    force, held = np.zeros(2), 0
    for _ in range(config.steps):
        if held == 0:
            force, held = _draw_force(config, balls, rng)
        forces.append(force)
        held -= 1
        balls, hit = advance(box, balls, force, 1 / config.fps)
        states.append(balls)
        hits.append(hit)
    return Motion(box, tuple(states[: config.steps]), tuple(hits[: config.steps]), np.array(forces))


def episodes(config: PhysicsConfig, drive_id: str) -> Iterator[Episode]:
    motion, size = simulate(config, drive_id), parse_size(config.size)
    log = DriveLog(
        drive_id=drive_id,
        fps=config.fps,
        timestamps_s=np.arange(config.steps) / config.fps,
        table=channel_table(config.steps, actions=_actions(config, motion), name=drive_id),
        truth=_truth(motion),
        captions=(Caption(0, config.steps, caption(config)),),
        labels={"balls": str(config.balls)},
    )
    colours = COLOURS[: config.balls]
    yield from log_episodes(log, {CAMERA: (draw(motion.box, state, colours, BACKGROUND, size) for state in motion.states)})


def caption(config: PhysicsConfig) -> str:
    words = "one ball" if config.balls == 1 else "two balls"
    if config.balls == 2 and config.mass_ratio != 1:
        words += f", the blue one {'heavier' if config.mass_ratio > 1 else 'lighter'}"
    return words if config.force == 0 else f"{words}, pushed"


def _numbers(config: PhysicsConfig, drive_id: str) -> tuple[int, int]:
    """(number of the split, number of the drive)."""
    match = re.fullmatch(rf"(train|val)-(\d{{5,}})-{_WORDS[config.balls]}", drive_id)
    if match is None or int(match[2]) >= (config.episodes if match[1] == "train" else config.val_episodes):
        raise UserError(f"physics: no drive {drive_id!r} with this config; expected an id such as 'train-00000-{_WORDS[config.balls]}'")
    return _SPLITS.index(match[1]), int(match[2])


def _begin(config: PhysicsConfig, box: Box, rng: np.random.Generator) -> Balls:
    """Places drawn until no two balls overlap."""
    room = np.array([box.width, box.height]) - 2 * box.radii[:, None]
    while True:
        positions = box.radii[:, None] + room * rng.random((config.balls, 2))
        if config.balls == 1 or np.hypot(*(positions[1] - positions[0])) > 1.05 * box.radii.sum():
            break
    angles = rng.uniform(-np.pi, np.pi, config.balls)
    return Balls(positions, config.speed * np.stack([np.cos(angles), np.sin(angles)], axis=1))


def _draw_force(config: PhysicsConfig, balls: Balls, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """(force, how many steps it stays): nothing a third of the time; against the motion where the ball is too fast."""
    steps = max(1, round(rng.uniform(*_HOLD_S) * config.fps))
    angle, strength, rest = rng.uniform(-np.pi, np.pi), config.force * np.sqrt(rng.random()), rng.random() < 1 / 3
    velocity = balls.velocities[0]
    if np.hypot(*velocity) > _FASTEST_MPS:
        return -strength * velocity / np.hypot(*velocity), steps
    return np.zeros(2) if rest else strength * np.array([np.cos(angle), np.sin(angle)]), steps


def _actions(config: PhysicsConfig, motion: Motion) -> list[tuple[ChannelSpec, np.ndarray]]:
    if config.force == 0:
        return []
    specs = [ChannelSpec(f"force_{axis}_n", "N", -config.force, config.force) for axis in "xy"]
    return [(spec, motion.forces[:, index]) for index, spec in enumerate(specs)]


def _truth(motion: Motion) -> dict[str, np.ndarray]:
    truth = {}
    for ball in range(len(motion.box.masses)):
        for index, axis in enumerate("xy"):
            truth[f"ball{ball}_{axis}_m"] = np.array([state.positions[ball, index] for state in motion.states])
            truth[f"ball{ball}_v{axis}_mps"] = np.array([state.velocities[ball, index] for state in motion.states])
        truth[f"ball{ball}_wall_hit"] = np.array([hit.walls[ball] for hit in motion.hits])
    if len(motion.box.masses) == 2:
        truth["balls_hit"] = np.array([hit.balls for hit in motion.hits])
    return truth


SOURCE = Source(PhysicsConfig, drives, frames_a_second=1000, license="Apache-2.0", counts=("episodes", "val_episodes"))
