"""Rollouts that are told where to go, and read back as they come. Axes: B rollouts, F frames, H W pixels, J tokens a step, A actions."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class _Rollout:
    """Rollout `number` of a trip."""

    name: str
    trip: Trip
    number: int

    def context(self) -> np.ndarray | None:
        return None if self.trip.context is None else self.trip.context[self.number]


def run_trips(pipeline: WorldGPTPipeline, probes: Probes, trips: Mapping[str, Trip], drawing: Drawing) -> dict[str, Driven]:
    """Roll out and read; rollout number k draws the same numbers in every trip of the same seed, whatever goes on beside it."""
    reads, telemetry, shown = ({name: [] for name in trips} for _ in range(3))
    with Bar("rollouts", total=sum(len(trip.prompts) * trip.frames for trip in trips.values()), unit="frames") as bar:
        for rollouts in _batches(trips, drawing.batch):
            for rollout, (frames, channels) in zip(rollouts, roll(pipeline, rollouts, drawing.sampling, bar), strict=True):
                reads[rollout.name].append(read_drives(probes, frames[None]))
                telemetry[rollout.name].append(channels)
                shown[rollout.name] += [frames] if len(shown[rollout.name]) < SHOWN else []
    driven = {}
    for name in trips:
        table = np.stack(telemetry[name])
        channels = {spec: table[..., k] for k, spec in enumerate(pipeline.model.telemetry.names)}
        driven[name] = Driven(ReadBack.joined(reads[name]), channels, np.stack(shown[name]))
    return driven


def _batches(trips: Mapping[str, Trip], size: int) -> Iterator[list[_Rollout]]:
    """All rollouts, those that may go on together `size` at a time: guided alike, all with a context or all without."""
    alike: dict[tuple[float, bool], list[_Rollout]] = {}
    for name, trip in trips.items():
        rollouts = [_Rollout(name, trip, number) for number in range(len(trip.prompts))]
        alike.setdefault((trip.guidance, trip.context is None), []).extend(rollouts)
    for rollouts in alike.values():
        yield from (rollouts[first : first + size] for first in range(0, len(rollouts), size))


def roll(
    pipeline: WorldGPTPipeline, rollouts: Sequence[_Rollout], sampling: SamplingConfig, bar: Bar | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Frames (F, H, W, 3) and telemetry (F, M) of each."""
    if not pipeline.model.layout.of_kind("frame"):
        raise UserError("the world model has no camera whose pictures could be read")
    contexts = [context for rollout in rollouts if (context := rollout.context()) is not None]
    actions = [None if r.trip.actions is None else _commands(pipeline, r.trip.actions[r.number]) for r in rollouts]
    chunks = pipeline.stream(
        [PromptSchedule(rollout.trip.prompts[rollout.number]) for rollout in rollouts],
        [rollout.trip.frames for rollout in rollouts],
        guidance=rollouts[0].trip.guidance,
        context=np.stack(contexts) if contexts else None,
        commands=actions,
        sampling=sampling,
        seed=[rollout.trip.seed for rollout in rollouts],
        worlds=[rollout.number for rollout in rollouts],
    )
    frames: list[list[np.ndarray]] = [[] for _ in rollouts]
    telemetry: list[list[np.ndarray]] = [[] for _ in rollouts]
    for chunk in chunks:
        pictures = next(iter(chunk.frames.values()))
        for row, world in enumerate(chunk.worlds):
            frames[world].append(pictures[row])
            telemetry[world].append(chunk.telemetry[row])
        if bar is not None:
            bar.advance(pictures.shape[0] * pictures.shape[1])
    return [(np.concatenate(seen), np.concatenate(told)) for seen, told in zip(frames, telemetry, strict=True)]


def expected_minutes(pipeline: WorldGPTPipeline, trips: Mapping[str, Trip], drawing: Drawing) -> float:
    """How long all trips will take, from a few steps of one batch; the reading of the pictures is not counted."""
    probe = next(_batches(trips, drawing.batch))

    def seconds(frames: int) -> float:
        began = time.perf_counter()
        roll(pipeline, [replace(one, trip=replace(one.trip, frames=frames, actions=None)) for one in probe], drawing.sampling)
        return time.perf_counter() - began

    seconds(1)
    each = seconds(TIMED_STEPS) / TIMED_STEPS / len(probe) / (1 if probe[0].trip.guidance == 1 else 2)
    return each * sum(len(trip.prompts) * trip.frames * (1 if trip.guidance == 1 else 2) for trip in trips.values()) / 60


def _commands(pipeline: WorldGPTPipeline, actions: np.ndarray) -> Commands:
    return Commands(actions, np.full((len(actions), len(pipeline.model.telemetry)), np.nan, np.float32))
