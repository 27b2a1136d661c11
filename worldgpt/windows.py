"""Windows of T steps as the model takes them: drawn from a token store, with the noise that training adds.

Everything drawn is a pure function of (seed, step, micro-batch), so a training can be resumed and repeated exactly.
Axes: B windows, T steps, J tokens a step, C codes a step, U distinct prompts, L pieces.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from conditioning.channels import ChannelCodec
from conditioning.guidance import DropoutConfig
from data.episode import ChannelSpec
from data.errors import UserError
from worldgpt.config import HistoryConfig
from worldgpt.layout import SEEN_STEPS, Layout, Stream
from worldgpt.mixture import Mixture
from worldgpt.token_store import TokenStore, drive_of, window_captions

PAST_STEPS = SEEN_STEPS - 1
FORGOTTEN = 0.25
"""Share of training windows without steps before: as a rollout begins. The rest begin as a rolling window does, with a past."""


@dataclass(frozen=True)
class Windows:
    """B windows: true tokens and the caption of each step."""

    tokens: np.ndarray
    """(B, T, J) int64."""
    captions: list[list[str]]
    """B lists of T captions; "" where nothing is said."""
    before: np.ndarray
    """(B, 2, J) int64: the two steps before each window, the first hints; NULL before a drive begins."""
    anchors: int = 0
    """The first steps are this many anchors, taken from elsewhere in the drive; the others follow one another."""
    times: np.ndarray | None = None
    """(B, T) int64 rotary times; None: 0 .. T - 1."""
    own: np.ndarray | None = None
    """(B, T, J) bool: tokens that the model's own draws are to stand for; None: nowhere."""

    def __getitem__(self, rows: slice) -> "Windows":
        times, own = (None if part is None else part[rows] for part in (self.times, self.own))
        return Windows(self.tokens[rows], self.captions[rows], self.before[rows], self.anchors, times, own)


@dataclass(frozen=True)
class AnchorPlan:
    """Where the anchors of a batch lie."""

    count: int
    ahead: bool
    reach: int

    @classmethod
    def draw(cls, history: HistoryConfig, rng: np.random.Generator) -> "AnchorPlan | None":
        """A plan in the share of updates that `history` asks for."""
        if rng.random() >= history.anchors:
            return None
        ahead = bool(rng.random() < history.future)
        return cls(1 if ahead else int(rng.integers(1, 3)), ahead, history.reach)


