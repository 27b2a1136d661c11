"""Trivial predictors that a world model must beat: copy the last step, and the mean frequency at each place.

Both are counted on the training split and smoothed, so that their loss is finite. Axes: N steps, J tokens a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

SMOOTHING = 0.5
"""Pseudo-count of each id at each place (Jeffreys' prior)."""


@dataclass(frozen=True)
class Baselines:
    """Smoothed frequencies, a table a place."""

    log_unigram: tuple[tuple[np.ndarray, ...], ...]
    """J places: a table (V,) of log probability for each part of the place's tokens, as if the parts knew nothing of each other."""
    changed: np.ndarray
    """(J,) smoothed share of steps in which the token at the place differs from that of the step before."""

    def unigram_nats(self, tokens: np.ndarray) -> np.ndarray:
        """(..., J) nats of tokens (..., J) under the frequencies of their places; NaN where a token is NULL."""
        return np.stack([_nats(tables, tokens[..., j]) for j, tables in enumerate(self.log_unigram)], axis=-1)

    def copy_nats(self, tokens: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """(..., J) nats under: as the step before with probability 1 - changed, else as the frequencies of the place say."""
        frequency = np.exp(-self.unigram_nats(tokens))
        return -np.log((tokens == previous) * (1 - self.changed) + self.changed * frequency)


def fit_baselines(drives: list[np.ndarray], sizes: Sequence[Sequence[int]]) -> Baselines:
    """Count the tokens (N, J) of training drives; `sizes` are those of each place's parts. Ids beyond all (NULL) are not counted."""
    known = [tokens < np.array([prod(parts) for parts in sizes]) for tokens in drives]
    tables = []
    for j, parts in enumerate(sizes):
        place, found = np.concatenate([tokens[there[:, j], j] for tokens, there in zip(drives, known, strict=True)]), []
        for size in parts:
            counts = np.bincount(place % size, minlength=size) + SMOOTHING
            found.append(np.log(counts / counts.sum()))
            place = place // size
        tables.append(tuple(found))
    both = [there[1:] & there[:-1] for there in known]
    differs = np.sum([((tokens[1:] != tokens[:-1]) & pair).sum(0) for tokens, pair in zip(drives, both, strict=True)], axis=0)
    pairs = np.sum([pair.sum(0) for pair in both], axis=0)
    return Baselines(tuple(tables), (differs + SMOOTHING) / (pairs + 2 * SMOOTHING))


def _nats(tables: tuple[np.ndarray, ...], tokens: np.ndarray) -> np.ndarray:
    """Nats of one place's tokens (...): the sum over their parts; NaN where a token is NULL."""
    nats, known = np.zeros(tokens.shape), tokens < prod(len(table) for table in tables)
    rest = np.where(known, tokens, 0)
    for table in tables:
        nats, rest = nats - table[rest % len(table)], rest // len(table)
    return np.where(known, nats, np.nan)
