"""WorldGPT: a causal transformer over steps of [prompt][frame codes][telemetry][actions].

After GAIA-1 (Hu et al. 2023, arXiv:2309.17080, section 2.2) and IRIS (Micheli et al. 2023, arXiv:2209.00588); blocks with
layer norm and SwiGLU. Added here: hints (worldgpt/embedding.py). The input at each position also holds what stands around the token to
be predicted, as far as it is known (one and two steps back, and beside it), and the channels of the step before: so that "stays as it
was" and "moves as it did" need no attention at all, and an action is seen wherever it acts.

Axes: B worlds, T steps, P prompt positions, J tokens a step, S = P + J, D width, V ids of a codebook, U distinct prompts.
"""

import hashlib
from dataclasses import asdict
from typing import Any, cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from conditioning.channels import ChannelSet
from conditioning.text import build_text_encoder
from conditioning.text_config import TextConfig
from worldgpt.attention import WorldGPTAttention, norm
from worldgpt.config import ModelConfig
from worldgpt.embedding import INITIAL, StepEmbedding
from worldgpt.kv_cache import RingCache
from worldgpt.layout import Layout, Stream
from worldgpt.rope import rotation
from worldgpt.token_table import TokenTable


class WorldGPTConfig(PreTrainedConfig):
    """Sizes, layout, channels and text encoder of a checkpoint; everything in it is plain JSON."""

    model_type = "worldgpt"

    def __init__(
        self,
        model: dict[str, Any] | None = None,
        layout: dict[str, Any] | None = None,
        text: dict[str, Any] | None = None,
        telemetry: list[dict[str, Any]] | None = None,
        actions: list[dict[str, Any]] | None = None,
        fps: float = 10.0,
        frame_size: tuple[int, int] = (64, 128),
        tokenizer_hash: str = "",
        **kwargs: Any,
    ) -> None:
        self.model = model or asdict(ModelConfig())
        self.layout = layout or {"prompt_tokens": 0, "streams": [], "codebooks": []}
        self.text = text or asdict(TextConfig())
        self.telemetry, self.actions = telemetry or [], actions or []
        self.fps, self.frame_size, self.tokenizer_hash = fps, list(frame_size), tokenizer_hash
        super().__init__(**kwargs)

    @property
    def width(self) -> int:
        return self.model["width"]

    @property
    def heads(self) -> int:
        return self.model["heads"]

    @property
    def layers(self) -> int:
        return self.model["layers"]

    @property
    def context_steps(self) -> int:
        return self.model["context_steps"]


