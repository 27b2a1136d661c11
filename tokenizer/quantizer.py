"""Quantizers behind one small interface: vectors on a grid become codes, and codes become vectors again.

Both kinds come from vector-quantize-pytorch and always run in float32, also under autocast: in bfloat16 neighbouring codes round together.
Axes: B batch, D channels, h w code grid, V codebook size.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod

import torch
from einops import rearrange
from torch import Tensor, nn

from tokenizer.config import TokenizerConfig, code_parts


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
    libraries: nn.ModuleList
    """The quantizers of vector-quantize-pytorch, which own the buffers: one, or one for each part that a code is told in."""

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
        parts = code_parts(tuple(levels))
        with torch.device("cpu"):  # FSQ computes its buffers in the constructor, which a meta device (from_pretrained) cannot
            self.libraries = nn.ModuleList(FSQ(list(part)) for part in parts)
        self.levels = tuple(levels)
        self.dim, self.dims = len(levels), [len(part) for part in parts]
        self.codebook_size, self.sizes = prod(levels), [prod(part) for part in parts]

    def _quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, codes, faster = [], torch.zeros(vectors.shape[:-1], dtype=torch.long, device=vectors.device), 1
        for library, part, size in zip(self.libraries, vectors.split(self.dims, -1), self.sizes, strict=True):
            quantized, ids = library(part.contiguous())
            values.append(quantized)
            codes, faster = codes + faster * ids.long(), faster * size
        return torch.cat(values, dim=-1), codes, vectors.new_zeros(())

    def _look_up(self, codes: Tensor) -> Tensor:
        values = []
        for library, size in zip(self.libraries, self.sizes, strict=True):
            values.append(library.get_buffer("implicit_codebook")[codes % size])
            codes = codes // size
        return torch.cat(values, dim=-1)

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
            library = VectorQuantize(
                dim=dim,
                codebook_size=codebook_size,
                decay=decay,
                kmeans_init=True,
                rotation_trick=True,
                threshold_ema_dead_code=dead_code_threshold,
                commitment_weight=commitment_weight,
            )
        self.libraries = nn.ModuleList([library])
        self.dim = dim
        self.codebook_size = codebook_size

    def _quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, codes, loss = self.libraries[0](vectors)
        return values, codes, loss.reshape(())

    def _look_up(self, codes: Tensor) -> Tensor:
        return self.libraries[0].get_buffer("_codebook.embed")[0, codes]

    def refill_buffers(self) -> None:
        with torch.no_grad():
            self.libraries[0].get_buffer("zero").zero_()


def build_quantizer(config: TokenizerConfig) -> Quantizer:
    """The quantizer that `config` names."""
    if config.quantizer == "fsq":
        return FiniteScalarQuantizer(config.levels)
    return VectorQuantizer(
        config.codebook_size, config.code_dim, config.codebook_decay, config.dead_code_threshold, config.commitment_weight
    )
