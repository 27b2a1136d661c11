"""The only owner of token order: which stream stands where in a step, with which ids, at which position.

A step is one block of the sequence:

    [prompt: P embeddings] [frame codes of each camera] [telemetry tokens] [action tokens]

It is read in passes: the prompt first, then the tokens that the pass before has predicted. Tokens of one pass know nothing of one another.

- raster: a token a pass, predicted from the position just before it.
- rows (`together` n): the tokens k n .. k n + n - 1 in one pass, each from the position n places before it; n - 1 starts behind the prompt
  stand in for what is missing before the first ones.
- diagonals (`slope` w): a row of codes begins w passes after the one above it, and each code is predicted from its left neighbour, a row's
  first one from a start, which is read in the pass before it. The channels follow one by one.

Axes: B worlds, T steps, P prompt positions, J tokens a step (all but the prompt), n tokens predicted together, S positions a step: P, J and
the starts. Tokens are numbered in the order in which they are read, codes as they lie in a picture are raster. The prompt is not predicted.
A stream says what stands where; a codebook says which ids it uses. Id `size` of a codebook is NULL: it can be put in
(missing, dropped, before the first step) but never comes out.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from data.episode import ChannelSpec
from data.errors import UserError
from tokenizer.config import WHOLE, code_parts

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
    most: int = WHOLE
    """An id with digits is told in parts that hold no more ids than this."""

    def __post_init__(self) -> None:
        if self.levels and (min(self.levels) < 1 or prod(self.levels) != self.size):
            raise UserError(f"codebook {self.name!r:.80}: expected levels whose product is its size {self.size}, got {self.levels!s:.80}")
        if not 2 <= self.most <= WHOLE:
            raise UserError(f"codebook {self.name!r:.80}: expected parts of 2 to {WHOLE} ids, got {self.most}")

    @property
    def null_id(self) -> int:
        return self.size

    @property
    def parts(self) -> tuple[int, ...]:
        """Numbers of ids of the parts that an id is told in, the fastest first; their product is `size`."""
        return tuple(map(prod, self.part_levels)) if self.levels else (self.size,)

    @property
    def part_levels(self) -> tuple[tuple[int, ...], ...]:
        """Levels of each part's digits; one part without any where an id has none."""
        return code_parts(self.levels, self.most) if self.levels else ((),)


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


class Pass(NamedTuple):
    """What is read at once: the positions first .. last - 1 of a step; from `at` on they predict the tokens start .. stop - 1."""

    first: int
    last: int
    at: int
    start: int
    stop: int


class Reading(NamedTuple):
    """What several passes in a row read and predict."""

    tokens: slice
    """Tokens read."""
    starts: slice
    """Starts read."""
    arrangement: np.ndarray | None
    """(n,) int64: what stands at each position, counted in the tokens read and then the starts; None where they stand so."""
    predicted: slice
    """Tokens predicted."""
    offset: int
    """The position, counted from the first one read, that predicts the first of them."""
    scattered: np.ndarray | None
    """(n,) int64: which of the predicted tokens each position predicts, their number for none; None where they lie in one piece."""


