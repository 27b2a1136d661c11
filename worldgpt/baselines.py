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
        """(..., J) nats of tokens (..., J) under the frequencies of their places."""
        return np.stack([-self.log_unigram[j][tokens[..., j]] for j in range(tokens.shape[-1])], axis=-1)

    def copy_nats(self, tokens: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """(..., J) nats under: as the step before with probability 1 - changed, else as the frequencies of the place say."""
        frequency = np.exp(-self.unigram_nats(tokens))
        return -np.log((tokens == previous) * (1 - self.changed) + self.changed * frequency)


def fit_baselines(tokens: np.ndarray, drive_starts: np.ndarray, sizes: list[int]) -> Baselines:
    """Count tokens (N, J) of the training drives; `drive_starts` are the rows at which a drive begins, `sizes` J codebook sizes.

    Ids at or beyond a codebook's size (NULL) are not counted.
    """
    tables = []
    for j, size in enumerate(sizes):
        counts = np.bincount(tokens[:, j][tokens[:, j] < size], minlength=size) + SMOOTHING
        tables.append(np.log(counts / counts.sum()))
    follows = np.ones(len(tokens), bool)
    follows[drive_starts] = False
    differs = tokens[1:][follows[1:]] != tokens[:-1][follows[1:]]
    return Baselines(tuple(tables), (differs.sum(0) + SMOOTHING) / (len(differs) + 2 * SMOOTHING))
