"""FrameTokenizer: frames -> codes -> frames, saved and loaded like any transformers model.

Axes: B batch, H W pixels, h w code grid, D code dimension.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig

from data.errors import UserError
from tokenizer.checkpoint import SafePretrained, load_checkpoint
from tokenizer.config import TokenizerConfig, code_parts
from tokenizer.decoder import Decoder
from tokenizer.encoder import Encoder
from tokenizer.quantizer import Quantizer, build_quantizer
from tokenizer.weight_files import Declared

MOST_CODES, MOST_IDS = 1 << 48, 1 << 24
"""Codes of a tokenizer that is loaded, and ids of each part that they are told in, at most."""


class FrameTokenizerConfig(PretrainedConfig):
    """The shape of a tokenizer and what it was trained on, as it stands in config.json."""

    model_type = "worldgpt_tokenizer"

    def __init__(
        self,
        tokenizer: dict[str, Any] | None = None,
        height: int = 0,
        width: int = 0,
        cameras: tuple[str, ...] | list[str] = (),
        data_hash: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tokenizer = tokenizer if tokenizer is not None else asdict(TokenizerConfig())
        self.height, self.width = height, width
        """Size in pixels of the frames it was trained on; 0: not trained."""
        self.cameras = list(cameras)
        """Names of the cameras it was trained on."""
        self.data_hash = data_hash
        """Hash of the store it was trained on."""

    def shape(self) -> TokenizerConfig:
        """The fields of `tokenizer`, checked."""
        known = {field.name for field in fields(TokenizerConfig)}
        unknown = sorted(set(self.tokenizer) - known)
        if unknown:
            raise UserError(f"tokenizer config: unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
        return TokenizerConfig(**{**self.tokenizer, "levels": tuple(self.tokenizer.get("levels", TokenizerConfig.levels))})


@dataclass(frozen=True)
class Reconstruction:
    """One training pass."""

    frames: Tensor
    """(B, 3, H, W) float, about -1..1."""
    codes: Tensor
    """(B, h, w) int64."""
    quantizer_loss: Tensor
    """0-dim."""


class FrameTokenizer(SafePretrained):
    """A convolutional autoencoder with a quantizer in the middle."""

    kind = "a tokenizer"
    trained_by = "scripts/train_tokenizer.py"
    limits: ClassVar = {"codebook_size": MOST_IDS, "encoder_depth": 256, "decoder_depth": 256, "downsampling": 256}
    config_class = FrameTokenizerConfig
    main_input_name = "frames"

    def __init__(self, config: FrameTokenizerConfig) -> None:
        super().__init__(config)
        self.shape = config.shape()
        self.quantizer: Quantizer = build_quantizer(self.shape)
        self.encoder = Encoder(self.shape, self.quantizer.dim)
        self.decoder = Decoder(self.shape, self.quantizer.dim)
        self.post_init()

    @property
    def codebook_size(self) -> int:
        return self.quantizer.codebook_size

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels of the digits that a code is made of, the fastest first; () for VQ, whose codes have none."""
        return tuple(self.shape.levels) if self.shape.quantizer == "fsq" else ()

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of codes for frames of this size; UserError where it does not divide."""
        return self.shape.grid(height, width)

    @classmethod
    def check_buffers(cls, folder: Path, config: FrameTokenizerConfig, declared: Mapping[str, Declared]) -> None:
        """A codebook of vectors is made in memory at once: no larger than the one that the weights hold."""
        shape = config.shape()
        if shape.quantizer == "fsq":
            if shape.vocabulary > MOST_CODES:  # before codes of any number of digits are parted
                bits = shape.vocabulary.bit_length() - 1
                raise UserError(f"{folder}: tokenizer.levels expected at most {MOST_CODES:,} codes, got 2^{bits} or more")
            largest = max(map(prod, code_parts(shape.levels)))
            if largest > MOST_IDS:
                raise UserError(f"{folder}: tokenizer.levels expected at most {MOST_IDS:,} ids a part, got {largest:,}")
        codebook = declared.get("quantizer.libraries.0._codebook.embed")
        if shape.quantizer == "vq" and (codebook is None or codebook.shape != (1, shape.codebook_size, shape.code_dim)):
            there = "none" if codebook is None else f"one of {codebook.shape!s:.80}"
            raise UserError(f"{folder}: the weights do not fit config.json, expected a codebook of {shape.codebook_size}, got {there}")

    def forward(self, frames: Tensor) -> Reconstruction:
        """frames (B, H, W, 3) uint8 -> their reconstruction, with gradients."""
        quantized = self.quantizer(self.encoder(to_signal(frames)))
        return Reconstruction(self.decoder(quantized.values), quantized.codes, quantized.loss)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """frames (B, H, W, 3) uint8 -> codes (B, h, w) int64."""
        self.grid(frames.shape[1], frames.shape[2])
        return self.quantizer(self.encoder(to_signal(frames))).codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, h, w), integers in 0..codebook_size-1 -> frames (B, H, W, 3) uint8."""
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= self.codebook_size:
            raise UserError(f"codes: expected 0..{self.codebook_size - 1}, got {low}..{high}")
        return to_frames(self.decoder(self.quantizer.codes_to_values(codes)))

    def content_hash(self) -> str:
        """16 hex digits that change with any weight and with the codebook, and with nothing else: they name what the codes mean."""
        digest = hashlib.sha256(f"{self.shape.quantizer} {self.shape.vocabulary} {self.shape.levels} {self.shape.patch}".encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Layers keep their constructors' initial weights; only buffers that no checkpoint holds are written again.

        transformers asks for those modules alone that own such a buffer, hence the question for the library's module.
        """
        if any(module is library for library in self.quantizer.libraries):
            self.quantizer.refill_buffers()


def to_signal(frames: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in -1..1; channels_last in memory, which convolutions like."""
    return rearrange(frames, "b h w c -> b c h w").float() / 127.5 - 1


def to_frames(signal: Tensor) -> Tensor:
    """(B, 3, H, W) in -1..1, clipped -> (B, H, W, 3) uint8."""
    return rearrange((signal.float() + 1) * 127.5, "b c h w -> b h w c").round().clamp(0, 255).to(torch.uint8).contiguous()


def load_tokenizer(name: str | Path, **options: Any) -> FrameTokenizer:
    """A tokenizer saved with `save_pretrained`, from a folder or the Hub, in evaluation mode; `options` are those of `from_pretrained`.

    UserError where there is none, or a broken one.
    """
    return load_checkpoint(FrameTokenizer, name, **options)


AutoConfig.register(FrameTokenizerConfig.model_type, FrameTokenizerConfig)
AutoModel.register(FrameTokenizerConfig, FrameTokenizer)
