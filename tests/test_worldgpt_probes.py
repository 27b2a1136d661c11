"""Laws of the measuring networks: they learn, mirror, calibrate, are seeded and kept; the Fréchet distance against its closed form."""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from world_samples import column_tokenizer, write_columns

from data.dashsim.config import DashsimConfig
from data.episode import ChannelSpec, Drive, Episode
from data.errors import UserError
from data.sources import dashsim
from data.store import EpisodeStore, write_store
from worldgpt.evaluate.broken_frames import KINDS, PICTURE_KINDS, break_frames, kinds_with
from worldgpt.evaluate.probe_training import mirror, motion_loss, read_steps, roughened, threshold_for, train_probes
from worldgpt.evaluate.probes import ProbeConfig, Probes, frechet_distance, mirrored_order

HEIGHT, WIDTH, STEPS = 16, 32, 40
TELEMETRY = (ChannelSpec("speed_mps", "m/s", 0.0, 30.0), ChannelSpec("yaw_rate_rps", "rad/s", -1.0, 1.0))
TINY = ProbeConfig(
    steps=600, batch_size=16, road_steps=700, road_batch_size=32, width=8, road_width=16, depth=1, features=16, warmup_steps=5,
    learning_rate=1e-2, floor_steps=200, floor_frames=320,
)  # fmt: skip


def episode(number: int) -> Episode:
    """A stripe: its place is the lateral offset (unknown in every third drive), its move the turn, its light the speed; day or night."""
    rng = np.random.default_rng(number)
    columns = 4 + np.abs((rng.uniform(0, 46) + rng.choice([-1, 1]) * rng.uniform(0.3, 2.5) * np.arange(STEPS)) % 46 - 23)  # to and fro
    night, speed = number % 2, rng.uniform(5, 25)
    stripe = np.exp(-((np.arange(WIDTH) - columns[:, None, None]) ** 2) / 4)  # (T, 1, W)
    picture = (20 if night else 90) + np.arange(HEIGHT)[:, None] * 2 + (40 + 4 * speed) * stripe
    turn = np.append(0.0, np.diff(columns)) / 5  # what is ahead moves right where one turns left
    lateral = ((WIDTH - 1) / 2 - columns) / 8
    return Episode(
        drive_id=f"drive{number}",
        fps=10.0,
        timestamps_s=np.arange(STEPS) / 10,
        frames={"front": np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, -1)},
        telemetry=np.stack([np.full(STEPS, speed), turn], -1).astype(np.float32),
        telemetry_channels=TELEMETRY,
        truth={"lateral_offset_m": np.where(number % 3, lateral, np.nan).astype(np.float32)},
        labels={"time_of_day": "night" if night else "day"},
    )


