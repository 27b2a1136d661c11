"""The layers that the text encoders share. Linear, Embedding and LayerNorm only: a transformers model knows how to start each.

Axes: B batch, L pieces, P prompt tokens, D width.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention of queries over masked keys, without causality."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """queries (B, Q, D), keys (B, L, D), mask bool (B, L) with True where there is a piece -> (B, Q, D)."""
        q, k, v = (
            rearrange(project(x), "b n (h d) -> b h n d", h=self.heads)
            for project, x in ((self.query, queries), (self.key, keys), (self.value, keys))
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=rearrange(mask, "b l -> b 1 1 l"))
        return self.out(rearrange(mixed, "b h n d -> b n (h d)"))


class TextBlock(nn.Module):
    """One pre-norm transformer layer over the pieces of a prompt."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, D), mask bool (B, L) -> (B, L, D)."""
        h = self.attention_norm(x)
        x = x + self.attention(h, h, mask)
        return x + self.mlp(self.mlp_norm(x))


class PromptHead(nn.Module):
    """Ends every encoder: P embeddings a prompt, or the learned null embedding where there is no prompt."""

    def __init__(self, prompt_tokens: int, width: int) -> None:
        super().__init__()
        self.null_table = nn.Embedding(prompt_tokens, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, pooled: Tensor, present: Tensor) -> Tensor:
        """pooled (B, P, D), present bool (B,) -> (B, P, D)."""
        return torch.where(rearrange(present, "b -> b 1 1"), self.norm(pooled), self.null(len(pooled)))

    def null(self, batch: int) -> Tensor:
        """(B, P, D), the embedding of no prompt; normed like the others, so that it has their scale."""
        return self.norm(self.null_table.weight).expand(batch, -1, -1)


class QueryPool(nn.Module):
    """P learned queries gather the pieces of a prompt into P vectors."""

    def __init__(self, prompt_tokens: int, width: int, heads: int) -> None:
        super().__init__()
        self.queries = nn.Embedding(prompt_tokens, width)
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """hidden (B, L, D), mask bool (B, L) -> (B, P, D)."""
        queries = self.queries.weight.expand(len(hidden), -1, -1)
        return queries + self.attention(queries, self.norm(hidden), mask)