@dataclass(frozen=True)
class Layout:
    """Order, ids and positions of one step."""

    prompt_tokens: int
    streams: tuple[Stream, ...]
    codebooks: tuple[Codebook, ...]
    together: int = 1
    """n, tokens that are predicted together."""
    slope: int = 0
    """w, passes from the beginning of a row to that of the next; 0: no diagonals. Then n is 1."""

    def __post_init__(self) -> None:
        if self.together < 1 or self.slope < 0 or (self.slope and self.together > 1):
            raise UserError(f"layout: expected tokens together or a slope, got together {self.together}, slope {self.slope}")

    @classmethod
    def build(
        cls,
        grids: Mapping[str, tuple[int, int]],
        codebook_size: int,
        telemetry: tuple[ChannelSpec, ...],
        actions: tuple[ChannelSpec, ...],
        prompt_tokens: int,
        levels: tuple[int, ...] = (),
        most: int = WHOLE,
    ) -> "Layout":
        """Layout of cameras {name: (h, w)} that share one codebook (of such `levels`, told in parts of at most `most` ids), and of
        channels with a codebook each.

        >>> speed = ChannelSpec("speed_mps", "m/s", 0.0, 40.0)
        >>> layout = Layout.build({"front": (8, 16)}, 256, (speed,), (), prompt_tokens=4)
        >>> layout.tokens_per_step, layout.positions_per_step, layout.spans["telemetry/speed_mps"]
        (129, 133, slice(128, 129, None))
        """
        streams = [Stream(f"camera/{name}", "frame", "frame", *grid) for name, grid in grids.items()]
        streams += [Stream(f"telemetry/{c.name}", "telemetry", c.name) for c in telemetry]
        streams += [Stream(f"action/{c.name}", "action", c.name) for c in actions]
        channels = [Codebook(c.name, c.bins, (c.bins,)) for c in (*telemetry, *actions)]
        return cls(prompt_tokens, tuple(streams), (Codebook("frame", codebook_size, levels, most), *channels))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Layout":
        streams = tuple(Stream(**s) for s in values["streams"])
        codebooks = tuple(Codebook(c["name"], c["size"], tuple(c["levels"]), c.get("most", WHOLE)) for c in values["codebooks"])
        return cls(values["prompt_tokens"], streams, codebooks, values.get("together", 1), values.get("slope", 0))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @cached_property
    def tokens_per_step(self) -> int:
        return sum(stream.tokens for stream in self.streams)

    @property
    def starts(self) -> int:
        """Positions that hold neither prompt nor token: from there a row's first codes are predicted."""
        return sum(s.rows - 1 for s in self.of_kind("frame")) if self.slope else self.together - 1

    @property
    def lead(self) -> int:
        """Positions of a step before its first token."""
        return self.schedule[0].last

    @property
    def positions_per_step(self) -> int:
        return self.prompt_tokens + self.starts + self.tokens_per_step

    @property
    def causal(self) -> bool:
        """Whether a pass reads one position, but for the prompt: raster order."""
        return self.together == 1 and not self.slope

    @cached_property
    def schedule(self) -> tuple[Pass, ...]:
        """The passes of a step; the last one predicts nothing."""
        passes, last, read, total = list[Pass](), 0, self.prompt_tokens, self.tokens_per_step
        for start, stop, starts in [*self._groups(), (total, total, 0)]:
            first, last = last, last + read + starts
            passes.append(Pass(first, last, last - (stop - start if self.slope else min(self.together, last - first)), start, stop))
            read = stop - start
        return tuple(passes)

    def _groups(self) -> list[tuple[int, int, int]]:
        """Tokens start .. stop - 1 that are predicted together, and how many starts are read for them."""
        total, n = self.tokens_per_step, self.together
        if not self.slope:
            return [(start, min(start + n, total), 0 if start else n - 1) for start in range(0, total, n)]
        groups, start = [], 0
        for stream in self.streams:
            for wave in self._waves(stream):
                begins = wave[-1] >= stream.columns and wave[-1] % stream.columns == 0
                groups.append((start, start + len(wave), int(begins)))
                start += len(wave)
        return groups

    def _waves(self, stream: Stream) -> list[list[int]]:
        """Raster places of a stream that come together under a slope, row by row, wave after wave."""
        columns, last = stream.columns, stream.columns + self.slope * (stream.rows - 1)
        waves = [
            [row * columns + wave - self.slope * row for row in range(stream.rows) if 0 <= wave - self.slope * row < columns]
            for wave in range(last)
        ]
        return [wave for wave in waves if wave]

    @cached_property
    def passes(self) -> np.ndarray:
        """(S,) int64: the pass in which each position is read; but in raster order, what is read in one pass sees all of it."""
        if self.causal:
            return np.arange(self.positions_per_step)
        return np.repeat(np.arange(len(self.schedule)), [p.last - p.first for p in self.schedule])

    @cached_property
    def orders(self) -> dict[str, np.ndarray]:
        """{stream: (tokens,) int64 raster place of each of its tokens}."""
        waves = {s.name: self._waves(s) if self.slope else [range(s.tokens)] for s in self.streams}
        return {name: np.concatenate([np.array(wave, np.int64) for wave in parts]) for name, parts in waves.items()}

    @cached_property
    def ranks(self) -> dict[str, np.ndarray]:
        """{stream: (tokens,) int64 which of its tokens stands at each raster place}: the inverse of `orders`."""
        return {name: np.argsort(order) for name, order in self.orders.items()}

    @cached_property
    def predictors(self) -> np.ndarray:
        """(J,) int64: the position that predicts each token."""
        return np.concatenate([np.arange(p.stop - p.start) + p.at for p in self.schedule])

    @cached_property
    def positions(self) -> np.ndarray:
        """(J,) int64: the position that each token stands at."""
        return np.concatenate([np.arange(p.stop - p.start) + following.first for p, following in pairwise(self.schedule)])

    def reading(self, first: int, last: int) -> Reading:
        """What the passes first .. last - 1 read, of a step's passes but the first."""
        if (first, last) not in self._readings:
            self._readings[first, last] = self._reading(first, last)
        return self._readings[first, last]

    @cached_property
    def _readings(self) -> dict[tuple[int, int], Reading]:
        return {}

    def _reading(self, first: int, last: int) -> Reading:
        total, read = self.tokens_per_step, self.schedule[first:last]
        start = read[0].first
        tokens = slice(self.schedule[first - 1].start, self.schedule[last - 2].stop)
        predicted = slice(read[0].start, read[-1].stop)
        standing = self.standing[start : read[-1].last]
        begun = standing[standing >= total] - total
        starts = slice(begun[0], begun[-1] + 1) if len(begun) else slice(0, 0)
        arrangement = np.where(standing < total, standing, standing - total - starts.start + tokens.stop) - tokens.start
        count, predictors = predicted.stop - predicted.start, self.predictors[predicted] - start
        scattered = np.full(len(standing), count)
        scattered[predictors] = np.arange(count)
        return Reading(
            tokens,
            starts,
            None if (np.diff(arrangement) == 1).all() else arrangement,
            predicted,
            read[0].at - start,
            None if (np.diff(predictors) == 1).all() else scattered,
        )

    @cached_property
    def standing(self) -> np.ndarray:
        """(S,) int64: what stands at each position: a token, J and more for a start, below 0 for the prompt."""
        standing = np.arange(-self.positions_per_step, 0)
        standing[self.positions] = np.arange(self.tokens_per_step)
        standing[np.flatnonzero(standing < 0)[self.prompt_tokens :]] = self.tokens_per_step + np.arange(self.starts)
        return standing

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
        places, frames = np.zeros((self.tokens_per_step, 2), np.int64), self.of_kind("frame")
        left, bottom = 0, 1 + max((s.rows for s in frames), default=0)
        for stream in frames:
            rows, columns = np.divmod(self.orders[stream.name], stream.columns)
            places[self.spans[stream.name]] = np.stack([1 + rows, left + columns], axis=1)
            left += stream.columns
        below = self.span_of_kind("frame").stop
        places[below:, 0], places[below:, 1] = bottom, np.arange(len(places) - below)
        grid = np.zeros((self.positions_per_step, 2), np.int64)
        others = np.setdiff1d(np.arange(len(grid)), self.positions)
        grid[others, 1], grid[self.positions] = np.arange(len(others)), places
        return grid

    def hint_places(self, stream: Stream) -> np.ndarray:
        """(tokens, hints) int64: what stands around each token of a stream, as places in the flattened (SEEN_STEPS, J) steps.

        A frame code has the 3x3 codes around it one step back, itself two steps back, and those to the left and above in its own step;
        a channel has itself one and two steps back. SEEN_STEPS * J where that lies outside the grid, or comes no earlier than the token.
        """
        hints, start = _FRAME_HINTS if stream.kind == "frame" else _CHANNEL_HINTS, self.spans[stream.name].start
        places = np.full((stream.tokens, len(hints)), SEEN_STEPS * self.tokens_per_step, np.int64)
        tokens = start + self.ranks[stream.name]
        comes = np.concatenate([np.full(p.stop - p.start, number) for number, p in enumerate(self.schedule)])
        for at, token in enumerate(tokens.tolist()):
            row, column = divmod(at, stream.columns)
            for i, (step, down, right) in enumerate(hints):
                r, c = row + down, column + right
                if 0 <= r < stream.rows and 0 <= c < stream.columns:
                    place = int(tokens[r * stream.columns + c])
                    if step < SEEN_STEPS - 1 or comes[place] < comes[token]:
                        places[token - start, i] = step * self.tokens_per_step + place
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
                tokens[:, span] = np.reshape(parts[name], (steps, -1))[:, self.orders[name]]
        return tokens

    def unpack(self, tokens: Any, stream: Stream) -> Any:
        """(..., h, w) of one stream from tokens (..., J), NumPy or torch."""
        part = tokens[..., self.spans[stream.name]]
        if self.slope:
            part = part[..., self.ranks[stream.name]]
        return part.reshape(*part.shape[:-1], stream.rows, stream.columns)
