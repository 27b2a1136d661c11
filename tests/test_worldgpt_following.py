"""Laws of the statistics: intervals against references, followers found with their delay, paths against closed forms, other actions."""

import numpy as np
import pytest

from conditioning.steering import WHEELBASE_M
from data.episode import ChannelSpec
from worldgpt.evaluate.counterfactuals import COUNTERFACTUALS, commanded_motion, lateral_commands, straightest
from worldgpt.evaluate.following import LONGEST_DELAY, line, response
from worldgpt.evaluate.intervals import Estimate, bootstrap, mean_of, wilson
from worldgpt.evaluate.paths import integrate, path_errors, seen_from

STEERING, PULL = ChannelSpec("steering_rad", "rad", -0.4, 0.4), ChannelSpec("acceleration_mps2", "m/s^2", -6.0, 4.0)
SPECS = (STEERING, PULL)


def commands(rollouts: int = 24, frames: int = 60, seed: int = 0) -> np.ndarray:
    """Smooth turns, (B, F)."""
    noise = np.random.default_rng(seed).normal(size=(rollouts, frames + 20))
    return np.stack([np.convolve(row, np.ones(8) / 8, "valid")[:frames] for row in noise]) * 0.3


def test_wilson_is_wilson() -> None:
    found = wilson(8, 10)
    assert (found.value, found.count) == (0.8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Brown, Cai & DasGupta 2001 give this interval
    for hits in (0, 7):
        ends = wilson(hits, 7)
        assert 0 <= ends.low <= ends.value <= ends.high <= 1 and ends.high - ends.low > 0.3
    assert wilson(0, 0).to_dict() == {"value": None, "low": None, "high": None, "count": 0}
    with pytest.raises(ValueError, match=r"expected 0\.\.3, got 4"):
        wilson(4, 3)


def test_the_bootstraps_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(3).normal(5, 2, 400)
    found = mean_of(np.append(values, np.nan))
    assert found.count == 400 and found.value == pytest.approx(values.mean())
    half = 1.96 * values.std(ddof=1) / 20
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert mean_of(values) == mean_of(values)  # seeded
    assert bootstrap(0, lambda rows: 1.0).to_dict()["value"] is None
    assert Estimate(0.8, 0.7, 0.9, 5).over(0.5) == Estimate(1.6, 1.4, 1.8, 5)
    assert Estimate(0.8, 0.7, 0.9, 5).over(0.0).to_dict()["value"] is None


def test_a_perfect_follower_has_slope_and_r2_of_one() -> None:
    found = response(commands(), commands())
    for estimate, value in ((found.slope, 1), (found.r2, 1), (found.intercept, 0), (found.mae, 0)):
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((value, value, value), abs=1e-9)
    assert (found.delay_frames, found.r2_without_delay) == (0, pytest.approx(1))


@pytest.mark.parametrize("delay", [1, 4, LONGEST_DELAY])
def test_a_delayed_follower_is_found_with_its_delay(delay: int) -> None:
    given = commands(frames=80)
    made = 0.8 * np.roll(given, delay, axis=1) + 0.05
    made[:, :delay] = np.nan
    made += 0.005 * np.random.default_rng(1).normal(size=made.shape)
    found = response(given, made)
    assert found.delay_frames == delay
    assert found.slope.low < 0.8 < found.slope.high and found.slope.value == pytest.approx(0.8, abs=0.02)
    assert found.intercept.value == pytest.approx(0.05, abs=0.002)
    assert found.r2.value > 0.99 > 0.98 > found.r2_without_delay


def test_one_who_ignores_commands_is_found_out() -> None:
    given = commands()
    ignoring = response(given, commands(seed=9))
    assert ignoring.r2.value < 0.2 and abs(ignoring.slope.value) < 0.3
    frozen = response(given, np.full_like(given, 0.07))
    assert abs(frozen.slope.value) < 1e-12 and frozen.r2.value == 0
    mirrored = response(given, -given)
    assert mirrored.slope.value == pytest.approx(-1)  # R2 of 1, but the slope tells
    nothing = response(np.zeros_like(given), given)
    assert nothing.to_dict()["slope"] == {"value": None, "low": None, "high": None, "count": 0}
    assert np.isnan(line(given[:1, :2], given[:1, :2])).all()


def test_an_interval_over_rollouts_is_wider_than_one_over_steps() -> None:
    """Rollouts that each have an offset of their own: their steps are not independent."""
    rng = np.random.default_rng(2)
    given = rng.normal(size=(8, 60))
    made = given * (1 + 0.5 * rng.normal(size=(8, 1)))
    over_rollouts = response(given, made, longest_delay=0).slope
    flat = response(given.reshape(-1, 1), made.reshape(-1, 1), longest_delay=0).slope
    assert over_rollouts.value == pytest.approx(flat.value)
    assert over_rollouts.high - over_rollouts.low > 2 * (flat.high - flat.low)


def test_a_path_at_constant_speed_and_turn_rate_is_a_circle() -> None:
    speed, rate, fps = 10.0, 0.4, 50.0
    poses = integrate(np.full((2, 500), speed), np.full((2, 500), rate), fps)
    times = np.arange(1, 501) / fps
    radius = speed / rate
    np.testing.assert_allclose(poses[1, :, 0], radius * np.sin(rate * times), atol=0.01)
    np.testing.assert_allclose(poses[1, :, 1], radius * (1 - np.cos(rate * times)), atol=0.01)
    np.testing.assert_allclose(poses[1, :, 2], rate * times)
    # Speeding up from 0: half the acceleration times the square of the time, the start included.
    straight = integrate(times[None] * 2, np.zeros((1, 500)), fps, np.zeros(1))
    np.testing.assert_allclose(straight[0, :, 0], times**2, rtol=1e-9)


def test_a_path_is_seen_from_its_start() -> None:
    poses = integrate(np.full((1, 20), 5.0), np.full((1, 20), -0.3), 10.0)
    turned, start = 1.1, np.array([[30.0, -7.0, 1.1]])
    world = poses.copy()
    world[..., 0] = 30 + np.cos(turned) * poses[..., 0] - np.sin(turned) * poses[..., 1]
    world[..., 1] = -7 + np.sin(turned) * poses[..., 0] + np.cos(turned) * poses[..., 1]
    world[..., 2] += turned
    np.testing.assert_allclose(seen_from(world, start), poses, atol=1e-12)


def test_errors_of_paths() -> None:
    true = np.zeros((3, 30, 2))
    path = true.copy()
    path[..., 1] = np.arange(1, 31) * 0.1
    found = path_errors(path, true, 10.0, (1.0, 3.0, 5.0))
    assert found["1"]["ade_m"].value == pytest.approx(0.55) and found["1"]["fde_m"].value == pytest.approx(1.0)  # type: ignore[index]
    assert found["3"]["fde_m"].value == pytest.approx(3.0)  # type: ignore[index]
    assert found["5"] is None


def drive(steering: np.ndarray, speed: float, fps: float, substeps: int = 20) -> np.ndarray:
    """(F + 1, 2) places of highway-env's bicycle (5 m long, slip angle at its middle) under steering (F,), in small steps."""
    x = y = heading = 0.0
    places = [(x, y)]
    for angle in steering:
        slip = np.arctan(np.tan(angle) / 2)
        for _ in range(substeps):
            dt = 1 / fps / substeps
            x, y = x + speed * np.cos(heading + slip) * dt, y + speed * np.sin(heading + slip) * dt
            heading += speed * np.sin(slip) / (WHEELBASE_M / 2) * dt
        places.append((x, y))
    return np.array(places)


@pytest.mark.parametrize("deviation", [0.5, -1.0])
def test_a_commanded_deviation_is_what_the_cars_dynamics_make_of_it(deviation: float) -> None:
    """Driven by the bicycle that dashsim drives, the commands lead to the deviation, and back to the course's direction."""
    base = np.zeros((1, 25, 2), np.float32)
    actions = lateral_commands(base, SPECS, np.full((1, 25), 14.0), deviation, 25, 10.0)
    assert actions is not None and (actions[..., 1] == 0).all()
    places = drive(actions[0, :, 0], 14.0, 10.0)
    assert places[-1, 1] == pytest.approx(deviation, abs=0.06)
    assert abs(places[-1, 1] - places[-2, 1]) < 0.05
    assert lateral_commands(base[..., :1], (ChannelSpec("steering_norm", "norm", -1, 1),), np.ones((1, 25)), 0.5, 25, 10.0) is None


def test_commanded_motion_is_that_of_the_car() -> None:
    steering = np.array([0.0, 0.1, 0.1, -0.05])
    actions = np.stack([steering, np.array([1.0, 0.0, -2.0, 0.0])], -1)[None].astype(np.float32)
    last = np.array([[0.2, 3.0]], np.float32)
    found = commanded_motion(actions, last, SPECS, np.zeros((1, 4)), np.array([10.0]), 10.0)
    np.testing.assert_allclose(found["speed_change_mps"][0], [0.3, 0.4, 0.4, 0.2], atol=1e-6)
    speeds = np.array([10.0, 10.3, 10.4, 10.4])
    np.testing.assert_allclose(found["yaw_rate_rps"][0], speeds * np.tan([0.2, 0.0, 0.1, 0.1]) / 5, rtol=1e-5)
    curvature = commanded_motion(actions[..., :1], last[:, :1], (ChannelSpec("curvature_inv_m", "1/m", -1, 1),), np.full((1, 4), 7.0),
                                 np.array([6.0]), 10.0)  # fmt: skip
    np.testing.assert_allclose(curvature["yaw_rate_rps"][0], np.array([6.0, 7, 7, 7]) * [0.2, 0.0, 0.1, 0.1], rtol=1e-5)
    assert "speed_change_mps" not in curvature


def test_counterfactuals_are_what_they_say_and_stay_in_range() -> None:
    rng = np.random.default_rng(0)
    actions = (rng.uniform(-1, 1, (6, 10, 2)) * [0.4, 4]).astype(np.float32)
    made = {name: change(actions, SPECS) for name, change in COUNTERFACTUALS.items()}
    np.testing.assert_allclose(made["x0.5"], actions / 2)
    assert made["x1.5"].max() <= 4 and np.abs(made["x1.5"][..., 0]).max() <= 0.4 + 1e-7
    np.testing.assert_array_equal(made["mirrored"][..., 0], -actions[..., 0])
    np.testing.assert_array_equal(made["mirrored"][..., 1], actions[..., 1])
    assert (made["held"] == actions[:, :1]).all()
    assert all((made["shuffled"][k] != actions[k]).any() for k in range(6))
    assert sorted(map(bytes, made["shuffled"])) == sorted(map(bytes, actions))


def test_the_straightest_drives_are_chosen_and_slow_ones_never() -> None:
    curvature = np.array([[0.05, 0], [0.0, 0.0], [0.001, 0.0], [0.0, 0.0]])
    speed = np.array([[10.0, 10], [10, 3], [10, 10], [10, 10]])
    assert straightest(curvature, speed, np.array([0, 0, 0, 0.5]), 2).tolist() == [2, 3]
    assert straightest(curvature, speed, np.full(4, np.nan), 9).tolist() == [0, 2, 3]
