"""Captions worded anew in training: other orders, typos, and words cut into other pieces, so that prompts may be worded freely.

All draws come from the generator that is handed in, so a batch can be made again.
"""

import re
from collections.abc import Container, Sequence

import numpy as np
from torch import Tensor

from conditioning.text import SentencePieceEncoder, TextEncoder, normalise
from conditioning.text_config import WordingConfig

LONG_WORD = re.compile(r"[^\W\d_]{4,}")
"""Words that may get a typo; shorter ones are too easily taken for others."""
TYPO_WORDS = 0.25
"""Share of a caption's longer words that get one, if it gets any."""


class Rewording:
    """Tokenises captions, some of them worded anew."""

    def __init__(self, config: WordingConfig, encoder: TextEncoder, words: Container[str] = ()) -> None:
        """`words` are those that captions hold: no typo makes one of them out of another."""
        self.config, self.encoder, self.words = config, encoder, words

    def tokenize(self, captions: Sequence[str], rng: np.random.Generator) -> Tensor:
        """As the encoder's `tokenize`, int64 (B, L); an empty caption stays empty."""
        cut = self.config.pieces if isinstance(self.encoder, SentencePieceEncoder) else 0.0
        reordered, mistyped, resampled = rng.random((3, len(captions))) < np.array([[self.config.order], [self.config.typos], [cut]])
        worded = list(captions)
        for i in range(len(worded)):
            if reordered[i]:
                worded[i] = in_another_order(worded[i], rng)
            if mistyped[i]:
                worded[i] = with_typos(worded[i], self.words, rng)
        if not resampled.any():
            return self.encoder.tokenize(worded)
        assert isinstance(self.encoder, SentencePieceEncoder)
        return self.encoder.tokenize(worded, [rng if chosen else None for chosen in resampled])


def in_another_order(caption: str, rng: np.random.Generator) -> str:
    """The clauses of a caption, apart by commas, shuffled.

    >>> in_another_order("rainy night, heavy traffic", np.random.default_rng(3))
    'heavy traffic, rainy night'
    """
    clauses = [clause.strip() for clause in caption.split(",")]
    return ", ".join(clauses[i] for i in rng.permutation(len(clauses)))


def with_typos(caption: str, words: Container[str], rng: np.random.Generator) -> str:
    """A caption in which a quarter of the longer words, one at least, have a typo, but where that would make one of `words`."""
    long = list(LONG_WORD.finditer(caption))
    if not long:
        return caption
    chosen = rng.random(len(long)) < TYPO_WORDS
    chosen[rng.integers(len(long))] = True
    parts, end, letters = [], 0, [letter for letter in caption if letter.isalpha()]
    for match, mistyped in zip(long, chosen, strict=True):
        word = match.group()
        made = _mistyped(word, letters[int(rng.integers(len(letters)))], rng) if mistyped else word
        parts += [caption[end : match.start()], word if normalise(made) in words else made]
        end = match.end()
    return "".join(parts) + caption[end:]


def _mistyped(word: str, letter: str, rng: np.random.Generator) -> str:
    """A word with a letter left out, doubled, exchanged for `letter` or swapped with the next; not the first: it is rarely got wrong."""
    at = int(rng.integers(1, len(word) - 1))
    before, here, after = word[:at], word[at], word[at + 1 :]
    return before + (after, here + here + after, letter + after, after[0] + here + after[1:])[int(rng.integers(4))]
