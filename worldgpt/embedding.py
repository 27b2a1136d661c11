"""From prompts and tokens to the transformer's input, a step at a time or part by part.

A position holds its own token, its place, the look that the prompt asks for, and the hints: what stands around the token that it has to
predict, as far as that is known. A step's first positions are its prompt's and its starts; the last ones of them predict its first tokens.

Axes: B worlds, T steps, P prompt positions, J tokens a step, S positions a step, n of them, D width, C width of a token's vector.
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
        self.tables = nn.ModuleDict({c.name: token_table(c, code_width, width) for c in layout.codebooks})
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
        self.start_place = nn.Parameter(torch.empty(layout.starts, width)) if layout.starts else None
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
        """The first pass (..., lead, D) from embeddings (..., P, D_text)."""
        x, first = self.prompt_in(prompts) + self.prompt_place, self.layout.schedule[0]
        if first.last > self.layout.prompt_tokens:
            x = torch.cat([x, self.starts(slice(0, first.last - self.layout.prompt_tokens), conditions)], dim=-2)
        hints = self._hints(seen, first.start, first.stop, conditions)
        return torch.cat([x[..., : first.at, :], x[..., first.at :, :] + hints], dim=-2)

    def starts(self, which: slice, conditions: Conditions) -> Tensor:
        """Starts (..., n, D) without their hints."""
        assert self.start_place is not None
        return self.start_place[which] + conditions.look

    def tokens(self, seen: Tensor, first: int, last: int, conditions: Conditions) -> Tensor:
        """The passes first .. last - 1 (..., n, D) of the newest step, of those after the prompt's."""
        reading, spans = self.layout.reading(first, last), self.layout.spans
        pieces = self.layout.pieces(reading.tokens.start, reading.tokens.stop)
        places = [self.place(s)[a - spans[s.name].start : b - spans[s.name].start] for s, a, b in pieces]
        tokens = [self.token_in[s.codebook](self.tables[s.codebook](seen[..., -1, a:b])) for s, a, b in pieces]
        x = torch.cat(tokens, dim=-2) + torch.cat(places) + conditions.look
        if reading.starts.stop > reading.starts.start:
            x = torch.cat([x, self.starts(reading.starts, conditions).expand(*x.shape[:-2], -1, -1)], dim=-2)
        if reading.arrangement is not None:
            x = x[..., torch.as_tensor(reading.arrangement, device=x.device), :]
        if reading.predicted.stop == reading.predicted.start:  # the step's last tokens predict nothing and have no hints
            return x
        hints = self._hints(seen, reading.predicted.start, reading.predicted.stop, conditions)
        if reading.scattered is not None:
            return x + F.pad(hints, (0, 0, 0, 1))[..., torch.as_tensor(reading.scattered, device=x.device), :]
        return x + F.pad(hints, (0, 0, reading.offset, x.shape[-2] - reading.offset - hints.shape[-2]))

    def place(self, stream: Stream) -> Tensor:
        """(tokens, D): what tells each token's place; kept in raster order, so that models of all orders have it in common."""
        place = self.place_in[stream.name]
        return place[torch.as_tensor(self.layout.orders[stream.name], device=place.device)] if self.layout.slope else place

    def forward(self, tokens: Tensor, prompts: Tensor, before: Tensor | None = None) -> Tensor:
        """Whole steps: tokens (B, T, J), prompts (B, T, P, D_text) -> (B, T, S, D). `before` (B, 2, J): the steps before, else NULL."""
        if before is None:
            before = self.unseen(len(tokens))[:, :-1]
        known = torch.cat([before, tokens], dim=1)
        seen = torch.stack([known[:, i : i + tokens.shape[1]] for i in range(SEEN_STEPS)], dim=2)  # (B, T, SEEN_STEPS, J)
        conditions = self.conditions(seen, prompts)
        whole = self.tokens(seen, 1, len(self.layout.schedule), conditions)
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
