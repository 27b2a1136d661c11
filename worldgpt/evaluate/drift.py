"""How far rollouts drift from the road: long drives under the true actions, or the model's own, measured step by step, policy by policy.

Each figure is a curve over the horizon and stands beside the same figure of the tokenizer's own error ("tokenizer floor"), of the last true
frame held ("copy last"), and of real drives against other real drives ("another drive").
Axes: B starts, F generated frames, J tokens a step, H W pixels.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from conditioning.guidance import PromptSchedule
from conditioning.steering import Commands
from data.errors import UserError
from data.progress import Bar
from data.store import EpisodeStore
from worldgpt.anchors import parse_policy
from worldgpt.evaluate.drift_config import DriftConfig
from worldgpt.evaluate.logged import episode_tokens
from worldgpt.evaluate.networks import ready_networks
from worldgpt.evaluate.statistics import PER_FRAME, code_divergence, frame_statistics
from worldgpt.pipeline import Chunk, WorldGPTPipeline
from worldgpt.placement import settle_threads
from worldgpt.sampling import SamplingConfig

DIVERGENCE_STEPS = 20
"""Steps whose codes are counted together."""
FLOOR, COPY, OTHER = "tokenizer floor", "copy last", "another drive"
TIMED_STEPS = 12


@dataclass(frozen=True)
class Starts:
    """True drives from a number of places on."""

    context: np.ndarray
    """(B, T, J): the steps that each rollout begins with."""
    tokens: np.ndarray
    """(B, F, J): what truly followed."""
    frames: np.ndarray
    """(B, F, H, W, 3) uint8."""
    last: np.ndarray
    """(B, H, W, 3) uint8: the last frame of the context."""
    captions: list[str]
    """(B,)."""
    places: tuple[tuple[str, int], ...]
    """(B,): drive_id, and the step of the first frame that follows."""


@dataclass(frozen=True)
class Measured:
    """One way of driving on from the starts."""

    curves: dict[str, np.ndarray]
    """{figure: (B, F)}; `code_divergence` is (F,), over all starts."""
    frames: np.ndarray
    """(B, F, H, W, 3) uint8."""
    frames_per_s: float | None
    """All starts together, decoding and re-anchoring included; None where nothing is generated."""
    anchors: float
    """Re-anchorings in a rollout, on average."""
    telemetry: np.ndarray | None = None
    """(B, F, M) in physical units: what the pictures are held against where the model drives; None: the true drives'."""


def read_starts(pipeline: WorldGPTPipeline, config: DriftConfig) -> Starts:
    """Starts spread evenly over the drives of the split that are long enough; UserError where there is none."""
    store, context = EpisodeStore.open(config.data), pipeline.model.config.context_steps - 1
    length = context + config.horizon
    if store.manifest.fps != pipeline.model.config.fps:
        raise UserError(f"{config.data}: expected {pipeline.model.config.fps:g} frames a second, got {store.manifest.fps:g}")
    places = [(d.drive_id, start) for d in store.drives(config.split) for start in range(d.steps - length + 1)]
    if not places:
        longest = max((d.steps for d in store.drives(config.split)), default=0)
        raise UserError(
            f"--horizon: expected a drive of at least {length} steps ({context} of them context) in split {config.split!r}, "
            f"the longest of {config.data} has {longest}"
        )
    chosen = [places[i] for i in np.linspace(0, len(places) - 1, min(config.rollouts, len(places))).round().astype(int)]
    camera = pipeline.model.layout.of_kind("frame")[0].name.removeprefix("camera/")
    tokens, frames, captions = [], [], []
    for drive_id, start in chosen:
        episode = store.read(drive_id, start, start + length)
        tokens.append(episode_tokens(pipeline, episode))
        frames.append(episode.frames[camera])
        captions.append(next((c.text for c in episode.captions), ""))
    table, pictures = np.stack(tokens), np.stack(frames)
    places = tuple((drive_id, start + context) for drive_id, start in chosen)
    return Starts(table[:, :context], table[:, context:], pictures[:, context:], pictures[:, context - 1], captions, places)


def measure_baselines(pipeline: WorldGPTPipeline, starts: Starts) -> dict[str, Measured]:
    """What needs no world model: the tokenizer's own error, the last true frame held, another true drive."""
    layout = pipeline.model.layout
    stream = layout.of_kind("frame")[0]
    codes = layout.unpack(starts.tokens, stream)
    floor = np.stack([pipeline.decode(row) for row in codes])
    held = np.broadcast_to(starts.last[:, None], starts.frames.shape)
    held_codes = np.broadcast_to(layout.unpack(starts.context[:, -1:], stream), codes.shape)
    driven = {FLOOR: (floor, codes), COPY: (held, held_codes), OTHER: (np.roll(starts.frames, 1, axis=0), np.roll(codes, 1, axis=0))}
    found = {}
    for name, (frames, ids) in driven.items():
        if name == OTHER and len(frames) == 1:
            continue  # there is no other one
        curves = frame_statistics(frames, starts.frames, starts.last)
        # All drives shifted by one have all drives' histogram: of real drives against others, half are held against the other half.
        pair = (codes[::2], codes[1::2]) if name == OTHER else (ids, codes)
        curves["code_divergence"] = _divergence(*pair, pipeline)
        found[name] = Measured(curves, frames, None, 0.0)
    return found


