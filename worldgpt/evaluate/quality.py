"""How good a world model is without being told anything: tokens under the true past, and rollouts beside the true drives.

Axes: B rollouts, F frames, J tokens a step, H W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from data.errors import UserError
from data.store import EpisodeStore
from worldgpt.evaluate.distances import Networks
from worldgpt.evaluate.drift import COPY, FLOOR, OTHER, Measured, Starts, expected_minutes, measure_baselines, measure_policy, read_starts
from worldgpt.evaluate.drift_config import DriftConfig
from worldgpt.evaluate.logged import Place, find_places
from worldgpt.evaluate.networks import ready_networks
from worldgpt.evaluate.probes import Probes
from worldgpt.evaluate.provenance import pinned, provenance
from worldgpt.evaluate.quality_config import QualityConfig
from worldgpt.evaluate.token_figures import token_figures
from worldgpt.evaluate.true_windows import count_baselines, read_windows
from worldgpt.pipeline import WorldGPTPipeline
from worldgpt.placement import settle_threads

MODEL = "model"
PROBED = ("probe_frechet_frames", "probe_frechet_clips")
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
    places = find_places(store, config.split, pipeline.model.config.context_steps, config.windows)
    networks = Networks.load(config.inception, config.i3d, config.lpips)
    output = prepare_output(config.output, resume=False, overwrite=config.overwrite)
    settle_threads(pipeline.model.device, min(config.batch, len(starts.tokens)))
    minutes = expected_minutes(pipeline, rolled, starts)
    print(f"{len(places)} windows, {len(starts.tokens)} rollouts of {config.horizon} frames: about {minutes:.1f} minutes")
    own = output / "probes" if config.quick else None
    networks, missing = with_probes(networks, lambda: ready_networks(config.probes, store, pipeline.tokenizer, own))
    driven = {**measure_baselines(pipeline, starts), MODEL: measure_policy(pipeline, rolled, starts, "none")}
    report = {
        "settings": asdict(config),
        **provenance(pipeline, store),
        "measured_on": manifest(store, config, starts, places, pipeline.model.config.context_steps),
        "tokens": measure_tokens(pipeline, store, places, config),
        "distances": measure_distances(networks, starts, driven),
        "probes": networks.probes and probe_facts(config.probes, networks.probes),
        "missing": missing,
    }
    return write_quality_report(output, pipeline, starts, driven, report)


def rollout_settings(config: QualityConfig) -> DriftConfig:
    """The rollouts, as the evaluation of drift is told of them: under the true actions, with no re-anchoring."""
    shared = {name: getattr(config, name) for name in ("checkpoint", "data", "split", "seed", "temperature", "top_p", "batch", "rollouts")}
    return DriftConfig(**shared, horizon=config.horizon, policies=("none",))


def with_probes(networks: Networks, probes: Callable[[], Probes]) -> tuple[Networks, dict[str, str]]:
    """The measuring networks beside those; where there can be none, as for data without looks or motion, {distance: why it is null}."""
    try:
        return replace(networks, probes=probes()), {}
    except UserError as error:
        print(f"distances left out: {error}")
        return networks, dict.fromkeys(PROBED, str(error))


def probe_facts(folder: str, probes: Probes) -> dict[str, Any]:
    return {"folder": folder, "data_hash": probes.settings.data_hash, "floor": probes.floor}


def measure_tokens(pipeline: WorldGPTPipeline, store: EpisodeStore, places: Sequence[Place], config: QualityConfig) -> dict[str, Any]:
    """`token_figures` of the windows at these places; the baselines are counted on the training split."""
    model = pipeline.model
    windows = read_windows(pipeline, store, places, model.config.context_steps)
    return token_figures(model, windows, count_baselines(pipeline, store, config.baseline_steps), READ_AT_ONCE)


def measure_distances(networks: Networks, starts: Starts, driven: dict[str, Measured]) -> dict[str, dict[str, float | None]]:
    """{way of driving: {distance: value}} to the true drives; of real drives half stand against the other half."""
    found = {name: networks.distances(driven[name].frames, starts.frames, paired=True) for name in (FLOOR, COPY, MODEL)}
    half = len(starts.frames) // 2 * 2
    if half >= 2:
        found[OTHER] = networks.distances(starts.frames[0:half:2], starts.frames[1:half:2], paired=False)
    return found


def manifest(store: EpisodeStore, config: QualityConfig, starts: Starts, windows: Sequence[Place], steps: int) -> dict[str, Any]:
    """What was measured on, pinned: of each window its drive and first step, of each rollout those of its first generated
    one, and of both their true frames' hashes."""
    true = (store.read(drive_id, step, step + steps).frames for drive_id, step in windows)
    return {
        "split": config.split,
        "windows": [pinned(place, *frames.values()) for place, frames in zip(windows, true, strict=True)],
        "rollouts": [pinned(place, frames) for place, frames in zip(starts.places, starts.frames, strict=True)],
    }
