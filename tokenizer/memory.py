"""What a training keeps for its backward pass, counted; and what to do where memory has run out."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from data.errors import UserError
from data.folder import bytes_text
from tokenizer.loop_config import LoopConfig

USABLE = 0.9
"""Share of a device's memory that a training can count on."""
TRAINED_BYTES = 20
"""Of one trained weight: itself, its gradient, its running mean and two moments, in float32."""


def saved_bytes(function: Callable[[], Any], model: nn.Module) -> int:
    """Bytes that autograd keeps for the backward pass of `function`: every storage once, those of the model's own weights not."""
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    storages: dict[int, int] = {}
    kept: list[Tensor] = []  # a storage that is freed could come back as another one

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(storages.values())


def device_memory(device: torch.device) -> int:
    """Bytes of memory that the device has in all."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def memory_told(advice: Callable[[int], str], batch_size: int, device: torch.device) -> Iterator[None]:
    """Turns running out of memory into one line that says, by `advice(bytes of the device)`, what would fit."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        memory = device_memory(device)
        held = f"--loop.batch-size {batch_size} does not fit into the {bytes_text(memory)} of {device.type}"
        raise UserError(f"out of memory: {held}; {advice(memory)}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, on a GPU or on the CPU."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def batch_advice(config: LoopConfig, most: int) -> str:
    """Flags for a batch of at most `most` samples a device that makes the same updates; or that not even one sample would fit."""
    if most < 1:
        return "not even a batch of 1 would fit: take a smaller --preset, or more GPUs"
    total = config.batch_size * config.gradient_accumulation
    batch = max(n for n in range(1, min(most, config.batch_size) + 1) if total % n == 0)
    if batch == config.batch_size:
        return "by the estimate it should: is something else using the memory?"
    return f"--loop.batch-size {batch} --loop.gradient-accumulation {total // batch} makes the same updates and should fit"
