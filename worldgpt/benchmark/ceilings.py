"""What the machine can do at all: bytes read a second, and arithmetic of a matrix product."""

import time
from dataclasses import dataclass

import torch

from worldgpt.benchmark.contest import median, synchronise

COPY_BYTES, SIDE, ROUNDS = 1 << 28, 2048, 5


@dataclass(frozen=True)
class Ceilings:
    """Measured on this machine with the threads in use."""

    copy_bytes_per_s: float
    """Read and written, in a copy of 256 MiB."""
    flops: float
    """Of a product of 2048 x 2048 matrices in the dtype."""


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    matrix = torch.randn(SIDE, SIDE, device=device).to(dtype)
    copies, products = [], []
    for _ in range(ROUNDS):
        copies.append(_seconds(lambda: target.copy_(source), device))
        products.append(_seconds(lambda: matrix @ matrix, device))
    return Ceilings(2 * COPY_BYTES / median(copies), 2 * SIDE**3 / median(products))


def _seconds(work, device: torch.device) -> float:
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start
