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
        logits = model.table(stream).logits(predicting[:, :, span])  # (B, T, n, V)
        target = tokens[:, :, span]
        null = model.layout.codebook(stream).null_id
        flat = F.cross_entropy(logits.flatten(0, 2).float(), target.flatten(), ignore_index=null, reduction="none")
        nats[stream.name] = flat.view_as(target)
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
