"""One model on several processes: copied to each (DDP) or sharded over them (FSDP2), as accelerate's environment says.

Sharding is by torch's fully_shard, block by block: accelerate's own preparation needs GPUs and would hand back other objects. Sharded
parameters are DTensors: whoever saves, loads or compares them goes through `whole` and `placed`.
"""

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from data.errors import UserError


class Call(nn.Module):
    """Puts whatever is done with a model behind one forward, which is where parallel wrappers get to work."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def processes() -> Any:
    """accelerate's PartialState: which process this is, of how many. On the CPU too, where accelerate alone would let each believe that
    it is the only one, and all write to the same folder.
    """
    from accelerate import PartialState

    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true" or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu)


@contextmanager
def process_group_ended() -> Iterator[None]:
    """After the block, however it ends, the processes part in good order. Its threads let go of what they hold only under Python's lock: a
    process that leaves while one of them still has to is aborted now and then ("terminate called without an active exception").
    """
    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            gc.collect()  # groups that nothing holds any more wait for their threads
            torch.distributed.destroy_process_group()


def shards() -> int:
    """Processes that a model's weights are sharded over: all of them where FSDP is asked for (configs/accelerate/*.yaml), else 1."""
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if asked else 1


def spread(model: nn.Module, accelerator: Any, optimizer: str) -> nn.Module:
    """`model` behind a `Call` on all processes; in place, so that `model` itself stays what is used. An optimizer is made afterwards.

    UserError where sharding is asked for and the model or the optimizer cannot be sharded.
    """
    if shards() > 1:
        return _sharded(model, accelerator, optimizer)
    with warnings.catch_warnings():  # torch 2.13 renames the switch for buffers, which older ones know by the old name alone
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return accelerator.prepare_model(Call(model))


def _sharded(model: nn.Module, accelerator: Any, optimizer: str) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

    names = getattr(model, "_no_split_modules", None) or []
    if not names:
        raise UserError(f"FSDP: a {type(model).__name__} is not sharded; train it with DDP (configs/accelerate/gpus_ddp.yaml)")
    if optimizer == "muon":
        raise UserError("loop.optimizer: 'muon' needs whole matrices, which FSDP does not leave; take --loop.optimizer adamw")
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    options: dict[str, Any] = {"mesh": mesh}
    if os.environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() == "true":
        options["offload_policy"] = CPUOffloadPolicy()
    for module in model.modules():
        if type(module).__name__ in names:
            fully_shard(module, **options)
    return cast(nn.Module, fully_shard(Call(model), **options))


@contextmanager
def gradients_kept(wrapped: nn.Module, kept: bool) -> Iterator[None]:
    """Within the block, if `kept`, DDP adds gradients up without exchanging them. FSDP always exchanges: else each would hold them all."""
    with cast(Any, wrapped).no_sync() if kept and hasattr(wrapped, "no_sync") else nullcontext():
        yield


def called(wrapped: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function` on a sharded model, outside of training; every process must call. Its own weights are only held whole meanwhile."""
    try:
        return wrapped(function, *arguments)
    finally:
        cast(Any, wrapped).reshard()


def gathered(tensor: Tensor) -> Tensor:
    """A tensor where it lies, its shards brought together; every process must ask."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def whole(tensor: Tensor) -> Tensor:
    """The same on the CPU."""
    return gathered(tensor).cpu().contiguous()


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device of another, and this process's shard of it where that is sharded."""
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None) if isinstance(like, DTensor) else value


def number(value: Tensor) -> float:
    """A 0-dim tensor, sharded or not, as a float; every process must ask."""
    return float(gathered(value))


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Within the block a sharded model's `state_dict` gives whole tensors, on the first process; every process must enter."""
    if not any(isinstance(p, DTensor) for p in model.parameters()):
        yield
        return
    first = torch.distributed.get_rank() == 0
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        full = whole(tensor)
        if first:
            tensors[name] = full
    cast(Any, model).state_dict = lambda *_, **__: tensors
    try:
        yield
    finally:
        del model.state_dict
