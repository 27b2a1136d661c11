"""What anyone can install: transformers' Llama of the same shape, generating as its own
`generate` does, or in a plain loop without a cache."""

import time
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache
from transformers.generation.streamers import BaseStreamer

from worldgpt.benchmark.contest import synchronise
from worldgpt.benchmark.shapes import Shape


def llama(shape: Shape, dtype: torch.dtype, device: torch.device) -> Any:
    """Random weights; as many ids as one codebook of ours has, or as the largest part of a code."""
    ids, model = max(shape.layout().codebooks[0].parts), shape.model
    config = cast(Any, LlamaConfig)(
        vocab_size=ids,
        hidden_size=model.width,
        intermediate_size=model.mlp_width,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        max_position_embeddings=2 * (shape.context + shape.tokens),
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reference: Any = LlamaForCausalLM(config)
    return reference.eval().to(device, dtype)


class Clock(BaseStreamer):
    """Notes when each token has come."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.times = device, list[float]()

    def put(self, value: Tensor) -> None:
        synchronise(self.device)
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is left to say."""


def generating(model: Any, shape: Shape, batch: int, tokens: int, cache: Literal["dynamic", "static"]) -> Callable[[], float]:
    """Draws `tokens` tokens after a full context with `generate`; tokens a second of all worlds, reading of the context not counted."""
    context = torch.randint(0, model.config.vocab_size, (batch, shape.context), device=model.device)
    kept = StaticCache(config=model.config, max_cache_len=shape.context + tokens + 1) if cache == "static" else None

    def run() -> float:
        clock, options = Clock(model.device), {}
        if kept is not None:
            kept.reset()
            options["past_key_values"] = kept
        # The clock is told of the context first, then of each token; the first of these comes from reading the context.
        model.generate(
            context,
            attention_mask=torch.ones_like(context),
            max_new_tokens=tokens + 1,
            min_new_tokens=tokens + 1,
            do_sample=True,
            streamer=clock,
            **options,
        )
        return batch * tokens / (clock.times[-1] - clock.times[-1 - tokens])

    return run


def recomputing(model: Any, shape: Shape, batch: int) -> Callable[[], float]:
    """The whole context is read anew for each token."""
    context = torch.randint(0, model.config.vocab_size, (batch, shape.context), device=model.device)

    @torch.inference_mode()
    def run() -> float:
        synchronise(model.device)
        start = time.perf_counter()
        logits = model(context, use_cache=False, logits_to_keep=1).logits[:, -1]
        torch.multinomial(torch.softmax(logits.float(), -1), 1)
        synchronise(model.device)
        return batch / (time.perf_counter() - start)

    return run
