from pathlib import Path

import numpy as np
import pytest
from real_data import real_data

from data.align import Log, covered, grid_runs, nearest
from data.errors import UserError

FILE = Path("log/speed")
TIMES = np.arange(0, 2, 0.012)


def log(times: np.ndarray = TIMES, tolerance_s: float = 0.05) -> Log:
    return Log(FILE, times, {"speed": 3 * times + 1}, tolerance_s)


def replaced(values: np.ndarray, index: int, value: float) -> np.ndarray:
    values = values.copy()
    values[index] = value
    return values


@pytest.mark.parametrize(
    "times, values, message",
    [
        (TIMES, replaced(TIMES, 7, np.nan), "'speed' expected a finite number, got nan in row 7"),
        (TIMES, replaced(TIMES, 9, -np.inf), "'speed' expected a finite number, got -inf in row 9"),
        (replaced(TIMES, 4, np.nan), TIMES, "'time' expected a finite number, got nan in row 4"),
        (replaced(TIMES, 5, 0.01), TIMES, r"'time' expected to rise, got 0\.010 s after 0\.048 s in row 5"),
        (TIMES, TIMES[:-3], r"'speed' expected 167 values, one a time, got 164"),
        (TIMES[:0], TIMES[:0], "expected at least one row, got none"),
    ],
)
def test_a_log_that_is_broken_is_named(times: np.ndarray, values: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=f"^log/speed: {message}"):
        Log(FILE, times, {"speed": values}, 0.05)


def test_values_lie_on_the_line_between_rows() -> None:
    frames = np.arange(0.03, 1.9, 0.05)
    np.testing.assert_allclose(log().at(frames)["speed"], 3 * frames + 1)


def test_equal_times_are_no_fall() -> None:
    assert log(np.array([0.0, 0.1, 0.1, 0.2])).at(np.array([0.05]))["speed"][0] == pytest.approx(1.15)


@pytest.mark.parametrize("gap, inside", [(0.0999, True), (0.1001, False)])
def test_the_tolerance_just_inside_and_just_outside(gap: float, inside: bool) -> None:
    """A frame in the middle of a gap, and frames beyond the ends, whose values are those of the end."""
    times = np.array([0.0, 1.0, 1.0 + 2 * gap, 3.0])
    sparse = log(times, tolerance_s=0.1)
    for frame, value in ((1.0 + gap, 3 * (1 + gap) + 1), (-gap, 1.0), (3.0 + gap, 10.0)):
        if inside:
            assert sparse.at(np.array([frame]))["speed"][0] == pytest.approx(value)
        else:
            with pytest.raises(UserError, match=r"log/speed: speed expected within 0\.1 s of .* s, got the nearest 0\.100 s away"):
                sparse.at(np.array([frame]))


def test_frames_outside_a_log_are_left_out_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    frames = np.arange(100) / 20  # 5 s; the logs end at about 2 s, and one begins at 0.5 s
    kept = covered(frames, [log(), log(TIMES[TIMES > 0.5])], name="drive7")
    assert (kept.start, kept.stop) == (10, 41)
    log(TIMES[TIMES > 0.5]).at(frames[kept])
    said = capsys.readouterr().err
    assert "drive7: left out 59 of 100 frames, outside the time of log/speed from 0.00 s to 1.99 s" in said
    assert covered(frames[:30], [log()], name="drive7") == slice(0, 30) and covered(frames, [], name="x") == slice(0, 100)
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"drive7: expected frames in the time of log/speed from 0\.00 s to 1\.99 s, got them from 9\.00 s"):
        covered(frames + 9, [log()], name="drive7")


def test_kittis_own_clock_is_kept_at_10() -> None:
    """Steps of 103 ms: nothing is dropped or doubled."""
    [path] = real_data("layouts/kitti_raw").glob("*/*/*/image_02/timestamps.txt")
    times = np.array([float(line.split(":")[-1]) for line in path.read_text().split("\n") if line])
    [run] = grid_runs(times, 10, name="kitti")
    np.testing.assert_array_equal(run, np.arange(108))
    [run] = grid_runs(times, 5, name="kitti")
    assert (np.diff(run) == 2).all() and len(run) == 54


def test_nuscenes_clock_gives_ten_frames_a_second() -> None:
    """Pictures 50 or 100 ms apart, 12 a second, with a few microseconds of jitter."""
    rng = np.random.default_rng(0)
    times = np.cumsum(np.tile([0.05, 0.1, 0.1, 0.1, 0.05, 0.1], 40)) + rng.normal(0, 4e-6, 240)
    [run] = grid_runs(times, 10, name="scene")
    assert (np.diff(run) > 0).all() and len(run) == pytest.approx(10 * (times[-1] - times[0]), abs=2)
    grid = times[0] + np.arange(len(run)) / 10
    assert np.abs(times[run] - grid).max() < 0.055
    [run] = grid_runs(times[::6], 2, name="scene")
    np.testing.assert_array_equal(run, np.arange(40))


def test_a_gap_ends_a_run() -> None:
    times = np.delete(np.arange(60) / 10, [20, 21, 40])
    np.testing.assert_array_equal(np.concatenate(grid_runs(times, 10, name="x")), np.arange(57))
    assert [len(run) for run in grid_runs(times, 10, name="x")] == [20, 18, 19]
    runs = grid_runs(times, 5, name="x")
    assert [len(run) for run in runs] == [10, 19] and runs[1][0] == 20  # at 5 a second one missing frame is no gap


def test_clocks_that_cannot_be_followed() -> None:
    with pytest.raises(UserError, match=r"scene: --fps: expected at most the source's 2, got 10"):
        grid_runs(np.arange(20) / 2, 10, name="scene")
    with pytest.raises(UserError, match=r"times\.txt: timestamps expected to rise, got 0\.100 s after 0\.300 s at frame 3"):
        grid_runs(np.array([0.0, 0.2, 0.3, 0.1]), 10, name="times.txt")
    assert [run.tolist() for run in grid_runs(np.array([5.0]), 10, name="x")] == [[0]]


def test_the_nearest_time_and_the_later_of_two() -> None:
    np.testing.assert_array_equal(nearest(np.array([0.0, 1.0, 2.0]), np.array([-5, 0.4, 0.5, 0.6, 1.49, 9])), [0, 0, 1, 1, 1, 2])
