"""Words and files -> commands: what was asked stands in the table, all else is free, mistakes are named."""

from pathlib import Path

import numpy as np
import pytest

from conditioning.channels import ChannelSet
from conditioning.steering import TURNS, Turn, build_commands, parse_steer, read_actions_csv, speed_telemetry, steer_actions
from data.episode import ChannelSpec
from data.errors import UserError

ACTIONS = ChannelSet((ChannelSpec("steering_rad", "rad", -0.6, 0.6), ChannelSpec("acceleration_mps2", "m/s^2", -5, 5)))
TELEMETRY = ChannelSet((ChannelSpec("speed_mps", "m/s", 0, 40), ChannelSpec("yaw_rate_rps", "rad/s", -1, 1)))
PEDALS = ChannelSet((ChannelSpec("throttle_norm", "", -1, 1), ChannelSpec("steering_norm", "", -1, 1)))


def test_turns_are_read_in_order() -> None:
    assert parse_steer("left") == (Turn("left", None),)
    assert parse_steer(" left:20 , straight:30") == (Turn("left", 20), Turn("straight", 30))
    assert parse_steer("hard_right:5,slight_left") == (Turn("hard_right", 5), Turn("slight_left", None))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lef", "expected one of hard_left, left, .*got 'lef'"),
        ("", "got ''"),
        ("left:20,", "got ''"),
        ("left:0", "from 1 up after 'left', got '0'"),
        ("left:-3", "got '-3'"),
        ("left:", "got ''"),
        ("left:2.5", "got '2.5'"),
        ("left,right:3", "'left' is followed by more"),
    ],
)
def test_bad_steering_words_are_told(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_steer(text)


def test_each_turn_holds_for_its_frames_and_the_rest_is_free() -> None:
    table = steer_actions(parse_steer("left:2,straight:1,right:3"), ACTIONS, 8)
    assert table.dtype == np.float32 and table.shape == (8, 2)
    np.testing.assert_array_equal(np.sign(table[:6, 0]), [1, 1, 0, -1, -1, -1])
    assert np.isnan(table[6:, 0]).all() and np.isnan(table[:, 1]).all()
    assert np.isfinite(steer_actions(parse_steer("straight:2,left"), ACTIONS, 8)[:, 0]).all()


def test_asking_for_more_frames_than_there_are_is_told() -> None:
    with pytest.raises(UserError, match="asks for 50 frames, but 40 are generated"):
        steer_actions(parse_steer("left:20,straight:30"), ACTIONS, 40)
    with pytest.raises(UserError, match="asks for 41 frames"):
        steer_actions(parse_steer("left:40,straight"), ACTIONS, 40)


def test_turns_are_ordered_mirrored_and_milder_at_speed() -> None:
    def angle(direction: str, speed: float) -> float:
        return steer_actions(parse_steer(direction), ACTIONS, 1, speed)[0, 0]

    for speed in (0.0, 3.0, 12.0, 30.0):
        angles = [angle(direction, speed) for direction in TURNS]
        assert (np.diff(angles) <= 0).all() and angles[0] > angles[3] == 0 > angles[-1]
        np.testing.assert_array_equal(angles, -np.array(angles[::-1]))
    assert angle("left", 30) < angle("left", 12) < angle("left", 6)
    assert 0.05 < angle("left", 12) < 0.12


def test_a_turn_feels_alike_in_every_steering_channel() -> None:
    (curvature,) = steer_actions(parse_steer("left"), ChannelSet((ChannelSpec("curvature_inv_m", "1/m", -1, 1),)), 1, 10.0)[0]
    assert curvature * 10.0**2 == pytest.approx(2.5)
    assert np.tan(steer_actions(parse_steer("left"), ACTIONS, 1, 10.0)[0, 0]) / 5.0 == pytest.approx(curvature, rel=1e-5)
    norm = steer_actions(parse_steer("left"), PEDALS, 1)[0]
    assert np.isnan(norm[0]) and 0 < norm[1] < 1


def test_steering_without_a_steering_channel_lists_the_channels() -> None:
    with pytest.raises(UserError, match="the model has acceleration_mps2"):
        steer_actions(parse_steer("left"), ChannelSet(ACTIONS.specs[1:]), 3)


def test_speed_is_held_in_its_column() -> None:
    table = speed_telemetry(12.0, TELEMETRY, 5)
    assert table.dtype == np.float32 and (table[:, 0] == 12).all() and np.isnan(table[:, 1]).all()
    with pytest.raises(UserError, match="needs the telemetry channel speed_mps, the model has none"):
        speed_telemetry(12.0, ChannelSet(()), 5)
    for bad in (-1.0, float("nan"), float("inf"), 1e300):
        with pytest.raises(UserError, match="--speed"):
            speed_telemetry(bad, TELEMETRY, 5)


def test_a_csv_fills_its_columns_in_any_order(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("\ufeffacceleration_mps2, steering_rad\n1,0.1\n\n-2.5,-1e-1\n")
    np.testing.assert_array_equal(read_actions_csv(file, ACTIONS, 2), np.array([[0.1, 1], [-0.1, -2.5]], np.float32))
    file.write_text("steering_rad\n0\n")
    assert np.isnan(read_actions_csv(file, ACTIONS, 1)[0, 1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"steering_rad\n1\n", "expected 2 rows, one a generated frame, got 1"),
        (b"wheel\n1\n2\n", "unknown column 'wheel', expected some of steering_rad, acceleration_mps2"),
        (b"steering_rad,steering_rad\n1,2\n1,2\n", "'steering_rad' stands more than once"),
        (b"steering_rad\n1\nnan\n", "line 3, column 'steering_rad': expected a finite number, got 'nan'"),
        (b"steering_rad\n1\n1e99\n", "line 3, column 'steering_rad': expected a finite number, got '1e99'"),
        (b"steering_rad,acceleration_mps2\n1,\n1,2\n", "line 2, column 'acceleration_mps2': expected a finite number, got ''"),
        (b"steering_rad\n1\nx\n", "line 3, column 'steering_rad'"),
        (b"steering_rad\n1\n2,3\n", "line 3 expected 1 values"),
        (b"\xff\xfe\x00\x01", "UTF-8"),
    ],
)
def test_bad_csv_files_name_the_place(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as told:
        read_actions_csv(file, ACTIONS, 2)
    assert str(file) in str(told.value) and "\n" not in str(told.value)


def test_a_missing_csv_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.csv: .*No such file"):
        read_actions_csv(tmp_path / "no.csv", ACTIONS, 2)


def test_commands_join_what_was_asked(tmp_path: Path) -> None:
    free = build_commands(ACTIONS, TELEMETRY, 4)
    assert np.isnan(free.actions).all() and np.isnan(free.telemetry).all()
    file = tmp_path / "a.csv"
    file.write_text("acceleration_mps2\n1\n1\n1\n1\n")
    asked = build_commands(ACTIONS, TELEMETRY, 4, steer="left", speed_mps=12, actions_csv=file)
    assert (asked.actions[:, 0] > 0).all() and (asked.actions[:, 1] == 1).all() and (asked.telemetry[:, 0] == 12).all()
    file.write_text("steering_rad\n0\n0\n0\n0\n")
    with pytest.raises(UserError, match=r"'steering_rad' is given by .*a\.csv too"):
        build_commands(ACTIONS, TELEMETRY, 4, steer="left", actions_csv=file)
