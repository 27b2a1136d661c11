"""The reconstruction loss: pixels, edges, structure, and where asked for a critic's and a perceptual network's opinion.

Signals are (B, 3, H, W) floats, true values in -1..1.
"""

import torch
from einops import reduce
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from tokenizer.config import LossConfig
from tokenizer.metrics import ssim_map
from tokenizer.perceptual import PerceptualDistance, load_perceptual

DETAIL_WINDOW = 5
DETAIL_FULL = 0.25
"""Difference from the blurred picture (of 2, the range of the signal) at which a pixel gets the whole extra weight."""

HARD_FULL = 0.25
"""Error (of 2, the range of the signal) at which a pixel gets the whole extra weight of hard ones."""


class ReconstructionLoss:
    """Weighs the terms that `config` asks for. A perceptual term without weights is told of and left out."""

    def __init__(self, config: LossConfig) -> None:
        self.config = config
        self.perceptual: PerceptualDistance | None = load_perceptual(config.perceptual_weights) if config.perceptual else None

    def __call__(self, made: Tensor, true: Tensor) -> dict[str, Tensor]:
        """Weighted terms by name; their sum is the loss."""
        config = self.config
        made = made.float()
        weight = detail_weight(true, config.detail) if config.detail else torch.ones((), device=true.device)
        if config.hard:
            weight = weight + hard_weight(made, true, config.hard)
        terms = {
            "l1": lambda: (weight * (made - true).abs()).mean(),
            "l2": lambda: (weight * (made - true).square()).mean(),
            "gradient": lambda: gradient_difference(made, true),
            "ssim": lambda: 1 - ssim_map((made + 1) * 127.5, (true + 1) * 127.5).mean(),
        }
        parts = {name: getattr(config, name) * term() for name, term in terms.items() if getattr(config, name)}
        if self.perceptual is not None:
            parts["perceptual"] = config.perceptual * self.perceptual(made, true)
        return parts


def detail_weight(true: Tensor, strength: float) -> Tensor:
    """(B, 1, H, W): 1 on flat ground, up to 1 + strength where the grey picture leaves its own 5x5 mean, as thin bright things do."""
    grey = reduce(true, "b c h w -> b 1 h w", "mean")
    blurred = F.avg_pool2d(F.pad(grey, [DETAIL_WINDOW // 2] * 4, mode="replicate"), DETAIL_WINDOW, stride=1)
    return 1 + strength * ((grey - blurred).abs() / DETAIL_FULL).clamp(max=1)


def hard_weight(made: Tensor, true: Tensor, strength: float) -> Tensor:
    """(B, 1, H, W), no gradient: rises with the error, up to `strength` where 3x3 pixels are off by HARD_FULL: rare
    things come out worst, and a mean over all pixels hardly knows of them."""
    error = reduce((made.detach() - true).abs(), "b c h w -> b 1 h w", "mean")
    around = F.avg_pool2d(F.pad(error, [1] * 4, mode="replicate"), 3, stride=1)
    return strength * (around / HARD_FULL).clamp(max=1)


def gradient_difference(made: Tensor, true: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbouring pixels, down plus across."""
    error = made - true
    return (error[:, :, 1:] - error[:, :, :-1]).abs().mean() + (error[:, :, :, 1:] - error[:, :, :, :-1]).abs().mean()


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches as true (positive) or made (negative)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for wider in (width, 2 * width, 4 * width):
            convolution = nn.Conv2d(channels, wider, 4, stride=2, padding=1)
            layers += [nn.utils.parametrizations.spectral_norm(convolution), nn.LeakyReLU(0.2)]
            channels = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, signal: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, 1, H/8, W/8)
        return self.layers(signal)


def adversarial_terms(discriminator: nn.Module, made: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """(term for the tokenizer, hinge loss of the discriminator), made for one backward pass and one optimizer.

    The tokenizer's term sees the discriminator's weights detached, and the discriminator's loss sees the made frames detached: so each
    gradient reaches only its owner.
    """
    frozen = {name: p.detach() for name, p in discriminator.named_parameters()}
    fool = -functional_call(discriminator, frozen, (made,)).float().mean()
    hinge = F.relu(1 - discriminator(true).float()).mean() + F.relu(1 + discriminator(made.detach()).float()).mean()
    return fool, hinge
