import json
import math
import shutil
from pathlib import Path

import lerobot_samples as samples
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from real_data import real_data

from data.chunks import join
from data.data_paths import fill_template, inside
from data.episode import Episode
from data.errors import UserError
from data.sources.lerobot import LerobotConfig, drives
from data.store import write_store
from data.video import decode
from data.video_times import frames_at

SMALL = {"size": "32x96"}


@pytest.fixture(scope="module")
def v3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.make_v3(tmp_path_factory.mktemp("v3") / "arm")


@pytest.fixture(scope="module")
def whole_v2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.make_v2(tmp_path_factory.mktemp("v2") / "arm")


@pytest.fixture()
def v2(whole_v2: Path, tmp_path: Path) -> Path:
    """To be damaged."""
    return Path(shutil.copytree(whole_v2, tmp_path / "arm"))


@pytest.fixture(scope="module")
def l2d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.make_l2d(tmp_path_factory.mktemp("l2d") / "l2d")


def read_all(config: LerobotConfig) -> list[Episode]:
    return [join(list(drive.episodes())) for drive in drives(config)]


def edit_info(root: Path, **changes: object) -> None:
    path = root / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_real_set(v3: Path) -> None:
    """Rows and pictures of each episode against the whole table, at the rate of the set."""
    table = pq.read_table(real_data("layouts/lerobot_v3") / "data/chunk-000/file-000.parquet").to_pandas()
    stats = json.loads((v3 / "meta/stats.json").read_text())
    found = read_all(LerobotConfig(v3, fps=30, **SMALL))
    assert [episode.drive_id for episode in found] == [f"episode_{k:06d}" for k in range(4)]
    assert sum(episode.steps for episode in found) == len(table) == 1492
    for index, episode in enumerate(found):
        rows = table[table.episode_index == index]
        np.testing.assert_allclose(episode.telemetry, np.stack(rows["observation.state"]), rtol=1e-6)
        np.testing.assert_allclose(episode.actions, np.stack(rows["action"]), rtol=1e-6)
        np.testing.assert_allclose(episode.timestamps_s, rows["timestamp"], atol=1e-6)
        np.testing.assert_array_equal(samples.read_numbers(episode.frames["front"]), rows["index"])
        assert [(c.start, c.end, c.text) for c in episode.captions] == [(0, len(rows), "Pick the orange cube and place it in the box")]
    assert [c.name for c in found[0].telemetry_channels] == [
        f"state_{joint}_pos" for joint in ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
    ]
    assert [(c.low, c.high) for c in found[0].action_channels] == list(zip(stats["action"]["min"], stats["action"]["max"], strict=True))


def test_a_third_of_the_rows(v3: Path) -> None:
    [_, second, *_] = drives(LerobotConfig(v3, fps=10, cameras=("top", "front"), caption="an arm", **SMALL))
    episode = join(list(second.episodes()))
    rows = np.arange(373, 373 + 374, 3)
    assert (second.steps, episode.steps) == (125, 125) and list(episode.frames) == ["top", "front"]
    np.testing.assert_array_equal(samples.read_numbers(episode.frames["front"]), rows)
    np.testing.assert_array_equal(samples.read_numbers(episode.frames["top"]), rows + 2048)
    assert [c.text for c in episode.captions] == ["Pick the orange cube and place it in the box", "an arm"]


def test_v2_and_v3_are_the_same_data(whole_v2: Path, v3: Path) -> None:
    for old, new in zip(read_all(LerobotConfig(whole_v2, **SMALL)), read_all(LerobotConfig(v3, **SMALL)), strict=True):
        assert old.drive_id == new.drive_id and old.telemetry_channels == new.telemetry_channels and old.steps == 50
        np.testing.assert_array_equal(old.actions, new.actions[:50])
        np.testing.assert_array_equal(samples.read_numbers(old.frames["front"]), samples.read_numbers(new.frames["front"])[:50])
        assert old.captions[0].text == "Pick the orange cube"


def test_ranges_come_from_the_data_where_meta_has_none(v2: Path) -> None:
    (v2 / "meta/episodes_stats.jsonl").unlink()
    [first, *_] = read_all(LerobotConfig(v2, **SMALL))
    every = [np.stack(pq.read_table(v2 / samples.v2_data(k))["action"].to_pylist()) for k in range(4)]
    low, high = np.concatenate(every).min(0), np.concatenate(every).max(0)
    np.testing.assert_allclose([(c.low, c.high) for c in first.action_channels], np.stack([low, high], axis=1))


