"""Windows of T steps as the model takes them: drawn from a token store, with the noise that training adds.

Everything drawn is a pure function of (seed, step, micro-batch), so a training can be resumed and repeated exactly.
Axes: B windows, T steps, J tokens a step, C codes a step, U distinct prompts, L pieces.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conditioning.channels import ChannelSet
from conditioning.guidance import DropoutConfig
from worldgpt.layout import SEEN_STEPS, Layout
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

    def __getitem__(self, rows: slice) -> "Windows":
        return Windows(self.tokens[rows], self.captions[rows], self.before[rows])


class WindowReader:
    """Reads windows of one split of a token store in a given layout."""

    def __init__(self, store: TokenStore, split: str, layout: Layout, steps: int) -> None:
        self.layout, self.steps = layout, steps
        self.codes, self.channels = store.arrays(split)
        self.starts, self.drives = store.window_starts(split, steps)
        self.channel_set = ChannelSet((*store.info.telemetry, *store.info.actions))

    def random(self, batch: int, rng: np.random.Generator) -> Windows:
        """Windows drawn evenly from all that there are."""
        return self.read(self.starts[rng.integers(len(self.starts), size=batch)], rng)

    def spaced(self, count: int) -> Windows:
        """`count` windows (or all, if there are fewer) spaced evenly over the split; always the same."""
        chosen = np.unique(np.linspace(0, len(self.starts) - 1, count).round().astype(int))
        return self.read(self.starts[chosen], None)

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

    def tokens(self, index: np.ndarray) -> np.ndarray:
        """(..., J) int64 of the rows `index` (...): codes as stored, channels as bins."""
        codes = self.codes[index].astype(np.int64)
        channels = self.channel_set.tokens(self.channels[index])
        return np.concatenate([codes, channels], axis=-1)


def corrupt(windows: Windows, layout: Layout, history_corruption: float, dropout: DropoutConfig, rng: np.random.Generator) -> Windows:
    """What goes into the model in training: codes exchanged, channels and captions dropped, the steps before sometimes forgotten.

    Exchanged codes come from other places of the same batch, so they are codes that occur. The targets stay as they are.
    """
    steps = np.concatenate([windows.before, windows.tokens], axis=1)  # (B, PAST_STEPS + T, J)
    batch, span = len(steps), layout.span_of_kind("frame")
    frames = steps[..., span]
    share = rng.random((batch, 1, 1)) * history_corruption
    other = rng.choice(windows.tokens[..., span].reshape(-1), size=frames.shape)
    exchanged = (rng.random(frames.shape) < share) & (frames != layout.null_tokens[span])
    steps[..., span] = np.where(exchanged, other, frames)
    for kind, probability in (("telemetry", dropout.telemetry), ("action", dropout.actions)):
        span, dropped = layout.span_of_kind(kind), rng.random(batch) < probability
        steps[dropped, :, span] = layout.null_tokens[span]
    silent, forgotten = rng.random(batch) < dropout.text, rng.random(batch) < FORGOTTEN
    captions = [[""] * len(row) if silent[i] else row for i, row in enumerate(windows.captions)]
    past = np.where(forgotten[:, None, None], layout.null_tokens, steps[:, :PAST_STEPS])
    return Windows(steps[:, PAST_STEPS:], captions, past)


def model_batch(inputs: Windows, targets: np.ndarray, text: Any) -> dict[str, Tensor]:
    """Tensors of a batch: inputs, targets (B, T, J), before (B, 2, J), pieces (U, L) of the distinct prompts, prompt (B, T) their index."""
    distinct = {caption: i for i, caption in enumerate(dict.fromkeys(c for row in inputs.captions for c in row))}
    index = torch.tensor([[distinct[c] for c in row] for row in inputs.captions])
    return {
        "inputs": torch.from_numpy(inputs.tokens),
        "before": torch.from_numpy(inputs.before),
        "targets": torch.from_numpy(targets),
        "pieces": text.tokenize(list(distinct)),
        "prompt": index,
    }
