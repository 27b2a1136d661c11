"""Drawing tokens: our rollout beside Llama's `generate`, over shapes and batches.

Worlds have a full window, so that each new token sees as many as the reference's does; tokens a second are those of all worlds.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from worldgpt.benchmark.ceilings import Ceilings
from worldgpt.benchmark.contest import Standing, contest, machine, memory_bytes, standing_lines
from worldgpt.benchmark.reference import generating, llama, recomputing
from worldgpt.benchmark.shapes import Shape, random_steps, random_world, shapes
from worldgpt.model import WorldGPT
from worldgpt.placement import numbers
from worldgpt.product import Weights
from worldgpt.rollout import FREE, Rollout, RolloutConfig
from worldgpt.sampling import SamplingPlan

PARALLEL = ("rows", "diagonal:1", "diagonal:2")
REFERENCES = ("generate, dynamic cache", "generate, static cache", "no cache")


@dataclass(frozen=True)
class Case:
    """A shape and a batch, and what came out."""

    shape: str
    batch: int
    standings: dict[str, Standing]
    """{way: standing}, none where it was not run."""
    bound: float
    """Tokens a second if nothing were done but to read weights and cache once a token, at the speed of a copy."""
    missing_bytes: int = 0
    """What it would have needed, where it was not run."""

    def lines(self) -> list[str]:
        """Ratios first, rates after."""
        title = f"{self.shape}, batch {self.batch}"
        if not self.standings:
            return [f"{title}: not run: needs {self.missing_bytes / 2**30:.1f} GiB"]
        share = self.standings["raster"].rate.median / self.bound
        return [f"{title} (raster reads at {share:.0%} of the speed of a copy)", *standing_lines(self.standings, "tokens/s")]


def measure_decoding(
    names: Sequence[str],
    batches: Sequence[int],
    rounds: int,
    tokens: int,
    device: torch.device,
    ceilings: Ceilings,
    *,
    no_cache: bool = True,
) -> Iterator[Case]:
    """Case by case. `tokens` are drawn a round by the references, a whole step by us."""
    known = shapes()
    for name in names:
        for batch in batches:
            yield decoding_case(name, known[name], batch, rounds, tokens, device, ceilings, no_cache=no_cache)


def decoding_case(
    name: str,
    shape: Shape,
    batch: int,
    rounds: int,
    tokens: int,
    device: torch.device,
    ceilings: Ceilings,
    *,
    no_cache: bool,
) -> Case:
    """All ways of one shape at one batch, in turn."""
    dtype, cpu = numbers(None, device, torch.float32), device.type == "cpu"
    size = dtype.itemsize
    weights, cache = size * shape.block_weights, size * 2 * shape.model.layers * shape.context * shape.model.width
    bound = batch * ceilings.copy_bytes_per_s / (weights + batch * cache)
    # A model and, prepared once more for a rollout, its matrices (on a CPU in two forms); raw keys beside the cache; Llama and its cache.
    needed = (9 if cpu else 5) * weights + 2 * 1.5 * batch * cache + 2 * batch * cache
    if needed > memory_bytes(device):
        return Case(name, batch, {}, bound, int(needed))
    ways = {way: rolling(model, batch, kind) for way, (model, kind) in our_models(shape, device).items()}
    reference = llama(shape, dtype, device)
    ways[REFERENCES[0]] = generating(reference, shape, batch, tokens, "dynamic")
    ways[REFERENCES[1]] = generating(reference, shape, batch, tokens, "static")
    if no_cache:
        ways[REFERENCES[2]] = recomputing(reference, shape, batch)
    return Case(name, batch, contest(ways, REFERENCES, rounds), bound)


def our_models(shape: Shape, device: torch.device) -> dict[str, tuple[WorldGPT, Weights]]:
    """{way: model, weights}: raster, with int8 weights too on a CPU, and the orders in which several codes come in one pass."""
    dtype = numbers(None, device, torch.float32)
    raster = random_world(shape, device, dtype)
    models: dict[str, tuple[WorldGPT, Weights]] = {"raster": (raster, "float")}
    if device.type == "cpu":
        models["raster, int8"] = (raster, "int8")
    for order in PARALLEL:
        models[order] = (random_world(shape, device, dtype, order), "float")
    return models


def rolling(model: WorldGPT, batch: int, weights: Weights = "float") -> Callable[[], float]:
    """Worlds with a full window that go on by a step a call; tokens a second."""
    rollout, forced, prompts = full_rollout(model, batch, weights)

    def run() -> float:
        start = time.perf_counter()
        rollout.step(prompts, prompts, forced).cpu()
        return forced.numel() / (time.perf_counter() - start)

    for _ in range(2):  # a GPU records the second step that is made alike
        run()
    return run


def full_rollout(model: WorldGPT, batch: int, weights: Weights = "float") -> tuple[Rollout, torch.Tensor, torch.Tensor]:
    """A rollout whose window is full, a table in which nothing is forced, and prompts."""
    config = RolloutConfig(SamplingPlan(), weights=weights)
    rollout = Rollout(model, config, seeds=[0] * batch, worlds=range(batch))
    prompts = torch.zeros(batch, model.layout.prompt_tokens, model.config.text["width"], device=rollout.device, dtype=model.dtype)
    rollout.start(random_steps(model.layout, batch, model.config.context_steps - 1), prompts, prompts)
    return rollout, torch.full((batch, model.layout.tokens_per_step), FREE), prompts


def heading(device: torch.device, rounds: int, ceilings: Ceilings) -> str:
    """What the figures below it are."""
    figures = f"tokens drawn at a full window; medians (lowest to highest) of {rounds} interleaved rounds; {machine(device)}"
    return f"{figures}\n{ceilings.line()}"
