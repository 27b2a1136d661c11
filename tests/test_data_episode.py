from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from episode_samples import make_episode

from data.chunks import cut, join, overlap, rechunk, shift_captions
from data.episode import Caption, ChannelSpec
from data.errors import UserError


def test_cutting_and_joining_are_inverse() -> None:
    whole = make_episode(0, 50)
    back = join([cut(whole, 0, 7), cut(whole, 7, 30), cut(whole, 30, 50)])
    assert back.start == 0 and back.steps == 50 and back.captions == whole.captions
    np.testing.assert_array_equal(back.frames["front"], whole.frames["front"])
    np.testing.assert_array_equal(back.actions, whole.actions)
    np.testing.assert_array_equal(back.truth["x_m"], whole.truth["x_m"])


@pytest.mark.parametrize("sizes", [(1,) * 20, (20,), (3, 9, 8), (16, 4)])
def test_rechunking_keeps_every_step_in_order(sizes: tuple[int, ...]) -> None:
    whole = make_episode(1, 20)
    bounds = np.cumsum((0, *sizes))
    chunks = list(rechunk((cut(whole, a, b) for a, b in pairwise(bounds)), 8))
    assert [chunk.steps for chunk in chunks] == [8, 8, 4]
    assert [chunk.start for chunk in chunks] == [0, 8, 16]
    np.testing.assert_array_equal(np.concatenate([chunk.telemetry for chunk in chunks]), whole.telemetry)


def test_overlap_counts_in_steps_of_the_drive() -> None:
    piece = cut(make_episode(2, 40), 10, 30)
    inside = overlap(piece, 5, 15)
    assert inside is not None and (inside.start, inside.steps) == (10, 5)
    tail = overlap(piece, 28, None)
    assert tail is not None and (tail.start, tail.steps) == (28, 2)
    assert overlap(piece, 0, 10) is None and overlap(piece, 30, None) is None


def test_captions_follow_a_part() -> None:
    captions = (Caption(0, 10, "a"), Caption(10, 99, "b"))
    assert shift_captions(captions, 5, 20) == (Caption(0, 5, "a"), Caption(5, 15, "b"))
    assert shift_captions(captions, 10, 12) == (Caption(0, 2, "b"),)


def test_an_episode_names_what_is_wrong_with_it() -> None:
    good = make_episode(3, 5)
    bad = good.telemetry.copy()
    bad[3, 0] = np.nan
    with pytest.raises(UserError, match="drive3: telemetry 'speed_mps' is nan at step 3"):
        replace(good, telemetry=bad)
    with pytest.raises(UserError, match="'x_m' has 4 steps, expected 5"):
        replace(good, truth={"x_m": np.zeros(4, np.float32)})
    with pytest.raises(UserError, match=r"actions expected shape \(5, 2\), got \(5, 1\)"):
        replace(good, actions=good.actions[:, :1])
    with pytest.raises(UserError, match="camera 'front' expected uint8"):
        replace(good, frames={"front": good.frames["front"].astype(np.float32)})


def test_a_channel_has_a_range_and_bins() -> None:
    with pytest.raises(UserError, match="'speed_mps': expected low < high"):
        ChannelSpec("speed_mps", "m/s", 3.0, 3.0)
    with pytest.raises(UserError, match="at least 2 bins"):
        ChannelSpec("speed_mps", "m/s", 0.0, 3.0, bins=1)
