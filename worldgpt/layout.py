"""The only owner of token order: which stream stands where in a step, with which ids, at which position.

A step is one block of the sequence:

    [prompt: P embeddings] [n - 1 starts] [frame codes of each camera, raster] [telemetry tokens] [action tokens]

Axes: B worlds, T steps, P prompt positions, J tokens a step (all but the prompt), n tokens predicted together, S = P + n - 1 + J
positions a step. The token j of a step stands at position P + n - 1 + j and is predicted from position P - 1 + j. With n = 1 that is
the position just before it: raster order. With more, the tokens k n .. k n + n - 1 come in one pass, from those of the pass before (the
first ones from the prompt's last position and the starts), and know nothing of one another. The prompt is not predicted.
A stream says what stands where; a codebook says which ids it uses. Id `size` of a codebook is NULL: it can be put in
(missing, dropped, before the first step) but never comes out.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal

import numpy as np

from data.episode import ChannelSpec
from data.errors import UserError
from tokenizer.config import code_parts

Kind = Literal["frame", "telemetry", "action"]

SEEN_STEPS = 3
"""Steps that hints are taken from: the one before the last, the last, and the present one as far as it is known."""
_FRAME_HINTS = (
    (0, 0, 0),
    *((1, row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)),
    *((2, 0, -1), (2, -1, -1), (2, -1, 0), (2, -1, 1)),
)
"""(seen step, row offset, column offset) of the codes around a code to be predicted: all that a raster order knows by then."""
_CHANNEL_HINTS = ((0, 0, 0), (1, 0, 0))


@dataclass(frozen=True)
class Codebook:
    """A set of ids 0 .. size - 1 with one embedding and one head; shared by all streams that name it."""

    name: str
    size: int
    levels: tuple[int, ...] = ()
    """Where ids are numbers with ordered digits: the levels of each, the fastest first; a channel's bins are one digit. () where an id
    says nothing of its neighbours."""

    def __post_init__(self) -> None:
        if self.levels and (min(self.levels) < 1 or prod(self.levels) != self.size):
            raise UserError(f"codebook {self.name!r:.80}: expected levels whose product is its size {self.size}, got {self.levels!s:.80}")

    @property
    def null_id(self) -> int:
        return self.size

    @property
    def parts(self) -> tuple[int, ...]:
        """Numbers of ids of the parts that an id is told in, the fastest first; their product is `size`."""
        return tuple(prod(part) for part in code_parts(self.levels)) if self.levels else (self.size,)


@dataclass(frozen=True)
class Stream:
    """What stands at rows x columns consecutive places of a step."""

    name: str
    kind: Kind
    codebook: str
    rows: int = 1
    columns: int = 1

    @property
    def tokens(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True)
class Layout:
    """Order, ids and positions of one step."""

    prompt_tokens: int
    streams: tuple[Stream, ...]
    codebooks: tuple[Codebook, ...]
    together: int = 1
    """n, tokens that are predicted together."""

    @classmethod
    def build(
        cls,
        grids: Mapping[str, tuple[int, int]],
        codebook_size: int,
        telemetry: tuple[ChannelSpec, ...],
        actions: tuple[ChannelSpec, ...],
        prompt_tokens: int,
        levels: tuple[int, ...] = (),
    ) -> "Layout":
        """Layout of cameras {name: (h, w)} that share one codebook (of such `levels`), and of channels with a codebook each.

        >>> speed = ChannelSpec("speed_mps", "m/s", 0.0, 40.0)
        >>> layout = Layout.build({"front": (8, 16)}, 256, (speed,), (), prompt_tokens=4)
        >>> layout.tokens_per_step, layout.positions_per_step, layout.spans["telemetry/speed_mps"]
        (129, 133, slice(128, 129, None))
        """
        streams = [Stream(f"camera/{name}", "frame", "frame", *grid) for name, grid in grids.items()]
        streams += [Stream(f"telemetry/{c.name}", "telemetry", c.name) for c in telemetry]
        streams += [Stream(f"action/{c.name}", "action", c.name) for c in actions]
        channels = [Codebook(c.name, c.bins, (c.bins,)) for c in (*telemetry, *actions)]
        return cls(prompt_tokens, tuple(streams), (Codebook("frame", codebook_size, levels), *channels))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Layout":
        streams = tuple(Stream(**s) for s in values["streams"])
        codebooks = tuple(Codebook(c["name"], c["size"], tuple(c["levels"])) for c in values["codebooks"])
        return cls(values["prompt_tokens"], streams, codebooks, values.get("together", 1))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @cached_property
    def tokens_per_step(self) -> int:
        return sum(stream.tokens for stream in self.streams)

    @property
    def lead(self) -> int:
        """Positions of a step before its first token."""
        return self.prompt_tokens + self.together - 1

    @property
    def positions_per_step(self) -> int:
        return self.lead + self.tokens_per_step

    @cached_property
    def passes(self) -> np.ndarray:
        """(S,) int64: the pass in which each position is read; with n > 1 what is read in one pass sees all of it."""
        if self.together == 1:
            return np.arange(self.positions_per_step)
        return np.concatenate([np.zeros(self.lead, np.int64), 1 + np.arange(self.tokens_per_step) // self.together])

    @cached_property
    def spans(self) -> dict[str, slice]:
        """{stream name: its places among the J tokens}."""
        spans, start = {}, 0
        for stream in self.streams:
            spans[stream.name] = slice(start, start + stream.tokens)
            start += stream.tokens
        return spans

    def codebook(self, stream: Stream) -> Codebook:
        return next(c for c in self.codebooks if c.name == stream.codebook)

    def of_kind(self, kind: str) -> tuple[Stream, ...]:
        return tuple(s for s in self.streams if s.kind == kind)

    def span_of_kind(self, kind: str) -> slice:
        """Places of all streams of a kind; they stand next to one another."""
        spans = [self.spans[s.name] for s in self.of_kind(kind)]
        return slice(spans[0].start, spans[-1].stop) if spans else slice(0, 0)

    def pieces(self, start: int, stop: int) -> list[tuple[Stream, int, int]]:
        """Streams met by the tokens start .. stop - 1 of a step, each with the part of that range it covers."""
        parts = []
        for stream in self.streams:
            span = self.spans[stream.name]
            first, last = max(start, span.start), min(stop, span.stop)
            if first < last:
                parts.append((stream, first, last))
        return parts

    @cached_property
    def grid_positions(self) -> np.ndarray:
        """(S, 2) int64 row and column of each position of a step.

        The prompt and the starts have row 0, frame codes rows from 1 (cameras side by side), channels the row below the tallest frame.
        """
        positions = [(0, i) for i in range(self.lead)]
        frames = self.of_kind("frame")
        left, bottom = 0, 1 + max((s.rows for s in frames), default=0)
        for stream in frames:
            positions += [(1 + r, left + c) for r in range(stream.rows) for c in range(stream.columns)]
            left += stream.columns
        channels = len(self.of_kind("telemetry")) + len(self.of_kind("action"))
        positions += [(bottom, i) for i in range(channels)]
        return np.array(positions, np.int64)

    def hint_places(self, stream: Stream) -> np.ndarray:
        """(tokens, hints) int64: what stands around each token of a stream, as places in the flattened (SEEN_STEPS, J) steps.

        A frame code has the 3x3 codes around it one step back, itself two steps back, and those to the left and above in its own step;
        a channel has itself one and two steps back. SEEN_STEPS * J where that lies outside the grid, or comes no earlier than the token.
        """
        hints = _FRAME_HINTS if stream.kind == "frame" else _CHANNEL_HINTS
        places = np.full((stream.tokens, len(hints)), SEEN_STEPS * self.tokens_per_step, np.int64)
        for token in range(stream.tokens):
            row, column = divmod(token, stream.columns)
            for i, (step, down, right) in enumerate(hints):
                r, c = row + down, column + right
                start = self.spans[stream.name].start
                place, first = start + r * stream.columns + c, (start + token) // self.together * self.together
                if 0 <= r < stream.rows and 0 <= c < stream.columns and (step < SEEN_STEPS - 1 or place < first):
                    places[token, i] = step * self.tokens_per_step + place
        return places

    def hint_count(self, kind: str) -> int:
        """Number of hints that a token of this kind has."""
        return len(_FRAME_HINTS if kind == "frame" else _CHANNEL_HINTS)

    @cached_property
    def null_tokens(self) -> np.ndarray:
        """(J,) int64: NULL of every place, as stands before the first step."""
        return np.concatenate([np.full(s.tokens, self.codebook(s).null_id, np.int64) for s in self.streams])

    def pack(self, parts: Mapping[str, np.ndarray], steps: int) -> np.ndarray:
        """(T, J) int64 from {stream name: (T, tokens) or (T, h, w)}; a stream that is not given is NULL."""
        tokens = np.tile(self.null_tokens, (steps, 1))
        for name, span in self.spans.items():
            if name in parts:
                tokens[:, span] = np.reshape(parts[name], (steps, -1))
        return tokens

    def unpack(self, tokens: Any, stream: Stream) -> Any:
        """(..., h, w) of one stream from tokens (..., J), NumPy or torch."""
        part = tokens[..., self.spans[stream.name]]
        return part.reshape(*part.shape[:-1], stream.rows, stream.columns)
