import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from real_data import real_data

from data.frame_scaler import FrameScaler, turned
from data.image import fit
from data.video import VideoWriter, decode


def scene(height: int, width: int) -> np.ndarray:
    """A picture of slow and fast changes, in colour."""
    y, x = np.mgrid[:height, :width]
    ramp = np.stack([255 * x / width, 255 * y / height, 255 - 200 * x / width], axis=-1)
    return np.clip(ramp + 20 * np.sin(x / 9)[..., None] * [1, 0.5, -1], 0, 255).astype(np.uint8)


def frame_of(image: np.ndarray, form: str, colours: int | None = None) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    if form != "rgb24":
        frame = frame.reformat(format=form) if colours is None else frame.reformat(format=form, dst_colorspace=colours)
    if colours is not None:
        frame.colorspace = colours
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    return frame


def exactly(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """Means over areas in floating point, then the equations of BT.601 in its limited range."""
    planes = [np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width] for plane in frame.planes]
    top, rows = (frame.height - frame.width // 2) // 2, frame.width // 2  # cut to the aspect of 1:2
    luma, blue, red = (
        cv2.resize(plane[top // k : (top + rows) // k].astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        for plane, k in zip(planes, (1, 2, 2), strict=True)
    )
    y, u, v = (luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224
    rgb = np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], axis=-1)
    return np.clip(255 * rgb, 0, 255)


def test_every_pixel_is_the_mean_of_its_area_to_rounding() -> None:
    frame = frame_of(scene(540, 960), "yuv420p")
    scaled = FrameScaler((64, 128))(frame)
    assert scaled.shape == (64, 128, 3) and scaled.dtype == np.uint8
    assert np.abs(scaled - exactly(frame, (64, 128))).max() < 0.6


def test_a_real_frame() -> None:
    with av.open(str(real_data("real/dashcam_mp4/solidWhiteRight.mp4"))) as container:
        frame = next(container.decode(container.streams.video[0]))
        scaled = FrameScaler((64, 128))(frame)
        assert np.abs(scaled - exactly(frame, (64, 128))).max() < 0.6
        # Converting whole frames first rounds twice: a level and a half of gray at most in the mean.
        assert np.abs(scaled.astype(int) - fit(frame.to_ndarray(format="rgb24"), (64, 128))).mean() < 1.5


@pytest.mark.parametrize("form", ["yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuv420p10le", "nv12", "rgb24", "bgr24", "gbrp"])
@pytest.mark.parametrize("height, width, colours", [(270, 480, None), (271, 483, None), (66, 130, 1), (50, 100, None)])
def test_all_formats_sizes_and_colour_spaces_agree_with_the_picture(form: str, height: int, width: int, colours: int | None) -> None:
    image = scene(height, width)
    frame = frame_of(image, form, colours if form.startswith("yuv") else None)
    difference = np.abs(FrameScaler((64, 128))(frame).astype(int) - fit(image, (64, 128)))
    assert difference.mean() < 2 and np.quantile(difference, 0.99) <= 6  # colour is stored at half the resolution


def test_a_picture_of_the_right_size_keeps_its_pixels() -> None:
    image = scene(64, 128)
    np.testing.assert_array_equal(FrameScaler((64, 128))(frame_of(image, "rgb24")), image)


def test_size_and_format_may_change_on_the_way() -> None:
    scaler = FrameScaler((64, 128))
    for height, width, form in ((270, 480, "yuv420p"), (240, 320, "yuv420p"), (240, 320, "yuv444p"), (270, 480, "yuv420p")):
        frame = frame_of(scene(height, width), form)
        np.testing.assert_array_equal(scaler(frame), FrameScaler((64, 128))(frame))


@pytest.mark.parametrize("degrees, quarters", [(0, 0), (90, 1), (180, 2), (-90, 3), (89.9, 1)])
def test_turning_is_to_the_left(degrees: float, quarters: int) -> None:
    image = scene(8, 16)
    np.testing.assert_array_equal(turned(image, degrees), np.rot90(image, quarters))
    assert turned(image, degrees).flags.c_contiguous


def test_a_camera_on_its_side_is_turned_before_it_is_cut(tmp_path: Path) -> None:
    image = np.zeros((320, 240, 3), np.uint8)
    image[:, :120] = 250  # becomes the lower half when turned to the left
    with VideoWriter(tmp_path / "a.mp4", fps=10, size=(320, 240)) as video:
        video.write(image)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 20] = struct.pack(">5i", 0, -(1 << 16), 0, 1 << 16, 0)
    (tmp_path / "a.mp4").write_bytes(data)
    [(_, whole)], [(_, small)] = list(decode(tmp_path / "a.mp4")), list(decode(tmp_path / "a.mp4", size=(64, 128)))
    assert whole.shape == (240, 320, 3) and small.shape == (64, 128, 3)
    assert whole[:118].mean() < 5 and whole[122:].mean() > 245
    assert np.abs(small.astype(int) - fit(whole, (64, 128))).mean() < 1.5
