"""Laws of the rotary positions."""

import math

import torch

from worldgpt.rope import SPACE_BASE, TIME_BASE, rotate, rotation

HEAD_DIM = 16


def random_vectors(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, HEAD_DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def places(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randint(0, 20, (count,), generator=generator) for _ in range(3))  # type: ignore[return-value]


def products(times: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """All dot products of rotated queries with rotated keys."""
    by = rotation(times, rows, columns, HEAD_DIM)
    return rotate(random_vectors(len(times), 2), by) @ rotate(random_vectors(len(times), 3), by).T


def test_only_differences_of_positions_matter() -> None:
    times, rows, columns = places(12)
    moved = products(times + 37, rows + 5, columns + 11)
    torch.testing.assert_close(moved, products(times, rows, columns), rtol=0, atol=2e-4)  # angles are float32
    assert (products(times * 2, rows, columns) - moved).abs().max() > 0.1


def test_rotation_keeps_lengths_and_zero_stays() -> None:
    x, by = random_vectors(12, 4), rotation(*places(12), HEAD_DIM)
    torch.testing.assert_close(rotate(x, by).norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)
    zero = torch.zeros(12, dtype=torch.int64)
    assert torch.equal(rotate(x, rotation(zero, zero, zero, HEAD_DIM)), x)


def test_equals_turning_pair_by_pair() -> None:
    times, rows, columns = places(5)
    x = random_vectors(5, 5)
    turned = rotate(x, rotation(times, rows, columns, HEAD_DIM))
    eighth = HEAD_DIM // 8
    for n in range(5):
        angles = [float(times[n]) * TIME_BASE ** (-i / (2 * eighth)) for i in range(2 * eighth)]
        angles += [float(rows[n]) * SPACE_BASE ** (-i / eighth) for i in range(eighth)]
        angles += [float(columns[n]) * SPACE_BASE ** (-i / eighth) for i in range(eighth)]
        for pair, angle in enumerate(angles):
            a, b = float(x[n, 2 * pair]), float(x[n, 2 * pair + 1])
            expected = (a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle))
            torch.testing.assert_close(turned[n, 2 * pair : 2 * pair + 2], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-5)


def test_keeps_the_dtype_and_turns_in_float32() -> None:
    x, by = random_vectors(6, 6), rotation(*places(6), HEAD_DIM)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        assert rotate(x.to(dtype), by).dtype == dtype
    half = x.to(torch.bfloat16)
    assert torch.equal(rotate(half, by), rotate(half.float(), by).to(torch.bfloat16))
