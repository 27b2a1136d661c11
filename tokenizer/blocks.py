"""Convolutional parts that the encoder and the decoder share. Axes: B batch, D channels, H W any grid."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each position, so that a code depends on its surroundings alone and not on the whole picture.

    Autocast would turn its input to float32 and back; the kernel takes bfloat16 as it is and sums in float32, in half the time.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:  # (B, D, H, W) -> same; the rearranges only relabel axes where x is channels_last
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = (self.weight, self.bias) if x.device.type == "cpu" else (self.weight.to(x.dtype), self.bias.to(x.dtype))
            normed = F.layer_norm(rearrange(x, "b d h w -> b h w d"), self.weight.shape, weight, bias)
        return rearrange(normed, "b h w d -> b d h w")


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
