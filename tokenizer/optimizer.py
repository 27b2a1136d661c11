"""Which parameters are decayed, orthogonalised or neither."""

import torch
from torch import nn

from tokenizer.loop_config import LoopConfig
from tokenizer.muon import Muon


def build_optimizer(model: nn.Module, config: LoopConfig, *, bf16: bool) -> torch.optim.Optimizer:
    """Weight decay on matrices and convolutions alone; only these go through Muon (in bf16 if so told), embeddings are tables of rows."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    maps = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    trained = [p for p in model.parameters() if p.requires_grad]
    mapping = [p for p in trained if id(p) in maps]
    decayed = [p for p in trained if p.ndim >= 2 and id(p) not in embeddings and id(p) not in maps]
    chosen = {id(p) for p in (*mapping, *decayed)}
    decay = {"weight_decay": config.weight_decay}
    rest = {"params": [p for p in trained if id(p) not in chosen], "weight_decay": 0.0}
    betas = (0.9, config.beta2)
    if config.optimizer == "muon":
        groups = [{"params": mapping, "matrices": True, **decay}, {"params": decayed, **decay}, rest]
        return Muon(groups, config.learning_rate, betas, bf16=bf16)
    return torch.optim.AdamW([{"params": [*mapping, *decayed], **decay}, rest], lr=config.learning_rate, betas=betas, fused=True)
