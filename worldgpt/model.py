"""WorldGPT: a causal transformer over steps of [prompt][frame codes][telemetry][actions].

After GAIA-1 (Hu et al. 2023, arXiv:2309.17080, section 2.2) and IRIS (Micheli et al. 2023, arXiv:2209.00588); blocks with
layer norm and SwiGLU. Added here: hints (worldgpt/embedding.py). The input at each position also holds what stands around the token to
be predicted, as far as it is known (one and two steps back, and beside it), and the channels of the step before: so that "stays as it
was" and "moves as it did" need no attention at all, and an action is seen wherever it acts.

Axes: B worlds, T steps, P prompt positions, J tokens a step, S positions a step, D width, V ids of a codebook, U distinct prompts.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar, cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from conditioning.channels import ChannelSet
from conditioning.familiarity import WordCounts
from conditioning.text import build_text_encoder
from conditioning.text_config import TextConfig
from tokenizer.checkpoint import SafePretrained
from worldgpt.attention import WorldGPTAttention, norm
from worldgpt.config import ModelConfig
from worldgpt.embedding import INITIAL, StepEmbedding
from worldgpt.kv_cache import RingCache
from worldgpt.layout import Layout, Stream
from worldgpt.rope import rotation
from worldgpt.token_table import SplitTable, TokenTable


class WorldGPTConfig(PreTrainedConfig):
    """Sizes, layout, channels, text encoder and caption words of a checkpoint; everything in it is plain JSON."""

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
        caption_words: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.model = model or asdict(ModelConfig())
        self.layout = layout or {"prompt_tokens": 0, "streams": [], "codebooks": []}
        self.text = text or asdict(TextConfig())
        self.telemetry, self.actions = telemetry or [], actions or []
        self.fps, self.frame_size, self.tokenizer_hash = fps, list(frame_size), tokenizer_hash
        self.caption_words = caption_words
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

    def forward(self, x: Tensor, by: Tensor, cache: RingCache | None = None, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(norm(x), by, cache, mask)
        h = norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class WorldGPT(SafePretrained):
    """The world model. `forward` runs whole windows; `prefill` and `extend` run on a RingCache, step by step."""

    kind = "a world model checkpoint"
    trained_by = "scripts/train_worldgpt.py"
    limits: ClassVar = {
        "size": 1 << 48,
        "proto_bytes": 1 << 24,
        "layers": 512,
        "counts": 1 << 40,
        **dict.fromkeys(("rows", "columns", "prompt_tokens", "together", "slope"), 256),
    }
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
        self.caption_words = None if config.caption_words is None else WordCounts.from_dict(config.caption_words)
        """Words of the training's captions; None for a checkpoint from before they were counted."""
        self.embedding = StepEmbedding(self.layout, config.text["width"], config.model["code_width"], config.width)
        self.blocks = nn.ModuleList(WorldGPTBlock(config, i) for i in range(config.layers))
        self.activation_checkpointing = False
        self._passes: Tensor | None = None
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

    def _tables(self) -> list[nn.Module]:
        return list(self.embedding.tables.values()) if hasattr(self, "embedding") else []

    def table(self, stream: Stream) -> TokenTable | SplitTable:
        """The vectors of a stream's codebook."""
        return cast(TokenTable | SplitTable, self.embedding.tables[stream.codebook])

    def content_hash(self) -> str:
        """16 hex digits that change with any weight."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    # -- positions ----------------------------------------------------------------------------------------------------------

    def rotation_at(self, times: Tensor) -> Tensor:
        """Rotation of the positions of steps at `times` (R, n), step by step: (R, 1, n * S, d / 2) complex; R is B, or 1 for all worlds."""
        grid = torch.as_tensor(self.layout.grid_positions, device=times.device)
        rows, columns = repeat(grid, "s two -> two (r n s)", r=len(times), n=times.shape[1])
        flat = rotation(repeat(times, "r n -> (r n s)", s=len(grid)), rows, columns, self.config.width // self.config.heads)
        return rearrange(flat, "(r p) d -> r 1 p d", r=len(times))

    # -- forward ------------------------------------------------------------------------------------------------------------

    def forward(
        self, tokens: Tensor, prompts: Tensor, before: Tensor | None = None, times: Tensor | None = None, anchors: int = 0
    ) -> Tensor:
        """Hidden states (B, T, S, D) of windows: tokens (B, T, J), prompts (B, T, P, D_text).

        The first `anchors` steps come from elsewhere in the drive and have no past; `before` (B, 2, J) are the two steps before the
        others (default: none, NULL). `times` (B, T) are given where steps have gaps.
        """
        steps = tokens.shape[1]
        x = rearrange(self.embed(tokens, prompts, before, anchors), "b t s d -> b (t s) d")
        by = self.rotation_at(torch.arange(steps, device=tokens.device)[None] if times is None else times)
        mask = self.visible(x.shape[1], x.shape[1])
        for block in self.blocks:
            checkpointed = self.activation_checkpointing and self.training
            x = checkpoint(block, x, by, None, mask, use_reentrant=False) if checkpointed else block(x, by, None, mask)
        return rearrange(norm(x), "b (t s) d -> b t s d", t=steps)

    def embed(self, tokens: Tensor, prompts: Tensor, before: Tensor | None, anchors: int) -> Tensor:
        """Input (B, T, S, D) of windows whose first `anchors` steps stand each alone."""
        if not anchors:
            return self.embedding(tokens, prompts, before)
        batch = len(tokens)
        alone = (rearrange(part[:, :anchors], "b a ... -> (b a) 1 ...") for part in (tokens, prompts))
        single = rearrange(self.embedding(*alone), "(b a) 1 s d -> b a s d", b=batch)
        return torch.cat([single, self.embedding(tokens[:, anchors:], prompts[:, anchors:], before)], dim=1)

    def predicting(self, hidden: Tensor) -> Tensor:
        """Of all positions (..., S, D) those that predict the J tokens, (..., J, D)."""
        if self.layout.slope:
            return hidden[..., torch.as_tensor(self.layout.predictors, device=hidden.device), :]
        start = self.layout.prompt_tokens - 1
        return hidden[..., start : start + self.layout.tokens_per_step, :]

    def visible(self, new: int, end: int) -> Tensor | None:
        """(new, end) bool: what the last `new` of `end` positions, counted from a step's first one, see; None where that is all before them
        and causal among them, which attention does by itself."""
        layout, device = self.layout, self.embedding.prompt_place.device
        if layout.causal:
            return None if new in (1, end) else torch.ones(new, end, dtype=torch.bool, device=device).tril(end - new)
        places = torch.arange(end, device=device)
        if self._passes is None or self._passes.device != device:
            self._passes = torch.as_tensor(layout.passes, device=device)
        passes = self._passes
        rank = places // len(passes) * len(passes) + passes[places % len(passes)]
        return rank <= rank[end - new :, None]

    def logits(self, hidden: Tensor, token: int, told: Sequence[Tensor] = ()) -> Tensor:
        """Logits (..., V) for token `token` of a step from the hidden state (..., D) at the position that predicts it.

        Of a token told in parts these are the next part's, once those before it (...) are `told`.
        """
        stream, _, _ = self.layout.pieces(token, token + 1)[0]
        return self.table(stream).logits(hidden, told)

    # -- with a cache -------------------------------------------------------------------------------------------------------

    def new_cache(self, batch: int, window_steps: int | None = None) -> RingCache:
        """An empty cache for `batch` worlds, in the model's dtype and on its device."""
        heads, weight = self.config.heads, self.embedding.prompt_place
        head_dim, window = self.config.width // heads, window_steps or self.config.context_steps
        size = self.layout.positions_per_step
        return RingCache(self.config.layers, batch, heads, head_dim, size, window, self.rotation_at, weight.dtype, weight.device)

    def extend(self, x: Tensor, by: Tensor, cache: RingCache) -> Tensor:
        """Run n new positions (B, n, D) after the filled ones of the cache; returns their hidden states."""
        mask = self.visible(x.shape[1], cache.filled + x.shape[1])
        for block in self.blocks:
            x = block(x, by, cache, mask)
        cache.advance(x.shape[1])
        return norm(x)

    def prefill(
        self, tokens: Tensor, prompts: Tensor, cache: RingCache, before: Tensor | None = None, anchor_times: Tensor | None = None
    ) -> None:
        """Put context steps (B, T, J) with prompts (B, T, P, D_text) into an empty cache in one forward pass.

        The first A of them are anchors where `anchor_times` (B, A) are given: their distances in steps from the step that comes next.
        """
        by = cache.begin(tokens.shape[1], anchor_times)
        anchors = 0 if anchor_times is None else anchor_times.shape[1]
        self.extend(rearrange(self.embed(tokens, prompts, before, anchors), "b t s d -> b (t s) d"), by, cache)


AutoConfig.register("worldgpt", WorldGPTConfig)
AutoModel.register(WorldGPTConfig, WorldGPT)