def episodes(number: int) -> list[Episode]:
    return [episode(number)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    path = tmp_path_factory.mktemp("stripes") / "data"
    splits = ["train"] * 24 + ["val"] * 6
    drives = [Drive(f"drive{k}", partial(episodes, k), split=split, steps=STEPS) for k, split in enumerate(splits)]
    write_store(drives, path, source="stripes", fps=10.0, workers=1, progress=False)
    return EpisodeStore.open(path)


@pytest.fixture(scope="module")
def folder(store: EpisodeStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probes") / "new"
    train_probes(TINY, store, folder)
    return folder


@pytest.fixture(scope="module")
def road_frames() -> np.ndarray:
    """Rendered frames (6, 64, 128, 3) of two drives by day."""
    config = DashsimConfig(episodes=2, val_episodes=0, heldout_episodes=0, steps=30, times=("day",), roads=("highway",))
    ids = [drive.drive_id for drive in dashsim.drives(config)]
    return np.concatenate([dashsim.masked_frames(config, drive_id, [0, 12, 24])[0] for drive_id in ids])


def test_what_is_read_beats_the_mean(folder: Path) -> None:
    floor = Probes.load(folder).floor
    assert set(floor["numbers"]) == {"yaw_rate_rps", "speed_mps", "lateral_offset_m"}  # the store knows no heading error
    for name, least in (("yaw_rate_rps", 0.5), ("speed_mps", 0.5), ("lateral_offset_m", 0.8)):
        figures = floor["numbers"][name]
        assert figures["r2"] > least, name
        assert figures["mae"] < 0.6 * figures["spread"], name
        assert 0.4 < figures["slope"] < 1.3, name
    assert floor["numbers"]["lateral_offset_m"]["steps"] < floor["numbers"]["speed_mps"]["steps"]  # NaN is left out
    by_name = {"day": 1.0, "night": 1.0}
    assert floor["looks"] == {
        "time_of_day": {"accuracy": 1.0, "by_name": by_name, "largest_share": pytest.approx(0.5, abs=0.05), "steps": 200}
    }
    assert floor["road"]["found"] > 0.9
    assert set(floor["road"]["false_alarms"]) == set(PICTURE_KINDS) - {"torn"}
    assert set(floor["road"]["left_out"]) == {"torn"}
    assert floor["reconstructed"] is None


def test_readings_have_a_row_a_frame_and_nan_where_there_is_no_past(folder: Path, store: EpisodeStore) -> None:
    probes = Probes.load(folder)
    frames = store.read("drive25").frames["front"]
    read = probes.read(frames)
    assert {len(a) for a in (*read.numbers.values(), *read.looks.values(), read.features, read.road_score, read.road_found)} == {STEPS}
    for values in (*read.numbers.values(), read.features[:, 0], read.looks["time_of_day"][:, 0]):
        assert np.isnan(values).tolist() == [True] * (probes.frames_a_reading - 1) + [False] * (STEPS - probes.frames_a_reading + 1)
    np.testing.assert_allclose(read.looks["time_of_day"][2:].sum(1), 1, rtol=1e-5)
    assert (read.road_found == (read.road_score > probes.settings.threshold)).all()
    # A step depends on its own clip alone, and not on what comes later.
    part = probes.read(frames[4:9])
    for name, values in read.numbers.items():
        np.testing.assert_allclose(part.numbers[name][2:], values[6:9], rtol=1e-4, atol=1e-5)
    for count in (0, 1, 2):
        short = probes.read(frames[:count])
        assert len(short.road_score) == len(short.features) == count
        assert np.isnan(short.features).all()


def test_a_mirrored_drive_has_the_mirrored_numbers(folder: Path, store: EpisodeStore) -> None:
    probes = Probes.load(folder)
    frames = store.read("drive26").frames["front"]
    read, mirrored = probes.read(frames), probes.read(frames[:, :, ::-1])
    for name, sign in (("yaw_rate_rps", -1), ("lateral_offset_m", -1), ("speed_mps", 1)):
        np.testing.assert_allclose(mirrored.numbers[name], sign * read.numbers[name], rtol=1e-3, atol=1e-4)
        assert np.nanstd(read.numbers[name]) > 0


def test_training_clips_are_mirrored_with_their_numbers(folder: Path, store: EpisodeStore) -> None:
    signs = Probes.load(folder).signs
    steps = read_steps(store, "train", ["yaw_rate_rps", "speed_mps", "lateral_offset_m"], {"time_of_day": ["day", "night"]})
    clips, numbers = torch.from_numpy(steps.clips(steps.rows[:4])), torch.from_numpy(steps.numbers[steps.rows[:4]])
    which = torch.tensor([True, False, True, False])
    turned, changed = mirror(clips, numbers, signs, which)
    assert torch.equal(turned[which], clips[which].flip(3))
    assert torch.equal(turned[~which], clips[~which])
    torch.testing.assert_close(changed[which], numbers[which] * torch.tensor([-1.0, 1.0, -1.0]), equal_nan=True)
    torch.testing.assert_close(changed[~which], numbers[~which], equal_nan=True)


def test_clips_stay_within_their_drives(store: EpisodeStore) -> None:
    steps = read_steps(store, "train", ["speed_mps"], {})
    assert len(steps.rows) == 24 * (STEPS - 2)
    assert (steps.drives[steps.rows] == steps.drives[steps.rows - 2]).all()
    drive = store.read("drive3").frames["front"]
    assert (steps.clips(np.array([3 * STEPS + 7]))[0] == drive[5:8]).all()


def test_unknown_numbers_do_not_enter_the_loss(folder: Path, store: EpisodeStore) -> None:
    probes = Probes.load(folder)
    steps = read_steps(store, "train", list(probes.settings.means), probes.look_names)
    blank = dataclasses.replace(steps, numbers=np.full_like(steps.numbers, np.nan), looks=tuple(np.full_like(x, -1) for x in steps.looks))
    loss = motion_loss(probes, blank, 0, None)
    assert loss == 0
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in probes.motion.parameters())


def test_what_is_saved_reads_the_same_and_the_same_seed_trains_the_same(folder: Path, store: EpisodeStore, tmp_path: Path) -> None:
    short = dataclasses.replace(TINY, steps=4, road_steps=4, floor_steps=20, floor_frames=40)
    frames = store.read("drive27").frames["front"]
    trained = train_probes(short, store, tmp_path / "a")
    torch.rand(3)
    again, other = train_probes(short, store, tmp_path / "b"), train_probes(dataclasses.replace(short, seed=1), store, tmp_path / "c")
    loaded = Probes.load(tmp_path / "a")
    assert loaded.settings == trained.settings == again.settings
    for probes in (loaded, again):
        np.testing.assert_array_equal(probes.read(frames).features, trained.read(frames).features)
        np.testing.assert_array_equal(probes.read(frames).road_score, trained.read(frames).road_score)
    assert not np.array_equal(other.read(frames).road_score, trained.read(frames).road_score)
    loaded.save(tmp_path / "a")  # over itself


def test_mistakes_are_told_in_one_line(folder: Path, store: EpisodeStore, tmp_path: Path) -> None:
    probes = Probes.load(folder)
    with pytest.raises(UserError, match=r"expected frames uint8 \(T, 16, 32, 3\) as trained, got uint8 \(5, 8, 32, 3\)"):
        probes.read(np.zeros((5, 8, 32, 3), np.uint8))
    with pytest.raises(UserError, match="got float64"):
        probes.read(np.zeros((5, 16, 32, 3)))
    with pytest.raises(UserError, match=r"found no probes.json"):
        Probes.load(tmp_path)
    probes.save(tmp_path / "broken")
    (tmp_path / "broken" / "probes.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="could not be read as weights of probes"):
        Probes.load(tmp_path / "broken")
    (tmp_path / "broken" / "probes.json").write_text('{"format": "other"}')
    with pytest.raises(UserError, match="expected the measuring networks in format 'worldgpt_probes' version 1"):
        Probes.load(tmp_path / "broken")
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds 'broken', which is none of the probes'"):
        train_probes(TINY, store, tmp_path)
    with pytest.raises(UserError, match="left_out expected kinds among"):
        train_probes(dataclasses.replace(TINY, left_out=("melty",)), store, tmp_path / "new")
    with pytest.raises(UserError, match="expected at least 1, got 0"):
        dataclasses.replace(TINY, steps=0)


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_a_calibrated_threshold_lets_no_more_than_its_share_pass(share: float) -> None:
    for count in (1, 50, 100, 1000):
        scores = np.random.default_rng(count).normal(5, 2, count).astype(np.float32)
        threshold = threshold_for(scores, share)
        assert (scores > threshold).mean() <= share
        assert (scores >= threshold).mean() > share  # the least one that does
    assert threshold_for(np.full(100, -9.0), share) == 0  # never below even odds


@pytest.mark.parametrize("kind", PICTURE_KINDS)
def test_broken_frames_are_seeded_and_differ_from_their_originals(road_frames: np.ndarray, kind: str) -> None:
    before = road_frames.copy()
    frames, others = road_frames[:3], road_frames[3:]
    broken = break_frames(frames, others, [kind] * 3, np.random.default_rng(0))
    assert broken.shape == frames.shape
    assert broken.dtype == np.uint8
    assert (road_frames == before).all()
    assert (broken == break_frames(frames, others, [kind] * 3, np.random.default_rng(0))).all()
    below = slice(32, None)
    assert (np.abs(broken[:, below].astype(int) - frames[:, below]).mean((1, 2, 3)) > 3).all()
    if kind != "upside_down":  # which draws nothing
        assert (broken != break_frames(frames, others, [kind] * 3, np.random.default_rng(1))).any((1, 2, 3)).all()
    if kind in ("shuffled", "partly_shuffled", "upside_down", "torn"):  # the same pixels elsewhere
        assert (np.sort(broken.reshape(3, -1), 1) == np.sort(frames.reshape(3, -1), 1)).all()


def test_broken_codes_need_a_tokenizer_and_train_with_one(tmp_path: Path) -> None:
    assert not set(kinds_with(None)) & {"random_codes", "half_random_codes"}
    columns = write_columns(tmp_path / "columns", range(8), range(8, 12))
    tokenizer = column_tokenizer(columns)
    assert kinds_with(tokenizer) == KINDS
    tiny = dataclasses.replace(TINY, steps=3, road_steps=3, floor_steps=20, floor_frames=44)
    probes = train_probes(tiny, columns, tmp_path / "probes", tokenizer)
    assert set(probes.floor["numbers"]) == {"speed_mps"}  # all that this world tells
    assert probes.floor["reconstructed"]["numbers"]["speed_mps"]["steps"] == 20
    assert 0 <= probes.floor["road"]["found_reconstructed"] <= 1
    assert {"random_codes", "half_random_codes"} <= set(probes.floor["road"]["false_alarms"])


def test_roughened_clips_are_seeded_and_stay_near() -> None:
    clips = torch.full((64, 3, 8, 16, 3), 100, dtype=torch.uint8)
    once, again = roughened(clips, 5), roughened(clips, 5)
    assert torch.equal(once, again)
    assert clips.eq(100).all()
    changed = (once != 100).flatten(1).any(1)
    assert 0.3 < changed.float().mean() < 0.7
    assert (once - 100).abs().max() < 25


def test_frechet_distance_is_that_of_gaussians() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6))
    shift = rng.normal(size=6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + shift) == pytest.approx((shift**2).sum())
    assert frechet_distance(a, 3 * (a - a.mean(0)) + a.mean(0)) == pytest.approx(4 * np.trace(np.cov(a, rowvar=False)))
    # Covariances that commute: the sum of (sigma_a - sigma_b)^2 along their common axes.
    whitened = (a - a.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(a, rowvar=False))).T
    scales = np.array([1, 2, 3, 0.5, 0, 4.0])
    b = whitened * scales
    assert frechet_distance(whitened, b) == pytest.approx(((scales - 1) ** 2).sum())
    other = rng.normal(size=(400, 6))
    assert frechet_distance(a, other) == pytest.approx(frechet_distance(other, a))
    nan = np.full((2, 6), np.nan)
    assert frechet_distance(np.concatenate([nan, a]), other) == pytest.approx(frechet_distance(a, other))
    assert frechet_distance(other[:4], other[4:8]) >= 0  # fewer rows than features
    with pytest.raises(UserError, match="at least 2 features, got 1 and 400"):
        frechet_distance(a[:1], other)


