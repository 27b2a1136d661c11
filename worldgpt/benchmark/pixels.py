"""Pixels: the tokenizer alone, in the forms that its weights may lie in, and imagination, tokens and pixels together."""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, cast

import torch

from tokenizer.model import FrameTokenizer, FrameTokenizerConfig
from worldgpt.benchmark.contest import Standing, contest, synchronise
from worldgpt.benchmark.decode import our_models
from worldgpt.benchmark.shapes import Shape, random_steps
from worldgpt.pipeline import DECODE_STEPS, WorldGPTPipeline
from worldgpt.product import Weights

AS_TRAINED = "float32"


def random_tokenizer(shape: Shape, device: torch.device) -> FrameTokenizer:
    """An untrained one for frames of the shape."""
    assert shape.tokenizer is not None
    height, width = (shape.tokenizer.downsampling * side for side in shape.grid)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer: Any = FrameTokenizer(FrameTokenizerConfig(asdict(shape.tokenizer), height, width, ("front",)))
    return tokenizer.eval().to(device)


def measure_tokenizer(shape: Shape, batch: int, rounds: int, device: torch.device) -> dict[str, Standing]:
    """Frames a second of encoding and decoding `batch` frames at once, {way: standing}; ratios are to float32 as trained."""
    plain = random_tokenizer(shape, device)
    laid: Any = copy.deepcopy(plain)
    laid = laid.to(memory_format=torch.channels_last)
    codes = random_steps(shape.layout(), batch)[:, : shape.grid[0] * shape.grid[1]].view(batch, *shape.grid).to(device)
    frames = plain.decode(codes)

    def way(tokenizer: FrameTokenizer, work: str, *, bf16: bool) -> Callable[[], float]:
        def run() -> float:
            synchronise(device)
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                tokenizer.decode(codes) if work == "decode" else tokenizer.encode(frames)
            synchronise(device)
            return batch / (time.perf_counter() - start)

        return run

    found: dict[str, Standing] = {}
    for work in ("decode", "encode"):
        ways = {f"{work}, {AS_TRAINED}": way(plain, work, bf16=False), f"{work}, channels_last": way(laid, work, bf16=False)}
        ways |= {f"{work}, bf16": way(plain, work, bf16=True), f"{work}, channels_last, bf16": way(laid, work, bf16=True)}
        found |= contest(ways, (f"{work}, {AS_TRAINED}",), rounds)
    return found


def measure_imagination(shape: Shape, batch: int, rounds: int, device: torch.device) -> dict[str, Standing]:
    """Frames a second of the whole pipeline, its actions given, as a learned simulator is driven: {way: standing}, ratios to raster; on a
    CPU a second of one core."""
    ways = {}
    for name, (model, weights) in our_models(shape, device).items():
        pipeline = WorldGPTPipeline(model, random_tokenizer(shape, device))
        ways[name] = imagining(pipeline, batch, weights)
    return contest(ways, ("raster",), rounds)


def imagining(pipeline: WorldGPTPipeline, batch: int, weights: Weights) -> Callable[[], float]:
    """A window's steps are read, then each call goes on by as many frames as are decoded together."""
    model = pipeline.model
    size, frames = model.config.context_steps - 1, DECODE_STEPS
    clock = time.process_time if model.device.type == "cpu" else time.perf_counter  # decoding has a thread of its own
    context = random_steps(model.layout, batch, size).numpy()
    actions = dict.fromkeys(model.actions.names, 0.0)
    options = cast(Any, {"context": context, "actions": actions, "weights": weights})
    chunks = iter(())

    def run() -> float:
        nonlocal chunks
        start = clock()
        if next(chunks, None) is None:
            chunks = pipeline.stream([""] * batch, 1_000_000, **options)
            next(chunks)
            start = clock()
            next(chunks)
        return frames * batch / (clock() - start)

    return run
