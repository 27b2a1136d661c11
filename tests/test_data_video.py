from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from real_data import real_data

from data.errors import UserError
from data.image import check_size, fit, image_problem, parse_size, read_image, save_png
from data.resample import resample, unbroken_runs
from data.video import VideoWriter, count_frames, decode, decode_frames, probe


def gray_frames(count: int, size: tuple[int, int] = (64, 128)) -> Iterator[np.ndarray]:
    """Frame k is of the gray level 2 k + 10: it tells its own number, through any codec."""
    for k in range(count):
        yield np.full((*size, 3), 2 * k + 10, np.uint8)


def write_video(path: Path, frames: Iterator[np.ndarray], fps: float, size: tuple[int, int] = (64, 128)) -> Path:
    with VideoWriter(path, fps=fps, size=size) as video:
        for frame in frames:
            video.write(frame)
    return path


def test_decoding_gives_back_what_was_written(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :128]
    picture = np.stack([x * 2, y * 4, 255 - x], axis=-1).astype(np.uint8)
    path = write_video(tmp_path / "a.mp4", iter([picture] * 5), 10)
    info = probe(path)
    assert (info.height, info.width, info.fps, info.frames, info.duration_s) == (64, 128, 10.0, 5, 0.5)
    for k, (time, frame) in enumerate(decode(path)):
        assert time == pytest.approx(k / 10)
        assert np.abs(frame.astype(int) - picture).mean() < 3  # colour is stored at half the resolution


@pytest.mark.parametrize("fps, step", [(30, 1), (15, 2), (10, 3), (7.5, 4)])
def test_resampling_picks_the_frames_of_the_grid(tmp_path: Path, fps: float, step: int) -> None:
    path = write_video(tmp_path / "a.mp4", gray_frames(60), 30)
    frames = list(decode_frames(path, fps=fps))
    assert [frame.index for frame in frames] == list(range(0, 60, step))
    for frame in frames:
        assert abs(frame.image.mean() - (2 * frame.index + 10)) < 2
        assert frame.timestamp_s == pytest.approx(frame.index / 30)


