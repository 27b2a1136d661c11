"""Muon: what it makes of a matrix, what the rest gets, and that its state survives a checkpoint."""

import pytest
import torch
from torch import nn

from tokenizer import muon as optimizers
from tokenizer.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(24, 24), (12, 40), (40, 12)])
def test_orthogonal_keeps_the_directions_and_levels_the_lengths(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    (straight,), (rough,), (longer,) = orthogonal(matrix[None]), orthogonal(matrix[None], bf16=True), orthogonal(1000 * matrix[None])
    inside = u.T @ straight @ vh.T
    assert (inside - torch.diag(inside.diag())).abs().max() < 1e-3
    assert inside.diag().min() > 0.5 and inside.diag().max() < 1.3
    assert torch.allclose(straight, longer, atol=1e-4)
    assert (u.T @ rough @ vh.T - inside).abs().max() < 0.05


def test_matrices_of_a_shape_may_move_together(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(8, 6), (6, 8), (8, 6), (4, 3, 3, 3), (8, 6), (4, 3, 3, 3)]
    moved = []
    for together in (False, True):
        if together:
            monkeypatch.setattr(optimizers, "_bundles", lambda params: [[0, 2, 4], [1], [3, 5]])
        generator = torch.Generator().manual_seed(0)
        params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        optimizer = Muon([{"params": params, "matrices": True, "weight_decay": 0.1}], 0.01, (0.9, 0.95))
        for _ in range(3):
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
        moved.append([p.detach() for p in params])
    torch.testing.assert_close(moved[0], moved[1])


def test_the_rest_moves_as_in_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Embedding(5, 3), nn.Embedding(5, 3)
    theirs.load_state_dict(ours.state_dict())
    muon = Muon([{"params": [ours.weight], "weight_decay": 0.1}], 0.01, (0.9, 0.95))
    adamw = torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, eps=1e-8)
    for step in range(6):
        for table, optimizer in ((ours, muon), (theirs, adamw)):
            optimizer.zero_grad()
            (table(torch.tensor([step % 5, 1])) ** 2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("module", [nn.Linear(8, 6, bias=False), nn.Conv2d(4, 8, 3, bias=False)])
def test_an_update_of_a_matrix_has_the_size_of_adamws(module: nn.Module) -> None:
    (weight,) = module.parameters()
    before = weight.detach().clone()
    weight.grad = 100 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    Muon([{"params": [weight], "matrices": True}], 0.01, (0.9, 0.95)).step()
    moved = (weight.detach() - before).square().mean().sqrt()
    assert 0.1 * 0.01 < moved < 0.3 * 0.01


def test_weight_decay_shrinks_by_the_learning_rate_alone() -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([{"params": [weight], "matrices": True, "weight_decay": 0.5}], 0.1, (0.9, 0.95)).step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 0.95))
