"""What a world model makes of true tokens, stream by stream: nats, bits and hits, beside trivial predictors.

The first step of a window has no past and is left out, for model and baselines alike.
Axes: B windows, T steps, J tokens a step, n tokens of a stream.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from worldgpt.baselines import Baselines
from worldgpt.evaluate.intervals import ratio_of
from worldgpt.evaluate.teacher_forcing import batch_hidden
from worldgpt.loss import token_nats
from worldgpt.model import WorldGPT
from worldgpt.windows import Windows, model_batch

Figures = dict[str, dict[str, float | int | None]]
"""{name: an estimate, its interval over windows}."""


@torch.no_grad()
def token_figures(model: WorldGPT, windows: Windows, baselines: Baselines, batch_size: int) -> dict[str, dict[str, Figures]]:
    """{stream: {"model" | "copy_last" | "unigram": {nats, bits_per_step, changed_nats, accuracy, changed_accuracy}}}.

    accuracy is the share of tokens that the likeliest id hits (of codes told in parts, the likeliest id of each part in turn), and
    changed_accuracy that of tokens which differ from the step before; a copy hits none of those.
    """
    nats, hits = _read(model, windows, batch_size)
    tokens, before = windows.tokens[:, 1:], windows.tokens[:, :-1]
    predictors = {
        "model": (nats, hits),
        "copy_last": (baselines.copy_nats(tokens, before), tokens == before),
        "unigram": (baselines.unigram_nats(tokens), tokens == _likeliest(baselines, tokens.shape)),
    }
    known, found = tokens != model.layout.null_tokens, {}
    for stream in model.layout.streams:
        span = model.layout.spans[stream.name]
        there, changed = known[..., span], known[..., span] & (tokens != before)[..., span]
        if there.any():
            found[stream.name] = {
                name: _figures(nats[..., span], hits[..., span], there, changed) for name, (nats, hits) in predictors.items()
            }
    return found


def _read(model: WorldGPT, windows: Windows, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, T - 1, J): nats of every token, and whether the likeliest id is it."""
    nats, hits = [], []
    for i in range(0, len(windows.tokens), batch_size):
        part = windows[i : i + batch_size]
        batch = {name: value.to(model.device) for name, value in model_batch(part, part.tokens, model.text.tokenize).items()}
        hidden = batch_hidden(model, batch)
        nats.append(_joined(token_nats(model, hidden, batch["targets"])))
        hits.append(_joined(token_hits(model, hidden, batch["targets"])))
    return np.concatenate(nats)[:, 1:], np.concatenate(hits)[:, 1:] > 0


def token_hits(model: WorldGPT, hidden: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """{stream: (B, T, n) bool}: whether the likeliest id from hidden (B, T, S, D) is the true one of tokens (B, T, J)."""
    predicting, hits = model.predicting(hidden), {}
    for stream in model.layout.streams:
        span = model.layout.spans[stream.name]
        table, told = model.table(stream), []
        for _ in table.sizes:
            told.append(table.logits(predicting[:, :, span], told).argmax(-1))
        hits[stream.name] = table.join(told) == tokens[:, :, span]
    return hits


def _joined(streams: Mapping[str, Tensor]) -> np.ndarray:
    return torch.cat(list(streams.values()), dim=-1).float().cpu().numpy()


def _likeliest(baselines: Baselines, shape: tuple[int, ...]) -> np.ndarray:
    """(B, T, J): the most frequent id of each place."""
    ids = []
    for tables in baselines.log_unigram:
        faster, whole = 1, 0
        for table in tables:
            whole, faster = whole + faster * int(table.argmax()), faster * len(table)
        ids.append(whole)
    return np.broadcast_to(np.array(ids), shape)


def _figures(nats: np.ndarray, hits: np.ndarray, known: np.ndarray, changed: np.ndarray) -> Figures:
    """Of one stream; all (B, T, n)."""
    return {
        "nats": _mean(nats, known),
        "bits_per_step": _mean(nats * known.shape[-1] / math.log(2), known),
        "changed_nats": _mean(nats, changed),
        "accuracy": _mean(hits, known),
        "changed_accuracy": _mean(hits, changed),
    }


def _mean(values: np.ndarray, where: np.ndarray) -> dict[str, float | int | None]:
    """Of values (B, T, n) where it is said."""
    return ratio_of(np.where(where, values, 0).sum((1, 2)), where.sum((1, 2))).to_dict()