def test_decoding_can_start_later(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", gray_frames(60), 30)
    assert [frame.index for frame in decode_frames(path, start_s=1.0, fps=10)] == list(range(30, 60, 3))
    with pytest.raises(UserError, match=r"a\.mp4: expected frames from 9\.0 s on, got none"):
        list(decode(path, start_s=9.0))


def test_source_fps_replaces_the_clock_of_the_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", gray_frames(20), 50)
    times = [time for time, _ in decode(path, fps=10, source_fps=20)]
    assert times == pytest.approx(np.arange(10) / 10)


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (write_video(tmp_path / name, gray_frames(30), 10) for name in ("one.mp4", "two.mp4"))
    assert one.read_bytes() == two.read_bytes()


def test_odd_sizes_are_padded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", gray_frames(3, (63, 127)), 29.97, (63, 127))
    assert (probe(path).height, probe(path).width) == (64, 128)
    assert probe(path).fps == pytest.approx(29.97, abs=1e-3)
    assert all(frame.std() < 3 for _, frame in decode(path))


def test_a_failed_recording_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), VideoWriter(tmp_path / "a.mp4", fps=10, size=(64, 128)) as video:
        video.write(next(gray_frames(1)))
        raise RuntimeError("stop")
    with pytest.raises(ValueError, match="expected a uint8 frame"), VideoWriter(tmp_path / "a.mp4", fps=10, size=(64, 128)) as video:
        video.write(np.zeros((64, 64, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_an_upside_down_camera_is_turned(tmp_path: Path) -> None:
    frame = np.zeros((64, 128, 3), np.uint8)
    frame[:32] = 250
    path = write_video(tmp_path / "a.mp4", iter([frame] * 3), 10)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44  # 3x3, 16.16 fixed point: -1 on the diagonal turns by 180 degrees about the picture's corner
    for offset in (0, 16):
        data[matrix + offset : matrix + offset + 4] = b"\xff\xff\x00\x00"
    path.write_bytes(data)
    _, turned = next(decode(path))
    assert turned[:32].mean() < 10 and turned[32:].mean() > 240


def test_bad_files_are_named(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", gray_frames(100), 10).read_bytes()
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
    for name, data in (("empty.mp4", b""), ("text.mp4", b"hello " * 500), ("cut.mp4", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(data)
    for name in ("none.mp4", "empty.mp4", "text.mp4", "cut.mp4", "sound.wav"):
        with pytest.raises(UserError) as caught:
            list(decode(tmp_path / name, fps=10, size=(64, 128)))
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_a_real_clip() -> None:
    path = real_data("real/dashcam_mp4/solidWhiteRight.mp4")
    info = probe(path)
    assert (info.height, info.width, info.fps, info.frames) == (540, 960, 25.0, 221)
    assert count_frames(path) == 221
    frames = list(decode_frames(path, fps=10, size=(64, 128)))
    assert len(frames) == 89 and all(frame.image.shape == (64, 128, 3) for frame in frames)
    for k, frame in enumerate(frames):
        assert abs(frame.timestamp_s - k / 10) <= 0.02 + 1e-6  # half a period of the source


def test_a_truncated_real_clip(tmp_path: Path) -> None:
    data = real_data("real/dashcam_mp4/solidWhiteRight.mp4").read_bytes()
    for share in (0.001, 0.3, 0.9):
        (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(UserError, match=r"cut\.mp4: .*(truncated|without a video stream)"):
            list(decode(tmp_path / "cut.mp4"))


def test_resampling_refuses_gaps_and_backward_time() -> None:
    def picked(times: list[float], fps: float, source_fps: float) -> list[int]:
        return [index for _, index in resample(((t, k) for k, t in enumerate(times)), fps, source_fps=source_fps, name="clip")]

    assert picked([0.0, 0.103, 0.206, 0.309], 10, 9.7) == [0, 1, 2, 3]
    assert picked([0, 0.05, 0.1, 0.2, 0.25, 0.3], 10, 20) == [0, 2, 3, 5]  # one frame lost: its neighbour is near enough
    assert picked([0, 0.05, 0.16, 0.2], 10, 20) == [0, 1, 3]
    with pytest.raises(UserError, match=r"clip: no frame within 50 ms of 0\.20 s"):
        picked([0, 0.05, 0.1, 0.4, 0.45], 10, 20)
    with pytest.raises(UserError, match=r"clip: no frame between 0\.10 s and 0\.40 s"):
        picked([0, 0.1, 0.4], 10, 10)
    with pytest.raises(UserError, match="give a lower --fps"):
        picked([0, 0.25, 0.5, 0.75], 10, 4)
    for source_fps in (10, 20):
        with pytest.raises(UserError, match=r"rise, got 0\.100 s after 0\.100 s at item 2"):
            picked([0, 0.1, 0.1, 0.2], 10, source_fps)


def test_unbroken_runs_can_be_resampled() -> None:
    indices = [0, 1, 2, 4, 5, 9, 10, 11, 12]
    assert unbroken_runs(indices, fps=10, source_fps=20) == [slice(0, 5), slice(5, 9)]
    assert unbroken_runs(indices, fps=20, source_fps=20) == [slice(0, 3), slice(3, 5), slice(5, 9)]
    for run in unbroken_runs(indices, fps=10, source_fps=20):
        list(resample(((k / 20, k) for k in indices[run]), 10, source_fps=20, name="run"))


def test_fitting_cuts_about_the_centre_and_averages() -> None:
    image = np.zeros((80, 120, 3), np.uint8)
    image[10:70] = np.kron(np.arange(8, dtype=np.uint8).reshape(2, 4) * 30, np.ones((30, 30), np.uint8))[..., None]
    np.testing.assert_array_equal(fit(image, (2, 4))[..., 0], np.arange(8).reshape(2, 4) * 30)
    assert fit(image, (160, 320)).shape == (160, 320, 3)
    assert fit(image, (80, 40)).shape == (80, 40, 3)


@pytest.mark.parametrize("text", ["64", "64x", "64x128x3", "0x128", "64x100", "63x128", "axb", "-64x128"])
def test_a_size_that_does_not_divide_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="size: expected"):
        parse_size(text)


def test_a_size_is_height_first() -> None:
    assert parse_size("64x128") == (64, 128)
    assert check_size((8, 16)) == (8, 16)


def test_pictures_round_trip_and_bad_ones_are_named(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    save_png(image, tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)
    assert read_image(tmp_path / "a.png", (16, 16)).shape == (16, 16, 3)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    bad = {"empty.jpg": b"", "cut.jpg": jpeg[: len(jpeg) // 2], "text.jpg": b"hello", "cut.png": (tmp_path / "a.png").read_bytes()[:1000]}
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    for name in (*bad, "none.jpg"):
        with pytest.raises(UserError, match=name):
            read_image(tmp_path / name)
        assert name == "text.jpg" or image_problem(tmp_path / name) is not None
    assert image_problem(tmp_path / "a.png") is None
