"""WorldGPT: a causal transformer over steps of [prompt][frame codes][telemetry][actions].

After GAIA-1 (Hu et al. 2023, arXiv:2309.17080, section 2.2) and IRIS (Micheli et al. 2023, arXiv:2209.00588); blocks with
layer norm and SwiGLU. Added here: hints. The input at each position also holds what stands around the token to be predicted, as far as
it is known (one and two steps back, and beside it), and the channels of the step before: so that "stays as it was" and "moves as it
did" need no attention at all, and an action is seen wherever it acts.

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
from worldgpt.kv_cache import RingCache
from worldgpt.layout import SEEN_STEPS, Layout, Stream
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
        width = config.width
        self.text = build_text_encoder(TextConfig(**config.text))
        self.prompt_in = nn.Linear(config.text["width"], width, bias=False)
        self.look_in = nn.Linear(config.text["width"], width, bias=False)
        code_width, frame = config.model["code_width"], {s.codebook for s in self.layout.of_kind("frame")}
        self.tables = nn.ModuleDict(
            {c.name: TokenTable(c.size, code_width, width, ordered=c.name not in frame) for c in self.layout.codebooks}
        )
        self.token_in = nn.ModuleDict({c.name: nn.Linear(code_width, width, bias=False) for c in self.layout.codebooks})
        hints = {s.codebook: self.layout.hint_count(s.kind) for s in self.layout.streams}
        self.hint_in = nn.ModuleDict({name: nn.Linear(count * code_width, 2 * width, bias=False) for name, count in hints.items()})
        channels = [s.codebook for s in self.layout.streams if s.kind != "frame"]
        self.motion_in = nn.ModuleDict({name: nn.Linear(code_width, 2 * width, bias=False) for name in channels})
        self.hint_out = nn.Linear(width, width, bias=False)
        self.place_in = nn.ParameterDict({s.name: torch.empty(s.tokens, width) for s in self.layout.streams})
        self.prompt_place = nn.Parameter(torch.empty(self.layout.prompt_tokens, width))
        self.blocks = nn.ModuleList(WorldGPTBlock(config, i) for i in range(config.layers))
        self.activation_checkpointing = False
        """Keep only the blocks' inputs for the backward pass and compute the rest again: less memory, a third more work."""
        self._places: dict[str, Tensor] = {}
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        scale = 0.02
        if isinstance(module, nn.Linear):
            residual = any(module is m for b in getattr(self, "blocks", []) for m in (b.attention.out, b.down))
            nn.init.normal_(module.weight, std=scale / (2 * self.config.layers) ** 0.5 if residual else scale)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding) and not any(module is table.rows for table in getattr(self, "tables", {}).values()):
            nn.init.normal_(module.weight, std=scale)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.ParameterDict):
            for value in module.values():
                nn.init.normal_(value, std=scale)
        elif module is self:
            nn.init.normal_(self.prompt_place, std=scale)
        elif hasattr(module, "reset_parameters"):
            cast(Any, module).reset_parameters()

    def content_hash(self) -> str:
        """16 hex digits that change with any weight."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    # -- embeddings ---------------------------------------------------------------------------------------------------------

    def _hints(self, seen: Tensor, start: int, stop: int) -> Tensor:
        """What is known around the tokens start .. stop - 1 that are to be predicted: (..., SEEN_STEPS, J) -> (..., n, D)."""
        layout, flat = self.layout, seen.flatten(-2)
        motion = [
            self.motion_in[s.codebook](self.tables[s.codebook](seen[..., -2, layout.spans[s.name].start]))
            for s in layout.streams
            if s.kind != "frame"
        ]
        parts = []
        for stream, first, last in layout.pieces(start, stop):
            places = self._hint_places(stream, first, last, seen.device)
            ids = F.pad(flat, (0, 1), value=layout.codebook(stream).null_id)[..., places]  # (..., n, hints)
            parts.append(self.hint_in[stream.codebook](self.tables[stream.codebook](ids).flatten(-2)))
        hints = torch.cat(parts, dim=-2)
        if motion:
            hints = hints + torch.stack(motion).sum(0)[..., None, :]
        gate, up = hints.chunk(2, dim=-1)
        return self.hint_out(F.silu(gate + 1) * up)  # open from the start, so that copying is learned before anything else

    def _hint_places(self, stream: Stream, first: int, last: int, device: torch.device) -> Tensor:
        if stream.name not in self._places:
            self._places[stream.name] = torch.as_tensor(self.layout.hint_places(stream), device=device)
        begin = self.layout.spans[stream.name].start
        return self._places[stream.name][first - begin : last - begin]

    def embed_prompt(self, prompts: Tensor, seen: Tensor) -> Tensor:
        """Prompt positions (..., P, D) from embeddings (..., P, D_text); the last one predicts token 0 and holds its hints."""
        x = self.prompt_in(prompts) + self.prompt_place
        return torch.cat([x[..., :-1, :], x[..., -1:, :] + self._hints(seen, 0, 1)], dim=-2)

    def embed_tokens(self, seen: Tensor, start: int, stop: int, prompts: Tensor) -> Tensor:
        """Positions of the tokens start .. stop - 1 of the newest step in `seen` (..., SEEN_STEPS, J): (..., n, D).

        The mean of the prompt's embeddings (..., P, D_text) is added at each: so a prompt tells from the first update on, before
        attention has learned where prompts stand.
        """
        pieces, spans = self.layout.pieces(start, stop), self.layout.spans
        places = [self.place_in[s.name][a - spans[s.name].start : b - spans[s.name].start] for s, a, b in pieces]
        tokens = [self.token_in[s.codebook](self.tables[s.codebook](seen[..., -1, a:b])) for s, a, b in pieces]
        # Divided by its width, the look moves as fast in training as an embedding does; else it drowns the tokens at once.
        look = self.look_in(prompts.mean(-2) / prompts.shape[-1])[..., None, :]
        x = torch.cat(tokens, dim=-2) + torch.cat(places) + look
        hinted = min(stop + 1, self.layout.tokens_per_step)  # the step's last token predicts nothing and has no hints
        if hinted == start + 1:
            return x
        return x + F.pad(self._hints(seen, start + 1, hinted), (0, 0, 0, stop + 1 - hinted))

    def embed(self, tokens: Tensor, prompts: Tensor, before: Tensor | None = None) -> Tensor:
        """Whole steps: tokens (B, T, J), prompts (B, T, P, D_text) -> (B, T, S, D). `before` (B, 2, J): the steps before, else NULL."""
        if before is None:
            before = self.unseen(len(tokens))[:, :-1]
        known = torch.cat([before, tokens], dim=1)
        seen = torch.stack([known[:, i : i + tokens.shape[1]] for i in range(SEEN_STEPS)], dim=2)  # (B, T, SEEN_STEPS, J)
        return torch.cat([self.embed_prompt(prompts, seen), self.embed_tokens(seen, 0, self.layout.tokens_per_step, prompts)], dim=2)

    def unseen(self, batch: int) -> Tensor:
        """(B, SEEN_STEPS, J) NULL: what is known before the first step."""
        null = torch.as_tensor(self.layout.null_tokens, device=self.prompt_place.device)
        return repeat(null, "j -> b seen j", b=batch, seen=SEEN_STEPS)

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
        x = rearrange(self.embed(tokens, prompts, before), "b t s d -> b (t s) d")
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
        return cast(TokenTable, self.tables[stream.codebook]).logits(hidden)

    # -- with a cache -------------------------------------------------------------------------------------------------------

    def new_cache(self, batch: int, window_steps: int | None = None) -> RingCache:
        """An empty cache for `batch` worlds, in the model's dtype and on its device."""
        heads, weight = self.config.heads, self.prompt_place
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
        self.extend(rearrange(self.embed(tokens, prompts, before), "b t s d -> b (t s) d"), by, cache)


AutoConfig.register("worldgpt", WorldGPTConfig)
AutoModel.register(WorldGPTConfig, WorldGPT)
