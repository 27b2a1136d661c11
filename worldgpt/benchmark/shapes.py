"""Sizes that are measured: those of models that are known for their speed, and our own, all with random weights."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from conditioning.text import fit_text_encoder
from conditioning.text_config import TextConfig
from data.episode import ChannelSpec
from tokenizer.config import TokenizerConfig
from tokenizer.config import presets as tokenizer_presets
from worldgpt.config import ModelConfig, presets
from worldgpt.decoding import RASTER, decoded
from worldgpt.layout import Layout
from worldgpt.model import WorldGPT, WorldGPTConfig


@dataclass(frozen=True)
class Shape:
    """A transformer over steps of h x w codes and some channels."""

    model: ModelConfig
    grid: tuple[int, int]
    channels: int
    codes: int
    """Size of the codebook."""
    levels: tuple[int, ...] = ()
    prompt_tokens: int = 1
    """One at least: the first code of a step is predicted from it."""
    tokenizer: TokenizerConfig | None = None
    """What turns its codes into pixels, where that is measured."""

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.grid[0] * self.grid[1] + self.channels

    @property
    def context(self) -> int:
        """Tokens that the next one sees, but for prompts."""
        return (self.model.context_steps - 1) * self.tokens

    @property
    def block_weights(self) -> int:
        """Numbers in the blocks' matrices."""
        return self.model.layers * (4 * self.model.width**2 + 3 * self.model.width * self.model.mlp_width)

    @property
    def actions(self) -> tuple[ChannelSpec, ...]:
        """All of its channels."""
        return tuple(ChannelSpec(f"channel{i}_norm", "norm", -1.0, 1.0, bins=256) for i in range(self.channels))

    def layout(self) -> Layout:
        return Layout.build({"front": self.grid}, self.codes, (), self.actions, self.prompt_tokens, self.levels, self.model.part_ids)


def _published(layers: int, width: int, heads: int, steps: int) -> ModelConfig:
    return ModelConfig(width, layers, heads, code_width=64, mlp_width=-(-width * 8 // 3 // 64) * 64, context_steps=steps)


def shapes() -> dict[str, Shape]:
    """By name. iris: Micheli et al. 2023 (arXiv:2209.00588, appendix A), 64x64 pixels; commavq: the GPT of commaai/commavq; mineworld: Guo
    et al. 2025 (arXiv:2504.08388), 300 M; wide: 12 layers of 512 with about 2000 tokens of context."""
    sixteenth = TokenizerConfig(16, encoder_width=64, decoder_width=64, levels=(8, 8, 8))
    known = {
        "iris": Shape(_published(10, 256, 4, 20), (4, 4), 1, 512, tokenizer=sixteenth),
        "wide": Shape(_published(12, 512, 8, 16), (8, 16), 2, 1024),
        "commavq": Shape(_published(24, 1024, 16, 20), (8, 16), 1, 1024),
        "mineworld": Shape(_published(20, 1024, 16, 16), (14, 24), 11, 8192),
    }
    for name in ("demo", "small", "base"):
        tokenizer = tokenizer_presets()[name].tokenizer
        model, prompts = presets()[name].model, TextConfig().prompt_tokens
        known[name] = Shape(model, (8, 16), 4, tokenizer.vocabulary, tokenizer.levels, prompts, tokenizer)
    return known


def random_world(shape: Shape, device: torch.device, dtype: torch.dtype, decode: str = RASTER) -> WorldGPT:
    """A model of the shape whose weights are random, its tokens in the order `decode`."""
    layout = decoded(shape.layout(), decode)
    text, proto = fit_text_encoder(["rainy night", "sunny day"], TextConfig(prompt_tokens=shape.prompt_tokens))
    config = WorldGPTConfig(asdict(shape.model), layout.to_dict(), asdict(text), [], [asdict(c) for c in shape.actions])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = WorldGPT(config)
    model.text.set_proto(proto)
    return model.eval().to(device, dtype)


def random_steps(layout: Layout, *leading: int) -> torch.Tensor:
    """(..., J) int64: any of the ids that may stand at each place."""
    sizes = torch.tensor([layout.codebook(s).size for s in layout.streams for _ in range(s.tokens)])
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(*leading, len(sizes), generator=generator, dtype=torch.float64) * sizes).long()
