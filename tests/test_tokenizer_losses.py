"""Laws of the loss: zero for a perfect picture, each term where it belongs, and a critic that trains beside the tokenizer."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from data.errors import UserError
from tokenizer.config import LossConfig
from tokenizer.losses import PatchDiscriminator, ReconstructionLoss, adversarial_terms, detail_weight, gradient_difference
from tokenizer.perceptual import load_perceptual

EVERY_TERM = LossConfig(l1=1, l2=1, gradient=1, ssim=1, detail=3)
VGG_SHAPES = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256), 17: (512, 256)}
VGG_SHAPES |= dict.fromkeys((19, 21, 24, 26, 28), (512, 512))


def signals(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, 16, 24, generator=generator) * 2 - 1, torch.rand(2, 3, 16, 24, generator=generator) * 2 - 1


def test_a_perfect_picture_costs_nothing() -> None:
    true, _ = signals()
    parts = ReconstructionLoss(EVERY_TERM)(true, true)
    assert set(parts) == {"l1", "l2", "gradient", "ssim"}
    assert all(float(part) == pytest.approx(0, abs=1e-5) for part in parts.values())


def test_weight_zero_leaves_a_term_out_and_weights_scale() -> None:
    made, true = signals()
    one = ReconstructionLoss(LossConfig(l1=1, l2=0, detail=0))(made, true)
    two = ReconstructionLoss(LossConfig(l1=2, l2=0, detail=0))(made, true)
    assert set(one) == {"l1"}
    assert float(one["l1"]) == pytest.approx(float((made - true).abs().mean()))
    assert float(two["l1"]) == pytest.approx(2 * float(one["l1"]))


def test_gradient_term_sees_edges_and_not_brightness() -> None:
    made, true = signals()
    assert float(gradient_difference(true + 0.3, true)) == pytest.approx(0, abs=1e-6)
    error = (made - true).numpy()
    slow = abs(error[:, :, 1:] - error[:, :, :-1]).mean() + abs(error[:, :, :, 1:] - error[:, :, :, :-1]).mean()
    assert float(gradient_difference(made, true)) == pytest.approx(slow, rel=1e-5)


def test_detail_weighs_a_thin_bright_line_and_not_the_ground() -> None:
    true = torch.full((1, 3, 16, 24), -0.5)
    true[..., 12] = 1.0
    weight = detail_weight(true, strength=3.0)
    assert weight.shape == (1, 1, 16, 24)
    assert bool((weight[..., 12] == 4).all())
    assert bool((weight[..., :9] == 1).all())
    assert float(weight.min()) == 1


def test_adversarial_gradients_reach_only_their_owners() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(width=8)
    made, true = signals()
    made.requires_grad_()
    fool, hinge = adversarial_terms(discriminator, made, true)
    fool.backward()
    assert made.grad is not None
    assert all(p.grad is None for p in discriminator.parameters())
    made.grad = None
    hinge.backward()
    assert made.grad is None
    assert all(p.grad is not None for p in discriminator.parameters())


def test_the_discriminator_learns_to_tell() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(width=8)
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-2)
    made, true = signals()
    for _ in range(30):
        _, hinge = adversarial_terms(discriminator, made * 0.3, true)
        optimizer.zero_grad()
        hinge.backward()
        optimizer.step()
    assert float(discriminator(true).detach().mean()) > 0.5
    assert float(discriminator(made * 0.3).detach().mean()) < -0.5


def test_absent_perceptual_weights_are_told_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, true = signals()
    assert "perceptual" not in ReconstructionLoss(LossConfig(perceptual=1.0))(made, true)
    assert "perceptual term left out: no weights" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"losses\.perceptual_weights: expected a safetensors file, found none"):
        load_perceptual(str(tmp_path / "absent.safetensors"))
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="expected VGG-16's convolutions"):
        load_perceptual(str(tmp_path / "other.safetensors"))


def test_perceptual_distance_equals_the_slow_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for layer, (wide, narrow) in VGG_SHAPES.items():
        weights[f"features.{layer}.weight"] = torch.randn(wide, narrow, 3, 3, generator=generator) * (2 / (9 * narrow)) ** 0.5
        weights[f"features.{layer}.bias"] = torch.zeros(wide)
    save_file(weights, tmp_path / "vgg.safetensors")
    distance = load_perceptual(str(tmp_path / "vgg.safetensors"))
    assert "every channel counts alike" in capsys.readouterr().out
    assert distance is not None
    made, true = signals()

    def features(signal: torch.Tensor) -> list[torch.Tensor]:
        x = (signal - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) / torch.tensor([0.458, 0.448, 0.450])[:, None, None]
        taps = []
        for layer in range(31):  # torchvision's order: convolutions, ReLUs, and a pooling where the channels grow
            if layer in VGG_SHAPES:
                x = F.conv2d(x, weights[f"features.{layer}.weight"], padding=1)
            elif layer in (4, 9, 16, 23):
                x = F.max_pool2d(x, 2)
            elif layer < 30:
                x = x.relu()
            if layer in (3, 8, 15, 22, 29):
                taps.append(F.normalize(x, dim=1))
        return taps

    slow = sum((a - b).square().mean() for a, b in zip(features(made), features(true), strict=True))
    assert float(distance(made, true)) == pytest.approx(float(slow), rel=1e-4)
    assert float(distance(true, true)) == 0
