"""What a world model of bouncing balls has understood, read off its pictures and held against the exact truth.

Axes: B rollouts, F frames, N balls, T context steps, J tokens a step.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from conditioning.guidance import PromptSchedule
from conditioning.steering import Commands
from data.episode import Episode
from data.errors import UserError
from data.progress import Bar
from data.store import EpisodeStore
from worldgpt.evaluate.ball_reader import BallReader
from worldgpt.evaluate.intervals import Estimate, bootstrap
from worldgpt.evaluate.logged import episode_tokens
from worldgpt.evaluate.physics_config import PhysicsEvaluationConfig
from worldgpt.evaluate.provenance import pinned, provenance
from worldgpt.pipeline import WorldGPTPipeline
from worldgpt.sampling import SamplingConfig

TRUE, FLOOR, COPY, CONSTANT, MODEL = "true frames", "tokenizer floor", "copy last", "constant velocity", "model"
BEFORE, AFTER = 1, 3
"""Generated frames before a collision and after it: speeds are read in the last two of those after."""
CALIBRATION_FRAMES = 200
COLLISIONS = {"wall": "a wall", "balls": "the other ball"}


@dataclass(frozen=True)
class Flights:
    """True drives from a number of places on."""

    context: np.ndarray
    """(B, T, J)."""
    tokens: np.ndarray
    """(B, F, J): what truly followed."""
    frames: np.ndarray
    """(B, F, H, W, 3) uint8."""
    positions: np.ndarray
    """(B, F, N, 2) m."""
    velocities: np.ndarray
    """(B, F, N, 2) m/s."""
    before: np.ndarray
    """(B, 2, N, 2) m: the last two positions of the context."""
    captions: tuple[str, ...]
    """(B,)."""


def evaluate_physics(config: PhysicsEvaluationConfig) -> dict[str, Any]:
    """Measure, and write the report; UserError where the data are no bouncing balls."""
    from data.folder import prepare_output
    from worldgpt.evaluate.physics_report import write_physics_report

    config = config.shortened()
    pipeline, store = WorldGPTPipeline.from_pretrained(config.checkpoint), EpisodeStore.open(config.data)
    balls = _balls(store, config)
    context = pipeline.model.config.context_steps - 1
    long_places = flight_places(store, config, context)
    long = read_flights(pipeline, store, long_places, balls, config.horizon)
    short = {
        kind: read_flights(pipeline, store, places, balls, BEFORE + AFTER)
        for kind in COLLISIONS
        if (places := collision_places(store, config, context, kind, balls))
    }
    pins = [pinned((drive_id, start + context), seen) for (drive_id, start), seen in zip(long_places, long.frames, strict=True)]
    output = prepare_output(config.output, resume=False, overwrite=config.overwrite)
    reader = BallReader.calibrated(long.frames.reshape(-1, *long.frames.shape[2:])[:CALIBRATION_FRAMES], balls)
    made = {name: roll(pipeline, config, flights, name) for name, flights in {MODEL: long, **short}.items()}
    report = {
        "settings": asdict(config),
        **provenance(pipeline, store),
        "measured_on": {"split": config.split, "rollouts": pins},
        "radius_m": reader.radii_m.tolist(),
        **measure_flights(pipeline, reader, long, made[MODEL]),
        "collisions": {kind: measure_collisions(pipeline, reader, flights, made[kind]) for kind, flights in short.items()},
    }
    return write_physics_report(output, long, made[MODEL], report)


def _balls(store: EpisodeStore, config: PhysicsEvaluationConfig) -> int:
    drives = store.drives(config.split)
    truth = store.read(drives[0].drive_id, 0, 1, frames=False).truth if drives else {}
    count = sum(f"ball{k}_x_m" in truth for k in range(2))
    if not count:
        raise UserError(f"{config.data}: expected bouncing balls in split {config.split!r} (prepare_data.py physics), found none")
    return count


def flight_places(store: EpisodeStore, config: PhysicsEvaluationConfig, context: int) -> list[tuple[str, int]]:
    """(drive_id, first step of the context) spread evenly over the split; UserError where no drive is long enough."""
    length = context + config.horizon
    places = [(d.drive_id, start) for d in store.drives(config.split) for start in range(d.steps - length + 1)]
    if not places:
        raise UserError(f"--horizon: expected a drive of at least {length} steps ({context} of them context) in {config.data}")
    return _spread(places, config.rollouts)


def collision_places(store: EpisodeStore, config: PhysicsEvaluationConfig, context: int, kind: str, balls: int) -> list[tuple[str, int]]:
    """Places from which, after the context and BEFORE frames, a collision of a kind follows, and no other beside it until AFTER frames."""
    places = []
    for drive in store.drives(config.split):
        truth = store.read(drive.drive_id, 0, drive.steps, frames=False).truth
        walls = np.any([truth[f"ball{k}_wall_hit"] > 0 for k in range(balls)], axis=0)
        met = truth["balls_hit"] > 0 if balls == 2 else np.zeros(drive.steps, bool)
        wanted, any_hit = {"wall": walls & ~met, "balls": met & ~walls}[kind], walls | met
        for step in np.flatnonzero(wanted):
            around = [*range(step - BEFORE - 1, step), *range(step + 1, step + AFTER)]
            if step >= context + BEFORE and step + AFTER <= drive.steps and not any_hit[around].any():
                places.append((drive.drive_id, int(step) - BEFORE - context))
    return _spread(places, config.rollouts)


def _spread(places: Sequence[tuple[str, int]], count: int) -> list[tuple[str, int]]:
    return [places[i] for i in np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int))] if places else []


def read_flights(pipeline: WorldGPTPipeline, store: EpisodeStore, places: Sequence[tuple[str, int]], balls: int, frames: int) -> Flights:
    """The true drives from `places` on, for `frames` after the context."""
    context = pipeline.model.config.context_steps - 1
    camera = pipeline.model.layout.of_kind("frame")[0].name.removeprefix("camera/")
    tokens, pictures, positions, velocities, captions = [], [], [], [], []
    for drive_id, start in places:
        episode = store.read(drive_id, start, start + context + frames)
        tokens.append(episode_tokens(pipeline, episode))
        pictures.append(episode.frames[camera])
        positions.append(_vectors(episode, "{}_m", balls))
        velocities.append(_vectors(episode, "v{}_mps", balls))
        captions.append(next((c.text for c in episode.captions), ""))
    table, where = np.stack(tokens), np.stack(positions)
    return Flights(
        table[:, :context],
        table[:, context:],
        np.stack(pictures)[:, context:],
        where[:, context:],
        np.stack(velocities)[:, context:],
        where[:, context - 2 : context] if context > 1 else np.repeat(where[:, :1], 2, axis=1),
        tuple(captions),
    )


def _vectors(episode: Episode, name: str, balls: int) -> np.ndarray:
    """(T, N, 2)."""
    return np.stack([np.stack([episode.truth[f"ball{k}_{name.format(axis)}"] for axis in "xy"], -1) for k in range(balls)], axis=1)


def roll(pipeline: WorldGPTPipeline, config: PhysicsEvaluationConfig, flights: Flights, name: str) -> np.ndarray:
    """(B, F, H, W, 3) uint8: driven on from the contexts under the true forces."""
    model, parts = pipeline.model, []
    actions = model.actions.values(flights.tokens[..., model.layout.span_of_kind("action")]) if len(model.actions) else None
    free = np.full((flights.tokens.shape[1], len(model.telemetry)), np.nan, np.float32)
    with Bar(name, total=flights.tokens.shape[0] * flights.tokens.shape[1], unit="frames") as bar:
        for first in range(0, len(flights.tokens), config.batch):
            rows = slice(first, first + config.batch)
            chunk = pipeline(
                [PromptSchedule(caption) for caption in flights.captions[rows]],
                flights.tokens.shape[1],
                context=flights.context[rows],
                commands=None if actions is None else [Commands(one, free) for one in actions[rows]],
                sampling=SamplingConfig(config.temperature, top_p=config.top_p),
                seed=config.seed,
                worlds=list(range(len(flights.tokens)))[rows],
            )
            parts.append(next(iter(chunk.frames.values())))
            bar.advance(parts[-1].shape[0] * parts[-1].shape[1])
    return np.concatenate(parts)


def reconstructed(pipeline: WorldGPTPipeline, flights: Flights) -> np.ndarray:
    layout = pipeline.model.layout
    return np.stack([pipeline.decode(row) for row in layout.unpack(flights.tokens, layout.of_kind("frame")[0])])


def measure_flights(pipeline: WorldGPTPipeline, reader: BallReader, flights: Flights, made: np.ndarray) -> dict[str, Any]:
    """{"position_error_m": {way: (F,) mean over rollouts and balls, None where no ball is seen}, "permanence": {way: share of frames in
    which every ball is there, with its interval}, "there": {way: (F,) share of rollouts in which every ball is}}."""
    fps, held = pipeline.model.config.fps, flights.before[:, -1:]
    moving = held + (held - flights.before[:, :1]) * np.arange(1, made.shape[1] + 1)[None, :, None, None]
    ways = {TRUE: flights.frames, FLOOR: reconstructed(pipeline, flights), MODEL: made}
    read = {name: [reader.read(drive) for drive in drives] for name, drives in ways.items()}
    where = {name: np.stack([one[0] for one in rows]) for name, rows in read.items()}
    where |= {COPY: np.broadcast_to(held, flights.positions.shape), CONSTANT: moving}
    errors = {name: np.linalg.norm(found - flights.positions, axis=-1) for name, found in where.items()}  # (B, F, N)
    present = {name: np.stack([one[1] for one in rows]).all(-1) for name, rows in read.items()}  # (B, F)
    return {
        "position_error_m": {name: [_mean(error[:, f]) for f in range(error.shape[1])] for name, error in errors.items()},
        "permanence": {name: _estimate(there.mean(1)).to_dict() for name, there in present.items()},
        "there": {name: there.mean(0).tolist() for name, there in present.items()},
        "seconds": made.shape[1] / fps,
    }


def measure_collisions(pipeline: WorldGPTPipeline, reader: BallReader, flights: Flights, made: np.ndarray) -> dict[str, Any]:
    """{way: {"energy": relative error, "momentum", "each_momentum": error over the sum of the balls' momenta's lengths}} after a collision,
    against the truth, medians over the collisions in which every ball is seen; and how many these are.

    Energy and momentum are of all balls together, which a meeting of balls leaves as they are even where balls fly through each other:
    that is seen in the errors of each ball's momentum, added up.
    """
    fps, masses = pipeline.model.config.fps, reader.masses
    true = flights.positions

    def after(where: np.ndarray) -> np.ndarray:  # (B, F, N, 2) -> (B, N, 2) m/s, as the last two frames show
        return (where[:, -1] - where[:, -2]) * fps

    def errors(velocities: np.ndarray) -> dict[str, Any]:
        truth = after(true)
        energy, meant = ((masses * np.square(v).sum(-1)).sum(-1) / 2 for v in (velocities, truth))  # (B,)
        momentum, wanted = ((masses[:, None] * v).sum(1) for v in (velocities, truth))  # (B, 2)
        scale = (masses * np.linalg.norm(truth, axis=-1)).sum(-1)
        relative = np.abs(energy - meant) / np.maximum(meant, 1e-9)
        turned = np.linalg.norm(momentum - wanted, axis=-1) / np.maximum(scale, 1e-9)
        each = (masses * np.linalg.norm(velocities - truth, axis=-1)).sum(-1) / np.maximum(scale, 1e-9)
        seen = np.isfinite(relative)
        return {
            "energy": _estimate(relative[seen], np.median).to_dict(),
            "momentum": _estimate(turned[seen], np.median).to_dict(),
            "each_momentum": _estimate(each[seen], np.median).to_dict(),
            "collisions": int(seen.sum()),
        }

    pictures = {TRUE: flights.frames, FLOOR: reconstructed(pipeline, flights), MODEL: made}
    found = {name: errors(after(np.stack([reader.read(drive)[0] for drive in drives]))) for name, drives in pictures.items()}
    unhit = flights.before[:, -1] - flights.before[:, -2]
    return {**found, CONSTANT: errors(unhit * fps)}


def _mean(values: np.ndarray) -> float | None:
    known = np.isfinite(values)
    return float(values[known].mean()) if known.any() else None


def _estimate(values: np.ndarray, of: Callable[[np.ndarray], Any] = np.mean) -> Estimate:
    return bootstrap(len(values), lambda rows: float(of(values[rows])))
