"""Vectors on the code grid -> frames. Axes: B batch, H W pixels, h w code grid, D code dimension."""

from torch import Tensor, nn

from tokenizer.blocks import ChannelNorm, residual_stack
from tokenizer.config import TokenizerConfig


class Decoder(nn.Module):
    """The encoder's mirror image, often deeper: what the codes leave open it has to know."""

    def __init__(self, config: TokenizerConfig, code_dim: int) -> None:
        super().__init__()
        width = config.decoder_width * 2**config.halvings
        layers: list[nn.Module] = [nn.Conv2d(code_dim, width, 3, padding=1), residual_stack(width, config.decoder_depth)]
        for _ in range(config.halvings):
            layers += [nn.Conv2d(width, 2 * width, 1), nn.PixelShuffle(2), residual_stack(width // 2, config.decoder_depth)]
            width //= 2
        layers += [ChannelNorm(width), nn.Conv2d(width, 3 * config.patch**2, 3, padding=1), nn.PixelShuffle(config.patch)]
        self.layers = nn.Sequential(*layers)

    def forward(self, values: Tensor) -> Tensor:  # (B, D, h, w) -> (B, 3, H, W), about -1..1
        return self.layers(values)