class WorldGPTBlock(nn.Module):
    """Pre-norm attention and SwiGLU (Shazeer 2020)."""

    def __init__(self, config: WorldGPTConfig, layer: int) -> None:
        super().__init__()
        hidden = config.model["mlp_width"]
        self.attention = WorldGPTAttention(config, layer)
        self.gate = nn.Linear(config.width, hidden, bias=False)
        self.up = nn.Linear(config.width, hidden, bias=False)
        self.down = nn.Linear(hidden, config.width, bias=False)

    def forward(self, x: Tensor, by: Tensor, cache: RingCache | None = None) -> Tensor:
        x = x + self.attention(norm(x), by, cache)
        h = norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class WorldGPT(PreTrainedModel):
    """The world model. `forward` runs whole windows; `prefill` and `extend` run on a RingCache, step by step."""

    config_class = WorldGPTConfig
    config: WorldGPTConfig
    base_model_prefix = "worldgpt"
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = ["WorldGPTBlock"]  # noqa: RUF012 (transformers wants a list)

    def __init__(self, config: WorldGPTConfig) -> None:
        super().__init__(config)
        self.layout = Layout.from_dict(config.layout)
        self.telemetry, self.actions = ChannelSet.from_dicts(config.telemetry), ChannelSet.from_dicts(config.actions)
        self.text = build_text_encoder(TextConfig(**config.text))
        self.embedding = StepEmbedding(self.layout, config.text["width"], config.model["code_width"], config.width)
        self.blocks = nn.ModuleList(WorldGPTBlock(config, i) for i in range(config.layers))
        self.activation_checkpointing = False
        """Keep only the blocks' inputs for the backward pass and compute the rest again: less memory, a third more work."""
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if hasattr(module, "reset_parameters") and not isinstance(module, (nn.Linear, nn.Embedding, nn.LayerNorm)):
            cast(Any, module).reset_parameters()
        elif isinstance(module, nn.Linear):
            residual = any(module is m for b in getattr(self, "blocks", []) for m in (b.attention.out, b.down))
            nn.init.normal_(module.weight, std=INITIAL / (2 * self.config.layers) ** 0.5 if residual else INITIAL)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding) and not any(module is m for table in self._tables() for m in table.modules()):
            nn.init.normal_(module.weight, std=INITIAL)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)

    def _tables(self) -> list[TokenTable]:
        return [cast(TokenTable, table) for table in self.embedding.tables.values()] if hasattr(self, "embedding") else []

    def table(self, stream: Stream) -> TokenTable:
        """The vectors of a stream's codebook."""
        return cast(TokenTable, self.embedding.tables[stream.codebook])

    def content_hash(self) -> str:
        """16 hex digits that change with any weight."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    # -- positions ----------------------------------------------------------------------------------------------------------

    def rotation_at(self, times: Tensor) -> Tensor:
        """Rotation of the positions of steps at `times` (n,), step by step: (n * S, d / 2) complex."""
        grid = torch.as_tensor(self.layout.grid_positions, device=times.device)
        rows, columns = repeat(grid, "s two -> two (n s)", n=len(times))
        return rotation(repeat(times, "n -> (n s)", s=len(grid)), rows, columns, self.config.width // self.config.heads)

    # -- forward ------------------------------------------------------------------------------------------------------------

    def forward(self, tokens: Tensor, prompts: Tensor, before: Tensor | None = None, times: Tensor | None = None) -> Tensor:
        """Hidden states (B, T, S, D) of windows: tokens (B, T, J), prompts (B, T, P, D_text).

        `before` (B, 2, J) are the two steps before the window (default: none, NULL); `times` (T,) are given where steps have gaps.
        """
        steps = tokens.shape[1]
        x = rearrange(self.embedding(tokens, prompts, before), "b t s d -> b (t s) d")
        by = self.rotation_at(torch.arange(steps, device=tokens.device) if times is None else times)
        for block in self.blocks:
            checkpointed = self.activation_checkpointing and self.training
            x = checkpoint(block, x, by, use_reentrant=False) if checkpointed else block(x, by)
        return rearrange(norm(x), "b (t s) d -> b t s d", t=steps)

    def predicting(self, hidden: Tensor) -> Tensor:
        """Of all positions (..., S, D) those that predict the J tokens, (..., J, D)."""
        start = self.layout.prompt_tokens - 1
        return hidden[..., start : start + self.layout.tokens_per_step, :]

    def logits(self, hidden: Tensor, token: int) -> Tensor:
        """Logits (..., V) for token `token` of a step from the hidden state (..., D) at the position before it."""
        stream, _, _ = self.layout.pieces(token, token + 1)[0]
        return self.table(stream).logits(hidden)

    # -- with a cache -------------------------------------------------------------------------------------------------------

    def new_cache(self, batch: int, window_steps: int | None = None) -> RingCache:
        """An empty cache for `batch` worlds, in the model's dtype and on its device."""
        heads, weight = self.config.heads, self.embedding.prompt_place
        head_dim, window = self.config.width // heads, window_steps or self.config.context_steps
        size = self.layout.positions_per_step
        return RingCache(self.config.layers, batch, heads, head_dim, size, window, self.rotation_at, weight.dtype, weight.device)

    def extend(self, x: Tensor, by: Tensor, cache: RingCache) -> Tensor:
        """Run n new positions (B, n, D) after the filled ones of the cache; returns their hidden states."""
        for block in self.blocks:
            x = block(x, by, cache)
        cache.advance(x.shape[1])
        return norm(x)

    def prefill(self, tokens: Tensor, prompts: Tensor, cache: RingCache, before: Tensor | None = None) -> None:
        """Put context steps (B, T, J) with prompts (B, T, P, D_text) into an empty cache in one forward pass."""
        by = cache.begin(tokens.shape[1])
        self.extend(rearrange(self.embedding(tokens, prompts, before), "b t s d -> b (t s) d"), by, cache)


AutoConfig.register("worldgpt", WorldGPTConfig)
AutoModel.register(WorldGPTConfig, WorldGPT)
