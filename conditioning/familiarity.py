"""Whether training has shown the words of a prompt: what a model never saw it cannot draw, and says so.

Words are counted, not understood: a frozen text encoder may know a synonym that no caption held.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from conditioning.text import normalise

MOST_WORDS = 4096
"""Words that are kept, the most frequent ones."""
LONGEST_WORD = 64
"""Letters of a word that is kept."""
THRESHOLD = 0.75
"""A prompt of a lower score is told of."""
TYPO_CREDIT = 0.5
"""What a word counts that is a known one but for a typo."""


@dataclass(frozen=True)
class Familiarity:
    """What training has shown of a prompt."""

    score: float
    """0 to 1: share of the prompt's information (-log p of each word, by its count in training) that known words hold; 1 for no words."""
    unknown: tuple[str, ...]
    """Words that no caption held, nor anything like them."""
    typos: tuple[tuple[str, str], ...]
    """Words that no caption held, each with the known one that it is a letter or two away from."""

    def __str__(self) -> str:
        """One line, as in "familiarity 0.33; never seen in training: volcano, erupts"."""
        parts = [f"familiarity {self.score:.2f}"]
        if self.unknown:
            parts.append(f"never seen in training: {', '.join(self.unknown)}")
        if self.typos:
            parts.append(f"read as typos: {', '.join(f'{word} ({known}?)' for word, known in self.typos)}")
        return "; ".join(parts)


@dataclass(frozen=True)
class WordCounts:
    """In how many captions of the training each word stands; travels in a checkpoint's config.json."""

    counts: Mapping[str, int]
    """{word: captions that hold it}, as `conditioning.text.normalise` spells words; the most frequent first."""

    @classmethod
    def of(cls, captions: Iterable[str], before: "WordCounts | None" = None) -> "WordCounts":
        """Count the words of captions, on top of those counted `before`."""
        found = Counter(before.counts if before else {})
        for caption in captions:
            found.update({word for word in normalise(caption).split() if len(word) <= LONGEST_WORD})
        return cls(dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))[:MOST_WORDS]))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "WordCounts":
        """Inverse of `to_dict`; ValueError where there is not a count of 1 or more for every word."""
        words, counts = values["words"], values["counts"]
        if len(words) != len(counts) or not all(
            isinstance(w, str) and isinstance(c, int) and c > 0 for w, c in zip(words, counts, strict=True)
        ):
            raise ValueError("caption_words: expected a count of 1 or more for every word")
        return cls(dict(zip(words, counts, strict=True)))

    def to_dict(self) -> dict[str, list[Any]]:
        """As JSON takes it: two lists, since a word may be spelled like a field."""
        return {"words": list(self.counts), "counts": list(self.counts.values())}

    def familiarity(self, prompt: str) -> Familiarity:
        """The score of a prompt, and its words that lower it."""
        known = information = 0.0
        unknown, typos = [], []
        for word in normalise(prompt).split():
            nats = math.log((self._total + len(self.counts) + 2) / (self.counts.get(word, 0) + 1))  # Laplace; two for the unseen
            information += nats
            if word in self.counts:
                known += nats
            elif meant := self._nearest(word):
                known += TYPO_CREDIT * nats
                typos.append((word, meant))
            else:
                unknown.append(word)
        return Familiarity(known / information if information else 1.0, tuple(dict.fromkeys(unknown)), tuple(dict.fromkeys(typos)))

    @cached_property
    def _total(self) -> int:
        return sum(self.counts.values())

    def _nearest(self, word: str) -> str | None:
        """The known word at the least edit distance, the most frequent of several: at most 1 for 3 to 5 letters, 2 for more.

        The first letter, rarely got wrong, must be right, or swapped with the second.
        """
        most = 0 if len(word) < 3 else 1 if len(word) < 6 else 2
        alike = [known for known in self.counts if word[0] in known[:2] and known[0] in word[:2] and abs(len(known) - len(word)) <= most]
        near = [(edit_distance(word, known), known) for known in alike if len(known) > 2]
        best = min(near, key=lambda pair: pair[0], default=(most + 1, ""))
        return best[1] if best[0] <= most else None


def edit_distance(one: str, other: str) -> int:
    """Letters put in, left out, exchanged, or swapped with their neighbour, that lead from one word to the other (Damerau 1964).

    No letter is touched twice.

    >>> edit_distance("nihgt", "night"), edit_distance("rany", "rainy"), edit_distance("", "fog")
    (1, 1, 3)
    """
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        earlier, before, row = before, row, [i]
        for j, theirs in enumerate(other, start=1):
            steps = [before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != theirs)]
            if i > 1 and j > 1 and (letter, one[i - 2]) == (other[j - 2], theirs):
                steps.append(earlier[j - 2] + 1)
            row.append(min(steps))
    return row[-1]
