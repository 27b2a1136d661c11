import numpy as np
import pytest
from path_samples import SPEED, YAW_RATE, left_turn, quaternion
from real_data import real_data

from data.errors import UserError
from data.motion import Motion, ecef_of, ground_axes, local_path, planar_motion, rotations, yaw_of

UNSTEADY = np.cumsum([0.1, 0.05, 0.1, 0.0005, 0.1, 0.05, 0.1, 0.1, 0.007] * 50)


def circle(times_s: np.ndarray) -> Motion:
    return planar_motion(times_s, *left_turn(times_s), name="poses")


@pytest.mark.parametrize("times_s", [np.arange(400) / 10, 1e9 + np.arange(600) / 20, UNSTEADY])
def test_a_left_turn_at_steady_speed(times_s: np.ndarray) -> None:
    """However unsteady the clock, and over more than a full turn."""
    motion = circle(times_s)
    assert motion.yaw_rad[-1] - motion.yaw_rad[0] > 2 * np.pi
    np.testing.assert_allclose(motion.yaw_rate_rps, YAW_RATE, atol=1e-4)
    np.testing.assert_allclose(motion.speed_mps, SPEED, rtol=1e-3)
    np.testing.assert_allclose(motion.acceleration_mps2[3:-3], 0, atol=0.15)


def test_speed_has_a_sign_and_acceleration_its_unit() -> None:
    times = np.arange(100) / 20
    straight = planar_motion(times, 0.5 * 2.0 * times**2, 0 * times, 0 * times, name="poses")
    np.testing.assert_allclose(straight.speed_mps[1:-1], 2.0 * times[1:-1], atol=1e-9)
    np.testing.assert_allclose(straight.acceleration_mps2[2:-2], 2.0, atol=1e-6)
    backwards = planar_motion(times, -3 * times, 0 * times, 0 * times, name="poses")
    np.testing.assert_allclose(backwards.speed_mps, -3.0)


def test_one_pose_is_no_motion() -> None:
    with pytest.raises(UserError, match=r"poses\.txt: expected at least 2 poses, got 1"):
        planar_motion(np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1), name="poses.txt")


def test_the_local_path_starts_at_zero_and_does_not_see_the_world() -> None:
    """Law: wherever in the world a path is driven, it looks the same from its first pose."""
    times = np.arange(30) / 10
    here = local_path(*left_turn(times))
    there = local_path(*left_turn(times, heading=-2.9, origin=(5e5, 4e6)))
    for name in here:
        np.testing.assert_allclose(np.unwrap(here[name]) if name == "yaw_rad" else here[name], np.unwrap(there[name]), atol=1e-6)
        assert here[name][0] == 0 and (here[name][1:] > 0).all()  # on, and to the left
    assert here["x_m"][1] == pytest.approx(SPEED / 10, rel=1e-3)


def test_rotations_equal_those_by_axis_and_angle() -> None:
    rng = np.random.default_rng(0)
    matrices = np.stack([np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(20)])
    matrices *= np.linalg.det(matrices)[:, None, None]
    found = rotations(np.stack([quaternion(matrix) for matrix in matrices]) * 1.001, name="q")
    np.testing.assert_allclose(found, matrices, atol=1e-7)
    quarter = rotations(np.array([[np.cos(np.pi / 4), 0, 0, np.sin(np.pi / 4)]]), name="q")
    assert yaw_of(quarter[:, :, 0])[0] == pytest.approx(np.pi / 2)


@pytest.mark.parametrize("value, told", [([0.0, 0, 0, 0], "0"), ([2.0, 0, 0, 0], "2"), ([np.nan, 0, 0, 1], "nan")])
def test_a_quaternion_of_another_length_is_refused(value: list[float], told: str) -> None:
    with pytest.raises(UserError, match=f"poses: quaternion 1 expected the length 1, got {told}"):
        rotations(np.array([[1.0, 0, 0, 0], value]), name="poses")


def test_places_on_the_ellipsoid() -> None:
    """WGS84's own numbers, and arcs by its radii of curvature."""
    a, f = 6378137.0, 1 / 298.257223563
    np.testing.assert_allclose(
        ecef_of(np.array([0.0, 90.0]), np.array([0.0, 0.0]), np.array([0.0, 10.0])), [[a, 0, 0], [0, 0, a * (1 - f) + 10]], atol=1e-3
    )
    latitude, longitude, step = 49.015, 8.434, 1e-5
    place, north, east = ecef_of(
        np.array([latitude, latitude + step, latitude]), np.array([longitude, longitude, longitude + step]), np.full(3, 116.0)
    )
    axes, sine = ground_axes(place), np.sin(np.radians(latitude))
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    e2 = f * (2 - f)
    meridian, normal = a * (1 - e2) / (1 - e2 * sine**2) ** 1.5, a / np.sqrt(1 - e2 * sine**2)
    np.testing.assert_allclose(axes @ (north - place), [0, np.radians(step) * (meridian + 116), 0], atol=1e-5)
    expected = np.radians(step) * (normal + 116) * np.cos(np.radians(latitude))
    np.testing.assert_allclose(axes @ (east - place), [expected, 0, 0], atol=1e-5)


def test_places_of_a_real_receiver_are_where_its_poses_are() -> None:
    """Latitude and longitude of a GPS receiver against ECEF poses that were computed otherwise."""
    [segment] = real_data("layouts/comma2k19").glob("*/*/*")
    times, fixes = (np.load(segment / f"processed_log/GNSS/live_gnss_ublox/{name}") for name in ("t", "value"))
    pose_times, poses = (np.load(segment / f"global_pose/{name}") for name in ("frame_times", "frame_positions"))
    found = ecef_of(fixes[:, 0], fixes[:, 1], fixes[:, 4])
    true = np.stack([np.interp(times, pose_times, poses[:, axis]) for axis in range(3)], axis=1)
    offsets = (found - true) @ ground_axes(true[0]).T
    assert np.abs(offsets[:, :2]).max() < 8  # what such a receiver is good for
