import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from episode_samples import make_drives, make_episode, stream

from data.episode import Drive
from data.errors import DiskFullError, UserError
from data.folder import MARKER
from data.manifest import safe_name
from data.split import plan_splits
from data.store import EpisodeStore, Manifest, write_store


def write(path: Path, drives: list[Drive], **options: Any) -> Manifest:
    return write_store(drives, path, **{"source": "test", "fps": 10.0, "workers": 1, "progress": False, **options})


def files(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file() and file.name != MARKER}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    path = tmp_path_factory.mktemp("data") / "set"
    write(path, make_drives(12), license="CC0", settings={"size": "16x24"})
    return EpisodeStore.open(path)


def test_what_is_read_is_what_was_written(store: EpisodeStore) -> None:
    for number in range(12):
        expected, got = make_episode(number, 70), store.read(f"drive{number}")
        np.testing.assert_array_equal(got.frames["front"], expected.frames["front"])
        np.testing.assert_array_equal(got.telemetry, expected.telemetry)
        np.testing.assert_array_equal(got.actions, expected.actions)
        np.testing.assert_array_equal(got.truth["x_m"], expected.truth["x_m"])
        np.testing.assert_array_equal(got.timestamps_s, expected.timestamps_s)
        for name in ("fps", "captions", "labels", "cameras", "telemetry_channels", "action_channels"):
            assert getattr(got, name) == getattr(expected, name), name


@pytest.mark.parametrize("start, stop", [(0, 1), (0, 32), (31, 33), (32, 64), (5, 70), (69, 70)])
def test_a_stretch_is_a_slice_of_the_whole(store: EpisodeStore, start: int, stop: int) -> None:
    got, whole = store.read("drive3", start, stop), make_episode(3, 70)
    assert (got.start, got.steps) == (start, stop - start)
    np.testing.assert_array_equal(got.frames["front"], whole.frames["front"][start:stop])
    np.testing.assert_array_equal(got.actions, whole.actions[start:stop])


@pytest.mark.parametrize("start, stop", [(-1, 3), (3, 3), (0, 71)])
def test_a_stretch_outside_the_drive_is_refused(store: EpisodeStore, start: int, stop: int) -> None:
    with pytest.raises(UserError, match=r"drive3: expected steps within 0\.\.70"):
        store.read("drive3", start, stop)


def test_the_manifest_tells_the_set(store: EpisodeStore) -> None:
    manifest = store.manifest
    assert (manifest.source, manifest.fps, manifest.size, manifest.license) == ("test", 10.0, (16, 24), "CC0")
    assert [channel.name for channel in manifest.actions] == ["steering_rad", "acceleration_mps2"]
    assert [channel.name for channel in manifest.telemetry] == ["speed_mps"]
    assert sum(drive.steps for drive in manifest.drives) == 12 * 70
    with pytest.raises(UserError, match="expected a split 'heldout', got only"):
        store.drives("heldout")
    with pytest.raises(UserError, match="no drive 'elsewhere'"):
        store.read("elsewhere")


def test_the_frame_array_holds_every_frame_once(store: EpisodeStore) -> None:
    for split in store.splits:
        frames = store.frame_array(split, progress=False)
        index = store.frame_index(split)
        assert frames.dtype == np.uint8 and frames.shape == (index[-1][2], 16, 24, 3)
        for drive_id, first, last in index:
            np.testing.assert_array_equal(frames[first:last], store.read(drive_id).frames["front"])
        assert not frames.flags.writeable
    stamps = {file: os.stat(file).st_mtime_ns for file in (store.path / "cache").iterdir()}
    store.frame_array("train", progress=False)
    assert stamps == {file: os.stat(file).st_mtime_ns for file in (store.path / "cache").iterdir()}
    with pytest.raises(UserError, match="got 'rear'"):
        store.frame_array("train", "rear")


