"""Quantizers behind one small interface: vectors on a grid become codes, and codes become vectors again.

Both kinds come from vector-quantize-pytorch and always run in float32, also under autocast: in bfloat16 neighbouring codes round together.
Axes: B batch, D channels, h w code grid, V codebook size.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from tokenizer.config import TokenizerConfig


@dataclass(frozen=True)
class Quantized:
    """What a quantizer makes of a grid of vectors."""

    values: Tensor
    """(B, D, h, w) float32, the codebook's vectors; gradients pass straight through (FSQ) or rotated (VQ)."""
    codes: Tensor
    """(B, h, w) int64, 0 <= code < V."""
    loss: Tensor
    """0-dim: the commitment term (0 for FSQ, which needs none)."""


class Quantizer(nn.Module, ABC):
    """A codebook of `codebook_size` vectors with `dim` numbers each."""

    dim: int
    codebook_size: int
    library: Any
    """The quantizer of vector-quantize-pytorch, which owns the buffers."""

    def forward(self, z: Tensor) -> Quantized:
        """Quantizes z (B, D, h, w), any float dtype."""
        height, width = z.shape[-2:]
        with torch.autocast(z.device.type, enabled=False):
            vectors = rearrange(z.float(), "b d h w -> b (h w) d").contiguous()
            values, codes, loss = self._quantize(vectors)
        return Quantized(
            values=rearrange(values, "b (h w) d -> b d h w", h=height, w=width),
            codes=rearrange(codes.long(), "b (h w) -> b h w", h=height, w=width),
            loss=loss,
        )

    def codes_to_values(self, codes: Tensor) -> Tensor:
        """The vectors (B, D, h, w) float32 of codes (B, h, w), integers in 0..V-1."""
        return rearrange(self._look_up(codes.long()), "b h w d -> b d h w")

    @abstractmethod
    def _quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) float32 -> values (B, N, D), codes (B, N), loss."""

    @abstractmethod
    def _look_up(self, codes: Tensor) -> Tensor:
        """(B, h, w) -> (B, h, w, D)."""

    @abstractmethod
    def refill_buffers(self) -> None:
        """Writes the buffers that a state_dict leaves out: after `from_pretrained` they hold garbage."""


class FiniteScalarQuantizer(Quantizer):
    """FSQ (Mentzer et al., arXiv:2309.15505): each of D numbers is rounded to one of its levels; the code is their mixed-radix number.

    There is nothing to learn, nothing that collapses, and neighbouring codes look alike.
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        from vector_quantize_pytorch import FSQ

        super().__init__()
        with torch.device("cpu"):  # FSQ computes its buffers in the constructor, which a meta device (from_pretrained) cannot
            # Asked for indices, it would keep a table of all codes: 3 GB on the way for 4^12 of them, from one line of a config.json.
            self.library = FSQ(list(levels), return_indices=False)
        self.levels = tuple(levels)
        self.dim = len(levels)
        self.codebook_size = prod(levels)

    def _quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, _ = self.library(vectors)
        return values, self.library.codes_to_indices(values), vectors.new_zeros(())

    def _look_up(self, codes: Tensor) -> Tensor:
        flat = self.library.indices_to_codes(rearrange(codes, "b h w -> b (h w)"))
        return rearrange(flat, "b (h w) d -> b h w d", h=codes.shape[1])

    def refill_buffers(self) -> None:
        fresh = FiniteScalarQuantizer(self.levels)
        with torch.no_grad():
            for name, buffer in self.named_buffers():
                buffer.copy_(fresh.get_buffer(name))


class VectorQuantizer(Quantizer):
    """VQ with EMA updates, a k-means start, the rotation trick (Fifty et al., arXiv:2410.06424) and revival of dead codes.

    The k-means start wants at least `codebook_size` vectors in the first training batch. It and the revival draw from torch's global
    generator: whoever needs a repeatable run seeds that around the call, as `tokenizer.train` does.
    """

    def __init__(self, codebook_size: int, dim: int, decay: float, dead_code_threshold: int, commitment_weight: float) -> None:
        from vector_quantize_pytorch import VectorQuantize

        super().__init__()
        with torch.device("cpu"):
            self.library = VectorQuantize(
                dim=dim,
                codebook_size=codebook_size,
                decay=decay,
                kmeans_init=True,
                rotation_trick=True,
                threshold_ema_dead_code=dead_code_threshold,
                commitment_weight=commitment_weight,
            )
        self.dim = dim
        self.codebook_size = codebook_size

    def _quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, codes, loss = self.library(vectors)
        return values, codes, loss.reshape(())

    def _look_up(self, codes: Tensor) -> Tensor:
        return self.library.get_buffer("_codebook.embed")[0, codes]

    def refill_buffers(self) -> None:
        with torch.no_grad():
            self.library.get_buffer("zero").zero_()


def build_quantizer(config: TokenizerConfig) -> Quantizer:
    """The quantizer that `config` names."""
    if config.quantizer == "fsq":
        return FiniteScalarQuantizer(config.levels)
    return VectorQuantizer(
        config.codebook_size, config.code_dim, config.codebook_decay, config.dead_code_threshold, config.commitment_weight
    )
