"""Muon: matrices move along their orthogonalised momentum, everything else as in AdamW.

After Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with the scale of Liu et al., "Muon is scalable
for LLM training" (2025, arXiv:2502.16982, section 2.2), by which AdamW's learning rate and weight decay hold for it too. torch.optim.Muon
takes neither convolutions nor float32, which two cores without fast bfloat16 need.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.adamw import adamw

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
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                (self._muon if group["matrices"] else self._adamw)(params, group)

    def _muon(self, params: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [cast(Tensor, p.grad) for p in params]
        moments = [self._state(p, "momentum") for p in params]
        torch._foreach_lerp_(moments, gradients, 1 - MOMENTUM)  # type: ignore[attr-defined]
        directions = torch._foreach_lerp(gradients, moments, MOMENTUM)  # type: ignore[attr-defined]
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])  # type: ignore[attr-defined]
        for same in _bundles(params):
            straight = orthogonal(torch.stack([directions[i].flatten(1) for i in same]), bf16=self.bf16)
            scale = MATCH_ADAMW * max(straight.shape[1:]) ** 0.5
            updates = [part.view_as(params[i]) for i, part in zip(same, straight, strict=True)]
            torch._foreach_add_([params[i] for i in same], updates, alpha=-group["lr"] * scale)  # type: ignore[attr-defined]

    def _adamw(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Loshchilov & Hutter, "Decoupled weight decay regularization" (2019), algorithm 2."""
        steps = [self._state(p, "step", ()) for p in params]
        adamw(
            params,
            [cast(Tensor, p.grad) for p in params],
            [self._state(p, "exp_avg") for p in params],
            [self._state(p, "exp_avg_sq") for p in params],
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=EPS,
            maximize=False,
        )

    def _state(self, p: Tensor, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """What is kept for a parameter, zeros at first: as large as itself, or of `shape` in float32."""
        if name not in self.state[p]:
            self.state[p][name] = torch.zeros_like(p) if shape is None else torch.zeros(shape, device=p.device)
        return self.state[p][name]


def _bundles(params: Sequence[Tensor]) -> list[list[int]]:
    """Places of the matrices that are worked on together: on a GPU, which else waits for the host, all of a shape; on a CPU each alone."""
    bundles: dict[Any, list[int]] = {}
    for i, p in enumerate(params):
        bundles.setdefault((p.shape, p.dtype) if p.is_cuda else i, []).append(i)
    return list(bundles.values())


def orthogonal(matrices: Tensor, *, bf16: bool = False) -> Tensor:
    """(k, n, m) -> about U V' of each one's singular value decomposition U S V', by Newton and Schulz's iteration: values of 0.7 to 1.2."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    if bf16:
        x = x.bfloat16()
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)
