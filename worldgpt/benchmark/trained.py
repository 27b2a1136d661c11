"""What random weights cannot tell: what int8 weights cost a trained model in nats, and how often a draft's guesses are right."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from data.store import EpisodeStore
from worldgpt.benchmark.contest import Standing, contest, standing_lines
from worldgpt.decoder import StepDecoder
from worldgpt.decoding import RASTER, order_of
from worldgpt.evaluate.logged import find_places
from worldgpt.evaluate.true_windows import read_windows
from worldgpt.layout import SEEN_STEPS
from worldgpt.model import WorldGPT
from worldgpt.pipeline import WorldGPTPipeline
from worldgpt.product import Weights
from worldgpt.rollout import FREE, Rollout, RolloutConfig
from worldgpt.sampling import SamplingConfig, SamplingPlan
from worldgpt.windows import Windows, model_batch

TOP_P = 0.95
"""As generate.py draws."""
DRAFTS = (8, 16, 32)


@dataclass(frozen=True)
class Trained:
    """Figures of a checkpoint on held-out drives."""

    nats: dict[str, dict[str, float]]
    """{stream: {weights: nats/token}}, teacher-forced, through the prepared decoder."""
    standings: dict[str, Standing]
    """Tokens a second of rollouts, at temperature 1 and top-p 0.95, from true steps on."""
    right: dict[str, float]
    """{draft: guesses that were right, a pass}."""

    def lines(self) -> list[str]:
        """The cost in nats, then the speeds."""
        told = [f"  {name:<32}{by['int8'] - by['float']:+.4f} nats/token with int8 ({by['float']:.4f})" for name, by in self.nats.items()]
        guesses = [f"  {name:<32}{right:.2f} guesses right a pass" for name, right in self.right.items()]
        return [*told, *standing_lines(self.standings, "tokens/s"), *guesses]


@dataclass(frozen=True)
class _Held:
    """Held-out windows with all that the decoder needs of them."""

    tokens: Tensor
    """(B, T, J)."""
    known: Tensor
    """(B, 2 + T, J): with the two steps before each."""
    prompts: Tensor
    """(B, T, P, D_text)."""


def measure_checkpoint(checkpoint: Path, data: Path, windows: int, rounds: int) -> Trained:
    """`measure_trained` on about so many windows of the held-out drives of a prepared data set."""
    pipeline, store = WorldGPTPipeline.from_pretrained(checkpoint, device="cpu"), EpisodeStore.open(data)
    steps = pipeline.model.config.context_steps
    return measure_trained(pipeline.model, read_windows(pipeline, store, find_places(store, "val", steps, windows), steps), rounds)


@torch.inference_mode()
def measure_trained(model: WorldGPT, windows: Windows, rounds: int) -> Trained:
    """On true windows of held-out drives; on a CPU."""
    batch = model_batch(windows, windows.tokens, model.text.tokenize)
    prompts = model.text(batch["pieces"])[batch["prompt"]]
    held = _Held(batch["targets"], torch.cat([batch["before"], batch["targets"]], dim=1), prompts)
    both: tuple[Weights, Weights] = ("float", "int8")
    by_weights = {weights: decoder_nats(model, held, weights) for weights in both}
    nats = {name: {weights: by_weights[weights][name] for weights in both} for name in by_weights["float"]}
    order = order_of(model.layout)
    rollouts = {order: _rollout(model, held, "float", 0), f"{order}, int8": _rollout(model, held, "int8", 0)}
    if order == RASTER:
        rollouts |= {f"draft:{most}": _rollout(model, held, "float", most) for most in DRAFTS}
    standings = contest({name: _going_on(rollout, held.prompts[:1, -1]) for name, rollout in rollouts.items()}, (order,), rounds)
    right = {name: r.draft.right / max(1, r.draft.passes) for name, r in rollouts.items() if r.draft is not None}
    return Trained(nats, standings, right)


def decoder_nats(model: WorldGPT, held: _Held, weights: Weights) -> dict[str, float]:
    """Mean nats/token by stream of the steps after the first, said by the decoder one window after the other, whole steps at once."""
    layout, decoder = model.layout, StepDecoder(model, weights)
    count, steps = held.tokens.shape[:2]
    sums = {stream.name: 0.0 for stream in layout.streams}
    for i in range(count):
        cache = model.new_cache(1)
        for t in range(steps):
            tokens, seen = held.tokens[i : i + 1, t], held.known[i : i + 1, t : t + SEEN_STEPS]
            step = decoder.begin(cache.begin_step(), seen, held.prompts[i : i + 1, t], cache)
            hidden = torch.cat([step.prompt(), step.read(tokens, 1, len(layout.schedule))], dim=1)[0]
            hidden = hidden[layout.predictors - layout.schedule[0].at]  # (J, D)
            for name, span in layout.spans.items():
                if t:
                    sums[name] += float(_token_nats(decoder, hidden[span], tokens[0, span], span.start).mean())
    return {name: total / (count * (steps - 1)) for name, total in sums.items()}


def _token_nats(decoder: StepDecoder, hidden: Tensor, tokens: Tensor, first: int) -> Tensor:
    table, telling = decoder.at[first].table.table, decoder.telling(hidden, first)
    total = torch.zeros(len(tokens))
    for part, size in zip(table.split(tokens), table.sizes, strict=True):
        total = total + F.cross_entropy(telling.logits().float(), part, ignore_index=size, reduction="none")
        telling.tell(part)
    return total


def _rollout(model: WorldGPT, held: _Held, weights: Weights, draft: int) -> Rollout:
    """One world, after all true steps of the first window that it can hold."""
    plan = SamplingPlan(SamplingConfig(top_p=TOP_P))
    rollout = Rollout(model, RolloutConfig(plan, weights=weights, draft=draft), seeds=[0], worlds=[0])
    rollout.start(held.tokens[:1], held.prompts[:1, -1], held.prompts[:1, -1])
    return rollout


def _going_on(rollout: Rollout, prompts: Tensor) -> Callable[[], float]:
    free = torch.full((1, rollout.model.layout.tokens_per_step), FREE)

    def run() -> float:
        start = time.perf_counter()
        rollout.step(prompts, prompts, free)
        return free.numel() / (time.perf_counter() - start)

    return run
