"""Laws of the channel codec: exact at bin centres, clamped outside, NULL only for NaN."""

import json
import logging

import numpy as np
import pytest
import torch

from conditioning.channels import ChannelCodec, ChannelSet
from data.episode import ChannelSpec
from data.errors import UserError

SPEED = ChannelSpec("speed_mps", "m/s", 0.0, 40.0, 128)
STEER = ChannelSpec("steering_rad", "rad", -0.6, 0.6, 65)
AWKWARD = [
    (0.0, 1.0, 2),
    (-1.0, 1.0, 3),
    (-0.1, 0.3, 7),
    (-0.6, 0.6, 127),
    (1e-6, 3e-6, 1000),
    (-1e6, 1e6 / 3, 4096),
    (99.9, 100.1, 255),
    (-np.pi, np.pi, 65536),
    (1e-30, 1e30, 9),
]


@pytest.mark.parametrize(("low", "high", "bins"), AWKWARD)
def test_bin_centres_come_back_exactly(low: float, high: float, bins: int) -> None:
    codec = ChannelCodec(ChannelSpec("x", "m", low, high, bins))
    ids = np.arange(bins)
    values = codec.values(ids)
    assert values.dtype == np.float32 and (np.diff(values) > 0).all()
    tokens = codec.tokens(values)
    assert tokens.dtype == np.int64
    np.testing.assert_array_equal(tokens, ids)


def test_bins_finer_than_float32_are_refused() -> None:
    with pytest.raises(UserError, match=r"'x': 4096 bins over 1000000.0..1000001.0"):
        ChannelCodec(ChannelSpec("x", "m", 1e6, 1e6 + 1, 4096))


def test_error_is_at_most_half_a_bin() -> None:
    codec = ChannelCodec(STEER)
    values = np.random.default_rng(0).uniform(STEER.low, STEER.high, 10_000).astype(np.float32)
    half = (STEER.high - STEER.low) / STEER.bins / 2
    assert np.abs(codec.values(codec.tokens(values)) - values).max() <= half * (1 + 1e-5)


def test_edges_fall_into_the_bin_above_and_the_outside_is_clamped() -> None:
    codec = ChannelCodec(ChannelSpec("x", "m", 0.0, 4.0, 4))
    given = np.array([-np.inf, -1e30, -1e-9, 0.0, 0.999, 1.0, 3.999, 4.0, 1e30, np.inf])
    np.testing.assert_array_equal(codec.tokens(given), [0, 0, 0, 0, 0, 1, 3, 3, 3, 3])


def test_null_stands_for_nan_and_for_nothing_else() -> None:
    codec = ChannelCodec(SPEED)
    assert (codec.null_id, codec.vocab_size) == (128, 129)
    assert codec.tokens(np.array([np.nan]))[0] == codec.null_id
    assert np.isnan(codec.values(np.array([codec.null_id]))[0])
    finite = np.r_[np.linspace(-1e3, 1e3, 9999), np.inf, -np.inf]
    assert codec.tokens(finite).max() < codec.null_id


@pytest.mark.parametrize("token", [-1, 129])
def test_ids_outside_the_vocabulary_are_refused(token: int) -> None:
    with pytest.raises(ValueError, match=r"0\.\.128"):
        ChannelCodec(SPEED).values(np.array([token]))


def test_a_set_is_its_codecs_side_by_side() -> None:
    channels = ChannelSet((SPEED, STEER))
    values = np.random.default_rng(1).uniform(-1, 50, (2, 5, 2)).astype(np.float32)
    values[0, 3, 1] = np.nan
    tokens = channels.tokens(values)
    for column, spec in enumerate((SPEED, STEER)):
        np.testing.assert_array_equal(tokens[..., column], ChannelCodec(spec).tokens(values[..., column]))
    np.testing.assert_array_equal(channels.tokens(channels.values(tokens)), tokens)
    assert tokens[0, 3, 1] == channels.null_ids[1]


def test_tensors_give_the_tokens_and_values_of_arrays() -> None:
    channels = ChannelSet((SPEED, STEER))
    values = np.random.default_rng(2).uniform(-1, 50, (7, 2)).astype(np.float32)
    tokens = channels.tokens(torch.from_numpy(values))
    assert tokens.dtype == torch.int64 and channels.values(tokens).dtype == torch.float32
    np.testing.assert_array_equal(tokens.numpy(), channels.tokens(values))
    np.testing.assert_array_equal(channels.values(tokens).numpy(), channels.values(tokens.numpy()))
    assert torch.equal(channels.codecs[0].tokens(torch.from_numpy(values[:, 0])), tokens[:, 0])


def test_a_set_of_no_channels_has_empty_tokens() -> None:
    assert ChannelSet(()).tokens(np.zeros((3, 0))).shape == (3, 0)
    assert ChannelSet(()).clamp_report(np.zeros((3, 0))) == {}


def test_another_number_of_columns_is_refused() -> None:
    with pytest.raises(ValueError, match=r"last axis of 2 \(speed_mps, steering_rad\)"):
        ChannelSet((SPEED, STEER)).tokens(np.zeros((3, 3)))


def test_names_are_found_and_unknown_or_repeated_ones_named() -> None:
    channels = ChannelSet((SPEED, STEER))
    assert channels.index("steering_rad") == 1
    with pytest.raises(UserError, match="'brake_norm': expected one of speed_mps, steering_rad"):
        channels.index("brake_norm")
    with pytest.raises(UserError, match="speed_mps more than once"):
        ChannelSet((SPEED, SPEED))


def test_match_is_by_name_and_reports_other_bins(caplog: pytest.LogCaptureFixture) -> None:
    ours = ChannelSet((SPEED, STEER, ChannelSpec("brake_norm", "", 0, 1)))
    theirs = ChannelSet((ChannelSpec("steering_rad", "rad", -0.6, 0.6, 33), SPEED))
    with caplog.at_level(logging.WARNING):
        assert ours.match(theirs) == {"speed_mps": 1}
    (record,) = caplog.records
    assert "steering_rad" in record.message and "65 bins" in record.message and "33 bins" in record.message
    with pytest.raises(UserError, match=r"'speed_mps': expected the unit 'm/s', got 'km/h'"):
        ours.match(ChannelSet((ChannelSpec("speed_mps", "km/h", 0, 40),)))


def test_clamp_report_names_channel_range_and_the_first_value_beyond() -> None:
    channels = ChannelSet((SPEED, STEER))
    values = np.array([[40.0, np.nan], [45.0, 0.6], [-7.0, -0.6]], np.float64)
    assert channels.clamp_report(values) == {"speed_mps": "speed_mps: 45 in row 1 is outside 0..40 m/s and is clamped (2 of 3 values are)"}
    assert channels.clamp_report(values[:1]) == {}
    assert list(channels.clamp_report(np.array([[np.inf, -9.0]]))) == ["speed_mps", "steering_rad"]


def test_a_set_survives_json() -> None:
    channels = ChannelSet((SPEED, STEER))
    assert ChannelSet.from_dicts(json.loads(json.dumps(channels.to_dicts()))) == channels
