"""Drawing tokens: filters on the logits, and randomness keyed by place instead of taken from a running generator.

The draw of one token is a pure function of (seed, world, step, place in the step) and of its logits. So a batch equals its
singles, a restart continues, and another order of decoding can be checked against this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.errors import UserError


@dataclass(frozen=True)
class SamplingConfig:
    """How a token is drawn from its logits."""

    temperature: float = 1.0
    """Logits are divided by this; 0 takes the likeliest token and ignores the seed."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Keep the likeliest tokens that together reach this probability (Holtzman et al. 2020)."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the likeliest one's probability."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UserError(f"temperature: expected 0 or more, got {self.temperature}")
        if self.top_k < 0:
            raise UserError(f"top-k: expected 0 (all) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p: expected above 0, at most 1, got {self.top_p}")
        if not 0 <= self.min_p < 1:
            raise UserError(f"min-p: expected 0 or more, below 1, got {self.min_p}")


def keyed_uniforms(seed: int, worlds: Sequence[int], step: int, count: int) -> Tensor:
    """(B, count) float64 in [0, 1): one number for each token of a step, from a counter-based generator (Philox)."""
    rows = [np.random.Generator(np.random.Philox(key=[seed, world], counter=[0, step, 0, 0])).random(count) for world in worlds]
    return torch.from_numpy(np.stack(rows))


def probabilities(logits: Tensor, config: SamplingConfig) -> Tensor:
    """(..., V) float64 that sum to 1, after temperature, top-k, top-p and min-p, in this order; temperature must be above 0."""
    p = torch.softmax(logits.double() / config.temperature, dim=-1)
    if 0 < config.top_k < p.shape[-1]:
        p = torch.where(p >= p.topk(config.top_k).values[..., -1:], p, 0.0)
        p = p / p.sum(-1, keepdim=True)
    if config.top_p < 1:
        ordered, order = p.sort(dim=-1, descending=True, stable=True)
        kept = ordered.cumsum(-1) - ordered < config.top_p
        p = torch.where(torch.zeros_like(kept).scatter(-1, order, kept), p, 0.0)
    if config.min_p > 0:
        p = torch.where(p >= config.min_p * p.max(-1, keepdim=True).values, p, 0.0)
    return p / p.sum(-1, keepdim=True)


def draw(logits: Tensor, uniforms: Tensor, config: SamplingConfig) -> Tensor:
    """Tokens (...) int64 from logits (..., V) and uniforms (...): the inverse of the cumulative distribution."""
    if config.temperature == 0:
        return logits.argmax(-1)
    p = probabilities(logits, config)
    cumulative = p.cumsum(-1)
    drawn = torch.searchsorted(cumulative, uniforms[..., None].to(cumulative) * cumulative[..., -1:], right=True).squeeze(-1)
    # Rounding may put a draw just past the end: the last token that is possible at all.
    last = p.shape[-1] - 1 - (p.flip(-1) > 0).int().argmax(-1)
    return torch.minimum(drawn, last)
