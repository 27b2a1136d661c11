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
from worldgpt.layout import Layout
from worldgpt.token_store import TokenStore, drive_of, window_captions


@dataclass(frozen=True)
class Windows:
    """B windows: true tokens and the caption of each step."""

    tokens: np.ndarray
    """(B, T, J) int64."""
    captions: list[list[str]]
    """B lists of T captions; "" where nothing is said."""


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
        index = rows[:, None] + np.arange(self.steps)
        captions = []
        for row in rows:
            drive = drive_of(self.drives, int(row))
            captions.append(window_captions(drive, int(row) - drive.first, self.steps, rng))
        return Windows(self.tokens(index), captions)

    def tokens(self, index: np.ndarray) -> np.ndarray:
        """(..., J) int64 of the rows `index` (...): codes as stored, channels as bins."""
        codes = self.codes[index].astype(np.int64)
        channels = self.channel_set.tokens(self.channels[index])
        return np.concatenate([codes, channels], axis=-1)


def corrupt(
    windows: Windows, layout: Layout, history_corruption: float, dropout: DropoutConfig, rng: np.random.Generator
) -> tuple[np.ndarray, list[list[str]]]:
    """What goes into the model in training: tokens (B, T, J) with codes exchanged and channels dropped, and captions dropped.

    Exchanged codes come from other places of the same batch, so they are codes that occur. The targets stay as they are.
    """
    tokens, batch = windows.tokens.copy(), len(windows.tokens)
    span = slice(0, layout.span_of_kind("frame").stop)
    frames = tokens[..., span]
    share = rng.random((batch, 1, 1)) * history_corruption
    other = rng.choice(frames.reshape(-1), size=frames.shape)
    tokens[..., span] = np.where(rng.random(frames.shape) < share, other, frames)
    for kind, probability in (("telemetry", dropout.telemetry), ("action", dropout.actions)):
        span, dropped = layout.span_of_kind(kind), rng.random(batch) < probability
        tokens[dropped, :, span] = layout.null_tokens[span]
    silent = rng.random(batch) < dropout.text
    captions = [[""] * len(row) if silent[i] else row for i, row in enumerate(windows.captions)]
    return tokens, captions


def model_batch(inputs: np.ndarray, targets: np.ndarray, captions: list[list[str]], text: Any) -> dict[str, Tensor]:
    """Tensors of a batch: inputs, targets (B, T, J), pieces (U, L) of the distinct prompts, prompt (B, T) their index."""
    distinct = {caption: i for i, caption in enumerate(dict.fromkeys(c for row in captions for c in row))}
    index = torch.tensor([[distinct[c] for c in row] for row in captions])
    return {
        "inputs": torch.from_numpy(inputs),
        "targets": torch.from_numpy(targets),
        "pieces": text.tokenize(list(distinct)),
        "prompt": index,
    }
