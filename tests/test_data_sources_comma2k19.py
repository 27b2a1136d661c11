import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from path_samples import SPEED, YAW_RATE, left_turn, quaternion, store_of
from real_data import real_data

from data.chunks import join
from data.episode import Episode
from data.errors import UserError
from data.motion import ecef_of, ground_axes
from data.sources.comma2k19 import Comma2k19Config, drives

SIZE = (40, 80)


def picture(k: int) -> np.ndarray:
    """Gray halves that tell the frame's number, up to 1200."""
    image = np.empty((*SIZE, 3), np.uint8)
    image[:, : SIZE[1] // 2], image[:, SIZE[1] // 2 :] = 20 + 6 * (k % 35), 20 + 6 * (k // 35)
    return image


def numbers(frames: np.ndarray) -> np.ndarray:
    """The numbers in pictures that were cut and resized."""
    parts = [frames[:, 8:-8, columns].mean((1, 2, 3)) for columns in (slice(8, 56), slice(72, 120))]
    fine, coarse = (np.round((part - 20) / 6) for part in parts)
    return (fine + 35 * coarse).astype(int)


def encode(path: Path, frames: int) -> Path:
    """A bare HEVC stream, as the telephones wrote it."""
    with av.open(str(path), "w", format="hevc") as container:
        stream = container.add_stream("libx265", rate=Fraction(20))
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.options = {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:frame-threads=1"}
        for k in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(k), format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames, 3 s."""
    return encode(tmp_path_factory.mktemp("clip") / "video.hevc", 60)


def save(path: Path, values: np.ndarray) -> None:
    """An .npy file without the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.save(file, values)


def make_segment(segment: Path, clip: Path, frames: int = 60) -> Path:
    """A car in California that turns left, steering wheel at 30 degrees; CAN begins 40 ms after the first frame."""
    segment.mkdir(parents=True)
    shutil.copy(clip, segment / "video.hevc")
    times = 46408.5 + np.arange(frames) / 20
    east, north, yaw = left_turn(times)
    place = ecef_of(np.array([37.7]), np.array([-122.4]), np.array([10.0]))[0]
    axes = ground_axes(place)
    forward = np.stack([np.cos(yaw), np.sin(yaw), 0 * yaw], 1) @ axes
    right = np.stack([np.sin(yaw), -np.cos(yaw), 0 * yaw], 1) @ axes
    turns = np.stack([forward, right, np.broadcast_to(-axes[2], forward.shape)], axis=2)
    save(segment / "global_pose/frame_times", times)
    save(segment / "global_pose/frame_positions", place + np.stack([east, north, 0 * east], 1) @ axes)
    save(segment / "global_pose/frame_orientations", np.stack([quaternion(turn) for turn in turns]))
    can = np.arange(times[0] + 0.04, times[-1] + 0.04, 0.012)
    for field, values in (("speed", np.full((len(can), 1), SPEED)), ("steering_angle", np.full(len(can), 30.0))):
        save(segment / f"processed_log/CAN/{field}/t", can)
        save(segment / f"processed_log/CAN/{field}/value", values)
    return segment


def read(config: Comma2k19Config) -> Episode:
    [drive] = drives(config)
    return join(list(drive.episodes()))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The genuine segment with a video of its 1200 frames."""
    [source] = real_data("layouts/comma2k19").glob("*/*/*")
    route = tmp_path_factory.mktemp("chunk") / source.parent.name
    shutil.copytree(source, route / source.name, copy_function=shutil.copyfile, ignore=lambda *_: ["radar", "IMU", "GNSS"])
    for folder in (route / source.name).rglob("*"):
        folder.chmod(0o755)
    (route / source.name).chmod(0o755)
    encode(route / source.name / "video.hevc", 1200)
    yield route


def test_the_real_segment(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Speed of CAN against the way between poses, and yaw rate against steering, all read by numpy alone."""
    episode = read(Comma2k19Config(real, caption="highway"))
    [segment] = real.iterdir()
    assert episode.drive_id == "b0c9d2329ad1606b_2018-08-02--08-34-47--40" and episode.steps == 600
    assert [c.name for c in (*episode.telemetry_channels, *episode.action_channels)] == ["speed_mps", "yaw_rate_rps", "steering_wheel_rad"]
    np.testing.assert_array_equal(numbers(episode.frames["front"]), np.arange(0, 1200, 2))
    times = np.load(segment / "global_pose/frame_times")
    np.testing.assert_allclose(episode.timestamps_s, times[::2] - times[0])
    way = np.linalg.norm(np.diff(np.load(segment / "global_pose/frame_positions"), axis=0), axis=1) / np.diff(times)
    speed, yaw_rate = episode.telemetry.T
    np.testing.assert_allclose(speed[1:], (way[1:-1:2] + way[2::2]) / 2, rtol=0.03, atol=0.15)  # the wheels' 1.3 % included
    assert speed.min() == pytest.approx(7.97, abs=0.01) and speed.max() == pytest.approx(19.83, abs=0.05)
    steering = episode.actions[:, 0]
    assert np.degrees([steering.min(), steering.max()]) == pytest.approx([-4.6, 2.5], abs=0.15)
    assert np.corrcoef(steering * speed, yaw_rate)[0, 1] > 0.75  # both positive to the left
    assert episode.truth["yaw_rad"][-1] == pytest.approx(np.sum(yaw_rate) * 0.1, abs=0.01)
    steps = np.hypot(*np.diff([episode.truth["x_m"], episode.truth["y_m"]]))
    assert steps.sum() == pytest.approx(way.sum() / 20, rel=0.002) and episode.truth["x_m"][-1] == pytest.approx(steps.sum(), rel=0.01)
    assert [episode.truth[name][0] for name in ("x_m", "y_m", "yaw_rad")] == [0, 0, 0]
    assert 64 < (episode.cameras["front"].horizontal_fov_deg or 0) < 66
    assert capsys.readouterr().err == ""


def test_yaw_rate_of_the_real_segment_is_that_of_its_gyroscope(real: Path) -> None:
    """The telephone's gyroscope points down along its third axis; both are smoothed over a second."""
    [source] = real_data("layouts/comma2k19").glob("*/*/*")
    times, gyro = (np.load(source / f"processed_log/IMU/gyro/{name}") for name in ("t", "value"))
    episode = read(Comma2k19Config(real))
    frames = np.load(source / "global_pose/frame_times")[::2]
    measured = np.interp(frames, times, np.convolve(-gyro[:, 2], np.ones(104) / 104, "same"))[10:-10]
    ours = np.convolve(episode.telemetry[:, 1], np.ones(10) / 10, "same")[10:-10]
    assert np.corrcoef(measured, ours)[0, 1] > 0.9 and np.abs(measured - ours - np.mean(measured - ours)).max() < 0.006


def test_a_left_turn_is_positive(tmp_path: Path, clip: Path) -> None:
    segment = make_segment(tmp_path / "route|date" / "3", clip)
    episode = read(Comma2k19Config(segment))
    assert episode.drive_id == "route_date--3" and episode.steps == 30
    np.testing.assert_allclose(episode.telemetry, np.broadcast_to([SPEED, YAW_RATE], (30, 2)), atol=1e-4)
    np.testing.assert_allclose(episode.actions[:, 0], np.radians(30), rtol=1e-6)
    assert (episode.truth["y_m"][1:] > 0).all() and (episode.truth["x_m"][1:] > 0).all()
    np.testing.assert_allclose(episode.truth["yaw_rad"], YAW_RATE * episode.timestamps_s, atol=1e-5)
    at_the_road = read(Comma2k19Config(segment, steering_ratio=15.0, fps=5))
    assert at_the_road.action_channels[0].name == "steering_rad" and at_the_road.steps == 15
    np.testing.assert_allclose(at_the_road.actions[:, 0], np.radians(2), rtol=1e-6)


def test_segments_are_found_at_every_depth_in_their_order(tmp_path: Path, clip: Path) -> None:
    for name in ("10", "9"):
        make_segment(tmp_path / "Chunk_1" / "a|b" / name, clip)
    for path in (tmp_path, tmp_path / "Chunk_1", tmp_path / "Chunk_1" / "a|b"):
        assert [drive.drive_id for drive in drives(Comma2k19Config(path))] == ["a_b--9", "a_b--10"]


def test_a_channel_that_was_not_logged_is_absent(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segment = make_segment(tmp_path / "a|b" / "1", clip)
    shutil.rmtree(segment / "processed_log/CAN/steering_angle")
    episode = read(Comma2k19Config(segment))
    assert episode.action_channels == () and len(episode.telemetry_channels) == 2
    assert "a_b--1: no" in (said := capsys.readouterr().err) and "steering_angle" in said


def shortened(segment: Path, name: str, rows: int) -> None:
    save(segment / name, np.load(segment / name)[:rows])


def test_lengths_that_differ_are_told(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segment = make_segment(tmp_path / "a|b" / "1", clip)
    shortened(segment, "global_pose/frame_times", 58)
    assert read(Comma2k19Config(segment)).steps == 29
    assert "video.hevc has 60 frames, global_pose/frame_times 58; the first 58 are kept" in capsys.readouterr().err
    for name in ("t", "value"):
        shortened(segment, f"processed_log/CAN/speed/{name}", 165)  # 1.98 s
    assert read(Comma2k19Config(segment)).steps == 21  # to 2.04 s and its tolerance
    assert "a_b--1: left out 8 of 29 frames, outside the time of" in (said := capsys.readouterr().err) and "CAN/speed" in said


def edited(name: str, edit: Callable[[np.ndarray], object]) -> Callable[[Path], None]:
    def change(segment: Path) -> None:
        values = np.load(segment / name)
        edit(values)
        save(segment / name, values)

    return change


def nan_at(row: int) -> Callable[[np.ndarray], None]:
    return lambda values: values.__setitem__(row, np.nan)


def cut(name: str, share: float) -> Callable[[Path], None]:
    def change(segment: Path) -> None:
        data = (segment / name).read_bytes()
        (segment / name).write_bytes(data[: int(share * len(data))])

    return change


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda s: (s / "video.hevc").unlink(), r"video\.hevc: no such video file"),
        (cut("video.hevc", 0.0), r"video\.hevc: expected a video, got an empty file"),
        (cut("video.hevc", 0.4), r"video\.hevc: expected 60 frames as in global_pose/frame_times, got \d+: truncated"),
        (lambda s: (s / "video.hevc").write_text("no video"), r"video\.hevc: expected a video, got a truncated or foreign file"),
        (lambda s: (s / "global_pose/frame_times").unlink(), r"global_pose/frame_times: no such file"),
        (cut("global_pose/frame_times", 0.0), r"global_pose/frame_times: expected a numpy array of numbers, got a truncated"),
        (cut("global_pose/frame_positions", 0.6), r"global_pose/frame_positions: expected a numpy array of numbers, got a truncated"),
        (edited("global_pose/frame_times", lambda t: t.__setitem__(30, t[0])), r"global_pose/frame_times: timestamps expected to rise"),
        (edited("global_pose/frame_times", lambda t: t[30:].__iadd__(1)), r"global_pose/frame_times: no frame within 50 ms of"),
        (edited("global_pose/frame_orientations", nan_at(8)), r"global_pose/frame_orientations: expected finite numbers, got nan in row 8"),
        (
            edited("global_pose/frame_orientations", lambda q: q.__imul__(2)),
            r"frame_orientations: quaternion 0 expected the length 1, got 2",
        ),
        (edited("processed_log/CAN/speed/value", nan_at(9)), r"CAN/speed/value: expected finite numbers, got nan in row 9"),
        (edited("processed_log/CAN/speed/t", lambda t: t.__setitem__(50, 0)), r"CAN/speed: 'time' expected to rise, got 0\.000 s"),
        (
            lambda s: shortened(s, "processed_log/CAN/steering_angle/t", 99),
            r"CAN/steering_angle: 'steering_angle' expected 99 values, one a",
        ),
        (edited("processed_log/CAN/speed/t", lambda t: t[50:].__iadd__(1)), r"CAN/speed: speed expected within 0\.05 s of"),
        (
            lambda s: save(s / "global_pose/frame_positions", np.zeros((60, 2))),
            r"frame_positions: expected an array of shape \(N, 3\), got \(60, 2\)",
        ),
        (lambda s: save(s / "global_pose/frame_times", np.array([{}])), r"frame_times: expected a numpy array of numbers"),
    ],
)
def test_a_broken_segment_is_named(tmp_path: Path, clip: Path, damage: Callable[[Path], object], message: str) -> None:
    segment = make_segment(tmp_path / "a|b" / "1", clip)
    damage(segment)
    with pytest.raises(UserError, match=message) as caught:
        read(Comma2k19Config(segment))
    assert "\n" not in str(caught.value)


def test_the_others_of_a_set_come_through(tmp_path: Path, clip: Path) -> None:
    for number in range(4):
        make_segment(tmp_path / "in" / "a|b" / str(number), clip)
    (tmp_path / "in/a|b/1/video.hevc").unlink()
    edited("processed_log/CAN/speed/value", nan_at(0))(tmp_path / "in/a|b/3")
    manifest = store_of(list(drives(Comma2k19Config(tmp_path / "in"))), tmp_path / "out")
    assert [drive.drive_id for drive in manifest.drives] == ["a_b--0", "a_b--2"]
    assert "video.hevc: no such video file" in manifest.skipped["a_b--1"] and "got nan in row 0" in manifest.skipped["a_b--3"]


def test_inputs_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--input .*none: no such folder"):
        list(drives(Comma2k19Config(tmp_path / "none")))
    with pytest.raises(UserError, match=r"expected comma2k19 segments .*, got none"):
        list(drives(Comma2k19Config(tmp_path)))
    with pytest.raises(UserError, match="--fps: expected at most the source's 20"):
        Comma2k19Config(tmp_path, fps=30)
    with pytest.raises(UserError, match="--steering-ratio: expected a number above 0"):
        Comma2k19Config(tmp_path, steering_ratio=0)
