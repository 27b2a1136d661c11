"""Guesses of the codes to come, so that several are checked in one pass: exact speculative decoding.

After Leviathan et al. 2023 (arXiv:2211.17192) with the last frame as draft. A draw here is a function of its logits alone, its randomness
being keyed by its place; so the draws made on top of a wrong guess are the next guesses (Jacobi decoding, Santilli et al. 2023,
arXiv:2305.10427; for sampling Teng et al. 2024, arXiv:2410.01699), and as draws are stable, most are soon right: a wide look ahead lets a
code be drawn again several times before its turn comes. A guess is right where raster order draws the same: the tokens are its.
All worlds go on together, as far as the guesses are right in every one: it pays for one world or a few.
"""

import torch
from torch import Tensor

from worldgpt.layout import Layout


class Draft:
    """Guesses for a step, and how many of them to check at once."""

    def __init__(self, layout: Layout, most: int) -> None:
        self.spans = [layout.spans[stream.name] for stream in layout.of_kind("frame")]
        self.most = most
        self.guesses = torch.empty(0, 0, dtype=torch.long)
        self.passes = 0
        """Checks made so far."""
        self.right = 0
        """Guesses that were right in them."""

    def begin(self, last: Tensor) -> None:
        """A new step: all is as in the `last` one (B, J)."""
        self.guesses = last.clone()

    def ahead(self, start: int) -> int:
        """How many tokens from `start` on are to be guessed: all of one frame."""
        return min(self.most, self.end(start) - start)

    def end(self, start: int) -> int:
        """Where the frame that `start` stands in ends; `start` itself where that is in none."""
        return next((span.stop for span in self.spans if span.start <= start < span.stop), start)

    def check(self, drawn: Tensor, start: int, ahead: int) -> int:
        """How many guesses from `start` on are right in all worlds, of `ahead`, given what was drawn there and perhaps after, (B, n)."""
        right = int((drawn[:, :ahead] == self.guesses[:, start : start + ahead]).all(0).long().cumprod(0).sum())
        self.guesses[:, start : start + drawn.shape[1]] = drawn
        self.passes, self.right = self.passes + 1, self.right + right
        return right
