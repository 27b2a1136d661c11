"""Worlds driven step by step: prefill once, then one token after the other on the ring cache.

Axes: B worlds, T context steps, J tokens a step, P prompt positions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from conditioning.guidance import guided_logits
from worldgpt.model import WorldGPT
from worldgpt.sampling import SamplingConfig, draw, keyed_uniforms

FREE = -1
"""Stands in a table of forced tokens where the model decides."""


class Rollout:
    """B worlds that go on together, each with its own prompt, commands and randomness.

    With guidance other than 1 each world runs twice in the same batch: under its prompt, and under its negative prompt.
    """

    def __init__(
        self,
        model: WorldGPT,
        sampling: SamplingConfig,
        *,
        seed: int,
        worlds: Sequence[int],
        guidance: float = 1.0,
        window_steps: int | None = None,
    ) -> None:
        """`worlds` number the randomness: world w of a batch draws what it draws alone."""
        self.model, self.sampling, self.seed, self.worlds, self.guidance = model, sampling, seed, tuple(worlds), guidance
        self.branches = 1 if guidance == 1 else 2
        self.cache = model.new_cache(len(self.worlds) * self.branches, window_steps)
        self.device = model.prompt_place.device
        self.previous = model.null_tokens(self.device).expand(len(self.worlds), -1)
        self.steps = 0
        """Steps generated so far."""

    @torch.inference_mode()
    def start(self, context: Tensor, prompts: Tensor, negative: Tensor) -> None:
        """Read context steps (B, T, J), the last ones that the window can hold; prompts and negative (B, P, D_text)."""
        held = self.cache.window_steps - 1
        context = context.to(self.device).repeat(self.branches, 1, 1)
        before = context[:, -held - 1] if context.shape[1] > held else None
        branches = self._branches(prompts, negative)[:, None].expand(-1, min(held, context.shape[1]), -1, -1)
        self.model.prefill(context[:, -held:], branches, self.cache, before)
        self.previous = context[: len(self.worlds), -1]

    @torch.inference_mode()
    def step(self, prompts: Tensor, negative: Tensor, forced: Tensor) -> Tensor:
        """The next step's tokens (B, J); `forced` (B, J) holds FREE or the token that must stand there."""
        layout, model = self.model.layout, self.model
        by, first = self.cache.begin_step(), layout.prompt_tokens
        uniforms = keyed_uniforms(self.seed, self.worlds, self.steps, layout.tokens_per_step).to(self.device)
        tokens, known = forced.to(self.device).clone(), (forced != FREE).all(0).tolist()
        previous = self.previous.repeat(self.branches, 1)
        prompts = self._branches(prompts, negative)
        x = model.embed_prompt(prompts, previous)
        hidden = model.extend(x, by[:first], self.cache)[:, -1]
        start = 0
        while start < layout.tokens_per_step:
            if not known[start]:
                drawn = draw(self._logits(hidden, start), uniforms[:, start], self.sampling)
                tokens[:, start] = torch.where(tokens[:, start] == FREE, drawn, tokens[:, start])
            # The token just decided goes in together with all that follow and are known in every world.
            stop = start + 1
            while stop < layout.tokens_per_step and known[stop]:
                stop += 1
            x = model.embed_tokens(tokens[:, start:stop].repeat(self.branches, 1), previous, start, prompts)
            hidden = model.extend(x, by[first + start : first + stop], self.cache)[:, -1]
            start = stop
        self.previous, self.steps = tokens, self.steps + 1
        return tokens

    def _branches(self, prompts: Tensor, negative: Tensor) -> Tensor:
        return prompts if self.branches == 1 else torch.cat([prompts, negative])

    def _logits(self, hidden: Tensor, token: int) -> Tensor:
        logits = self.model.logits(hidden, token)
        if self.branches == 1:
            return logits
        conditional, unconditional = logits.chunk(2)
        return guided_logits(conditional, unconditional, self.guidance)
