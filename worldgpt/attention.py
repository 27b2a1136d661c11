"""Causal self-attention with QK-norm and rotary positions, through transformers' attention interface."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from worldgpt.kv_cache import RingCache
from worldgpt.rope import rotate

SHARPNESS = 1.5
"""Logits of normalised queries and keys lie within +-SHARPNESS * sqrt(d); 1 would be too soft to pick one of a thousand positions."""


def rms_norm(x: Tensor) -> Tensor:
    """Root-mean-square norm (Zhang & Sennrich 2019) over the last axis, without a gain: the matrix that follows can hold it."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


class WorldGPTAttention(nn.Module):
    """Multi-head attention of width D; queries and keys are RMS-normalised a head (Henry et al. 2020), so logits stay bounded."""

    is_causal = True

    def __init__(self, config, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.heads, self.head_dim = config.heads, config.width // config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, by: Tensor, cache: RingCache | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D). With a cache the N positions follow the filled ones and see them all."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        q, k = rms_norm(q), rms_norm(k)
        q = rotate(q, by)
        if cache is None:
            k = rotate(k, by)
        else:
            k, v = cache.append(self.layer, k.to(cache.keys.dtype), v.to(cache.values.dtype), by)
            q = q.to(k.dtype)
        new, seen = q.shape[2], k.shape[2]
        # None means causal over equal lengths or, for one query, everything; a chunk after a filled cache needs its own triangle.
        mask = None if new in (1, seen) else torch.ones(new, seen, dtype=torch.bool, device=q.device).tril(seen - new)[None, None]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, sdpa_attention_forward)
        if mask is not None and self.config._attn_implementation != "sdpa":
            attend = sdpa_attention_forward  # flash attention takes no explicit mask
        mixed, _ = attend(self, q, k, v, mask, scaling=SHARPNESS * self.head_dim**-0.5, dropout=0.0, is_causal=mask is None and new > 1)
        return self.out(rearrange(mixed, "b n h d -> b n (h d)").to(x.dtype))
