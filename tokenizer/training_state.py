"""What a training needs to go on: weights, their running mean and the optimizer's moments, as safetensors and JSON, never pickle.

A checkpoint holds whole tensors, whatever number of processes wrote it, so that any number can go on from it. No random generator's
state stands in it and none is missing: every draw of every process is keyed by (seed, step, micro-batch), and micro-batches are dealt
out by rank. So seed and step are the state of all generators and the loader's position at once.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from data.errors import UserError
from data.folder import atomic_folder
from tokenizer.parallel import placed, whole

_FOLDER = re.compile(r"step_(\d+)$")
STATE_FILE = "state.json"


class RunningMean:
    """Exponential moving average of a model's parameters, in float32; the decay warms up, so that early weights fade."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().float().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        cast(Any, torch)._foreach_lerp_(list(self.values.values()), [p.detach().float() for p in model.parameters()], 1 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights with the mean; a second call exchanges them back, bit for bit."""
        for name, p in model.named_parameters():
            mean = self.values[name].to(p.dtype)
            self.values[name] = p.detach().float().clone()
            p.copy_(mean)


def training_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, mean: RunningMean | None, *, keep: bool
) -> dict[str, dict[str, Tensor]]:
    """{file: its whole tensors, on the CPU}; every process must ask, and those that do not `keep` them get none."""
    groups: dict[str, Mapping[str, Any]] = {"model": model.state_dict(), "optimizer": _optimizer_tensors(model, optimizer)}
    if mean is not None:
        groups["mean"] = mean.values
    found: dict[str, dict[str, Tensor]] = {f"{group}.safetensors": {} for group in groups} if keep else {}
    for group, tensors in groups.items():
        for name, tensor in tensors.items():
            if keep or isinstance(tensor, DTensor):
                full = whole(torch.as_tensor(tensor))
                if keep:
                    found[f"{group}.safetensors"][name] = full.clone()
    return found


def save_state(folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], notes: Mapping[str, Any]) -> None:
    """Write `folder/step_<step>` in one piece: it appears whole, on the disk, or not at all. `notes` are JSON, and come back on loading.

    DiskFullError where there is no room, UserError where `folder` cannot be written.
    """
    with atomic_folder(checkpoint_path(folder, step)) as part:
        for name, group in tensors.items():
            save_file(dict(group), part / name)
        files = {name: _digest(part / name) for name in tensors}
        (part / STATE_FILE).write_text(json.dumps({"step": step, **notes, "files": files}, indent=2, default=str))


def load_state(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, mean: RunningMean | None) -> dict[str, Any]:
    """Fill model, optimizer and mean from a folder that `save_state` wrote; returns its notes, with "step", the number of updates made.

    Raises UserError where a file is missing, cut short, changed since, or of another shape.
    """
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text())
        for name, digest in state.get("files", {}).items():
            if _digest(checkpoint / name) != digest:
                raise ValueError(f"{name} is not what was written")
        mine, stored = model.state_dict(), load_file(checkpoint / "model.safetensors")
        model.load_state_dict({name: placed(value, mine[name]) if name in mine else value for name, value in stored.items()})
        _fill_optimizer(model, optimizer, load_file(checkpoint / "optimizer.safetensors"))
        if mean is not None:
            averages = load_file(checkpoint / "mean.safetensors")
            mean.values = {name: placed(averages[name], value) for name, value in mean.values.items()}
        return {**state, "step": int(state["step"])}
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = f"{Path(error.filename).name} is missing" if isinstance(error, FileNotFoundError) else str(error).splitlines()[0]
        raise UserError(f"{checkpoint}: not a checkpoint of this training ({reason})") from error


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:07d}"


def checkpoints(folder: Path) -> list[Path]:
    """Folders of checkpoints, oldest first, whether they can be read or not."""
    return sorted(path for path in folder.glob("step_*") if _FOLDER.search(path.name) and path.is_dir())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {f"{key}/{name}": value for name, p in model.named_parameters() for key, value in optimizer.state.get(p, {}).items()}


def _fill_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for full_name, value in tensors.items():
        key, name = full_name.split("/", 1)
        p = parameters[name]
        # AdamW's fused kernel wants its step counter in float32 on the parameter's device, the moments like the parameter.
        optimizer.state[p][key] = value.to(p.device, torch.float32) if key == "step" else placed(value.to(p.dtype), p)


@contextmanager
def writing_told(path: Path) -> Iterator[None]:
    """Turns a failing write under `path` into one line for the user."""
    kept = "the last whole checkpoint is still there"
    try:
        yield
    except UserError as error:
        raise type(error)(f"{error}; {kept}") from error
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror or error}); {kept}") from error
