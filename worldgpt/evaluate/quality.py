"""How good a world model is without being told anything: tokens under the true past, and rollouts beside the true drives.

Axes: B rollouts, F frames, J tokens a step, H W pixels.
"""

import hashlib
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from data.store import EpisodeStore
from worldgpt.baselines import fit_baselines
from worldgpt.evaluate.distances import Networks
from worldgpt.evaluate.drift import COPY, FLOOR, OTHER, Measured, Starts, expected_minutes, measure_baselines, measure_policy, read_starts
from worldgpt.evaluate.drift_config import DriftConfig
from worldgpt.evaluate.networks import ready_networks
from worldgpt.evaluate.quality_config import QualityConfig
from worldgpt.evaluate.token_figures import Figures, token_figures
from worldgpt.mixture import Mixture
from worldgpt.pipeline import WorldGPTPipeline
from worldgpt.token_store import encode_store
from worldgpt.train import BASELINE_ROWS
from worldgpt.windows import WindowReader

MODEL = "model"
READ_AT_ONCE = 8
"""Windows."""


def evaluate_quality(config: QualityConfig) -> dict[str, Any]:
    """Measure, and write the report; a line says before how long it will take."""
    from data.folder import prepare_output
    from worldgpt.evaluate.quality_report import write_quality_report

    config = config.shortened()
    pipeline, store = WorldGPTPipeline.from_pretrained(config.checkpoint), EpisodeStore.open(config.data)
    rolled = rollout_settings(config)
    starts = read_starts(pipeline, rolled)
    output = prepare_output(config.output, resume=False, overwrite=config.overwrite)
    if pipeline.model.device.type == "cpu" and config.batch <= 8:
        torch.set_num_threads(1)
    minutes = expected_minutes(pipeline, rolled, starts)
    print(f"{config.windows} windows, {len(starts.tokens)} rollouts of {config.horizon} frames: about {minutes:.1f} minutes")
    probes = ready_networks(config.probes, store, pipeline.tokenizer, output / "probes" if config.quick else None)
    networks = Networks.load(probes, config.inception, config.i3d, config.lpips)
    driven = {**measure_baselines(pipeline, starts), MODEL: measure_policy(pipeline, rolled, starts, "none")}
    report = {
        "settings": asdict(config),
        "model_hash": pipeline.model.content_hash(),
        "tokenizer_hash": pipeline.model.config.tokenizer_hash,
        "device": str(pipeline.model.device),
        "dtype": str(pipeline.model.dtype).removeprefix("torch."),
        "measured_on": manifest(store, config, starts),
        "tokens": measure_tokens(pipeline, store, config),
        "distances": measure_distances(networks, starts, driven),
        "probes": {"folder": config.probes, "data_hash": probes.settings.data_hash, "floor": probes.floor},
    }
    return write_quality_report(output, pipeline, starts, driven, report)


def rollout_settings(config: QualityConfig) -> DriftConfig:
    """The rollouts, as the evaluation of drift is told of them: under the true actions, with no re-anchoring."""
    shared = {name: getattr(config, name) for name in ("checkpoint", "data", "split", "seed", "temperature", "top_p", "batch", "rollouts")}
    return DriftConfig(**shared, horizon=config.horizon, policies=("none",))


def measure_tokens(pipeline: WorldGPTPipeline, store: EpisodeStore, config: QualityConfig) -> dict[str, dict[str, Figures]]:
    """`token_figures` of held-out windows; the baselines are counted on the training split."""
    model, tokenizer = pipeline.model, pipeline.tokenizer
    cache = store.path / "cache" / f"tokens-{tokenizer.content_hash() if tokenizer else 'codes'}"
    mixture = Mixture.of(encode_store(store, tokenizer, cache, device=model.device))
    steps = model.config.context_steps
    windows = WindowReader(mixture, config.split, model.layout, steps).spaced(config.windows)
    sizes = [model.layout.codebook(s).parts for s in model.layout.streams for _ in range(s.tokens)]
    rows = WindowReader(mixture, "train", model.layout, steps).rows(BASELINE_ROWS)
    return token_figures(model, windows, fit_baselines(rows, sizes), READ_AT_ONCE)


def measure_distances(networks: Networks, starts: Starts, driven: dict[str, Measured]) -> dict[str, dict[str, float | None]]:
    """{way of driving: {distance: value}} to the true drives; of real drives half stand against the other half."""
    found = {name: networks.distances(driven[name].frames, starts.frames, paired=True) for name in (FLOOR, COPY, MODEL)}
    half = len(starts.frames) // 2 * 2
    if half >= 2:
        found[OTHER] = networks.distances(starts.frames[0:half:2], starts.frames[1:half:2], paired=False)
    return found


def manifest(store: EpisodeStore, config: QualityConfig, starts: Starts) -> dict[str, Any]:
    """What was measured on, pinned: the data's hash, and of each rollout its drive, its first generated step and its true frames' hash."""
    return {
        "data_hash": store.hash,
        "split": config.split,
        "rollouts": [
            {"drive_id": drive_id, "step": step, "frames_sha256": hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()}
            for (drive_id, step), frames in zip(starts.places, starts.frames, strict=True)
        ],
    }
