from functools import partial

import numpy as np
import pytest

from data.balls import Balls, Box, advance, draw
from data.chunks import join
from data.episode import Drive
from data.errors import UserError
from data.sources.physics import PhysicsConfig, drives, episodes, make_box, simulate
from data.store import EpisodeStore, write_store

FREE = PhysicsConfig(force=0, steps=1000, episodes=4)


def box(radii: list[float], masses: list[float]) -> Box:
    return Box(1.0, 1.0, np.array(radii), np.array(masses))


@pytest.mark.parametrize("config", [FREE, PhysicsConfig(force=0, steps=1000, mass_ratio=3.5), PhysicsConfig(force=0, steps=1000, balls=1)])
def test_without_force_energy_stays(config: PhysicsConfig) -> None:
    drive_id = next(drives(config)).drive_id
    motion = simulate(config, drive_id)
    energy = np.array([state.energy(motion.box) for state in motion.states])
    np.testing.assert_allclose(energy, energy[0], rtol=1e-12)
    assert sum(hit.walls[0] for hit in motion.hits) > 30
    assert config.balls == 1 or sum(hit.balls for hit in motion.hits) > 20


def test_balls_stay_in_the_box_and_apart() -> None:
    config = PhysicsConfig(steps=2000, mass_ratio=2.0, force=3.0)
    motion = simulate(config, "train-00003-two_balls")
    places = np.array([state.positions for state in motion.states])
    assert (places >= motion.box.radii[:, None] - 1e-9).all() and (places <= 1 - motion.box.radii[:, None] + 1e-9).all()
    apart = np.hypot(*np.moveaxis(places[:, 0] - places[:, 1], -1, 0))
    assert apart.min() >= motion.box.radii.sum() - 1e-9


@pytest.mark.parametrize("ratio", [1.0, 0.25, 7.0])
def test_momentum_is_kept_when_balls_meet(ratio: float) -> None:
    config = PhysicsConfig(force=0, steps=1000, mass_ratio=ratio, radius=0.08)
    motion, met = simulate(config, "train-00000-two_balls"), 0
    for before, after, hits in zip(motion.states, motion.states[1:], motion.hits[1:], strict=False):
        if hits.balls and not any(hits.walls):
            met += 1
            np.testing.assert_allclose(after.momentum(motion.box), before.momentum(motion.box), atol=1e-14)
    assert met > 10


def test_head_on_collisions_follow_the_textbook() -> None:
    """v1' = ((m1 - m2) v1 + 2 m2 v2) / (m1 + m2), and equal masses swap."""
    for m1, m2, v1, v2 in ((1, 1, 0.8, -0.2), (1, 3, 0.8, -0.2), (2, 0.5, 0.3, -0.9)):
        world = box([0.1, 0.1], [m1, m2])
        start = Balls(np.array([[0.3, 0.5], [0.7, 0.5]]), np.array([[v1, 0.0], [v2, 0.0]]))
        meeting = 0.2 / (v1 - v2)
        after, hits = advance(world, start, np.zeros(2), meeting + 0.05)
        w1, w2 = ((m1 - m2) * v1 + 2 * m2 * v2) / (m1 + m2), ((m2 - m1) * v2 + 2 * m1 * v1) / (m1 + m2)
        np.testing.assert_allclose(after.velocities, [[w1, 0], [w2, 0]], atol=1e-12)
        np.testing.assert_allclose(after.positions[:, 0], [0.3 + v1 * meeting + w1 * 0.05, 0.7 + v2 * meeting + w2 * 0.05], atol=1e-12)
        assert hits.balls and hits.walls == (False, False)


def test_a_glancing_hit_turns_equal_balls_apart_at_a_right_angle() -> None:
    world = box([0.1, 0.1], [1.0, 1.0])
    start = Balls(np.array([[0.3, 0.5], [0.6, 0.6]]), np.array([[1.0, 0.0], [0.0, 0.0]]))
    after, _ = advance(world, start, np.zeros(2), 0.2)
    assert after.velocities[0] @ after.velocities[1] == pytest.approx(0, abs=1e-12)
    assert np.linalg.norm(after.velocities, axis=1).min() > 0.1