def test_datasets_reads_it(store: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    pattern = {split: str(store.path / split / "*.parquet") for split in store.splits}
    loaded = datasets.load_dataset("parquet", data_files=pattern, cache_dir=str(tmp_path))
    rows = [row for row in loaded["train"] if row["drive_id"] == store.drives("train")[0].drive_id]
    assert [(row["start"], row["steps"], len(row["frames_front"])) for row in rows] == [(0, 32, 32), (32, 32, 32), (64, 6, 6)]
    expected = store.read(rows[0]["drive_id"], 0, 32)
    np.testing.assert_array_equal(np.float32(rows[0]["actions"]).reshape(32, 2), expected.actions)
    assert rows[0]["frames_front"][0].startswith(b"\x89PNG")


def test_codes_come_back(tmp_path: Path) -> None:
    codes = np.arange(40 * 6, dtype=np.int16).reshape(40, 2, 3)
    episode = replace(make_episode(0, 40), frames={}, codes={"front": codes}, codebook_size=1024)
    write(tmp_path / "s", [Drive("drive0", lambda: iter([episode]), "train")])
    store = EpisodeStore.open(tmp_path / "s")
    np.testing.assert_array_equal(store.read("drive0", 5, 39).codes["front"], codes[5:39])
    with pytest.raises(UserError, match="holds codes"):
        _ = store.manifest.size


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    first = write(tmp_path / "a", make_drives(10))
    assert write(tmp_path / "b", make_drives(10, chunk=7), workers=2).hash == first.hash
    changed = make_drives(10)
    episode = make_episode(4, 70)
    changed[4] = Drive("drive4", lambda: iter([replace(episode, captions=())]), steps=70)
    assert write(tmp_path / "c", changed).hash != first.hash


def test_splits_by_drive_are_stable(tmp_path: Path) -> None:
    def split_of(count: int) -> dict[str, str]:
        plans = plan_splits(make_drives(count), fps=10, val_fraction=0.2)
        return {part.drive_id: part.split for plan in plans for part in plan.parts}

    small, large = split_of(40), split_of(400)
    assert all(large[name] == split for name, split in small.items())
    assert 0.15 < sum(split == "val" for split in large.values()) / 400 < 0.25
    assert "val" in split_of(10).values()


def test_a_source_decides_its_own_splits() -> None:
    drives = [Drive("a", lambda: iter([]), "heldout"), Drive("b", lambda: iter([]), "train", steps=5000)]
    parts = [part for plan in plan_splits(drives, fps=10, val_fraction=0.2) for part in plan.parts]
    assert [(part.drive_id, part.split, part.first, part.last) for part in parts] == [("a", "heldout", 0, None), ("b", "train", 0, None)]


@pytest.mark.parametrize("steps", [80, 500, 2999, 50_000])
def test_one_long_drive_is_cut_with_gaps(steps: int) -> None:
    [plan] = plan_splits([Drive("d", lambda: iter([]), steps=steps)], fps=10, val_fraction=0.15)
    assert {part.split for part in plan.parts} == {"train", "val"}
    for before, after in zip(plan.parts, plan.parts[1:], strict=False):
        assert before.last is not None and before.split != after.split
        assert after.first - before.last >= 20 if before.split == "train" else after.first > before.last
    ends = [steps if part.last is None else part.last for part in plan.parts]
    held_out = sum(end - part.first for end, part in zip(ends, plan.parts, strict=True) if part.split == "val")
    assert max(20, 0.1 * steps) <= held_out <= max(20, 0.16 * steps)
    assert len({part.drive_id for part in plan.parts}) == len(plan.parts)


def test_validation_never_touches_training() -> None:
    [plan] = plan_splits([Drive("d", lambda: iter([]), steps=20_000)], fps=10, val_fraction=0.15)
    spans = {split: [(p.first, p.last or 20_000) for p in plan.parts if p.split == split] for split in ("train", "val")}
    for first, last in spans["val"]:
        assert all(last + 20 <= other or first >= other_last + 20 for other, other_last in spans["train"])


def test_a_drive_too_short_to_cut_trains_whole() -> None:
    [plan] = plan_splits([Drive("d", lambda: iter([]), steps=79)], fps=10, val_fraction=0.15)
    assert [(part.drive_id, part.split) for part in plan.parts] == [("d", "train")]


def test_parts_of_a_drive_are_its_steps(tmp_path: Path) -> None:
    write(tmp_path / "s", make_drives(1, 200))
    store, whole = EpisodeStore.open(tmp_path / "s"), make_episode(0, 200)
    train, val = store.read("drive0-part000"), store.read("drive0-part001")
    np.testing.assert_array_equal(train.frames["front"], whole.frames["front"][: train.steps])
    np.testing.assert_array_equal(val.frames["front"], whole.frames["front"][-val.steps :])
    assert 200 - train.steps - val.steps == 20
    assert [(c.start, c.end, c.text) for c in val.captions] == [(0, val.steps, "sun")]


def test_an_interrupted_run_goes_on_without_redoing(tmp_path: Path) -> None:
    path, read = tmp_path / "s", []

    def count(number: int) -> Any:
        read.append(number)
        if number == 7 and read.count(7) == 1:
            raise KeyboardInterrupt
        return stream(number, 70)

    drives = [Drive(f"drive{k}", lambda k=k: count(k), "train", steps=70) for k in range(10)]
    with pytest.raises(KeyboardInterrupt):
        write(path, drives)
    assert files(path) == {f"train/drive{k}.parquet" for k in range(7)}
    with pytest.raises(UserError, match=r"no manifest.json inside"):
        EpisodeStore.open(path)
    resumed = write(path, drives, resume=True)
    assert read == [*range(8), 7, 8, 9]
    assert resumed.hash == write(tmp_path / "whole", [replace(d, episodes=lambda k=k: stream(k, 70)) for k, d in enumerate(drives)]).hash


def test_resume_with_other_settings_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "s", make_drives(10), settings={"size": "16x24"})
    with pytest.raises(UserError, match="was begun with size = 16x24, got 32x32"):
        write(tmp_path / "s", make_drives(10), settings={"size": "32x32"}, resume=True)
    assert EpisodeStore.open(tmp_path / "s").manifest.settings == {"size": "16x24"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_drive_is_reported_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int) -> None:
    manifest = write(tmp_path / "s", make_drives(12, broken_ones=(3, 8)), workers=workers)
    assert manifest.skipped == {"drive3": "drive3.mp4: truncated", "drive8": "drive8.mp4: truncated"}
    assert "skipped drive3: drive3.mp4: truncated" in capsys.readouterr().err
    names = {drive.drive_id for drive in EpisodeStore.open(tmp_path / "s").manifest.drives}
    assert names == {f"drive{k}" for k in range(12)} - {"drive3", "drive8"}
    assert len(files(tmp_path / "s")) == 10 + 1


