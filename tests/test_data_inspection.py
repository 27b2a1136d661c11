from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from episode_samples import make_drives, make_episode
from real_data import real_data

from data import inspection_pictures
from data.chart import ChannelChart, chart_page
from data.episode import Caption, ChannelSpec, Drive, Episode
from data.folder import read_json
from data.image import read_image
from data.inspection import Inspection, inspect_store
from data.inspection_channels import channel_figures
from data.inspection_motion import picture_motion
from data.sources.donkeycar import DonkeycarConfig, drives
from data.store import EpisodeStore, write_store

SPEED = ChannelSpec("speed_mps", "m/s", 0.0, 40.0)
YAW = ChannelSpec("yaw_rate_rps", "rad/s", -1.5, 1.5)
STEERING = ChannelSpec("steering_norm", "1", -1.0, 1.0)
STEPS = 100


def wall(seed: int, width: int = 4000) -> np.ndarray:
    """uint8 (64, width, 3): blots of 8 pixels to look at."""
    gray = np.random.default_rng(seed).integers(0, 256, (8, width // 8), np.uint8).repeat(8, 0).repeat(8, 1)
    return np.repeat(gray[..., None], 3, axis=-1)


def drive(number: int, *, yaw_sign: float = 1.0, speed: float = 10.0, moves: bool = True, steering: float | None = None) -> Episode:
    """100 steps in front of a wall: turning to the left by 0.1 rad/s shifts it by 1 pixel a step to the right."""
    yaw = 0.3 * np.sin(np.arange(STEPS) / 9 + number)
    place = 2003 - np.round(np.concatenate([[0], np.cumsum((yaw[1:] + yaw[:-1]) / 2)]) * 10).astype(int)
    picture = wall(number)
    rng = np.random.default_rng(number)
    frames = np.stack([picture[:, x : x + 128] for x in (place if moves else [2003] * STEPS)])
    frames = np.clip(frames + rng.integers(-1, 2, frames.shape), 0, 255).astype(np.uint8)  # a camera's noise
    steer = rng.uniform(-0.9, 0.9, STEPS) if steering is None else np.full(STEPS, steering)
    return Episode(
        drive_id=f"wall{number}",
        fps=10.0,
        timestamps_s=np.arange(STEPS) / 10,
        frames={"front": frames},
        telemetry=np.stack([speed * (1 + yaw), yaw_sign * yaw], axis=1).astype(np.float32),
        telemetry_channels=(SPEED, YAW),
        actions=steer[:, None].astype(np.float32),
        action_channels=(STEERING,),
    )


def inspect(path: Path, episodes: Sequence[Episode], *, splits: Sequence[str] = ("train", "train", "val")) -> Inspection:
    given = [Drive(e.drive_id, lambda e=e: iter([e]), splits[k % len(splits)]) for k, e in enumerate(episodes)]
    write_store(given, path, source="test", fps=10.0, workers=1, progress=False)
    return inspect_store(EpisodeStore.open(path), progress=False)


def test_figures_of_a_channel() -> None:
    values = np.concatenate([np.full(50, -1.0), np.linspace(-0.5, 0.5, 940), np.full(10, 1.2)]).astype(np.float32)
    figures = channel_figures(STEERING, "action", values)
    assert (figures.smallest, figures.largest) == pytest.approx((-1, 1.2))
    assert (figures.mean, figures.deviation) == pytest.approx((values.mean(), values.std()), abs=1e-5)
    assert (figures.usual_low, figures.usual_high) == pytest.approx(tuple(np.quantile(values, (0.01, 0.99))))
    assert (figures.at_low, figures.at_high, figures.below, figures.above) == pytest.approx((0.05, 0.01, 0, 0.01))
    gear = channel_figures(ChannelSpec("gear", "1", -0.5, 5.5, 6), "action", np.arange(6.0).repeat(10))
    assert (gear.at_low, gear.at_high) == (0, 0)  # choices stand at the centres of their bins


def test_a_sound_set_has_no_warnings(tmp_path: Path) -> None:
    found = inspect(tmp_path / "s", [drive(k) for k in range(3)])
    assert found.warnings == () and found.lines()[-1] == "no warnings"
    assert {split: (f.drives, f.steps) for split, f in found.splits.items()} == {"train": (2, 200), "val": (1, 100)}
    assert found.splits["train"].hours == pytest.approx(200 / 36_000)
    motion = found.pictures.motion
    assert motion is not None and motion.turning["yaw_rate_rps"] > 0.95 and abs(motion.turning["steering_norm"]) < 0.2
    assert motion.pairs == 3 * (3 * 31 + 3) and motion.driving == motion.pairs
    assert read_json(tmp_path / "s/inspection/inspection.json")["splits"]["train"]["steps"] == 200
    assert read_image(tmp_path / "s/inspection/channels.png").shape[1] > 1000
    assert read_image(tmp_path / "s/inspection/contact_sheet.png").size


def test_a_shift_is_measured_in_pixels() -> None:
    picture = wall(0)
    places = np.array([50, 53, 49, 49, 42])
    motion = picture_motion(np.stack([picture[:, x : x + 128] for x in places]))
    np.testing.assert_allclose(motion[:, 2], -np.diff(places), atol=0.2)
    assert motion[2, 0] == motion[2, 1] == 0 and (motion[[0, 1, 3], 0] > 0.9).all()
    noisy = np.clip(picture[None, :, 3:131] + np.random.default_rng(0).normal(0, 1, (3, 64, 128, 1)), 0, 255).astype(np.uint8)
    assert picture_motion(noisy)[:, :2].max() < 0.02  # noise of a camera is no motion
    assert np.isnan(picture_motion(np.full((2, 64, 128, 3), 90, np.uint8))[:, :2]).all()  # of a blank picture nothing is said


@pytest.mark.parametrize(
    "options, message",
    [
        ({"yaw_sign": -1.0}, "yaw_rate_rps turns against the picture"),
        ({"speed": 0.0}, "the picture moves in"),
        ({"moves": False}, "the picture stands still in 288 of 288 pairs watched above 3 m/s"),
        ({"steering": 0.2}, "steering_norm is always 0.2"),
    ],
)
def test_what_disagrees_is_told(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    warnings = inspect(tmp_path / "s", [drive(k, **options) for k in range(3)]).warnings
    assert any(text.startswith(message) for text in warnings), warnings
    assert len(warnings) == (2 if "speed" in options else 1), warnings  # that a channel never changes is told, too


def test_a_channel_that_was_clipped_is_told(tmp_path: Path) -> None:
    cut, outside = drive(0), drive(1)
    cut = replace(cut, actions=np.clip(2 * cut.actions, -1, 1))
    outside = replace(outside, telemetry=(outside.telemetry * [6, 1]).astype(np.float32))
    warnings = inspect(tmp_path / "s", [cut, outside, drive(2)]).warnings
    share = np.mean(np.abs(cut.actions) >= 1) / 2 / 3
    found = [text for text in warnings if text.startswith("steering_norm sits at the")]
    assert len(found) == 2 and "lower edge of its range, -1, in" in found[0] and "upper edge of its range, 1, in" in found[1]
    assert all(share / 1.5 < float(text.split(" in ")[1].split("%")[0]) / 100 < share * 1.5 for text in found)
    assert any(text.startswith("speed_mps lies above its range 0 to 40 m/s in 33.3% of the steps (78 at most)") for text in warnings)


def frozen(episode: Episode, *stretches: tuple[int, int]) -> Episode:
    """Steps first <= t < last show what step `first` shows."""
    frames = episode.frames["front"].copy()
    for first, last in stretches:
        frames[first:last] = frames[first]
    return replace(episode, frames={"front": frames})


def test_planted_duplicates_and_frozen_stretches_are_found(tmp_path: Path) -> None:
    """Also across the borders of stored chunks, which hold 32 steps."""
    episodes = [make_episode(k, 100) for k in range(3)]
    episodes = [replace(e, drive_id=f"d{k}") for k, e in enumerate(episodes)]
    episodes[0] = frozen(episodes[0], (25, 45), (60, 62))
    episodes[1] = frozen(episodes[1], (90, 100), (3, 14))
    found = inspect(tmp_path / "s", episodes)
    assert (found.pictures.pairs, found.pictures.equal, found.pictures.looked_at) == (3 * 99, 19 + 1 + 9 + 10, 300)
    runs = [(run.drive_id, run.first, run.last) for run in found.pictures.frozen]
    assert runs == [("d0", 25, 45), ("d1", 3, 14)]  # 10 equal pictures are 0.9 s
    speed = episodes[0].telemetry[25:45, 0].mean()
    assert found.pictures.frozen[0].speed_mps == pytest.approx(speed, rel=1e-5)
    assert any(text.startswith("2 stretches are frozen while the car moves (d0, d1)") for text in found.warnings)
    assert any(text.startswith("13.1% of neighbouring pictures are equal") for text in found.warnings)
    assert any("d0 front: steps 25 to 44, 2.0 s" in line for line in found.lines())


def test_a_car_that_stands_may_be_frozen(tmp_path: Path) -> None:
    standing = [frozen(drive(k, speed=0.0), (20, 60)) for k in range(3)]
    found = inspect(tmp_path / "s", standing)
    assert len(found.pictures.frozen) == 3 and not any("frozen" in text for text in found.warnings)


def test_what_train_and_val_share_is_told(tmp_path: Path) -> None:
    whole = make_episode(0, 100)
    names = ("town-part000", "town-part001", "a", "b")
    episodes = [replace(make_episode(k, 100), drive_id=name) for k, name in enumerate(names)]
    episodes[2:] = [replace(whole, drive_id=name) for name in ("a", "b")]
    warnings = inspect(tmp_path / "s", episodes, splits=("train", "val")).warnings
    assert any(text.startswith("train and val share drives (town), in parts") for text in warnings)
    assert any(text.startswith("train and val hold 1 drives of the same content") for text in warnings)
    assert any(text.startswith("100 of 200 steps of val that were looked at show a picture that train shows") for text in warnings)
    alone = inspect(tmp_path / "t", [make_episode(k, 50) for k in range(2)], splits=("train",)).warnings
    assert alone == ("no val split: nothing is held out to measure with",)


def test_captions_are_counted_by_steps(tmp_path: Path) -> None:
    spoken = [Caption(0, 50, "rain"), Caption(40, 80, "night")], [Caption(0, 30, "rain")]
    episodes = [replace(make_episode(k, 100), captions=tuple(said)) for k, said in enumerate(spoken)]
    captions = inspect(tmp_path / "s", episodes, splits=("train", "val")).captions
    assert (captions.distinct, captions.covered, list(captions.steps.items())) == (2, 0.55, [("rain", 80), ("night", 40)])


def test_a_large_set_is_sampled_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(make_drives(12, 160), tmp_path / "s", source="test", fps=10.0, workers=1, progress=False)
    monkeypatch.setattr(inspection_pictures, "MOST_COMPARED", 320)
    monkeypatch.setattr(inspection_pictures, "MOST_WATCHED", 128)
    found = inspect_store(EpisodeStore.open(tmp_path / "s"), progress=False)
    assert found.pictures.looked_at == 320 and found.pictures.motion is not None and found.pictures.motion.pairs == 4 * 31
    assert sum(found.pictures.in_split.values()) == 320 and set(found.pictures.in_split) == {"train", "val"}
    assert any("(in 320 of 1,920 steps, spread evenly)" in line for line in found.lines())


def test_a_set_of_codes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = []
    for k in range(2):
        codes = rng.integers(0, 1024, (100, 8, 16))
        codes[10:30] = codes[10]
        base = make_episode(k, 100)
        episodes.append(replace(base, frames={}, codes={"front": codes.astype(np.int32)}, codebook_size=1024))
    found = inspect(tmp_path / "s", episodes, splits=("train", "val"))
    assert found.pictures.motion is None and (found.pictures.pairs, found.pictures.equal) == (198, 38)
    assert [(run.first, run.last) for run in found.pictures.frozen] == [(10, 30)] * 2
    assert any("8x16 codes" in line for line in found.lines())
    assert {file.name for file in (tmp_path / "s/inspection").iterdir()} == {"inspection.json", "channels.png"}


def test_the_real_tub(tmp_path: Path) -> None:
    """A car on a track: it steers the way the picture says, which the source's own sign (positive to the right) would not."""
    config = DonkeycarConfig(real_data("real/donkeycar_tub"), source_fps=20)
    write_store(drives(config), tmp_path / "s", source="donkeycar", fps=10.0, workers=1, progress=False)
    found = inspect_store(EpisodeStore.open(tmp_path / "s"), progress=False)
    assert found.pictures.motion is not None and found.pictures.motion.turning["steering_norm"] > 0.7
    assert [text.split(" (")[0] for text in found.warnings] == ["train and val share drives"]


def test_charts_show_values_where_they_are() -> None:
    spec = ChannelSpec("x", "m", 0.0, 10.0)
    page = chart_page([ChannelChart("x", spec, np.full(1000, 5.0), {"d": np.full(1000, 2.5)})], 10.0)
    red = (page == (190, 60, 40)).all(axis=-1)
    blue = (page[..., 2].astype(int) - page[..., 0] > 60) & (page[..., 1] < 200)
    histogram, series = blue[:, :450], blue[:, 450:]
    ends = np.flatnonzero(red[:, :450].sum(axis=0) > 100)  # the upright lines at both ends of the range
    assert len(ends) == 2 and np.flatnonzero(histogram.any(axis=0)).mean() == pytest.approx(ends.mean(), abs=4)
    limits = np.flatnonzero(red[:, 450:].sum(axis=1) > 400)  # 10 above, 0 below
    height = np.flatnonzero(series.sum(axis=1) > 400).mean()
    assert len(limits) == 2 and (limits[1] - height) / (limits[1] - limits[0]) == pytest.approx(0.25, abs=0.02)
