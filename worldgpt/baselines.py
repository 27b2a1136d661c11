"""Trivial predictors that a world model must beat: copy the last step, and the mean frequency at each place.

Both are counted on the training split and smoothed, so that their loss is finite. Axes: N steps, J tokens a step.
"""

from dataclasses import dataclass

import numpy as np

SMOOTHING = 0.5
"""Pseudo-count of each id at each place (Jeffreys' prior)."""


@dataclass(frozen=True)
class Baselines:
    """Smoothed frequencies, a table a place."""

    log_unigram: tuple[np.ndarray, ...]
    """J tables (V,) of log probability."""
    changed: np.ndarray
    """(J,) smoothed share of steps in which the token at the place differs from that of the step before."""

    def unigram_nats(self, tokens: np.ndarray) -> np.ndarray:
        """(..., J) nats of tokens (..., J) under the frequencies of their places; NaN where a token is NULL."""
        return np.stack([-np.append(self.log_unigram[j], np.nan)[tokens[..., j]] for j in range(tokens.shape[-1])], axis=-1)

    def copy_nats(self, tokens: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """(..., J) nats under: as the step before with probability 1 - changed, else as the frequencies of the place say."""
        frequency = np.exp(-self.unigram_nats(tokens))
        return -np.log((tokens == previous) * (1 - self.changed) + self.changed * frequency)


def fit_baselines(drives: list[np.ndarray], sizes: list[int]) -> Baselines:
    """Count the tokens (N, J) of training drives; `sizes` are the J codebook sizes. Ids at or beyond one (NULL) are not counted."""
    known = [tokens < np.array(sizes) for tokens in drives]
    tables = []
    for j, size in enumerate(sizes):
        found = [np.bincount(tokens[there[:, j], j], minlength=size) for tokens, there in zip(drives, known, strict=True)]
        counts = np.sum(found, axis=0) + SMOOTHING
        tables.append(np.log(counts / counts.sum()))
    both = [there[1:] & there[:-1] for there in known]
    differs = np.sum([((tokens[1:] != tokens[:-1]) & pair).sum(0) for tokens, pair in zip(drives, both, strict=True)], axis=0)
    pairs = np.sum([pair.sum(0) for pair in both], axis=0)
    return Baselines(tuple(tables), (differs + SMOOTHING) / (pairs + 2 * SMOOTHING))
