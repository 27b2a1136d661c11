"""Starting from another checkpoint: what matches by name and shape is loaded, the rest starts fresh."""

from pathlib import Path

import torch

from worldgpt.model import WorldGPT
from worldgpt.pipeline import load_world_model


@torch.no_grad()
def load_matching(model: WorldGPT, folder: str | Path) -> str:
    """Copy what fits from a checkpoint into `model`; returns one line that says what was loaded and what starts fresh.

    A channel's weights are keyed by its name, so they come over where both models have the channel with the same bins.
    """
    source = load_world_model(Path(folder)).state_dict()
    fresh, taken = [], 0
    for name, tensor in model.state_dict().items():
        if name in source and source[name].shape == tensor.shape:
            tensor.copy_(source[name])
            taken += tensor.numel()
        else:
            fresh.append(name)
    total = sum(tensor.numel() for tensor in model.state_dict().values())
    return f"{folder}: {taken / total:.0%} of the weights loaded; fresh: {', '.join(fresh) or 'nothing'}"
