"""What the machine can do at all: bytes read and written a second, and arithmetic of a matrix product."""

import statistics
import time
from dataclasses import dataclass

import torch

from tokenizer.training_log import measured_peak_flops
from worldgpt.benchmark.contest import synchronise

COPY_BYTES, ROUNDS = 1 << 28, 5


@dataclass(frozen=True)
class Ceilings:
    """Measured on this machine with the threads in use."""

    copy_bytes_per_s: float
    """Read and written, in a copy of 256 MiB."""
    flops: float
    """Of a large matrix product in the dtype, a second."""

    def line(self) -> str:
        return f"the machine copies {self.copy_bytes_per_s / 1e9:,.1f} GB/s and multiplies {self.flops / 1e9:,.0f} GFLOP/s"


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target, seconds = torch.empty_like(source), []
    for _ in range(ROUNDS):
        synchronise(device)
        start = time.perf_counter()
        target.copy_(source)
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return Ceilings(2 * COPY_BYTES / statistics.median(seconds), measured_peak_flops(device, dtype))
