"""From prompts and tokens to the transformer's input, a step at a time or part by part.

A position holds its own token, its place, the look that the prompt asks for, and the hints: what stands around the token that it has to
predict, as far as that is known. A step's first positions are its prompt's and its starts; the last ones of them predict its first tokens.

Axes: B worlds, T steps, P prompt positions, J tokens a step, S positions a step, n tokens of a step, D width, C width of a token's vector.
"""

from typing import NamedTuple

import torch
from einops import repeat
from torch import Tensor, nn
from torch.nn import functional as F

from worldgpt.layout import SEEN_STEPS, Layout, Stream
from worldgpt.token_table import token_table

INITIAL = 0.02
"""Standard deviation of what is added to a position at the start."""


class Conditions(NamedTuple):
    """What holds at every position of a step, worked out once."""

    look: Tensor
    """(..., 1, D): the mean of the prompt's embeddings. By it a prompt tells from the first update on, before attention is learned."""
    motion: Tensor
    """(..., 1, 2 D): the channels of the step before, which act everywhere in this one."""


class StepEmbedding(nn.Module):
    """Embeds the steps of a layout; `seen` (..., SEEN_STEPS, J) always holds the newest steps, the last one as far as it is known."""

    def __init__(self, layout: Layout, text_width: int, code_width: int, width: int) -> None:
        super().__init__()
        self.layout, self.width = layout, width
        self.tables = nn.ModuleDict({c.name: token_table(c.size, code_width, width, c.levels) for c in layout.codebooks})
        self.prompt_in = nn.Linear(text_width, width, bias=False)
        self.look_in = nn.Linear(text_width, width, bias=False)
        self.token_in = nn.ModuleDict({c.name: nn.Linear(code_width, width, bias=False) for c in layout.codebooks})
        hints = {s.codebook: layout.hint_count(s.kind) * code_width for s in layout.streams}
        self.hint_in = nn.ModuleDict({name: nn.Linear(wide, 2 * width, bias=False) for name, wide in hints.items()})
        channels = [s.codebook for s in layout.streams if s.kind != "frame"]
        self.motion_in = nn.ModuleDict({name: nn.Linear(code_width, 2 * width, bias=False) for name in channels})
        self.hint_out = nn.Linear(width, width, bias=False)
        self.place_in = nn.ParameterDict({s.name: torch.empty(s.tokens, width) for s in layout.streams})
        self.prompt_place = nn.Parameter(torch.empty(layout.prompt_tokens, width))
        self.start_place = nn.Parameter(torch.empty(layout.together - 1, width)) if layout.together > 1 else None
        self._hint_places: dict[str, Tensor] = {}
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        starts = [] if self.start_place is None else [self.start_place]
        for place in (self.prompt_place, *starts, *self.place_in.values()):
            nn.init.normal_(place, std=INITIAL)

    def conditions(self, seen: Tensor, prompts: Tensor) -> Conditions:
        """For steps (..., SEEN_STEPS, J) under prompts (..., P, D_text)."""
        # Divided by its width, the look moves as fast in training as an embedding does; else it drowns the tokens at once.
        look = self.look_in(prompts.mean(-2) / prompts.shape[-1])
        motion = torch.zeros(*seen.shape[:-2], 2 * self.width, dtype=look.dtype, device=look.device)
        for stream in self.layout.streams:
            if stream.kind != "frame":
                channel = self.tables[stream.codebook](seen[..., -2, self.layout.spans[stream.name].start])
                motion = motion + self.motion_in[stream.codebook](channel)
        return Conditions(look[..., None, :], motion[..., None, :])

    def prompt(self, prompts: Tensor, seen: Tensor, conditions: Conditions) -> Tensor:
        """Prompt positions and starts (..., lead, D) from embeddings (..., P, D_text)."""
        x = self.prompt_in(prompts) + self.prompt_place
        if self.start_place is not None:
            x = torch.cat([x, self.start_place + conditions.look], dim=-2)
        together = self.layout.together
        return torch.cat([x[..., :-together, :], x[..., -together:, :] + self._hints(seen, 0, together, conditions)], dim=-2)

    def tokens(self, seen: Tensor, start: int, stop: int, conditions: Conditions) -> Tensor:
        """Positions (..., n, D) of the tokens start .. stop - 1 of the newest step."""
        pieces, spans = self.layout.pieces(start, stop), self.layout.spans
        places = [self.place_in[s.name][a - spans[s.name].start : b - spans[s.name].start] for s, a, b in pieces]
        tokens = [self.token_in[s.codebook](self.tables[s.codebook](seen[..., -1, a:b])) for s, a, b in pieces]
        x = torch.cat(tokens, dim=-2) + torch.cat(places) + conditions.look
        first, last = start + self.layout.together, stop + self.layout.together
        hinted = min(last, self.layout.tokens_per_step)  # the step's last tokens predict nothing and have no hints
        if hinted <= first:
            return x
        return x + F.pad(self._hints(seen, first, hinted, conditions), (0, 0, 0, last - hinted))

    def forward(self, tokens: Tensor, prompts: Tensor, before: Tensor | None = None) -> Tensor:
        """Whole steps: tokens (B, T, J), prompts (B, T, P, D_text) -> (B, T, S, D). `before` (B, 2, J): the steps before, else NULL."""
        if before is None:
            before = self.unseen(len(tokens))[:, :-1]
        known = torch.cat([before, tokens], dim=1)
        seen = torch.stack([known[:, i : i + tokens.shape[1]] for i in range(SEEN_STEPS)], dim=2)  # (B, T, SEEN_STEPS, J)
        conditions = self.conditions(seen, prompts)
        whole = self.tokens(seen, 0, self.layout.tokens_per_step, conditions)
        return torch.cat([self.prompt(prompts, seen, conditions), whole], dim=2)

    def unseen(self, batch: int) -> Tensor:
        """(B, SEEN_STEPS, J) NULL: what is known before the first step."""
        null = torch.as_tensor(self.layout.null_tokens, device=self.prompt_place.device)
        return repeat(null, "j -> b seen j", b=batch, seen=SEEN_STEPS)

    def _hints(self, seen: Tensor, start: int, stop: int, conditions: Conditions) -> Tensor:
        """(..., n, D): what is known around the tokens start .. stop - 1 that are to be predicted."""
        flat, parts = seen.flatten(-2), []
        for stream, first, last in self.layout.pieces(start, stop):
            null = self.layout.codebook(stream).null_id
            ids = F.pad(flat, (0, 1), value=null)[..., self._places(stream, first, last, seen.device)]  # (..., n, hints)
            parts.append(self.hint_in[stream.codebook](self.tables[stream.codebook](ids).flatten(-2)))
        gate, up = (torch.cat(parts, dim=-2) + conditions.motion).chunk(2, dim=-1)
        return self.hint_out(F.silu(gate + 1) * up)  # open from the start, so that copying is learned before anything else

    def _places(self, stream: Stream, first: int, last: int, device: torch.device) -> Tensor:
        if stream.name not in self._hint_places:
            self._hint_places[stream.name] = torch.as_tensor(self.layout.hint_places(stream), device=device)
        begin = self.layout.spans[stream.name].start
        return self._hint_places[stream.name][first - begin : last - begin]
