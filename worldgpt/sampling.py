"""Drawing tokens: filters on the logits, and randomness keyed by place instead of taken from a running generator.

The draw of one token is a pure function of (seed, world, step, place in the step) and of its logits. So a batch equals its
singles, a restart continues, and another order of decoding can be checked against this one. And it is a stable one: what shifts the
logits a little, a prompt or a command, changes few of the draws, so that two drives of one seed differ by what they were told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from data.errors import UserError
from worldgpt.layout import Layout, Stream

SHARPENING = 0.8
"""Base of the entropy-adaptive temperature (Zhang et al. 2024, arXiv:2403.14541, equation 2)."""


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
    entropy: float = 0.0
    """Strength in nats of sharpening where the model is sure: the temperature times 0.8 ** (this / entropy of the logits); 0: none."""

    def __post_init__(self) -> None:
        if self.entropy < 0:
            raise UserError(f"entropy: expected 0 or more, got {self.entropy}")
        if self.temperature < 0:
            raise UserError(f"temperature: expected 0 or more, got {self.temperature}")
        if self.top_k < 0:
            raise UserError(f"top-k: expected 0 (all) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p: expected above 0, at most 1, got {self.top_p}")
        if not 0 <= self.min_p < 1:
            raise UserError(f"min-p: expected 0 or more, below 1, got {self.min_p}")


@dataclass(frozen=True)
class SamplingPlan:
    """How each stream is drawn: its own settings where it has some, else its kind's, else the usual ones."""

    usual: SamplingConfig = field(default_factory=SamplingConfig)
    special: Mapping[str, SamplingConfig] = field(default_factory=dict)
    """{stream ("telemetry/speed_mps") or kind ("frame", "telemetry", "action"): its settings}."""

    def of(self, stream: Stream) -> SamplingConfig:
        return self.special.get(stream.name, self.special.get(stream.kind, self.usual))

    def check(self, layout: Layout) -> None:
        """UserError where a name is neither a stream nor a kind of `layout`."""
        known = [*(s.name for s in layout.streams), *dict.fromkeys(s.kind for s in layout.streams)]
        for name in self.special:
            if name not in known:
                raise UserError(f"--stream-sampling: expected one of {', '.join(known)}, got {name!r}")

    @classmethod
    def parse(cls, usual: SamplingConfig, texts: Sequence[str]) -> "SamplingPlan":
        """From `NAME:field=value,field=value`, as in "telemetry:temperature=0.7,top_p=0.9"; what is not named is as usual."""
        return cls(usual, dict(_parse_special(usual, text) for text in texts))


def _parse_special(usual: SamplingConfig, text: str) -> tuple[str, SamplingConfig]:
    name, _, settings = text.partition(":")
    known, values = {f.name: type(getattr(usual, f.name)) for f in fields(SamplingConfig)}, {}
    for setting in settings.split(","):
        key, _, value = setting.partition("=")
        try:
            values[key.strip().replace("-", "_")] = known[key.strip().replace("-", "_")](value)
        except (KeyError, ValueError):
            expected = f"NAME:field=number, the field one of {', '.join(known)}"
            raise UserError(f"--stream-sampling: expected {expected}, got {text!r}") from None
    return name, replace(usual, **values)


def draw_keys(seeds: Sequence[int], worlds: Sequence[int], step: int, count: int) -> Tensor:
    """(B, count) int64 of 64 random bits: one key for each token of a step, from a counter-based generator (Philox)."""
    keys = zip(seeds, worlds, strict=True)
    rows = [np.random.Philox(key=[*key], counter=[0, step, 0, 0]).random_raw(count) for key in keys]
    return torch.from_numpy(np.stack(rows).view(np.int64))


def exponentials(keys: Tensor, size: int) -> Tensor:
    """(..., size) float64 above 0, of the exponential distribution: one for each id under each of the keys (...).

    Each is a hash of its key and its id alone (SplitMix64: Steele et al. 2014, "Fast splittable pseudorandom number generators").
    """
    z = keys[..., None] + torch.arange(1, size + 1, device=keys.device) * _STRIDE
    z = (z ^ _shifted(z, 30)) * _MIX[0]
    z = (z ^ _shifted(z, 27)) * _MIX[1]
    z = z ^ _shifted(z, 31)
    return -((_shifted(z, 12).double() + 0.5) * 2.0**-52).log()


_STRIDE, *_MIX = (n - 2**64 for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))  # as int64