def test_l2d_speaks_our_units(l2d: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A circle to the left, as L2D writes it: km/h, degrees clockwise from north, steering positive to the right."""
    first, second = read_all(LerobotConfig(l2d, **SMALL))
    columns = dict(zip([c.name for c in first.telemetry_channels], first.telemetry.T, strict=True))
    assert list(columns) == ["speed_mps", "imu_acceleration_x_mps2", "imu_acceleration_y_mps2", "yaw_rate_rps"]
    np.testing.assert_allclose(columns["speed_mps"], samples.SPEED, rtol=1e-6)
    turn = samples.SPEED / samples.RADIUS
    np.testing.assert_allclose(columns["yaw_rate_rps"], turn, rtol=1e-4)
    angle = turn * np.arange(samples.STEPS) / 10
    np.testing.assert_allclose(first.truth["x_m"], samples.RADIUS * np.sin(angle), atol=0.02)  # forward and left of the first pose
    np.testing.assert_allclose(first.truth["y_m"], samples.RADIUS * (1 - np.cos(angle)), atol=0.02)
    np.testing.assert_allclose(first.truth["yaw_rad"], angle, atol=1e-4)
    controls = dict(zip([c.name for c in first.action_channels], first.actions.T, strict=True))
    assert list(controls) == ["throttle_norm", "brake_norm", "steering_norm", "gear", "turn_signal"]
    assert controls["steering_norm"][0] == 0.25 and controls["throttle_norm"][0] == pytest.approx(0.2) and controls["gear"][0] == 3
    assert [c.bins for c in first.action_channels][-1] == 3 and first.truth["reward"][-1] == 1.0
    np.testing.assert_array_equal(samples.read_numbers(second.frames["front_left"]), np.arange(samples.STEPS, 2 * samples.STEPS))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(
        part in said for part in ("waypoints (float32 10x2)", "state.timestamp (int64 1)", "'heading_error'", "'altitude'")
    )


def test_l2d_captions_follow_the_steps(l2d: Path) -> None:
    first, second = read_all(LerobotConfig(l2d, **SMALL))
    half, steps = samples.STEPS // 2, samples.STEPS
    assert [(c.start, c.end, c.text) for c in second.captions] == [
        (0, steps, "Turn left 1"),
        (0, half, "rain, night, residential road"),
        (half, steps, "clear, night, residential road"),
    ]
    assert first.labels == {"weather": "Rain", "time_of_day": "Night", "road": "residential", "max_speed": "50.0"}


def test_episodes_of_a_session_stay_together(l2d: Path, tmp_path: Path) -> None:
    """L2D cuts overlapping episodes out of a drive: one that is trained on must not be measured on."""
    root = Path(shutil.copytree(l2d, tmp_path / "l2d"))
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path).to_pandas().iloc[:1]
    many = pd.concat([table.assign(episode_index=k, session_id=f"session{k // 5}") for k in range(200)])
    many.to_parquet(path, index=False)
    splits = [drive.split for drive in drives(LerobotConfig(root))]
    groups = [splits[k : k + 5] for k in range(0, 200, 5)]
    assert all(len(set(group)) == 1 for group in groups)
    assert 2 <= sum(group[0] == "val" for group in groups) <= 14 and {*splits} == {"train", "val"}
    many.assign(session_id="only one").to_parquet(path, index=False)
    assert {drive.split for drive in drives(LerobotConfig(root))} == {None}  # the store splits


def test_a_wrong_clock_can_be_replaced(l2d: Path) -> None:
    first, _ = read_all(LerobotConfig(l2d, source_fps=4, fps=4, **SMALL))
    np.testing.assert_allclose(first.timestamps_s, np.arange(samples.STEPS) / 4)
    np.testing.assert_array_equal(samples.read_numbers(first.frames["front_left"]), np.arange(samples.STEPS))
    assert first.telemetry[0, 3] == pytest.approx(samples.SPEED / samples.RADIUS * 0.4, rel=1e-4)


def test_frames_are_found_by_seeking(v3: Path) -> None:
    """Any times, in the middle of a file too, give what decoding all of it gives."""
    path = v3 / "videos/observation.images.front/chunk-000/file-000.mp4"
    for first, last, every in ((0, 9, 1), (251, 260, 1), (700, 900, 7), (1480, 1492, 1)):
        times = np.arange(first, last, every) / 30
        frames = np.stack(list(frames_at(path, times + 0.004, tolerance_s=1 / 60, size=samples.SIZE)))
        np.testing.assert_array_equal(samples.read_numbers(frames), np.arange(first, last, every))


def test_the_real_drive_of_carla_with_its_meta_files_filled_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Genuine v2 data and video, against the table and a decoding of the whole file; its clock is wrong, and its actions are plans."""
    source = real_data("layouts/carla_lerobot_v2")
    for folder in ("data", "videos"):
        shutil.copytree(source / folder, tmp_path / folder)
    (tmp_path / "meta").mkdir()
    features = {
        "observation.state": {"dtype": "float32", "shape": [7], "names": None},
        "action": {"dtype": "float32", "shape": [30, 7], "names": None},
        "observation.images.main": {"dtype": "video", "shape": [480, 640, 3], "names": None},
    }
    info = {"codebase_version": "v2.1", "fps": 10, "chunks_size": 1000, "features": features}
    info |= {"data_path": samples.V2_DATA, "video_path": samples.V2_VIDEO}
    (tmp_path / "meta/info.json").write_text(json.dumps(info))
    samples.write_lines(tmp_path / "meta/episodes.jsonl", [{"episode_index": 0, "length": 93}])
    samples.write_lines(tmp_path / "meta/tasks.jsonl", [{"task_index": 0, "task": ""}])
    [episode] = read_all(LerobotConfig(tmp_path, source_fps=4, fps=4, size="48x64"))
    table = pq.read_table(source / samples.v2_data(0)).to_pandas()
    np.testing.assert_allclose(episode.telemetry, np.stack(table["observation.state"]), rtol=1e-6)
    assert [c.name for c in episode.telemetry_channels] == [f"state_{k}" for k in range(7)] and episode.action_channels == ()
    whole = [image for _, image in decode(source / "videos/chunk-000/observation.images.main/episode_000000.mp4", size=(48, 64))]
    np.testing.assert_array_equal(episode.frames["main"], np.stack(whole))
    np.testing.assert_allclose(np.diff(episode.timestamps_s), 0.25)
    assert episode.captions == () and "left out action (float32 30x7)" in capsys.readouterr().err


def test_empty_meta_files_are_named() -> None:
    root = real_data("layouts/carla_lerobot_v2")
    with pytest.raises(UserError, match=r"carla_lerobot_v2/meta/info\.json: expected the description of a LeRobot set, got an empty file$"):
        list(drives(LerobotConfig(root)))


@pytest.mark.parametrize("name", ["info.json", "tasks.jsonl", "episodes.jsonl", "episodes_stats.jsonl"])
@pytest.mark.parametrize(
    "content, message", [("", "empty file"), (None, "no such file"), ('{"a": 1', "expected JSON"), ("[3]", "JSON object")]
)
def test_damaged_meta_files_are_named(v2: Path, name: str, content: str | None, message: str) -> None:
    (v2 / "meta" / name).unlink()
    if content is not None:
        (v2 / "meta" / name).write_text(content)
    elif name == "episodes_stats.jsonl":
        return  # then ranges come from the data
    with pytest.raises(UserError, match=f"meta/{name}: .*{message}") as caught:
        list(drives(LerobotConfig(v2)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"codebase_version": "v1.6"}, r"expected codebase_version v2\.x or v3\.x and fps above 0, got v1\.6"),
        ({"fps": 0}, "fps above 0, got v2.1 and 0"),
        ({"fps": None}, "of another kind"),
        ({"features": {"action": {}}}, "field 'shape' is missing"),
        ({"data_path": "../../{episode_index}.parquet"}, "expected a path inside .*, got '../../0.parquet'"),
        ({"data_path": "/etc/{episode_index}"}, "expected a path inside .*, got '/etc/0'"),
        ({"video_path": "videos/../../{video_key}.mp4"}, "expected a path inside"),
        ({"data_path": "{episode_index.__class__}"}, "expected a template"),
        ({"data_path": "{secret:03d}"}, "expected fields among episode_chunk, episode_index in .*, got 'secret'"),
        ({"features": {}}, "expected a feature of dtype 'video'"),
    ],
)
def test_bad_descriptions_are_named(v2: Path, changes: dict, message: str) -> None:
    edit_info(v2, **changes)
    with pytest.raises(UserError, match=rf"meta/info\.json: .*{message}"):
        list(drives(LerobotConfig(v2)))


