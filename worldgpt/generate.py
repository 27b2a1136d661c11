"""From settings to files: prompted drives as mp4, contact sheet and a record to make them again."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from conditioning.guidance import GuidanceSchedule, PromptSchedule
from conditioning.steering import Commands, build_commands
from data.contact_sheet import contact_sheet
from data.errors import UserError
from data.folder import write_json
from data.image import save_png
from data.progress import Bar
from data.video import VideoWriter
from worldgpt.anchors import parse_policy
from worldgpt.context import read_context, read_log
from worldgpt.decoding import DRAFT_TOKENS, DRAFT_WORLDS, check_order, draft_tokens
from worldgpt.generate_config import GenerateConfig
from worldgpt.overlay import draw_overlay, enlarge
from worldgpt.pipeline import Chunk, WorldGPTPipeline
from worldgpt.placement import settle_threads
from worldgpt.sampling import SamplingConfig, SamplingPlan

SHEET_FRAMES, SHEET_COLUMNS = 16, 4


def generate(config: GenerateConfig) -> list[Path]:
    """Write one video a prompt (with --num-samples a grid of worlds in it); returns their paths."""
    pipeline = WorldGPTPipeline.from_pretrained(config.checkpoint)
    if config.decode:
        check_order(pipeline.model.layout, config.decode)
    settle_threads(pipeline.model.device, len(config.prompt) * config.num_samples)
    context = read_context(pipeline, config.context, config.context_frames) if config.context else None
    policy = parse_policy(config.reanchor)
    truth = _true_steps(pipeline, config) if policy.needs_truth or config.actions == "log" else None
    worlds = [prompt_schedule(config, prompt) for prompt in config.prompt for _ in range(config.num_samples)]
    chunks = pipeline.stream(
        worlds,
        config.frames,
        negative_prompt=config.negative_prompt,
        guidance=GuidanceSchedule.parse(config.guidance, config.guidance_schedule),
        action_guidance=config.action_guidance,
        context=context,
        commands=_commands(pipeline, config, truth),
        sampling=SamplingPlan.parse(_usual_sampling(config), config.stream_sampling),
        seed=config.seed,
        worlds=[sample for _ in config.prompt for sample in range(config.num_samples)],
        reanchor=policy,
        truth=truth,
        window=config.window,
        weights=config.weights,
        draft=_guesses(pipeline, config),
    )
    paths = output_paths(config)
    write_videos(pipeline, config, chunks, paths)
    return paths


def _guesses(pipeline: WorldGPTPipeline, config: GenerateConfig) -> int:
    """How many are checked in one pass: as asked for, and unasked where that changes no token and is quicker."""
    few = len(config.prompt) * config.num_samples <= DRAFT_WORLDS
    unasked = not config.decode and config.weights == "float" and pipeline.model.layout.causal and pipeline.model.device.type == "cpu"
    return DRAFT_TOKENS if few and unasked else draft_tokens(config.decode)


def prompt_schedule(config: GenerateConfig, prompt: str) -> PromptSchedule:
    """A video's prompt, and what it changes to on the way."""
    return PromptSchedule([(prompt, 0), *((later, frame) for frame, later in config.prompt_at)])


def _usual_sampling(config: GenerateConfig) -> SamplingConfig:
    return SamplingConfig(config.temperature, config.top_k, config.top_p, config.min_p, config.entropy)


def _true_steps(pipeline: WorldGPTPipeline, config: GenerateConfig) -> np.ndarray:
    """(F, J): what the drive given as --context did after the context."""
    if config.context is None:
        raise UserError(f"--reanchor {config.reanchor}: needs the true steps of a log; give a drive as --context")
    return read_log(pipeline, config.context, config.context_frames, config.frames)


def _commands(pipeline: WorldGPTPipeline, config: GenerateConfig, truth: np.ndarray | None) -> Commands:
    model, csv = pipeline.model, None if config.actions == "log" else config.actions
    commands = build_commands(model.actions, model.telemetry, config.frames, config.steer, config.speed, csv)
    if config.actions != "log" or truth is None:
        return commands
    logged = model.actions.values(truth[:, model.layout.span_of_kind("action")])
    return replace(commands, actions=np.where(np.isnan(commands.actions), logged, commands.actions))