def measure_policy(pipeline: WorldGPTPipeline, config: DriftConfig, starts: Starts, policy: str) -> Measured:
    """Roll out from all starts under their first captions and their true actions or the model's own, and measure as the frames come."""
    layout = pipeline.model.layout
    stream = layout.of_kind("frame")[0]
    camera = stream.name.removeprefix("camera/")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*PER_FRAME, "codes", "anchored", "frames", "telemetry")}
    seconds = 0.0
    with Bar(policy, total=len(starts.tokens) * config.horizon, unit="frames") as bar:
        for first in range(0, len(starts.tokens), config.batch):
            rows = slice(first, first + config.batch)
            before, step = starts.last[rows], 0
            group: dict[str, list[np.ndarray]] = {name: [] for name in parts}
            began = time.perf_counter()
            for chunk in roll(pipeline, config, starts, rows, policy, config.horizon):
                seconds += time.perf_counter() - began
                made = chunk.frames[camera]
                truth = starts.frames[rows, step : step + made.shape[1]]
                for name, values in frame_statistics(made, truth, before).items():
                    group[name].append(values)
                group["codes"].append(layout.unpack(chunk.tokens, stream))
                group["anchored"].append(chunk.anchored)
                group["frames"].append(made)
                group["telemetry"].append(chunk.telemetry)
                before, step = made[:, -1], step + made.shape[1]
                bar.advance(made.shape[0] * made.shape[1])
                began = time.perf_counter()
            for name, values in group.items():
                parts[name].append(np.concatenate(values, axis=1))
    whole = {name: np.concatenate(values) for name, values in parts.items()}
    curves = {name: whole[name] for name in PER_FRAME}
    curves["code_divergence"] = _divergence(whole["codes"], layout.unpack(starts.tokens, stream), pipeline)
    told = whole["telemetry"] if config.actions == "model" else None
    return Measured(curves, whole["frames"], whole["anchored"].size / seconds, float(whole["anchored"].sum(1).mean()), told)


def roll(pipeline: WorldGPTPipeline, config: DriftConfig, starts: Starts, rows: slice, policy: str, frames: int) -> Iterator[Chunk]:
    """Stream the rollouts of some starts."""
    model, layout = pipeline.model, pipeline.model.layout
    tokens = starts.tokens[rows]
    actions = model.actions.values(tokens[..., layout.span_of_kind("action")])
    if config.actions == "model":
        actions = np.full_like(actions, np.nan)
    free = np.full((actions.shape[1], len(model.telemetry)), np.nan, np.float32)
    return pipeline.stream(
        [PromptSchedule(caption) for caption in starts.captions[rows]],
        frames,
        context=starts.context[rows],
        commands=[Commands(one, free) for one in actions],
        action_guidance=config.action_guidance,
        sampling=SamplingConfig(config.temperature, top_p=config.top_p, entropy=config.entropy),
        seed=config.seed,
        worlds=list(range(len(starts.tokens)))[rows],
        reanchor=policy,
        truth=tokens if parse_policy(policy).needs_truth else None,
    )


def expected_minutes(pipeline: WorldGPTPipeline, config: DriftConfig, starts: Starts) -> float:
    """How long all rollouts will take, from a few steps of the first batch."""
    rows = slice(0, min(config.batch, len(starts.tokens)))
    for _ in roll(pipeline, config, starts, rows, "none", 1):
        pass
    began = time.perf_counter()
    for _ in roll(pipeline, config, starts, rows, "none", TIMED_STEPS):
        pass
    step = (time.perf_counter() - began) / TIMED_STEPS
    batches = -(-len(starts.tokens) // config.batch)
    return step * config.horizon * batches * len(config.policies) / 60


def _divergence(made: np.ndarray, true: np.ndarray, pipeline: WorldGPTPipeline) -> np.ndarray:
    """(F,): of codes (B, F, h, w), counted over all starts in blocks of DIVERGENCE_STEPS steps."""
    size, curve = pipeline.model.layout.codebook(pipeline.model.layout.of_kind("frame")[0]).parts[0], np.zeros(made.shape[1])
    for first in range(0, made.shape[1], DIVERGENCE_STEPS):
        part = slice(first, first + DIVERGENCE_STEPS)
        curve[part] = code_divergence(made[:, part], true[:, part], size)
    return curve


def evaluate_drift(config: DriftConfig) -> dict[str, Measured]:
    """Measure every policy and baseline, and write the report; a line says before how long it will take."""
    from data.folder import prepare_output
    from worldgpt.evaluate.drift_report import write_drift_report

    for policy in config.policies:
        if parse_policy(policy).needs_truth and config.actions == "model":
            raise UserError(f"--policies {policy}: expected one without true frames where the model drives (--actions model)")
    pipeline = WorldGPTPipeline.from_pretrained(config.checkpoint)
    starts = read_starts(pipeline, config)
    output = prepare_output(config.output, resume=False, overwrite=config.overwrite)
    settle_threads(pipeline.model.device, min(config.batch, len(starts.tokens)))
    minutes, count = expected_minutes(pipeline, config, starts), len(starts.tokens)
    print(f"{len(config.policies)} policies x {count} rollouts x {config.horizon} frames: about {minutes:.1f} minutes")
    probes = ready_networks(config.probes, EpisodeStore.open(config.data), pipeline.tokenizer)
    measured = measure_baselines(pipeline, starts)
    measured |= {policy: measure_policy(pipeline, config, starts, policy) for policy in config.policies}
    write_drift_report(output, pipeline, probes, config, starts, measured)
    return measured