def test_names_from_data_files_stay_inside(tmp_path: Path) -> None:
    assert inside(tmp_path, "a/b..c/d.mp4", source="x") == tmp_path / "a/b..c/d.mp4"
    for name in ("..", "a/../../b", "/a", "C:\\a", "..\\a", "a\0b"):
        with pytest.raises(UserError, match="x: expected a path inside"):
            inside(tmp_path, name, source="x")
    assert fill_template("{a:03d}-{b}", {"a": 7, "b": "k"}, source="x") == "007-k"


def damage(v2: Path, kind: str) -> None:
    video, data = v2 / samples.v2_video(2), v2 / samples.v2_data(2)
    state = [float(k) for k in range(6)]
    if kind == "no video":
        video.unlink()
    elif kind == "cut video":
        video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    elif kind == "empty video":
        video.write_bytes(b"")
    elif kind == "long video":
        samples.write_video(video, range(160), 30)
    elif kind == "short video":
        samples.write_video(video, range(120), 30)
    elif kind == "no data":
        data.unlink()
    elif kind == "cut data":
        data.write_bytes(data.read_bytes()[:3000])
    elif kind == "time goes back":
        samples.edit_column(data, "timestamp", 20, 0.3)
    elif kind == "nan time":
        samples.edit_column(data, "timestamp", 20, math.nan)
    elif kind == "nan":
        samples.edit_column(data, "observation.state", 30, [*state[:5], math.nan])
    elif kind == "short row":
        pq.write_table(pq.read_table(data).drop_columns(["action"]), data)
    elif kind == "no row":
        samples.write_table(data, pq.read_table(data).slice(0, 149))


