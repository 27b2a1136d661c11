"""True drives to start from: their context, what truly followed, and what was told and measured on the way.

Axes: B starts, T context steps, F frames that follow, J tokens a step, A action channels, H W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.episode import Episode
from data.errors import UserError
from data.store import EpisodeStore
from worldgpt.evaluate.counterfactuals import straightest
from worldgpt.pipeline import WorldGPTPipeline

CANDIDATES = 6
"""Places looked at for each start that must be straight."""

Place = tuple[str, int]
"""(drive_id, first step of the context)."""


@dataclass(frozen=True)
class Logged:
    """True drives from a number of places on."""

    places: tuple[Place, ...]
    """(B,)."""
    context: np.ndarray
    """(B, T, J): the steps that each rollout begins with."""
    tokens: np.ndarray
    """(B, F, J): what truly followed."""
    frames: np.ndarray
    """(B, F, H, W, 3) uint8."""
    last: np.ndarray
    """(B, H, W, 3) uint8: the last frame of the context."""
    actions: np.ndarray
    """(B, F, A) at bin centres; NaN where the data has no such channel."""
    last_actions: np.ndarray
    """(B, A) of the context's last step: they act towards frame 0."""
    signals: Mapping[str, np.ndarray]
    """{telemetry channel or truth: (B, F + 1) float64}, the context's last step first."""
    captions: tuple[str, ...]
    """(B,): the first caption that holds at frame 0; "" where there is none."""
    labels: tuple[Mapping[str, str], ...]
    """(B,)."""

    def start(self, name: str) -> np.ndarray:
        """(B,): a signal at the context's last step."""
        return self.signals[name][:, 0]

    def follows(self, name: str) -> np.ndarray:
        """(B, F): a signal at the frames that follow."""
        return self.signals[name][:, 1:]


def find_places(store: EpisodeStore, split: str, steps: int, count: int) -> list[Place]:
    """Up to `count` places with `steps` steps of one drive behind them, spread evenly over the split; UserError where there is none."""
    places = [(d.drive_id, start) for d in store.drives(split) for start in range(d.steps - steps + 1)]
    if not places:
        longest = max((d.steps for d in store.drives(split)), default=0)
        raise UserError(
            f"--frames: expected a drive of at least {steps} steps in split {split!r}, the longest of {store.path} has {longest}"
        )
    return [places[i] for i in np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int))]


def straight_places(store: EpisodeStore, split: str, context: int, frames: int, count: int) -> list[Place]:
    """Places where the car then drives fast enough, straight and near its lane's centre; none where the data does not tell."""
    places = find_places(store, split, context + frames, CANDIDATES * count)
    curvature, speeds, offsets = [], [], []
    for drive_id, start in places:
        known = signals_of(store.read(drive_id, start + context - 1, start + context + frames, frames=False))
        if not {"speed_mps", "yaw_rate_rps"} <= set(known):
            return []
        curvature.append(known["yaw_rate_rps"] / np.maximum(known["speed_mps"], 0.1))
        speeds.append(known["speed_mps"])
        offsets.append(known["lateral_offset_m"][0] if "lateral_offset_m" in known else np.nan)
    return [places[i] for i in straightest(np.stack(curvature), np.stack(speeds), np.array(offsets), count)]


def signals_of(episode: Episode) -> dict[str, np.ndarray]:
    """{truth or telemetry channel: (T,) float64}."""
    telemetry = {c.name: episode.telemetry[:, i] for i, c in enumerate(episode.telemetry_channels)}
    return {name: np.asarray(values, np.float64) for name, values in {**episode.truth, **telemetry}.items()}


def episode_tokens(pipeline: WorldGPTPipeline, episode: Episode) -> np.ndarray:
    """(T, J)."""
    telemetry = {c.name: episode.telemetry[:, i] for i, c in enumerate(episode.telemetry_channels)}
    actions = {c.name: episode.actions[:, i] for i, c in enumerate(episode.action_channels)}
    return pipeline.context(episode.frames, telemetry, actions)


def read_logged(pipeline: WorldGPTPipeline, store: EpisodeStore, places: Sequence[Place], frames: int) -> Logged:
    """Read context and `frames` frames from each place; UserError where the data runs at another rate than the model."""
    context = pipeline.model.config.context_steps - 1
    if store.manifest.fps != pipeline.model.config.fps:
        raise UserError(f"{store.path}: expected {pipeline.model.config.fps:g} frames a second, got {store.manifest.fps:g}")
    camera = pipeline.model.layout.of_kind("frame")[0].name.removeprefix("camera/")
    tokens, pictures, signals, captions, labels = [], [], [], [], []
    for drive_id, start in places:
        episode = store.read(drive_id, start, start + context + frames)
        known = signals_of(episode)
        tokens.append(episode_tokens(pipeline, episode))
        pictures.append(episode.frames[camera])
        signals.append({name: values[context - 1 :] for name, values in known.items()})
        captions.append(next((c.text for c in episode.captions if c.start <= start + context < c.end), ""))
        labels.append(episode.labels)
    table, shown, model = np.stack(tokens), np.stack(pictures), pipeline.model
    driven = (
        model.actions.values(table[..., model.layout.span_of_kind("action")]) if len(model.actions) else table[..., :0].astype(np.float32)
    )
    everywhere = [name for name in signals[0] if all(name in s for s in signals)]
    return Logged(
        places=tuple(places),
        context=table[:, :context],
        tokens=table[:, context:],
        frames=shown[:, context:],
        last=shown[:, context - 1],
        actions=driven[:, context:],
        last_actions=driven[:, context - 1],
        signals={name: np.stack([s[name] for s in signals]) for name in everywhere},
        captions=tuple(captions),
        labels=tuple(labels),
    )