def _shifted(z: Tensor, bits: int) -> Tensor:
    """int64 shifted to the right as if it had no sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def probabilities(logits: Tensor, config: SamplingConfig) -> Tensor:
    """(..., V) float64 that sum to 1, after temperature, top-k, top-p and min-p, in this order; temperature must be above 0."""
    p = _tempered(logits, config)
    if 0 < config.top_k < p.shape[-1]:
        p = torch.where(p >= p.topk(config.top_k).values[..., -1:], p, 0.0)
        p = p / p.sum(-1, keepdim=True)
    if config.top_p < 1:
        p = torch.where(_nucleus(p, config.top_p), p, 0.0)
    if config.min_p > 0:
        p = torch.where(p >= config.min_p * p.max(-1, keepdim=True).values, p, 0.0)
    return p / p.sum(-1, keepdim=True)


def _tempered(logits: Tensor, config: SamplingConfig) -> Tensor:
    """(..., V) float64 that sum to 1: all tokens, after the temperature."""
    temperature: float | Tensor = config.temperature
    if config.entropy:
        nats = entropy(logits)[..., None].clamp(min=1e-3)
        temperature = (temperature * SHARPENING ** (config.entropy / nats)).clamp(min=1e-6)
    return torch.softmax(logits.double() / temperature, dim=-1)


def entropy(logits: Tensor) -> Tensor:
    """(...) float64 nats of the distribution that logits (..., V) stand for."""
    logs = torch.log_softmax(logits.double(), dim=-1)
    return -torch.where(logs.isfinite(), logs.exp() * logs, 0.0).sum(-1)


def _nucleus(p: Tensor, top_p: float) -> Tensor:
    """(..., V) bool: the likeliest tokens of p (..., V) that together reach `top_p`; of equal ones the first."""
    if p.device.type == "cpu":  # numpy sorts values alone ten times faster than torch, and faster still than it sorts their places
        ordered = torch.from_numpy(np.sort(p.numpy(), axis=-1)).flip(-1)
        kept = (ordered.cumsum(-1) - ordered < top_p).sum(-1, keepdim=True)
        least = ordered.gather(-1, kept - 1)
        above, equal = p > least, p == least
        return above | (equal & (equal.cumsum(-1) <= kept - above.sum(-1, keepdim=True)))
    ordered, order = p.sort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(p, dtype=torch.bool).scatter(-1, order, ordered.cumsum(-1) - ordered < top_p)


def draw(logits: Tensor, waits: Tensor, config: SamplingConfig) -> Tensor:
    """Tokens (...) int64 from logits (..., V) and the `exponentials` (..., V) of their keys.

    Each token arrives after an exponential time at the rate of its probability, and the first of those that the filters keep wins: the
    Gumbel-max trick (Gumbel 1954; Maddison et al. 2014, arXiv:1411.0030). Under one key two distributions that are close draw the same
    token but for at most twice their distance: what changes a little changes few draws.
    """
    if config.temperature == 0:
        return logits.argmax(-1)
    rounds = logits.device.type == "cpu" and not config.top_k and config.top_p >= _EASY
    p = _tempered(logits, config) if rounds else probabilities(logits, config)
    times = waits / p
    return _first_kept(times, p, config).view(logits.shape[:-1]) if rounds else times.argmin(-1)


_EASY = 0.5
"""A nucleus that holds most draws: looking whether a winner is in it is quicker than to find it by sorting."""


def _first_kept(times: Tensor, p: Tensor, config: SamplingConfig) -> Tensor:
    """The first to arrive at `times` (..., V) of those that top-p and min-p keep of p (..., V), asked for one after another."""
    size = p.shape[-1]
    times, p = times.view(-1, size), p.view(-1, size)
    drawn, rows = times.argmin(-1), torch.arange(len(p))
    while True:
        rows = rows[~_kept(p[rows], drawn[rows], config)]
        if not len(rows):
            return drawn
        times[rows, drawn[rows]] = torch.inf
        drawn[rows] = times[rows].argmin(-1)


def _kept(p: Tensor, ids: Tensor, config: SamplingConfig) -> Tensor:
    """(n,) bool: whether top-p and min-p keep the ids (n,) of p (n, V)."""
    own = p.gather(-1, ids[:, None])
    dropped = own < config.min_p * p.max(-1, keepdim=True).values  # so put, what is no number is kept, and asking comes to an end
    if config.top_p < 1:
        ahead = (p > own) | ((p == own) & (torch.arange(p.shape[-1]) < ids[:, None]))
        dropped |= torch.where(ahead, p, 0.0).sum(-1, keepdim=True) >= config.top_p
    return ~dropped.squeeze(-1)


def draw_with_nats(logits: Tensor, waits: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """`draw`, and how surprising what it drew is to the model itself: nats (...) float64, before any filter."""
    drawn = draw(logits, waits, config)
    logs = torch.log_softmax(logits.double(), dim=-1)
    return drawn, -logs.gather(-1, drawn[..., None]).squeeze(-1)