@pytest.mark.parametrize(
    "kind, message",
    [
        ("no video", r"episode_000002\.mp4: no such video file"),
        ("cut video", r"episode_000002\.mp4: expected"),
        ("empty video", r"episode_000002\.mp4: expected a video, got an empty file"),
        ("long video", r"episode_000002\.mp4: expected 150 frames, one a row of episode_000002\.parquet, got 160"),
        ("short video", r"episode_000002\.mp4: expected 150 frames, one a row of episode_000002\.parquet, got 120"),
        ("no data", r"episode_000002\.parquet: no such file"),
        ("cut data", r"episode_000002\.parquet: expected Parquet, got a truncated or foreign file"),
        ("time goes back", r"episode_000002\.parquet, episode 2, 'timestamp': timestamps expected to rise, got 0\.300 s after 0\.633 s"),
        ("nan time", r"episode_000002\.parquet, episode 2, 'timestamp': timestamps expected to rise, got nan"),
        ("nan", r"episode_000002\.parquet, episode 2: 'state_gripper_pos' expected a finite number, got nan in row 11"),
        ("short row", r"episode_000002\.parquet: expected a column 'action', got"),
        ("no row", r"episode_000002\.parquet, episode 2: expected 150 rows as in meta/, got 149"),
    ],
)
def test_a_broken_episode_is_named_and_the_others_come_through(v2: Path, tmp_path: Path, kind: str, message: str) -> None:
    import re

    damage(v2, kind)
    manifest = write_store(
        drives(LerobotConfig(v2, **SMALL)), tmp_path / "out", source="lerobot", fps=10, workers=1, val_fraction=0, progress=False
    )
    assert [drive.drive_id for drive in manifest.drives] == ["episode_000000", "episode_000001", "episode_000003"]
    assert list(manifest.skipped) == ["episode_000002"]
    reason = manifest.skipped["episode_000002"]
    assert re.search(message, reason) and "\n" not in reason


def test_what_comes_before_a_cut_of_a_shared_video_is_kept(v3: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(v3, tmp_path / "arm"))
    path = root / "videos/observation.images.front/chunk-000/file-000.mp4"
    path.write_bytes(path.read_bytes()[: int(0.8 * path.stat().st_size)])
    manifest = write_store(
        drives(LerobotConfig(root, **SMALL)), tmp_path / "out", source="lerobot", fps=10, workers=1, val_fraction=0, progress=False
    )
    assert [drive.drive_id for drive in manifest.drives] == ["episode_000000", "episode_000001"]
    assert all("file-000.mp4: " in reason for reason in manifest.skipped.values()) and len(manifest.skipped) == 2


def test_wishes_that_cannot_be_met(v3: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--cameras: expected names out of front, top, got 'rear'"):
        list(drives(LerobotConfig(v3, cameras=("rear",))))
    with pytest.raises(UserError, match=r"--fps: expected at most the source's 30\.0, got 60"):
        list(drives(LerobotConfig(v3, fps=60)))
    with pytest.raises(UserError, match="no such folder"):
        list(drives(LerobotConfig(tmp_path / "none")))
    with pytest.raises(UserError, match=r"meta/info\.json: no such file, expected a LeRobot set"):
        list(drives(LerobotConfig(tmp_path)))
