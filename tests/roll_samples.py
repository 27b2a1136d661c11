"""Rollouts of random models, for tests."""

from typing import Literal

import torch
from world_samples import random_prompts

from conditioning.guidance import GuidanceSchedule
from worldgpt.model import WorldGPT
from worldgpt.product import Weights
from worldgpt.rollout import FREE, Rollout, RolloutConfig
from worldgpt.sampling import SamplingConfig, SamplingPlan

STEPS = 7
"""Longer than the window of 4."""


def roll(
    model: WorldGPT,
    worlds: range | list[int],
    *,
    seed: int = 0,
    guidance: float | GuidanceSchedule = 1.0,
    action_guidance: float | GuidanceSchedule = 1.0,
    sampling: SamplingConfig | None = None,
    context: torch.Tensor | None = None,
    forced: torch.Tensor | None = None,
    prompts: torch.Tensor | None = None,
    negative: torch.Tensor | None = None,
    steps: int = STEPS,
    window: Literal["ring", "recompute"] = "ring",
    draft: int = 0,
    weights: Weights = "float",
) -> torch.Tensor:
    """(B, T, J) tokens; world w has the prompt number w unless `prompts` (B, T, P, D_text) are given."""
    count = len(worlds)
    if prompts is None:
        prompts = torch.stack([random_prompts(model, seed=100 + w) for w in worlds])[:, None].expand(-1, steps, -1, -1)
    negative = random_prompts(model, seed=99).expand(count, -1, -1) if negative is None else negative
    plan = SamplingPlan(sampling or SamplingConfig())
    config = RolloutConfig(plan, guidance, action_guidance, window=window, weights=weights, draft=draft)
    rollout = Rollout(model, config, seeds=[seed] * count, worlds=worlds)
    if context is not None:
        rollout.start(context, prompts[:, 0], negative)
    free = torch.full((count, model.layout.tokens_per_step), FREE)
    return torch.stack([rollout.step(prompts[:, t], negative, free if forced is None else forced[:, t]) for t in range(steps)], dim=1)
