"""What a training needs to go on: weights, their running mean and AdamW's moments, as safetensors and JSON, never pickle."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data.errors import UserError

_FOLDER = re.compile(r"step_(\d+)$")


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


def save_state(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, mean: RunningMean | None) -> None:
    """Write `folder/step_<step>` in one piece: it appears whole or not at all."""
    final, part = folder / f"step_{step:07d}", folder / f".part_{step:07d}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}, part / "model.safetensors")
        save_file(_optimizer_tensors(model, optimizer), part / "optimizer.safetensors")
        if mean is not None:
            save_file({k: v.cpu() for k, v in mean.values.items()}, part / "mean.safetensors")
        (part / "state.json").write_text(json.dumps({"step": step}))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(part, final)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load_state(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, mean: RunningMean | None) -> int:
    """Fill model, optimizer and mean from a folder that `save_state` wrote; returns the number of updates made.

    Raises UserError where a file is missing, cut short or of another shape.
    """
    try:
        step = json.loads((checkpoint / "state.json").read_text())["step"]
        model.load_state_dict(load_file(checkpoint / "model.safetensors"))
        _fill_optimizer(model, optimizer, load_file(checkpoint / "optimizer.safetensors"))
        if mean is not None:
            stored = load_file(checkpoint / "mean.safetensors")
            mean.values = {name: stored[name].to(value.device) for name, value in mean.values.items()}
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{checkpoint}: not a checkpoint of this training ({str(error).splitlines()[0]})") from error
    return step


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in a folder, oldest first."""
    found = [path for path in folder.glob("step_*") if _FOLDER.search(path.name) and (path / "state.json").exists()]
    return sorted(found)


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {}
    for name, p in model.named_parameters():
        for key, value in optimizer.state.get(p, {}).items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return tensors


def _fill_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for full_name, value in tensors.items():
        key, name = full_name.split("/", 1)
        p = parameters[name]
        # AdamW's fused kernel wants its step counter in float32 on the parameter's device, the moments like the parameter.
        optimizer.state[p][key] = value.to(device=p.device, dtype=torch.float32 if key == "step" else p.dtype)
