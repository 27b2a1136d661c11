"""A codebook as the model knows it: one vector an id, used for what comes in and for what goes out alike.

Sharing the vectors (Press & Wolf 2017) lets the model learn "the same as there" for all ids at once instead of id by id.
An id of a very large codebook is told in parts, each once those before it are known: small softmaxes in the place of an impossible
one.
Axes: V ids, NULL not counted; C width of a vector, D width of the model, K shared features.
"""

from collections.abc import Sequence
from functools import reduce
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldgpt.layout import Codebook

CHUNK = 1 << 24
"""Logits that training holds at once (64 MiB); of more, those of a chunk are worked out again for the backward pass (worldgpt/loss.py)."""
WAVES = 32
"""Slowest cosines over a digit's range that its levels share."""


class TokenTable(nn.Module):
    """Vectors of V + 1 ids (the last is NULL), and logits over the V that can come out.

    What `SplitTable` does part by part, this does at once: its ids have one part.

    Ids that are numbers with ordered digits (bins of a channel, codes of FSQ) share what is learned: their vectors are smooth waves over
    the range of each digit, plus a correction an id.
    """

    def __init__(self, size: int, code_width: int, width: int, levels: tuple[int, ...] = ()) -> None:
        super().__init__()
        assert not levels or prod(levels) == size, f"{levels} levels make {prod(levels)} ids, not {size}"
        self.size, self.levels = size, levels
        self.rows = nn.Embedding(size + 1, code_width)
        shared = sum(min(WAVES, level) for level in levels)
        self.shared = nn.Parameter(torch.empty(shared, code_width)) if levels else None
        self.out = nn.Linear(width, code_width, bias=False)
        self.bias = nn.Parameter(torch.empty(size))
        self._kept: tuple[Any, Tensor] | None = None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Vectors of length about 1: neighbours alike where ids have digits, else each unlike the others."""
        deviation = self.rows.embedding_dim**-0.5
        nn.init.normal_(self.rows.weight, std=deviation)
        nn.init.zeros_(self.bias)
        if self.shared is not None:
            nn.init.zeros_(self.rows.weight[:-1])
            nn.init.normal_(self.shared, std=deviation * (2 / len(self.shared)) ** 0.5)

    def vectors(self) -> Tensor:
        """(V + 1, C); worked out once for all tokens of a rollout, as long as no weight changes."""
        if self.shared is None:
            return self.rows.weight
        if torch.is_grad_enabled():
            return self._vectors(self.shared)
        state = [(p.data_ptr(), p.dtype, p._version) for p in (self.rows.weight, self.shared)]
        if self._kept is None or self._kept[0] != state:
            self._kept = state, self._vectors(self.shared)
        return self._kept[1]

    def forget(self) -> None:
        """Work the vectors out anew when they are next asked for."""
        self._kept = None

    def _vectors(self, weights: Tensor) -> Tensor:
        shared = self.features(weights.device).to(weights.dtype) @ weights
        return self.rows.weight + F.pad(shared, (0, 0, 0, 1))

    def features(self, device: torch.device) -> Tensor:
        """(V, K) float32: cosines of each id's digits."""
        parts, ids, faster = [], torch.arange(self.size, device=device), 1
        for level in self.levels:
            place = (ids // faster % level + 0.5) / level
            parts.append(torch.cos(torch.pi * place[:, None] * torch.arange(min(WAVES, level), device=device)))
            faster *= level
        return torch.cat(parts, dim=1)

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., C)."""
        return F.embedding(ids, self.vectors())

    def logits(self, hidden: Tensor, told: Sequence[Tensor] = ()) -> Tensor:
        """(..., D) -> (..., V); an id of one part has nothing `told` before."""
        assert not told
        vectors = self.vectors()[:-1]
        return F.linear(self.out(hidden) * vectors.shape[-1] ** 0.5, vectors, self.bias)

    def split(self, ids: Tensor) -> list[Tensor]:
        """An id's parts."""
        return [ids]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The id that has these parts."""
        (ids,) = parts
        return ids

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of ids of each part."""
        return (self.size,)


class SplitTable(nn.Module):
    """The same for ids told in parts, numbers in mixed radix, the fastest part first. A vector is the sum of its parts' vectors."""

    def __init__(self, code_width: int, width: int, levels: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(TokenTable(prod(part), code_width, width, part) for part in levels)
        self.size = prod(self.sizes)
        self.meet = nn.ModuleList(nn.Linear(width + code_width, width, bias=False) for _ in levels[1:])
        self.refine = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in levels[1:])

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., C)."""
        return self._sum(self.split(ids))

    def _sum(self, parts: Sequence[Tensor]) -> Tensor:
        """(...) ids of the first parts -> (..., C)."""
        return reduce(torch.add, [table(ids) for table, ids in zip(self.parts, parts, strict=False)])

    def logits(self, hidden: Tensor, told: Sequence[Tensor] = ()) -> Tensor:
        """Hidden states (..., D) -> logits (..., V) of the next part, once those before it (...) are `told`."""
        if told:
            ours, theirs = cast(Tensor, self.meet[len(told) - 1].weight).tensor_split((hidden.shape[-1],), dim=1)
            met = F.linear(hidden, ours) + F.linear(self._sum(told), theirs)
            hidden = hidden + self.refine[len(told) - 1](F.silu(met))
        return cast(TokenTable, self.parts[len(told)]).logits(hidden)

    def split(self, ids: Tensor) -> list[Tensor]:
        """An id's parts; those of NULL are each part's NULL."""
        parts, rest = [], ids
        for size in self.sizes:
            parts.append(torch.where(ids == self.size, size, rest % size))
            rest = rest // size
        return parts

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The id that has these parts."""
        ids, faster = torch.zeros_like(parts[0]), 1
        for part, size in zip(parts, self.sizes, strict=True):
            ids, faster = ids + faster * part, faster * size
        return ids

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of ids of each part."""
        return tuple(cast(TokenTable, part).size for part in self.parts)


def token_table(codebook: Codebook, code_width: int, width: int) -> TokenTable | SplitTable:
    """The table that a codebook needs."""
    parts = codebook.part_levels
    return SplitTable(code_width, width, parts) if len(parts) > 1 else TokenTable(codebook.size, code_width, width, codebook.levels)