def test_a_ball_between_walls_keeps_the_time() -> None:
    """Unfolded, the motion is a straight line: a saw tooth of the covered way."""
    world, speed = box([0.1], [1.0]), np.array([0.7, 0.45])
    balls = Balls(np.array([[0.25, 0.4]]), speed[None])
    for step in range(1, 200):
        balls, _ = advance(world, balls, np.zeros(2), 0.1)
        way = (np.array([0.25, 0.4]) - 0.1 + speed * 0.1 * step) % 1.6
        np.testing.assert_allclose(balls.positions[0], 0.1 + np.where(way <= 0.8, way, 1.6 - way), atol=1e-12)


def test_a_constant_force_gives_a_parabola() -> None:
    world, force = box([0.05], [2.0]), np.array([0.3, -0.2])
    balls = Balls(np.array([[0.3, 0.7]]), np.array([[0.1, 0.05]]))
    for step in range(1, 11):
        balls, hits = advance(world, balls, force, 0.1)
        time, pull = 0.1 * step, force / 2.0
        np.testing.assert_allclose(balls.positions[0], [0.3, 0.7] + np.array([0.1, 0.05]) * time + pull * time**2 / 2, atol=1e-12)
        np.testing.assert_allclose(balls.velocities[0], [0.1, 0.05] + pull * time, atol=1e-12)
        assert hits.walls == (False,)


def test_time_may_be_cut_anywhere() -> None:
    """Event by event: one long step equals many short ones, so the frame rate does not change the motion."""
    config = PhysicsConfig(force=0)
    world, balls = make_box(config), simulate(config, "train-00001-two_balls").states[0]
    whole, _ = advance(world, balls, np.zeros(2), 2.0)
    for _ in range(64):
        balls, _ = advance(world, balls, np.zeros(2), 2.0 / 64)
    np.testing.assert_allclose(balls.positions, whole.positions, atol=1e-9)


def test_the_picture_shows_where_the_balls_are() -> None:
    """Brightness-weighted centre and area of each ball against its true place and size."""
    config = PhysicsConfig(balls=1, steps=20, size="64x96", radius=0.12)
    [train, *_] = drives(config)
    episode = join(list(train.episodes()))
    frames = episode.frames["front"].astype(float)[..., 0] - 24
    rows, columns = np.mgrid[:64, :96] + 0.5
    total = frames.sum((1, 2))
    np.testing.assert_allclose((frames * columns).sum((1, 2)) / total, episode.truth["ball0_x_m"] * 96, atol=0.02)
    np.testing.assert_allclose((frames * rows).sum((1, 2)) / total, 64 - episode.truth["ball0_y_m"] * 96, atol=0.02)
    np.testing.assert_allclose(total / (230 - 24), np.pi * (0.12 * 96) ** 2, rtol=0.01)


def test_edges_are_soft() -> None:
    """Each pixel against the share of it that the ball covers, counted on a grid 16 times as fine."""
    centre, radius = np.array([0.473, 0.512]), 0.21
    frame = draw(box([radius], [1.0]), Balls(centre[None], np.zeros((1, 2))), np.full((1, 3), 255.0), np.zeros(3), (64, 64))[..., 0]
    y, x = (np.mgrid[: 64 * 16, : 64 * 16] + 0.5) / (64 * 16)
    fine = np.hypot(x - centre[0], (1 - y) - centre[1]) < radius
    share = fine.reshape(64, 16, 64, 16).mean((1, 3))
    assert np.abs(frame / 255 - share).max() < 0.1 and np.abs(frame / 255 - share).mean() < 0.002


