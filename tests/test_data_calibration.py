import numpy as np
import pytest

from data.calibration import mean_camera, pinhole_camera
from data.episode import Camera
from data.image import fit


@pytest.mark.parametrize("source, size", [((375, 1242), (64, 128)), ((900, 1600), (64, 128)), ((874, 1164), (64, 64))])
def test_the_field_of_view_is_that_of_what_is_kept(source: tuple[int, int], size: tuple[int, int]) -> None:
    """The columns that are kept are read from a picture of column numbers."""
    ramp = np.broadcast_to((np.arange(source[1]) / source[1] * 255)[None, :, None], (*source, 3)).astype(np.uint8)
    kept = fit(np.ascontiguousarray(ramp), size)[0, :, 0] / 255 * source[1]
    camera = pinhole_camera(700.0, source[1] / 2 - 20, source, size)
    angles = np.degrees(np.arctan((kept[[0, -1]] - (source[1] / 2 - 20)) / 700.0))
    assert camera.horizontal_fov_deg == pytest.approx(angles[1] - angles[0], rel=0.03)
    assert camera == Camera(camera.horizontal_fov_deg)


def test_the_axis_gives_yaw_to_the_left_and_pitch_downward() -> None:
    camera = pinhole_camera(700, 640, (720, 1280), (64, 128), axis=(1.0, 1.0, -0.1), height_m=1.5)
    assert camera.yaw_deg == pytest.approx(45) and camera.height_m == 1.5
    assert camera.pitch_deg == pytest.approx(np.degrees(np.arctan(0.1 / np.sqrt(2))))


def test_the_mean_goes_round_the_back() -> None:
    cameras = [Camera(80.04, 1.501, None, 179.0), Camera(80.0, 1.5, None, -178.8), Camera()]
    assert mean_camera(cameras) == Camera(80.0, 1.5, None, -179.9)
    assert mean_camera([]) == Camera()
