"""The pinhole camera against numbers worked out by hand, and against itself backwards."""

import math

import numpy as np
import pytest

from data.dashsim.camera import NEAR_M, Camera, CameraConfig, Pose, clip_near
from data.errors import UserError

LEVEL = CameraConfig(height=60, width=120, horizontal_fov_deg=90.0, mount_height_m=1.5, pitch_deg=0.0)  # focal length 60 pixels


def test_projects_to_the_pixels_worked_out_by_hand():
    pose = Pose(10.0, 20.0, math.pi / 2)  # looks along world +y, so that world -x is to the left
    points = np.array([[10.0, 30.0, 1.5], [8.0, 30.0, 1.5], [10.0, 30.0, 0.0], [13.0, 26.0, 3.5]])
    expected = [[60.0, 30.0], [48.0, 30.0], [60.0, 39.0], [90.0, 10.0]]
    np.testing.assert_allclose(Camera(LEVEL).project(points, pose), expected, atol=1e-9)


def test_pitch_moves_the_horizon_up_by_focal_times_tangent():
    config = CameraConfig(height=64, width=128, horizontal_fov_deg=65.0, pitch_deg=1.8)
    camera = Camera(config)
    focal = 64 / math.tan(math.radians(32.5))
    assert camera.horizon_row == pytest.approx(32 - focal * math.tan(math.radians(1.8)))
    far = camera.project(np.array([[1e7, 0.0, 0.0]]), Pose(0.0, 0.0, 0.0))
    np.testing.assert_allclose(far, [[64.0, camera.horizon_row]], atol=1e-3)


def test_road_fills_a_little_more_than_half_of_the_default_picture():
    config = CameraConfig()
    assert 0.5 < 1 - Camera(config).horizon_row / config.height < 0.6


def test_ground_grid_is_the_inverse_of_projection():
    camera = Camera(CameraConfig(height=48, width=80, pitch_deg=3.0))
    grid = camera.ground_grid(far_m=1e9)
    rows, columns = np.mgrid[camera.first_ground_row : 48, 0:80] + 0.5
    np.testing.assert_allclose(camera.to_pixels(camera.to_view(grid)), np.stack([columns, rows], axis=-1), atol=1e-6)


def test_lens_sits_ahead_of_the_centre_of_the_car():
    pose = Pose.of_car(CameraConfig(mount_forward_m=0.5), 3.0, 4.0, math.pi)
    assert (pose.x_m, pose.y_m) == pytest.approx((2.5, 4.0))


def test_points_behind_the_near_plane_have_no_pixel():
    pixels = Camera(LEVEL).project(np.array([[-5.0, 0.0, 0.0], [5.0, 0.0, 0.0]]), Pose(0.0, 0.0, 0.0))
    assert np.isnan(pixels[0]).all() and np.isfinite(pixels[1]).all()


def test_near_clipping_keeps_what_lies_in_front_and_cuts_on_the_plane():
    square = np.array([[[-1.0, 1.0, 0.0], [3.0, 1.0, 0.0], [3.0, -1.0, 0.0], [-1.0, -1.0, 0.0]]])
    clipped = clip_near(square)[0]
    assert clipped[:, 0].min() == pytest.approx(NEAR_M)
    corners = {tuple(np.round(corner, 9)) for corner in clipped}
    assert corners == {(NEAR_M, 1.0, 0.0), (3.0, 1.0, 0.0), (3.0, -1.0, 0.0), (NEAR_M, -1.0, 0.0)}


def test_near_clipping_leaves_polygons_in_front_as_they_are():
    triangle = np.array([[[1.0, 1.0, 0.0], [2.0, 0.0, 0.5], [1.5, -1.0, 1.0]]])
    np.testing.assert_array_equal(clip_near(triangle)[0, ::2], triangle[0])


@pytest.mark.parametrize(
    ("field", "value"), [("height", 4), ("horizontal_fov_deg", 170.0), ("supersample", 0), ("mount_height_m", 0.0), ("pitch_deg", 40.0)]
)
def test_a_camera_that_cannot_be_is_refused_by_the_name_of_its_field(field, value):
    with pytest.raises(UserError, match="size" if field == "height" else field):
        CameraConfig(**{field: value})
