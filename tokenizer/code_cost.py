"""What a tokenizer's codes cost a world model: bits a frame that a small predictor still needs after a fixed training.

Codebook perplexity does not tell: two codebooks of equal reconstruction and equal perplexity can differ threefold in how well the next
frame's codes can be told from what came before. The predictor sees, for each code, those that a raster-order model has seen by then:
in the frame before, the 3x3 around the place; two frames before, the place itself; in the same frame, left, upper left, above, upper right.
Axes: N frames, h w code grid, P positions, S seen codes, V codebook size.
"""

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from data.store import EpisodeStore
from tokenizer.frames import HeldOut, held_out_frames
from tokenizer.model import FrameTokenizer
from tokenizer.report import encode

_BEFORE = [(1, dr, dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)] + [(2, 0, 0)]
_NOW = [(0, 0, -1), (0, -1, -1), (0, -1, 0), (0, -1, 1)]
SEEN = tuple(_BEFORE + _NOW)
"""(frames back, row offset, column offset) of the codes that the predictor sees."""


class CodePredictor(nn.Module):
    """A three-layer perceptron on the embeddings of the seen codes. Its output is compared with the same embeddings, so that it learns
    to copy all codes at once and not each by itself."""

    def __init__(self, vocabulary: int, places: int, width: int = 256, code_width: int = 64) -> None:
        super().__init__()
        self.code = nn.Embedding(vocabulary + 1, code_width)
        self.place = nn.Embedding(places, width)
        self.first = nn.Linear(len(SEEN) * code_width, width)
        self.layers = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, code_width))
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.normal_(self.code.weight, std=code_width**-0.5)

    def forward(self, seen: Tensor, place: Tensor) -> Tensor:  # (P, S), (P,) -> logits (P, V)
        x = self.first(rearrange(self.code(seen), "p s d -> p (s d)")) + self.place(place)
        return self.layers(x) @ self.code.weight[:-1].T * self.code.embedding_dim**0.5 + self.bias


def code_cost_bits(tokenizer: FrameTokenizer, store: EpisodeStore, *, frames: int = 4096, steps: int = 400, seed: int = 0) -> float:
    """Bits a held-out frame that the predictor needs after `steps` updates on about `frames` training frames."""
    train, val = (_examples(tokenizer, held_out_frames(store, split, frames)) for split in ("train", "val"))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        predictor = CodePredictor(tokenizer.codebook_size, val[3])
    _fit(predictor, train, steps, np.random.default_rng(seed))
    seen, place, target, places = val
    with torch.no_grad():
        losses = [F.cross_entropy(predictor(*part[:2]), part[2], reduction="sum") for part in _parts(seen, place, target)]
    return float(torch.stack(losses).sum()) / np.log(2) / (len(target) / places)


def _fit(predictor: CodePredictor, examples: tuple[Tensor, Tensor, Tensor, int], steps: int, rng: np.random.Generator) -> None:
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    seen, place, target, _ = examples
    for _ in range(steps):
        rows = torch.from_numpy(rng.integers(len(target), size=2048))
        loss = F.cross_entropy(predictor(seen[rows], place[rows]), target[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _parts(*tensors: Tensor, size: int = 8192) -> list[tuple[Tensor, ...]]:
    return list(zip(*(tensor.split(size) for tensor in tensors), strict=True))


def _examples(tokenizer: FrameTokenizer, clips: HeldOut) -> tuple[Tensor, Tensor, Tensor, int]:
    """What is seen (P, S), the place (P,), the code to tell (P,), and places a frame, for every frame with two before it."""
    codes = encode(tokenizer, clips.frames)
    outside = tokenizer.codebook_size
    padded = np.pad(codes, ((0, 0), (1, 1), (1, 1)), constant_values=outside)
    height, width = codes.shape[1:]
    frames = np.flatnonzero(clips.follows[2:] & clips.follows[1:-1]) + 2
    seen = [padded[frames - back, 1 + dr : 1 + dr + height, 1 + dc : 1 + dc + width].reshape(-1) for back, dr, dc in SEEN]
    place = np.tile(np.arange(height * width), len(frames))
    return torch.from_numpy(np.stack(seen, -1)), torch.from_numpy(place), torch.from_numpy(codes[frames].reshape(-1)), height * width
