"""A codebook as the model knows it: one vector an id, used for what comes in and for what goes out alike.

Sharing the vectors (Press & Wolf 2017) lets the model learn "the same as there" for all ids at once instead of id by id.
Axes: V ids, NULL not counted; C width of a vector, D width of the model, K waves.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WAVES = 32
"""Slowest cosines over a channel's range that its bins share."""


class TokenTable(nn.Module):
    """Vectors of V + 1 ids (the last is NULL), and logits over the V that can come out.

    The bins of a channel are ordered: their vectors are smooth waves over the range plus a correction a bin, so that what is learned of
    one bin holds for its neighbours too.
    """

    def __init__(self, size: int, code_width: int, width: int, *, ordered: bool) -> None:
        super().__init__()
        self.size = size
        self.rows = nn.Embedding(size + 1, code_width)
        self.waves = nn.Parameter(torch.empty(min(WAVES, size), code_width)) if ordered else None
        self.out = nn.Linear(width, code_width, bias=False)
        self.bias = nn.Parameter(torch.empty(size))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Vectors of length about 1, each unlike the others; neighbouring bins start alike."""
        deviation = self.rows.embedding_dim**-0.5
        nn.init.normal_(self.rows.weight, std=deviation)
        nn.init.zeros_(self.bias)
        if self.waves is not None:
            nn.init.zeros_(self.rows.weight[:-1])
            nn.init.normal_(self.waves, std=deviation * (2 / len(self.waves)) ** 0.5)

    def vectors(self) -> Tensor:
        """(V + 1, C)."""
        if self.waves is None:
            return self.rows.weight
        places = (torch.arange(self.size, device=self.waves.device) + 0.5) / self.size
        turns = torch.pi * places[:, None] * torch.arange(len(self.waves), device=self.waves.device)
        shared = torch.cos(turns).to(self.waves.dtype) @ self.waves
        return self.rows.weight + F.pad(shared, (0, 0, 0, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., C)."""
        return F.embedding(ids, self.vectors())

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        vectors = self.vectors()[:-1]
        return F.linear(self.out(hidden) * vectors.shape[-1] ** 0.5, vectors, self.bias)