def test_left_and_right_are_exchanged_in_names_too() -> None:
    names = ["change_left", "change_right", "exit", "turn_left"]
    assert mirrored_order(names) == [1, 0, 2, 3]  # there is no turn_right to become


def eventful_episode(number: int) -> Episode:
    """Every second drive has an event at steps 10..19: a bright flash on the left, or on the right."""
    base = episode(number)
    side, event = number // 2 % 2, np.zeros(STEPS, np.float32)
    frames = base.frames["front"].copy()
    if number % 2:
        event[10:20] = 1 + side
        frames[10:20, :4, side * 24 : side * 24 + 8] = 250
    label = f"flash_{'right' if side else 'left'}" if number % 2 else "none"
    return dataclasses.replace(base, frames={"front": frames}, truth={"event": event}, labels={"event": label})


def eventful_episodes(number: int) -> list[Episode]:
    return [eventful_episode(number)]


def test_events_are_read_at_their_steps_alone_and_told_apart_by_side(tmp_path: Path) -> None:
    splits = ["train"] * 16 + ["val"] * 8
    drives = [Drive(f"drive{k}", partial(eventful_episodes, k), split=split, steps=STEPS) for k, split in enumerate(splits)]
    write_store(drives, tmp_path / "data", source="flashes", fps=10.0, workers=1, progress=False)
    store = EpisodeStore.open(tmp_path / "data")
    probes = train_probes(dataclasses.replace(TINY, steps=150, road_steps=3, floor_steps=320, floor_frames=40), store, tmp_path / "probes")
    assert probes.look_names == {"event": ["flash_left", "flash_right", "none"]}
    steps = read_steps(store, "train", ["speed_mps"], probes.look_names)
    assert len(steps.eventful) == 8 * 10 and set(steps.looks[0][steps.eventful]) == {0, 1}
    drawn = steps.draw(np.random.default_rng(0), 1000)
    assert 0.25 < np.isin(drawn, steps.eventful).mean() < 0.45  # a quarter, and those of the rest that are
    floor = probes.floor["looks"]["event"]
    assert min(floor["by_name"].values()) > 0.9 and floor["largest_share"] > 0.8
    seen = probes.read(store.read("drive17").frames["front"]).looks["event"][12:20].mean(0)
    mirrored = probes.read(store.read("drive17").frames["front"][:, :, ::-1]).looks["event"][12:20].mean(0)
    np.testing.assert_allclose(mirrored, seen[[1, 0, 2]], atol=1e-4)
