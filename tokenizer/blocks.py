"""Convolutional parts that the encoder and the decoder share. Axes: B batch, D channels, H W any grid."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    """RMSNorm over the channels of each position, so that it is blind to the size of the picture; computed in float32."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:  # (B, D, H, W) -> same; the permutes only relabel axes where x is channels_last
        normed = F.rms_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.weight.to(x.dtype), eps=1e-6)
        return normed.permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """norm, 3x3, SiLU, 3x3, added to the input. The second convolution starts at zero, so a deep stack starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.widen = nn.Conv2d(channels, channels, 3, padding=1)
        self.narrow = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.narrow.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:  # (B, D, H, W) -> (B, D, H, W)
        return x + self.narrow(F.silu(self.widen(self.norm(x))))


def residual_stack(channels: int, depth: int) -> nn.Sequential:
    """`depth` residual blocks of equal width."""
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(depth)))
