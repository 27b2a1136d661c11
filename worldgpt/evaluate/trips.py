"""Rollouts that are told where to go, and read back as they come. Axes: B rollouts, F frames, H W pixels, J tokens a step, A actions."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from conditioning.guidance import PromptSchedule
from conditioning.steering import Commands
from data.errors import UserError
from data.progress import Bar
from worldgpt.evaluate.probes import Probes
from worldgpt.evaluate.read_back import ReadBack, read_drives
from worldgpt.pipeline import WorldGPTPipeline
from worldgpt.sampling import SamplingConfig

SHOWN = 3
"""Rollouts of a trip whose frames are kept to be looked at."""
TIMED_STEPS = 4


@dataclass(frozen=True)
class Trip:
    """B rollouts and what they are told."""

    prompts: Sequence[str]
    """(B,)."""
    frames: int
    """F."""
    context: np.ndarray | None = None
    """(B, T, J): steps to go on from; None: the first frame is dreamed."""
    actions: np.ndarray | None = None
    """(B, F, A) in their units, NaN where the model decides; None: it decides on all."""
    guidance: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Driven:
    """What became of a trip."""

    read: ReadBack
    """What the measuring networks read in the pictures."""
    telemetry: Mapping[str, np.ndarray]
    """{channel: (B, F)}: the telemetry tokens that the model gave out, in their units."""
    shown: np.ndarray
    """(SHOWN, F, H, W, 3) uint8: the first rollouts' frames."""


@dataclass(frozen=True)
class Drawing:
    """How all trips are drawn."""

    sampling: SamplingConfig
    batch: int
    """Rollouts that go on together."""


def run_trip(pipeline: WorldGPTPipeline, probes: Probes, trip: Trip, drawing: Drawing, name: str) -> Driven:
    """Roll out and read; rollout number k draws the same numbers in every trip of the same seed."""
    reads, telemetry, shown = [], [], []
    with Bar(name, total=len(trip.prompts) * trip.frames, unit="frames") as bar:
        for first in range(0, len(trip.prompts), drawing.batch):
            frames, channels = roll(pipeline, trip, drawing, slice(first, first + drawing.batch), trip.frames)
            reads.append(read_drives(probes, frames))
            telemetry.append(channels)
            shown += list(frames[: max(0, SHOWN - len(shown))])
            bar.advance(frames.shape[0] * frames.shape[1])
    table = np.concatenate(telemetry)
    channels = {spec: table[..., k] for k, spec in enumerate(pipeline.model.telemetry.names)}
    return Driven(ReadBack.joined(reads), channels, np.stack(shown))


def roll(pipeline: WorldGPTPipeline, trip: Trip, drawing: Drawing, rows: slice, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames (b, F, H, W, 3) and telemetry (b, F, M) of some of a trip's rollouts."""
    prompts = trip.prompts[rows]
    chunk = pipeline(
        [PromptSchedule(prompt) for prompt in prompts],
        frames,
        guidance=trip.guidance,
        context=None if trip.context is None else trip.context[rows],
        commands=None if trip.actions is None else [_commands(pipeline, actions) for actions in trip.actions[rows]],
        sampling=drawing.sampling,
        seed=trip.seed,
        worlds=list(range(len(trip.prompts)))[rows],
    )
    if not chunk.frames:
        raise UserError("the world model has no camera whose pictures could be read")
    return next(iter(chunk.frames.values())), chunk.telemetry


def expected_minutes(pipeline: WorldGPTPipeline, trips: Sequence[Trip], drawing: Drawing) -> float:
    """How long all trips will take, from a few steps of one batch; the reading of the pictures is not counted."""
    probe = max(trips, key=lambda trip: min(len(trip.prompts), drawing.batch))
    alone = Trip(probe.prompts, TIMED_STEPS, probe.context, None)
    rows = slice(0, drawing.batch)
    roll(pipeline, alone, drawing, rows, 1)
    began = time.perf_counter()
    roll(pipeline, alone, drawing, rows, TIMED_STEPS)
    each = (time.perf_counter() - began) / TIMED_STEPS / min(len(probe.prompts), drawing.batch)
    return each * sum(len(trip.prompts) * trip.frames * (1 if trip.guidance == 1 else 2) for trip in trips) / 60


def _commands(pipeline: WorldGPTPipeline, actions: np.ndarray) -> Commands:
    return Commands(actions, np.full((len(actions), len(pipeline.model.telemetry)), np.nan, np.float32))
