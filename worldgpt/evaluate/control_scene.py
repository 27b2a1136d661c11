"""What the figures on control are measured on. Axes: B rollouts, F frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.store import EpisodeStore
from worldgpt.evaluate.control_config import ControlConfig
from worldgpt.evaluate.logged import Logged
from worldgpt.evaluate.probes import Probes
from worldgpt.evaluate.prompt_cases import PromptCase
from worldgpt.evaluate.read_back import ReadBack, read_drives
from worldgpt.pipeline import WorldGPTPipeline


@dataclass(frozen=True)
class Scene:
    """All that is measured on."""

    pipeline: WorldGPTPipeline
    probes: Probes
    config: ControlConfig
    store: EpisodeStore
    logged: Logged
    """Drives of the split, as many as rollouts."""
    straight: Logged | None
    """Drives for lateral deviations; None where none is suitable or no deviation can be commanded."""
    cases: Mapping[str, Sequence[PromptCase]]
    """{kind: prompts}."""


def context_steps(pipeline: WorldGPTPipeline) -> int:
    return pipeline.model.config.context_steps - 1


def reconstructed(scene: Scene, logged: Logged) -> ReadBack:
    """True drives through the tokenizer, read."""
    layout = scene.pipeline.model.layout
    codes = layout.unpack(logged.tokens, layout.of_kind("frame")[0])
    return ReadBack.joined([read_drives(scene.probes, scene.pipeline.decode(codes[k : k + 1])) for k in range(len(codes))])


def row_means(values: np.ndarray) -> np.ndarray:
    """(B,) of (B, F), NaN left out; NaN where a row has nothing else."""
    known = np.isfinite(values)
    return np.where(known.any(1), np.where(known, values, 0.0).sum(1) / np.maximum(known.sum(1), 1), np.nan)
