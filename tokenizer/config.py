"""What a tokenizer is built from and trained with; free of torch, so that `--help` answers quickly."""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import log2, prod
from typing import Literal

from data.errors import UserError
from tokenizer.loop_config import LoopConfig

WHOLE = 2**14
"""Ids that one embedding and one softmax can hold; of more, a code is told in parts."""


def code_parts(levels: tuple[int, ...], most: int = WHOLE) -> tuple[tuple[int, ...], ...]:
    """The levels of the parts that a code of such `levels` is told in: as few as hold no more ids than `most` each, as alike as can be.

    >>> [len(part) for part in code_parts((4,) * 15)]
    [5, 5, 5]
    >>> [len(part) for part in code_parts((4,) * 18, 256)]
    [4, 4, 3, 4, 3]
    """
    for count in range(1, len(levels)):
        ends = [-(-len(levels) * part // count) for part in range(count + 1)]
        parts = tuple(levels[start:end] for start, end in pairwise(ends))
        if max(map(prod, parts)) <= most:
            return parts
    return tuple((level,) for level in levels)


@dataclass(frozen=True)
class TokenizerConfig:
    """Shape of the networks and of the codebook. The networks are convolutional: any frame size that divides will do."""

    downsampling: int = 8
    """Pixels a code stands for in each direction: `patch` times a power of two (8: a 64x128 frame has 8x16 codes)."""
    patch: int = 4
    """Pixels that are folded into channels before the first convolution, and unfolded after the last, in each direction."""
    encoder_width: int = 64
    """Channels of the encoder behind the fold; each further halving of the grid doubles them."""
    encoder_depth: int = 1
    """Residual blocks of the encoder on each grid."""
    decoder_width: int = 64
    """Channels of the decoder before the unfold; each further halving of the grid doubles them."""
    decoder_depth: int = 2
    """Residual blocks of the decoder on each grid."""
    quantizer: Literal["fsq", "vq"] = "fsq"
    """'fsq' rounds each of a few numbers to its levels (stable codes, nothing to collapse); 'vq' learns a codebook of vectors."""
    levels: tuple[int, ...] = (4, 4, 4, 4, 4)
    """FSQ: levels of each number, each at least 3; the codebook's size is their product."""
    codebook_size: int = 1024
    """VQ: number of vectors in the codebook."""
    code_dim: int = 8
    """VQ: numbers in each vector of the codebook."""
    codebook_decay: float = 0.9
    """VQ: decay of the running means that the codebook's vectors are."""
    dead_code_threshold: int = 2
    """VQ: a code used less often than this in a batch (running mean) is restarted from a vector of the batch."""
    commitment_weight: float = 0.25
    """VQ: weight of the pull of the encoder's vectors towards the codebook's."""

    def __post_init__(self) -> None:
        halvings = log2(self.downsampling / self.patch) if self.patch > 0 and self.downsampling > 0 else -1.0
        if halvings < 0 or halvings != int(halvings):
            raise UserError(f"tokenizer.downsampling: expected patch ({self.patch}) times a power of two, got {self.downsampling}")
        if self.quantizer == "fsq" and (not self.levels or min(self.levels) < 3):
            raise UserError(f"tokenizer.levels: expected one or more numbers of at least 3, got {self.levels}")
        if self.quantizer == "vq" and (self.codebook_size < 2 or self.code_dim < 1):
            raise UserError(f"tokenizer.codebook_size: expected 2 vectors or more, got {self.codebook_size} of {self.code_dim}")
        for name in ("encoder_width", "decoder_width"):
            if getattr(self, name) < 1:
                raise UserError(f"tokenizer.{name}: expected at least 1 channel, got {getattr(self, name)}")

    @property
    def halvings(self) -> int:
        """How often the grid is halved after the fold."""
        return int(log2(self.downsampling / self.patch))

    @property
    def vocabulary(self) -> int:
        """Number of codes."""
        return prod(self.levels) if self.quantizer == "fsq" else self.codebook_size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of codes for frames of `height` x `width` pixels; UserError where they do not divide.

        >>> TokenizerConfig(downsampling=8).grid(64, 128)
        (8, 16)
        """
        for name, size in (("height", height), ("width", width)):
            if size < self.downsampling or size % self.downsampling:
                expected = f"expected a multiple of the tokenizer's downsampling {self.downsampling}"
                raise UserError(f"frame {name}: {expected}, got {size} (frames are {height}x{width})")
        return height // self.downsampling, width // self.downsampling


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms of the reconstruction loss; pixel values run from -1 to 1. A weight of 0 leaves a term out."""

    l1: float = 0.0
    """Absolute error."""
    l2: float = 4.0
    """Squared error: what PSNR measures. It learns faster than l1, which stays long at the median picture."""
    gradient: float = 0.0
    """Absolute error of the differences between neighbouring pixels, across and down: edges."""
    ssim: float = 0.0
    """1 - SSIM."""
    detail: float = 4.0
    """Extra weight on l1 and l2 where the true picture differs from its own blur: up to 1 + `detail` at the strongest edges."""
    hard: float = 0.0
    """Extra weight on l1 and l2 where the frame comes out badly: up to 1 + `hard` where 3x3 pixels are off by an eighth of the range."""
    adversarial: float = 0.0
    """Hinge loss against a patch discriminator that is trained alongside."""
    adversarial_start: int = 1000
    """Updates before the adversarial term sets in; the discriminator learns from the first."""
    perceptual: float = 0.0
    """Distance between VGG-16 features (LPIPS); needs `perceptual_weights`."""
    perceptual_weights: str = ""
    """Safetensors file with VGG-16's convolutions (`features.N.weight`) and, where present, LPIPS's heads (`lin0.model.1.weight`, ...)."""


@dataclass(frozen=True)
class TokenizerTrainConfig:
    """A training of the tokenizer."""

    data: str = "runs/data/dashsim"
    """Folder of prepared episodes (scripts/prepare_data.py). The default is made if it is missing."""
    output: str = "runs/tokenizer"
    """Folder for the model, its checkpoints, logs and report; refused if it exists, unless --resume or --overwrite is given."""
    init_from: str | None = None
    """Folder of a trained tokenizer of the same shape to fine-tune."""
    from_run: str | None = None
    """Folder of a training to make again: the settings in its run.json take the place of the defaults; name another --output."""
    resume: bool = False
    """Continue from the newest checkpoint in the output folder."""
    overwrite: bool = False
    """Replace the output folder."""
    flip: bool = True
    """Mirror half of the training frames left to right."""
    evaluation_frames: int = 1024
    """Held-out frames for the figures, in runs of consecutive frames; the share of unchanged codes needs those."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=1200, learning_rate=2e-3, weight_decay=0.0))


def presets() -> dict[str, TokenizerTrainConfig]:
    """Sizes by name. Trials behind them: docs/experiments.md."""
    demo = LoopConfig(
        steps=500, batch_size=16, learning_rate=2e-3, weight_decay=0.0, beta2=0.95, warmup_steps=50, ema_decay=0.99, log_every=100
    )
    small = replace(demo, steps=7000, warmup_steps=100, ema_decay=0.998)
    big = replace(demo, steps=50_000, batch_size=64, learning_rate=1e-3, warmup_steps=1000, ema_decay=0.999)
    base = TokenizerConfig(8, encoder_width=128, encoder_depth=2, decoder_width=128, decoder_depth=4, levels=(4, 4, 4, 4, 4, 4))
    gaia = TokenizerConfig(16, encoder_width=128, encoder_depth=2, decoder_width=192, decoder_depth=4, levels=(8, 8, 8, 4, 4))
    return {
        "demo": TokenizerTrainConfig(tokenizer=TokenizerConfig(levels=(4, 4, 4, 4)), losses=LossConfig(hard=4.0), loop=demo),
        "small": TokenizerTrainConfig(
            tokenizer=TokenizerConfig(encoder_depth=2, decoder_depth=3, levels=(4,) * 24), losses=LossConfig(hard=16.0), loop=small
        ),
        "base": TokenizerTrainConfig(tokenizer=base, loop=big),
        "large": TokenizerTrainConfig(tokenizer=base, loop=big),
        "gaia": TokenizerTrainConfig(tokenizer=gaia, loop=replace(big, steps=100_000)),
    }
