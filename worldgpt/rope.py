"""Rotary positions over (time, row, column).

After Su et al., RoFormer (2021), section 3.4.2; the head's dimensions are shared out among three axes as in multi-axis
variants: half turn with time, a quarter each with row and column. Only differences of positions matter, so times may be
rebased at will. Angles are computed in float32.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

TIME_BASE, SPACE_BASE = 1000.0, 100.0


@dataclass(frozen=True)
class Rotation:
    """Cosine and sine of N positions, each (N, d / 2) float32."""

    cos: Tensor
    sin: Tensor

    def __getitem__(self, index: slice) -> "Rotation":
        return Rotation(self.cos[index], self.sin[index])


def rotation(times: Tensor, rows: Tensor, columns: Tensor, head_dim: int) -> Rotation:
    """Rotation of N positions, each argument (N,), for heads of `head_dim` (divisible by 8)."""
    quarter = head_dim // 8
    angles = torch.cat(
        [
            times.float()[:, None] * _frequencies(2 * quarter, TIME_BASE, times.device),
            rows.float()[:, None] * _frequencies(quarter, SPACE_BASE, times.device),
            columns.float()[:, None] * _frequencies(quarter, SPACE_BASE, times.device),
        ],
        dim=-1,
    )
    return Rotation(angles.cos(), angles.sin())


def _frequencies(count: int, base: float, device: torch.device) -> Tensor:
    return base ** (-torch.arange(count, device=device, dtype=torch.float32) / count)


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Turn queries or keys (..., N, d) to their positions; keeps their dtype unless that is coarser than float32."""
    first, second = x.float().chunk(2, dim=-1) if x.dtype in (torch.bfloat16, torch.float16) else x.chunk(2, dim=-1)
    cos, sin = by.cos.to(first.dtype), by.sin.to(first.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
