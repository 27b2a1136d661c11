"""Training: our model beside Llama of the same shape, in tokens a second, forward, backward and update."""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenizer.loop_config import LoopConfig
from tokenizer.optimizer import build_optimizer
from worldgpt.benchmark.contest import Standing, contest, synchronise
from worldgpt.benchmark.reference import llama
from worldgpt.benchmark.shapes import Shape, random_steps, random_world
from worldgpt.loss import token_nats, total_loss

REFERENCES = ("Llama, bf16", "Llama, float32")


def measure_training(shape: Shape, windows: int, rounds: int, device: torch.device) -> dict[str, Standing]:
    """{way: standing} for batches of `windows` windows; all with fused AdamW, ours with Muon too."""
    ways = {}
    for name, optimizer in (("ours, bf16", "adamw"), ("ours, bf16, Muon", "muon"), ("ours, float32", "adamw")):
        ways[name] = our_training(shape, windows, device, optimizer, bf16="bf16" in name)
    for name in REFERENCES:
        ways[name] = reference_training(shape, windows, device, bf16="bf16" in name)
    return contest(ways, REFERENCES, rounds)


def our_training(shape: Shape, windows: int, device: torch.device, optimizer: str, *, bf16: bool) -> Callable[[], float]:
    """As worldgpt/train.py does it, on a batch that is there."""
    model = random_world(shape, device, torch.float32).train()
    tokens = random_steps(model.layout, windows, shape.model.context_steps).to(device)
    prompts = torch.zeros(*tokens.shape[:2], shape.prompt_tokens, model.config.text["width"], device=device)

    def loss() -> Tensor:
        return total_loss(model, token_nats(model, model(tokens, prompts), tokens), tokens, 1.0)[0]

    config = LoopConfig(optimizer="muon" if optimizer == "muon" else "adamw")
    return _updates(loss, build_optimizer(model, config, bf16=bf16), tokens.numel(), device, bf16=bf16)


def reference_training(shape: Shape, windows: int, device: torch.device, *, bf16: bool) -> Callable[[], float]:
    model = llama(shape, torch.float32, device).train()
    count = shape.model.context_steps * shape.tokens
    tokens = torch.randint(0, model.config.vocab_size, (windows, count), device=device)

    def loss() -> Tensor:
        logits = model(tokens, use_cache=False).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    return _updates(loss, optimizer, tokens.numel(), device, bf16=bf16)


def _updates(
    loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, tokens: int, device: torch.device, *, bf16: bool
) -> Callable[[], float]:
    def run() -> float:
        synchronise(device)
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            found = loss()
        found.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronise(device)
        return tokens / (time.perf_counter() - start)

    return run
