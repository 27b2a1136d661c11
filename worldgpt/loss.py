"""Nats per stream from hidden states, heads applied only where their stream stands."""

import torch
from torch import Tensor
from torch.nn import functional as F

from worldgpt.model import WorldGPT


def token_nats(model: WorldGPT, hidden: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Cross-entropy in nats of each token: {stream: (B, T, n) float32} from hidden (B, T, S, D) and true tokens (B, T, J).

    A target that is NULL (missing in the data) has a loss of exactly 0.
    """
    predicting = model.predicting(hidden)
    nats = {}
    for stream in model.layout.streams:
        span = model.layout.spans[stream.name]
        logits = model.tables[stream.codebook].logits(predicting[:, :, span])  # (B, T, n, V)
        target = tokens[:, :, span]
        null = model.layout.codebook(stream).null_id
        flat = F.cross_entropy(logits.flatten(0, 2).float(), target.flatten(), ignore_index=null, reduction="none")
        nats[stream.name] = flat.view_as(target)
    return nats


def total_loss(model: WorldGPT, nats: dict[str, Tensor], channel_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted mean over a step's tokens, and the mean nats/token of frames, telemetry and actions to log."""
    parts: dict[str, Tensor] = {}
    weighted, weights = torch.zeros((), device=next(iter(nats.values())).device), 0.0
    for kind, weight in (("frame", 1.0), ("telemetry", channel_weight), ("action", channel_weight)):
        streams = [nats[s.name] for s in model.layout.of_kind(kind)]
        if streams:
            flat = torch.cat(streams, dim=-1)
            weighted, weights = weighted + weight * flat.mean() * flat.shape[-1], weights + weight * flat.shape[-1]
            parts[f"{kind}_nats"] = flat.detach().mean()
    return weighted / weights, parts
