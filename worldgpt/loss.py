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
        table, target, told = model.table(stream), tokens[:, :, span], []
        nats[stream.name] = torch.zeros(target.shape, device=target.device)
        for part, size in zip(table.split(target), table.sizes, strict=True):
            logits = table.logits(predicting[:, :, span], told)  # (B, T, n, V)
            flat = F.cross_entropy(logits.flatten(0, 2).float(), part.flatten(), ignore_index=size, reduction="none")
            nats[stream.name] = nats[stream.name] + flat.view_as(target)
            told.append(part)
    return nats


def total_loss(model: WorldGPT, nats: dict[str, Tensor], tokens: Tensor, channel_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted mean over the true tokens (B, T, J) that are there, and the mean nats/token of frames, telemetry and actions to log."""
    parts: dict[str, Tensor] = {}
    total, weights = torch.zeros((), device=tokens.device), torch.zeros((), device=tokens.device)
    known = tokens != torch.as_tensor(model.layout.null_tokens, device=tokens.device)
    for kind, weight in (("frame", 1.0), ("telemetry", channel_weight), ("action", channel_weight)):
        streams = model.layout.of_kind(kind)
        if streams:
            summed = torch.stack([nats[s.name].sum() for s in streams]).sum()
            count = known[..., model.layout.span_of_kind(kind)].sum()
            total, weights = total + weight * summed, weights + weight * count
            parts[f"{kind}_nats"] = summed.detach() / count.clamp(min=1)
    return total / weights.clamp(min=1), parts