class WindowReader:
    """Reads windows of one split of a mixture of token stores in a given layout.

    Only training reads every set; of another split one set at least must have drives.
    """

    def __init__(self, mixture: Mixture, split: str, layout: Layout, steps: int) -> None:
        self.layout, self.steps = layout, steps
        sets = list(zip(mixture.stores, mixture.weights, strict=True))
        sets = [(store, weight) for store, weight in sets if split == "train" or store.drives(split)] or sets
        self.parts = [_Part(store, split, layout, (*mixture.telemetry, *mixture.actions), steps) for store, _ in sets]
        self.shares = np.array([weight for _, weight in sets]) / sum(weight for _, weight in sets)

    def random(self, batch: int, rng: np.random.Generator, anchors: AnchorPlan | None = None) -> Windows:
        """Windows drawn from the sets by their weights, and evenly from all that a set has; with anchors, if there is a plan for them."""
        counts = rng.multinomial(batch, self.shares)
        chosen = [(part, part.starts[rng.integers(len(part.starts), size=count)]) for part, count in zip(self.parts, counts, strict=True)]
        return _joined([part.anchored(rows, anchors, rng) if anchors else part.read(rows, rng) for part, rows in chosen if len(rows)])

    def spaced(self, count: int) -> Windows:
        """About `count` windows (or all, if there are fewer) spaced evenly over the split, from every set alike; always the same."""
        each = -(-count // len(self.parts))
        chosen = [np.unique(np.linspace(0, len(part.starts) - 1, each).round().astype(int)) for part in self.parts]
        return _joined([part.read(part.starts[rows], None) for part, rows in zip(self.parts, chosen, strict=True)])

    def rows(self, most: int) -> list[np.ndarray]:
        """Tokens (N, J) of every drive, as many as fit into `most` rows in all; from every set alike."""
        return [tokens for part in self.parts for tokens in part.drive_tokens(most // len(self.parts))]


class _Part:
    """One split of one store, seen through the layout."""

    def __init__(self, store: TokenStore, split: str, layout: Layout, channels: tuple[ChannelSpec, ...], steps: int) -> None:
        self.layout, self.steps = layout, steps
        self.codes, self.channels = store.arrays(split)
        self.starts, self.drives = store.window_starts(split, steps)
        self.columns = _code_columns(store.info.grids)
        names = [spec.name for spec in (*store.info.telemetry, *store.info.actions)]
        self.codecs = {spec.name: (ChannelCodec(spec), names.index(spec.name)) for spec in channels if spec.name in names}

    def read(self, rows: np.ndarray, rng: np.random.Generator | None) -> Windows:
        """The windows that begin at `rows` of the split; captions are drawn with `rng`."""
        captions, firsts = [], np.zeros(len(rows), np.int64)
        for i, row in enumerate(rows.tolist()):
            drive = drive_of(self.drives, row)
            captions.append(window_captions(drive, row - drive.first, self.steps, rng))
            firsts[i] = drive.first
        earlier = rows[:, None] - np.arange(PAST_STEPS, 0, -1)  # (B, PAST_STEPS)
        there = earlier >= firsts[:, None]
        before = np.where(there[..., None], self.tokens(np.maximum(earlier, firsts[:, None])), self.layout.null_tokens)
        return Windows(self.tokens(rows[:, None] + np.arange(self.steps)), captions, before)

    def anchored(self, rows: np.ndarray, plan: AnchorPlan, rng: np.random.Generator) -> Windows:
        """Windows that begin at `rows`, their first steps given up for anchors: steps of the same drive, up to `reach` steps away."""
        plain = self.read(rows, rng)
        count, last = plan.count, rows + self.steps - 1
        away = rng.integers(1, plan.reach + 1, (len(rows), count))
        places, texts = np.zeros((len(rows), count), np.int64), []
        for i, row in enumerate(rows.tolist()):
            drive = drive_of(self.drives, row)
            wanted = last[i] + away[i] if plan.ahead else row + count - away[i]
            places[i] = np.clip(wanted, drive.first, drive.last - 1)
            said = [window_captions(drive, int(place) - drive.first, 1, rng)[0] for place in places[i]]
            texts.append([*said, *plain.captions[i][count:]])
        times = np.concatenate([self.steps - 1 + places - last[:, None], np.tile(np.arange(count, self.steps), (len(rows), 1))], axis=1)
        steps = np.concatenate([self.tokens(places), plain.tokens[:, count:]], axis=1)
        known = np.concatenate([plain.before, plain.tokens[:, :count]], axis=1)
        return Windows(steps, texts, known[:, -PAST_STEPS:], count, times)

    def tokens(self, index: np.ndarray) -> np.ndarray:
        """(..., J) int64 of the rows `index` (...): codes as stored, channels as bins, NULL for what this set lacks."""
        codes, channels = self.codes[index], self.channels[index]
        tokens = np.broadcast_to(self.layout.null_tokens, (*index.shape, self.layout.tokens_per_step)).copy()
        for stream in self.layout.streams:
            span, name = self.layout.spans[stream.name], stream.name.partition("/")[2]
            if stream.kind == "frame" and name in self.columns:
                tokens[..., span] = codes[..., self.columns[name]][..., self.layout.orders[stream.name]]
            elif stream.kind != "frame" and name in self.codecs:
                codec, column = self.codecs[name]
                tokens[..., span] = codec.tokens(channels[..., column])[..., None]
        return tokens

    def drive_tokens(self, most: int) -> list[np.ndarray]:
        ends = np.cumsum([drive.steps for drive in self.drives])
        kept = max(1, int(np.searchsorted(ends, most, side="right")))
        return [self.tokens(np.arange(drive.first, min(drive.last, drive.first + most))) for drive in self.drives[:kept]]


def _code_columns(grids: Mapping[str, tuple[int, int]]) -> dict[str, slice]:
    """{camera: its columns in a store's codes}."""
    columns, start = {}, 0
    for camera, (height, width) in grids.items():
        columns[camera] = slice(start, start + height * width)
        start += height * width
    return columns


def _joined(parts: list[Windows]) -> Windows:
    tokens, before = (np.concatenate([getattr(part, name) for part in parts]) for name in ("tokens", "before"))
    times = [part.times for part in parts if part.times is not None]
    return Windows(
        tokens, [row for part in parts for row in part.captions], before, parts[0].anchors, np.concatenate(times) if times else None
    )


def corrupt(windows: Windows, layout: Layout, history: HistoryConfig, dropout: DropoutConfig, rng: np.random.Generator) -> Windows:
    """What goes into the model in training: codes exchanged, channels and captions dropped, the steps before sometimes forgotten.

    Where the model's own draws are to stand, `own` says so and the true codes stay. Anchors and the targets stay as they are.
    """
    steps = np.concatenate([windows.before, windows.tokens], axis=1)  # (B, PAST_STEPS + T, J)
    batch, span, own = len(steps), layout.span_of_kind("frame"), None
    chosen = _exchanged(steps, layout, history, windows.anchors, rng)
    if history.kind == "own":
        own = chosen[:, PAST_STEPS:]
    else:
        other = _others(steps, layout, rng) if history.kind == "uniform" else _neighbours(steps, layout, rng)
        steps = np.where(chosen, other, steps)
    if history.digit_noise:
        steps = np.where(_changeable(steps, layout, windows.anchors), _blurred(steps, layout, history.digit_noise, rng), steps)
    if rng.random() < history.self_rollout:
        own = np.zeros_like(steps[:, PAST_STEPS:], bool)
        own[:, windows.anchors + 1 :, span] = True
    for kind, probability in (("telemetry", dropout.telemetry), ("action", dropout.actions)):
        span, dropped = layout.span_of_kind(kind), rng.random(batch) < probability
        steps[dropped, :, span] = layout.null_tokens[span]
    silent, forgotten = rng.random(batch) < dropout.text, rng.random(batch) < FORGOTTEN
    captions = [[""] * len(row) if silent[i] else row for i, row in enumerate(windows.captions)]
    past = np.where(forgotten[:, None, None], layout.null_tokens, steps[:, :PAST_STEPS])
    return replace(windows, tokens=steps[:, PAST_STEPS:], captions=captions, before=past, own=own)


def _exchanged(steps: np.ndarray, layout: Layout, history: HistoryConfig, anchors: int, rng: np.random.Generator) -> np.ndarray:
    """(B, PAST_STEPS + T, J) bool: the frame codes to be exchanged."""
    shape, span = steps.shape, layout.span_of_kind("frame")
    newer = np.linspace(-1, 1, shape[1]) if shape[1] > 1 else np.zeros(1)
    share = rng.random((shape[0], 1, 1)) * history.corruption * (1 + history.recency * newer)[:, None]
    chosen = np.zeros(shape, bool)
    chosen[..., span] = rng.random(steps[..., span].shape) < share
    return chosen & _changeable(steps, layout, anchors)


def _changeable(steps: np.ndarray, layout: Layout, anchors: int) -> np.ndarray:
    """(B, PAST_STEPS + T, J) bool: the frame codes that are there and belong to no anchor."""
    frames = np.zeros(steps.shape, bool)
    frames[..., layout.span_of_kind("frame")] = True
    frames[:, PAST_STEPS : PAST_STEPS + anchors] = False
    return frames & (steps != layout.null_tokens)


def _others(steps: np.ndarray, layout: Layout, rng: np.random.Generator) -> np.ndarray:
    """Each frame code exchanged for one from anywhere in the batch, so for one that occurs."""
    span, others = layout.span_of_kind("frame"), steps.copy()
    others[..., span] = rng.choice(steps[:, PAST_STEPS:, span].reshape(-1), size=steps[..., span].shape)
    return others


def _neighbours(steps: np.ndarray, layout: Layout, rng: np.random.Generator) -> np.ndarray:
    """Each frame code with one of its digits moved one level up or down. UserError where codes have no digits."""
    others = steps.copy()
    for stream in layout.of_kind("frame"):
        span, (levels, worth) = layout.spans[stream.name], _digits(layout, stream, "history kind 'neighbour'")
        digit = rng.integers(len(levels), size=others[..., span].shape)
        value = others[..., span] // worth[digit] % levels[digit]
        up = (rng.random(digit.shape) < 0.5) & (value < levels[digit] - 1) | (value == 0)
        others[..., span] += np.where(up, 1, -1) * worth[digit]
    return others


def _blurred(steps: np.ndarray, layout: Layout, most: float, rng: np.random.Generator) -> np.ndarray:
    """Each digit of each frame code moved one level up or down with a chance of its window's own, 0 to `most`: what noise on a latent
    picture is for codes (GameNGen, Valevski et al. 2024, arXiv:2408.14837, section 3.2.1). UserError where codes have no digits."""
    others, chances = steps.copy(), rng.random((len(steps), 1, 1, 1)) * most
    for stream in layout.of_kind("frame"):
        span, (levels, worth) = layout.spans[stream.name], _digits(layout, stream, "history.digit_noise")
        values = steps[..., span, None] // worth % levels
        moved, up = rng.random(values.shape) < chances, rng.random(values.shape) < 0.5
        up = (up & (values < levels - 1)) | (values == 0)
        others[..., span] += (moved * np.where(up, 1, -1) * worth).sum(-1)
    return others


def _digits(layout: Layout, stream: Stream, asked_by: str) -> tuple[np.ndarray, np.ndarray]:
    """Levels of each digit of a stream's codes, and what one level is worth."""
    levels = np.array(layout.codebook(stream).levels)
    if not len(levels):
        raise UserError(f"{asked_by} needs codes with digits (FSQ); corrupt with kind 'uniform' or 'own'")
    return levels, np.concatenate([[1], np.cumprod(levels)[:-1]])


def model_batch(inputs: Windows, targets: np.ndarray, tokenize: Callable[[list[str]], Tensor]) -> dict[str, Tensor]:
    """Tensors of a batch: inputs, targets (B, T, J), before (B, 2, J), pieces (U, L) of the distinct prompts, prompt (B, T) their index;
    times (B, T), anchors (A,) (as many as there are) and own (B, T, J) where the windows have them."""
    distinct = {caption: i for i, caption in enumerate(dict.fromkeys(c for row in inputs.captions for c in row))}
    index = torch.tensor([[distinct[c] for c in row] for row in inputs.captions])
    special = {"times": inputs.times, "own": inputs.own, "anchors": np.zeros(inputs.anchors) if inputs.anchors else None}
    return {
        **{name: torch.from_numpy(value) for name, value in special.items() if value is not None},
        "inputs": torch.from_numpy(inputs.tokens),
        "before": torch.from_numpy(inputs.before),
        "targets": torch.from_numpy(targets),
        "pieces": tokenize(list(distinct)),
        "prompt": index,
    }