@pytest.mark.parametrize("odd", [0, 5])
def test_a_drive_of_other_signals_is_left_out(tmp_path: Path, odd: int) -> None:
    drives = make_drives(10)
    other = replace(make_episode(odd, 70), telemetry=np.zeros((0, 0), np.float32), telemetry_channels=())
    drives[odd] = Drive(f"drive{odd}", lambda: iter([other]), steps=70)
    assert write(tmp_path / "s", drives).skipped == {f"drive{odd}": "telemetry: expected ['speed_mps'] as in most drives, got []"}


def test_time_must_rise(tmp_path: Path) -> None:
    episode = make_episode(0, 70)
    back = replace(episode, timestamps_s=np.where(np.arange(70) == 40, 0.0, episode.timestamps_s))
    with pytest.raises(UserError, match=r"drive0: timestamps_s expected to rise, got 0.0 at step 40"):
        write(tmp_path / "s", [Drive("drive0", lambda: iter([back]), "train")])


def test_nothing_is_left_when_no_drive_is_usable(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no usable drive among 2: drive0.mp4: truncated"):
        write(tmp_path / "s", make_drives(2, broken_ones=(0, 1)))
    assert not (tmp_path / "s").exists()
    with pytest.raises(UserError, match="at least one drive"):
        write(tmp_path / "s", [])
    with pytest.raises(UserError, match=r"drive0: .* got this one twice"):
        write(tmp_path / "s", make_drives(1) * 2)


def test_a_full_disk_stops_the_run_and_leaves_whole_drives_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    class FullAfterFour(pq.ParquetWriter):
        written = 0

        def write_table(self, *arguments: Any, **options: Any) -> None:
            FullAfterFour.written += 1
            if FullAfterFour.written > 4:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().write_table(*arguments, **options)

    monkeypatch.setattr(pq, "ParquetWriter", FullAfterFour)
    with pytest.raises(DiskFullError, match=r"disk full: no room left to write .*drive1.parquet"):
        write(tmp_path / "s", [replace(drive, split="train") for drive in make_drives(10)])
    assert files(tmp_path / "s") == {"train/drive0.parquet"}


def test_a_full_disk_leaves_no_half_frame_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "s", make_drives(10))
    store = EpisodeStore.open(tmp_path / "s")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))  # type: ignore[attr-defined]
    with pytest.raises(DiskFullError, match=r"disk full: .* needs about"):
        store.frame_array("train", progress=False)
    assert not (tmp_path / "s" / "cache").exists()


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: shutil.rmtree(path), "no such data set"),
        (lambda path: (path / "manifest.json").unlink(), "no manifest.json inside"),
        (lambda path: (path / "manifest.json").write_text("{"), "expected JSON"),
        (lambda path: (path / "manifest.json").write_text("[]"), "expected format 'worldgpt-episodes', got 'list'"),
        (lambda path: edit(path, version=99), "expected format version 1, got 99"),
        (lambda path: edit(path, drives=[{}]), "damaged manifest, field 'drive_id'"),
        (lambda path: next(path.glob("train/*.parquet")).unlink(), "missing, though .* lists this drive"),
    ],
)
def test_a_damaged_set_names_its_file(tmp_path: Path, damage: Any, message: str) -> None:
    path = tmp_path / "s"
    write(path, make_drives(10))
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        EpisodeStore.open(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_truncated_shard_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write(path, make_drives(10))
    store = EpisodeStore.open(path)
    shard = path / store.drives("train")[0].file
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(UserError, match="expected a shard of episodes, got a damaged"):
        store.read(store.drives("train")[0].drive_id)


def test_names_are_safe_and_told_apart() -> None:
    assert safe_name("b0c9|2018-08-02--08") != safe_name("b0c9_2018-08-02--08") == "b0c9_2018-08-02--08"
    for name in ("../../etc/passwd", "..", "a/b", "x" * 300, ""):
        assert "/" not in safe_name(name) and not safe_name(name).startswith(".") and 0 < len(safe_name(name)) < 120


def edit(path: Path, **changes: Any) -> None:
    file = path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
