"""Worlds driven step by step: prefill once, then one token after the other on the ring cache.

Axes: B worlds, T context steps, J tokens a step, P prompt positions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from conditioning.guidance import guided_logits
from worldgpt.layout import SEEN_STEPS
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
        self.device = model.embedding.prompt_place.device
        self.seen = model.embedding.unseen(len(self.worlds))
        """(B, SEEN_STEPS, J): the newest steps, the last one as far as it is known."""
        self.steps = 0
        """Steps generated so far."""

    @torch.inference_mode()
    def start(self, context: Tensor, prompts: Tensor, negative: Tensor) -> None:
        """Read context steps (B, T, J), the last ones that the window can hold; prompts and negative (B, P, D_text)."""
        held = self.cache.window_steps - 1
        known = torch.cat([self.seen[:, 1:], context.to(self.device)], dim=1)
        held = min(held, context.shape[1])
        branches = self._branches(prompts, negative)[:, None].expand(-1, held, -1, -1)
        before, read = known[:, -held - 2 : -held], known[:, -held:]
        self.model.prefill(read.repeat(self.branches, 1, 1), branches, self.cache, before.repeat(self.branches, 1, 1))
        self.seen = known[:, -SEEN_STEPS:].clone()

    @torch.inference_mode()
    def step(self, prompts: Tensor, negative: Tensor, forced: Tensor) -> Tensor:
        """The next step's tokens (B, J); `forced` (B, J) holds FREE or the token that must stand there."""
        layout, model = self.model.layout, self.model
        by, first = self.cache.begin_step(), layout.prompt_tokens
        uniforms = keyed_uniforms(self.seed, self.worlds, self.steps, layout.tokens_per_step).to(self.device)
        tokens, known = forced.to(self.device).clone(), (forced != FREE).all(0).tolist()
        prompts = self._branches(prompts, negative)
        self.seen = torch.cat([self.seen[:, 1:], tokens[:, None]], dim=1)
        seen = self.seen.repeat(self.branches, 1, 1)
        conditions = model.embedding.conditions(seen, prompts)
        hidden = model.extend(model.embedding.prompt(prompts, seen, conditions), by[:first], self.cache)[:, -1]
        start = 0
        while start < layout.tokens_per_step:
            if not known[start]:
                drawn = draw(self._logits(hidden, start), uniforms[:, start], self.sampling)
                tokens[:, start] = torch.where(tokens[:, start] == FREE, drawn, tokens[:, start])
            # The token just decided goes in together with all that follow and are known in every world.
            stop = start + 1
            while stop < layout.tokens_per_step and known[stop]:
                stop += 1
            seen[:, -1, start:stop] = tokens[:, start:stop].repeat(self.branches, 1)
            x = model.embedding.tokens(seen, start, stop, conditions)
            hidden = model.extend(x, by[first + start : first + stop], self.cache)[:, -1]
            start = stop
        self.seen[:, -1] = tokens
        self.steps += 1
        return tokens

    def _branches(self, prompts: Tensor, negative: Tensor) -> Tensor:
        return prompts if self.branches == 1 else torch.cat([prompts, negative])

    def _logits(self, hidden: Tensor, token: int) -> Tensor:
        logits = self.model.logits(hidden, token)
        if self.branches == 1:
            return logits
        conditional, unconditional = logits.chunk(2)
        return guided_logits(conditional, unconditional, self.guidance)
