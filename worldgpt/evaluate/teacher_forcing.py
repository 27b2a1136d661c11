"""How well the next step is predicted when the past is true: nats/token by stream, against trivial predictors.

The first step of a window has no past and is left out of every figure here, for model and baselines alike.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from worldgpt.baselines import Baselines
from worldgpt.loss import token_nats
from worldgpt.model import WorldGPT
from worldgpt.windows import Windows, model_batch


def window_nats(model: WorldGPT, inputs: Windows, targets: np.ndarray, batch_size: int) -> np.ndarray:
    """(B, T, J) float32 nats of every token of windows, teacher-forced."""
    parts = []
    for i in range(0, len(targets), batch_size):
        chosen = slice(i, i + batch_size)
        batch = model_batch(inputs[chosen], targets[chosen], model.text)
        parts.append(torch.cat(list(batch_nats(model, batch).values()), dim=-1).float().cpu().numpy())
    return np.concatenate(parts)


def batch_nats(model: WorldGPT, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """{stream: (B, T, n)} nats of one batch as `windows.model_batch` makes it."""
    batch = {name: value.to(model.device) for name, value in batch.items()}
    return token_nats(model, batch_hidden(model, batch), batch["targets"])


def batch_hidden(model: WorldGPT, batch: dict[str, Tensor]) -> Tensor:
    """Hidden states (B, T, S, D) of such a batch."""
    prompts = model.text(batch["pieces"])[batch["prompt"]]  # (B, T, P, D_text)
    return model(batch["inputs"], prompts, batch["before"], batch.get("times"), len(batch.get("anchors", ())))


@torch.no_grad()
def teacher_forcing(model: WorldGPT, windows: Windows, batch_size: int) -> dict[str, float]:
    """Nats/token of frames (all, and those codes that changed since the last step), telemetry and actions; bits/frame;
    and the nats of frames and telemetry with each window's actions exchanged for another's."""
    layout, tokens = model.layout, windows.tokens
    nats = window_nats(model, windows, tokens, batch_size)[:, 1:]
    figures = by_kind(nats, tokens, model)
    if layout.of_kind("action"):
        span = layout.span_of_kind("action")
        shuffled = tokens.copy()
        shuffled[..., span] = np.roll(tokens[..., span], max(1, len(tokens) // 2), axis=0)
        other = window_nats(model, replace(windows, tokens=shuffled), tokens, batch_size)[:, 1:]
        moved = by_kind(other, tokens, model)
        figures |= {f"{name}_shuffled_actions": moved[name] for name in ("frame_nats", "telemetry_nats") if name in moved}
    return figures


def baseline_figures(baselines: Baselines, windows: Windows, model: WorldGPT) -> dict[str, dict[str, float]]:
    """The same figures of the trivial predictors on the same tokens."""
    tokens = windows.tokens
    predictors: dict[str, Callable[[], np.ndarray]] = {
        "copy_last": lambda: baselines.copy_nats(tokens[:, 1:], tokens[:, :-1]),
        "unigram": lambda: baselines.unigram_nats(tokens[:, 1:]),
    }
    return {name: by_kind(nats(), tokens, model) for name, nats in predictors.items()}


def by_kind(nats: np.ndarray, tokens: np.ndarray, model: WorldGPT) -> dict[str, float]:
    """Means by kind of stream of nats (B, T - 1, J) for the steps from the second on of tokens (B, T, J), NULL left out."""
    layout, figures = model.layout, {}
    known = tokens[:, 1:] != layout.null_tokens
    for kind in ("frame", "telemetry", "action"):
        span = layout.span_of_kind(kind)
        if known[..., span].any():
            figures[f"{kind}_nats"] = float(nats[..., span][known[..., span]].mean())
    frames = layout.span_of_kind("frame")
    changed = (tokens[:, 1:, frames] != tokens[:, :-1, frames]) & known[..., frames]
    figures["changed_code_nats"] = float(nats[..., frames][changed].mean()) if changed.any() else 0.0
    figures["changed_codes"] = float(changed.sum() / known[..., frames].sum())
    figures["bits_per_frame"] = figures["frame_nats"] * (frames.stop - frames.start) / np.log(2)
    return figures
