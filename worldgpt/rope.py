"""Rotary positions over (time, row, column).

After Su et al., RoFormer (2021), section 3.4.2; the head's dimensions are shared out among three axes as in multi-axis
variants: half turn with time, a quarter each with row and column. Only differences of positions matter, so times may be
rebased at will. Angles are computed in float32.
Neighbouring dimensions form a pair, so that turning is one complex product: on a CPU half the time of two real ones.
"""

import torch
from torch import Tensor

TIME_BASE, SPACE_BASE = 1000.0, 100.0


def rotation(times: Tensor, rows: Tensor, columns: Tensor, head_dim: int) -> Tensor:
    """Rotation of N positions, each argument (N,), for heads of `head_dim` (divisible by 8): (N, d / 2) complex64."""
    eighth = head_dim // 8
    angles = torch.cat(
        [
            times.float()[:, None] * _frequencies(2 * eighth, TIME_BASE, times.device),
            rows.float()[:, None] * _frequencies(eighth, SPACE_BASE, times.device),
            columns.float()[:, None] * _frequencies(eighth, SPACE_BASE, times.device),
        ],
        dim=-1,
    )
    return torch.polar(torch.ones_like(angles), angles)


def _frequencies(count: int, base: float, device: torch.device) -> Tensor:
    return base ** (-torch.arange(count, device=device, dtype=torch.float32) / count)


def rotate(x: Tensor, by: Tensor) -> Tensor:
    """Turn queries or keys (..., N, d) to their positions, in float32 or finer; the dtype stays."""
    pairs = torch.view_as_complex(x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * by.to(pairs.dtype)).flatten(-2).to(x.dtype)
