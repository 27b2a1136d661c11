"""Nats per stream from hidden states, heads applied only where their stream stands, and never all logits at once."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from worldgpt.model import WorldGPT
from worldgpt.token_table import CHUNK, SplitTable, TokenTable


def token_nats(model: WorldGPT, hidden: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Cross-entropy in nats of each token: {stream: (B, T, n) float32} from hidden (B, T, S, D) and true tokens (B, T, J).

    A target that is NULL (missing in the data) has a loss of exactly 0.
    """
    predicting = model.predicting(hidden)
    nats = {}
    for stream in model.layout.streams:
        span = model.layout.spans[stream.name]
        table, target, told = model.table(stream), tokens[:, :, span].flatten(), []
        rows = predicting[:, :, span].flatten(0, 2)
        total = torch.zeros(target.shape, device=target.device)
        for part, size in zip(table.split(target), table.sizes, strict=True):
            total = total + _part_nats(table, rows, told, part, size)
            told.append(part)
        nats[stream.name] = total.view(*tokens.shape[:2], -1)
    return nats


def _part_nats(table: TokenTable | SplitTable, rows: Tensor, told: Sequence[Tensor], target: Tensor, size: int) -> Tensor:
    """(R,) of one part of R tokens, from rows (R, D), the parts `told` before it and the true one, (R,) each."""

    def some(rows: Tensor, target: Tensor, *told: Tensor) -> Tensor:
        return F.cross_entropy(table.logits(rows, told).float(), target, ignore_index=size, reduction="none")

    count = max(1, CHUNK // size)
    if len(rows) <= count:
        return some(rows, target, *told)
    chunks = zip(*(part.split(count) for part in (rows, target, *told)), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([some(*chunk) for chunk in chunks])
    return torch.cat([checkpoint(some, *chunk, use_reentrant=False) for chunk in chunks])


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
