"""Muon: matrices move along their orthogonalised momentum, everything else as in AdamW.

After Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with the scale of Liu et al., "Muon is scalable
for LLM training" (2025, arXiv:2502.16982, section 2.2), by which AdamW's learning rate and weight decay hold for it too. torch.optim.Muon
takes neither convolutions nor float32, which two cores without fast bfloat16 need.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MATCH_ADAMW = 0.2
"""Root mean square of an AdamW update, about; a singular value of 1 in each direction is brought to it."""
EPS = 1e-8


class Muon(torch.optim.Optimizer):
    """Parameter groups with `matrices=True` are orthogonalised, those with `matrices=False` get AdamW; `lr` means the same for both."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], *, bf16: bool = False) -> None:
        """With `bf16` matrices are orthogonalised in it, which loses nothing that counts and is several times faster where bf16 is."""
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0, "matrices": False})
        self.bf16 = bf16

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            update = self._muon if group["matrices"] else self._adamw
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update(p.grad, self.state[p], group["betas"]), alpha=-group["lr"])

    def _muon(self, gradient: Tensor, state: dict[str, Tensor], betas: tuple[float, float]) -> Tensor:
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        direction = orthogonal(gradient.lerp(momentum, MOMENTUM).flatten(1), bf16=self.bf16)
        return direction.view_as(gradient) * (MATCH_ADAMW * max(direction.shape) ** 0.5)

    def _adamw(self, gradient: Tensor, state: dict[str, Tensor], betas: tuple[float, float]) -> Tensor:
        """The update of Loshchilov & Hutter, "Decoupled weight decay regularization" (2019), algorithm 2."""
        if not state:
            state |= {"exp_avg": torch.zeros_like(gradient), "exp_avg_sq": torch.zeros_like(gradient), "step": torch.zeros(())}
        state["step"] += 1
        mean = state["exp_avg"].lerp_(gradient, 1 - betas[0])
        square = state["exp_avg_sq"].lerp_(gradient.square(), 1 - betas[1])
        step = float(state["step"])
        return (mean / (1 - betas[0] ** step)) / ((square / (1 - betas[1] ** step)).sqrt() + EPS)


def orthogonal(matrix: Tensor, *, bf16: bool = False) -> Tensor:
    """(n, m) -> about U V' of its singular value decomposition U S V', by Newton and Schulz's iteration: singular values of 0.7 to 1.2."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    if bf16:
        x = x.bfloat16()
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)
