"""The trivial predictors against hand computation and their limits."""

import numpy as np
import pytest

from worldgpt.baselines import SMOOTHING, fit_baselines


def test_equals_hand_computation() -> None:
    tokens = np.array([[0, 1], [0, 1], [2, 1], [2, 0], [1, 1]])  # two drives: rows 0-2 and 3-4
    fitted = fit_baselines([tokens[:3], tokens[3:]], [(3,), (2,)])
    np.testing.assert_allclose(np.exp(fitted.log_unigram[0][0]), np.array([2.5, 1.5, 2.5]) / 6.5)
    np.testing.assert_allclose(np.exp(fitted.log_unigram[1][0]), np.array([1.5, 4.5]) / 6)
    # Three pairs lie within a drive: place 0 changes in two of them, place 1 in one.
    np.testing.assert_allclose(fitted.changed, [(2 + 0.5) / 4, (1 + 0.5) / 4])
    nats = fitted.copy_nats(np.array([[0, 0]]), np.array([[0, 1]]))
    changed, p0, p1 = fitted.changed, 2.5 / 6.5, 1.5 / 6
    np.testing.assert_allclose(nats, [[-np.log(1 - changed[0] + changed[0] * p0), -np.log(changed[1] * p1)]])
    np.testing.assert_allclose(fitted.unigram_nats(np.array([[2, 1]])), [[-np.log(2.5 / 6.5), -np.log(4.5 / 6)]])


def test_both_are_probabilities() -> None:
    rng = np.random.default_rng(0)
    tokens, sizes = rng.integers(0, [5, 9], (300, 2)), [5, 9]
    fitted = fit_baselines([tokens[:100], tokens[100:]], [(size,) for size in sizes])
    for place, size in enumerate(sizes):
        every = np.zeros((size, 2), np.int64)
        every[:, place] = np.arange(size)
        for previous in range(size):
            before = np.zeros((size, 2), np.int64)
            before[:, place] = previous
            assert np.exp(-fitted.copy_nats(every, before))[:, place].sum() == pytest.approx(1)
        assert np.exp(-fitted.unigram_nats(every))[:, place].sum() == pytest.approx(1)


def test_copying_a_drive_that_stands_still_costs_almost_nothing() -> None:
    still = np.tile(np.array([[3, 1, 4]]), (1000, 1))
    fitted = fit_baselines([still], [(5,)] * 3)
    assert fitted.copy_nats(still[1:], still[:-1]).max() < 1e-3
    moving = still + np.arange(1000)[:, None] % 2 * np.array([1, 0, 0])
    fitted = fit_baselines([moving], [(5,)] * 3)
    nats = fitted.copy_nats(moving[1:], moving[:-1]).mean(0)
    assert nats[0] > 0.69
    assert nats[1:].max() < 1e-3


def test_a_change_between_drives_does_not_count_and_null_neither() -> None:
    tokens = np.array([[0], [0], [1], [1]])
    changed = fit_baselines([tokens[:2], tokens[2:]], [(2,)]).changed
    np.testing.assert_allclose(changed, [SMOOTHING / (2 + 2 * SMOOTHING)])
    with_null = np.array([[0], [2], [1], [1]])
    fitted = fit_baselines([with_null], [(2,)])
    np.testing.assert_allclose(np.exp(fitted.log_unigram[0][0]), [1.5 / 4, 2.5 / 4])
    np.testing.assert_allclose(fitted.changed, [SMOOTHING / (1 + 2 * SMOOTHING)])  # one pair has no NULL in it
    assert np.isnan(fitted.unigram_nats(with_null)).ravel().tolist() == [False, True, False, False]
    assert np.isnan(fitted.copy_nats(with_null[1:], with_null[:-1])).ravel().tolist() == [True, False, False]
