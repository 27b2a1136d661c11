"""How the cost of drawing grows with the work: frames a second over context, batch and width, and memory over the length of a rollout."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from data.benchmark_data import Spread, process_mb
from data.image import save_png
from worldgpt.benchmark.decode import full_rollout, rolling
from worldgpt.benchmark.shapes import Shape, random_world
from worldgpt.evaluate.plots import Points, point_page
from worldgpt.placement import numbers

CONTEXTS, BATCHES, WIDTHS = (2, 4, 8, 16, 32), (1, 2, 4, 8, 16), (128, 256, 512, 1024)
LOOKS = 10
"""How often memory is looked at on the way."""


@dataclass(frozen=True)
class Curve:
    """A figure over what grows."""

    over: str
    unit: str
    x: tuple[float, ...]
    y: tuple[Spread, ...]


def measure_growth(shape: Shape, rounds: int, steps: int, device: torch.device) -> list[Curve]:
    """Raster order, random weights, a full window; one thing of `shape` changed at a time."""
    dtype = numbers(None, device, torch.float32)
    contexts = [replace(shape, model=replace(shape.model, context_steps=n)) for n in CONTEXTS]
    widths = [_wide(shape, n) for n in WIDTHS]
    frames = "frames/s"
    return [
        Curve("steps in the window", frames, CONTEXTS, _frame_rates(contexts, [1] * len(contexts), rounds, device, dtype)),
        Curve("worlds", frames, BATCHES, _frame_rates([shape] * len(BATCHES), BATCHES, rounds, device, dtype)),
        Curve("width", frames, WIDTHS, _frame_rates(widths, [1] * len(widths), rounds, device, dtype)),
        _memory(shape, steps, device, dtype),
    ]


def _wide(shape: Shape, width: int) -> Shape:
    model = shape.model
    size = model.width // model.heads
    return replace(shape, model=replace(model, width=width, heads=max(1, width // size), mlp_width=model.mlp_width * width // model.width))


def _frame_rates(
    sizes: Sequence[Shape], batches: Sequence[int], rounds: int, device: torch.device, dtype: torch.dtype
) -> tuple[Spread, ...]:
    spreads = []
    for shape, batch in zip(sizes, batches, strict=True):
        run = rolling(random_world(shape, device, dtype), batch)
        spreads.append(Spread.of([run() / shape.tokens for _ in range(rounds)]))
    return tuple(spreads)


def _memory(shape: Shape, steps: int, device: torch.device, dtype: torch.dtype) -> Curve:
    """MB in use on a GPU, or of the process, after so many steps of a rollout."""
    rollout, forced, prompts = full_rollout(random_world(shape, device, dtype), 1)
    known = torch.zeros_like(forced)  # every token is forced: the same memory, in one pass a step
    x, y = [], []
    for step in range(1, steps + 1):
        rollout.step(prompts, prompts, known)
        if step % max(1, steps // LOOKS) == 0:
            x.append(float(step))
            y.append(Spread.of([_megabytes(device)]))
    return Curve("steps of a rollout", "MB", tuple(x), tuple(y))


def _megabytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 1e6
    return process_mb("VmRSS")


def plot(curves: Sequence[Curve], path: Path) -> None:
    """A page of panels, one a curve."""
    panels = {}
    for curve in curves:
        middle, low, high = (np.array([getattr(y, name) for y in curve.y]) for name in ("median", "low", "high"))
        panels[f"{curve.unit} over {curve.over}"] = {"": Points(np.array(curve.x), middle, low, high, joined=True)}
    save_png(point_page(panels, from_zero=True), path)


def lines(curves: Sequence[Curve]) -> list[str]:
    """Each curve as a line, the first value as 1."""
    told = []
    for curve in curves:
        first = curve.y[0].median
        parts = (f"{x:g}: {y.median / first:.2f}" for x, y in zip(curve.x, curve.y, strict=True))
        told.append(f"{curve.unit} over {curve.over}, as ratios ({first:.4g} {curve.unit} at the first): {', '.join(parts)}")
    return told
