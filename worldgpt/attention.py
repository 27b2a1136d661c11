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


def norm(x: Tensor) -> Tensor:
    """Layer norm over the last axis without gain or bias (the matrix that follows can hold them), in float32 or finer.

    On a CPU its backward pass is one kernel, thirteen times faster than that of RMS norm, which is what it comes to for a mean of 0.
    Under autocast it comes in the dtype that products are made in: turned once, where each of the products that read it would do so.
    """
    device = x.device.type
    with torch.autocast(device, enabled=False):
        normed = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return normed.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else normed


class WorldGPTAttention(nn.Module):
    """Multi-head attention of width D; queries and keys are normalised a head (Henry et al. 2020), so logits stay bounded."""

    is_causal = True

    def __init__(self, config, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.heads, self.head_dim = config.heads, config.width // config.heads
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.key = nn.Linear(config.width, config.width, bias=False)
        self.value = nn.Linear(config.width, config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, by: Tensor, cache: RingCache | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D). With a cache the N positions follow the filled ones.

        `mask` (N, filled + N), true where a position sees another. Without one: a single position sees all, several are causal, and then
        no others may be filled.
        """
        q, k, v = (rearrange(project(x), "b n (h d) -> b h n d", h=self.heads) for project in (self.query, self.key, self.value))
        q, k = norm(q), norm(k)
        q = rotate(q, by)
        if cache is None:
            k = rotate(k, by)
        else:
            k, v = cache.append(self.layer, k.to(cache.keys.dtype), v.to(cache.values.dtype), by)
            q = q.to(k.dtype)
        new, mask = q.shape[2], None if mask is None else mask[None, None]
        assert mask is not None or new in (1, k.shape[2])
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, sdpa_attention_forward)
        if mask is not None and self.config._attn_implementation != "sdpa":
            attend = sdpa_attention_forward  # flash attention takes no explicit mask
        mixed, _ = attend(self, q, k, v, mask, scaling=SHARPNESS * self.head_dim**-0.5, dropout=0.0, is_causal=mask is None and new > 1)
        return self.out(rearrange(mixed, "b n h d -> b n (h d)").to(x.dtype))