def output_paths(config: GenerateConfig) -> list[Path]:
    """Where each prompt's video goes: --output, with the prompt's words added where there are several."""
    path = Path(config.output)
    if len(config.prompt) == 1:
        return [path]
    names = [re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "unprompted" for prompt in config.prompt]
    if len(set(names)) < len(names):
        names = [f"{name}-{i}" for i, name in enumerate(names)]
    return [path.with_name(f"{path.stem}-{name}.mp4") for name in names]


def write_videos(pipeline: WorldGPTPipeline, config: GenerateConfig, chunks: Iterator[Chunk], paths: list[Path]) -> None:
    """Draw chunks as they come, so that a long drive never sits in memory; then the sheets and records."""
    kept: list[list[np.ndarray]] = [[] for _ in paths]
    keep = set(np.linspace(0, config.frames - 1, min(SHEET_FRAMES, config.frames)).round().astype(int).tolist())
    frame, schedules = 0, [prompt_schedule(config, prompt) for prompt in config.prompt]
    with ExitStack() as stack:
        writers: list[VideoWriter] = []
        bar = stack.enter_context(Bar("generating", total=config.frames, unit="frames"))
        for chunk in chunks:
            for step in range(chunk.tokens.shape[1]):
                for i in range(len(paths)):
                    picture = _picture(pipeline, config, chunk, i, step, schedules[i].at(frame))
                    if frame == 0:
                        paths[i].parent.mkdir(parents=True, exist_ok=True)
                        writers.append(stack.enter_context(VideoWriter(paths[i], fps=pipeline.model.config.fps, size=picture.shape[:2])))
                    writers[i].write(picture)
                    if frame in keep:
                        kept[i].append(_grid(_first_camera(chunk)[_rows(config, i), step]))
                frame += 1
                bar.advance(1)
    for i, path in enumerate(paths):
        save_png(contact_sheet(kept[i], columns=SHEET_COLUMNS, scale=2), path.with_suffix(".png"))
        write_json(path.with_suffix(".json"), record(pipeline, config, i))


def record(pipeline: WorldGPTPipeline, config: GenerateConfig, prompt: int) -> dict:
    """Everything needed to make video number `prompt` again."""
    one = replace(config, prompt=(config.prompt[prompt],))
    versions = {name: version(name) for name in ("torch", "transformers", "numpy", "av")}
    weights = {"tokenizer_hash": pipeline.model.config.tokenizer_hash, "model_hash": pipeline.model.content_hash()}
    return {"settings": json.loads(json.dumps(asdict(one))), **weights, "device": str(pipeline.model.device), "versions": versions}


def _rows(config: GenerateConfig, prompt: int) -> slice:
    return slice(prompt * config.num_samples, (prompt + 1) * config.num_samples)


def _first_camera(chunk: Chunk) -> np.ndarray:
    if not chunk.frames:
        raise UserError("the world model has no camera to draw")
    return next(iter(chunk.frames.values()))


def _picture(pipeline: WorldGPTPipeline, config: GenerateConfig, chunk: Chunk, prompt: int, step: int, words: str) -> np.ndarray:
    """One frame of a prompt's video: its worlds as a grid, enlarged, each with its strip below."""
    rows = _rows(config, prompt)
    pictures = []
    for world in range(rows.start, rows.stop):
        picture = enlarge(_first_camera(chunk)[world, step], config.scale)
        if config.overlay:
            telemetry, actions = chunk.telemetry[world, step], chunk.actions[world, step]
            picture = draw_overlay(picture, words, telemetry, pipeline.model.telemetry.specs, actions, pipeline.model.actions.specs)
        pictures.append(picture)
    return _grid(np.stack(pictures))


def _grid(pictures: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) -> one picture, as square as N allows, black where none is left."""
    columns = int(np.ceil(np.sqrt(len(pictures))))
    rows = -(-len(pictures) // columns)
    blank = np.zeros((rows * columns - len(pictures), *pictures.shape[1:]), np.uint8)
    return np.concatenate([np.concatenate(row, axis=1) for row in np.split(np.concatenate([pictures, blank]), rows)])