def test_a_drive_depends_on_config_and_id_alone() -> None:
    config = PhysicsConfig(steps=30, episodes=3, val_episodes=2)
    found = list(drives(config))
    assert [d.drive_id for d in found] == [f"train-{k:05d}-two_balls" for k in range(3)] + [f"val-{k:05d}-two_balls" for k in range(2)]
    assert [d.split for d in found] == ["train"] * 3 + ["val"] * 2
    alone = join(list(episodes(config, "val-00001-two_balls")))
    more = join(list(episodes(PhysicsConfig(steps=30, episodes=9, val_episodes=9), "val-00001-two_balls")))
    np.testing.assert_array_equal(alone.frames["front"], more.frames["front"])
    np.testing.assert_array_equal(alone.actions, join(list(found[4].episodes())).actions)
    other = join(list(episodes(PhysicsConfig(steps=30, seed=1, val_episodes=9), "val-00001-two_balls")))
    assert not np.array_equal(alone.frames["front"], other.frames["front"])


def test_truth_and_actions_of_an_episode() -> None:
    config = PhysicsConfig(steps=80, mass_ratio=2)
    motion, episode = simulate(config, "train-00000-two_balls"), join(list(episodes(config, "train-00000-two_balls")))
    assert [(c.name, c.unit) for c in episode.action_channels] == [("force_x_n", "N"), ("force_y_n", "N")]
    assert episode.telemetry_channels == () and episode.captions[0].text == "two balls, the blue one heavier, pushed"
    for ball in range(2):
        for index, axis in enumerate("xy"):
            np.testing.assert_array_equal(
                episode.truth[f"ball{ball}_{axis}_m"], np.float32([s.positions[ball, index] for s in motion.states])
            )
    # actions[t] acts between t and t + 1: where nothing is hit, the red ball's velocity changes by force / mass * time.
    gained = np.diff(np.stack([episode.truth["ball0_vx_mps"], episode.truth["ball0_vy_mps"]], axis=1), axis=0)
    free = (episode.truth["ball0_wall_hit"] + episode.truth["balls_hit"])[1:] == 0
    assert 20 < free.sum() < 79
    np.testing.assert_allclose(gained[free], episode.actions[:-1][free] / 10, atol=1e-6)
    assert np.abs(gained - episode.actions[:-1] / 10)[~free].max(axis=1).min() > 1e-3


def test_no_force_no_actions_and_words() -> None:
    one = join(list(episodes(PhysicsConfig(balls=1, force=0, steps=3), "train-00000-one_ball")))
    assert one.action_channels == () and one.captions[0].text == "one ball" and set(one.truth) == {
        "ball0_x_m", "ball0_y_m", "ball0_vx_mps", "ball0_vy_mps", "ball0_wall_hit"
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"radius": 0.3}, "radius expected balls that fit"),
        ({"radius": 0.1, "mass_ratio": 30}, "radius expected balls that fit"),
        ({"steps": 0}, "steps expected at least 1"),
        ({"force": -1}, "force expected 0 or more, got -1"),
        ({"fps": 0}, "fps expected a number above 0"),
        ({"mass_ratio": float("nan")}, "mass_ratio expected a number above 0, got nan"),
        ({"size": "64"}, "expected HEIGHTxWIDTH"),
    ],
)
def test_bad_settings_are_named(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PhysicsConfig(**changes)


def test_ids_that_are_none() -> None:
    for drive_id in ("train-00000-one_ball", "train-99999-two_balls", "test-00000-two_balls", "x"):
        with pytest.raises(UserError, match="no drive"):
            simulate(PhysicsConfig(), drive_id)


def test_a_bad_drive_does_not_stop_the_others(tmp_path) -> None:
    config = PhysicsConfig(episodes=2, val_episodes=1, steps=5)
    bad = Drive("bad", partial(episodes, config, "train-77777-two_balls"), "train", 5)
    manifest = write_store([*drives(config), bad], tmp_path / "out", source="physics", fps=10, workers=1, progress=False)
    assert set(manifest.skipped) == {"bad"} and len(EpisodeStore.open(tmp_path / "out").drives("train")) == 2
