import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from episode_samples import make_drives

from data.chunks import join
from data.episode import Episode
from data.errors import UserError
from data.npz import npz_members, read_member, stream_member
from data.npz_export import export_store
from data.sources.npz import NpzConfig, drives
from data.sources.physics import PhysicsConfig
from data.sources.physics import drives as physics_drives
from data.store import EpisodeStore, write_store

SCRIPT = Path(__file__).parents[1] / "scripts" / "export_npz.py"


def arrays(steps: int = 150, seed: int = 0, **changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """A drive at 16x24; None leaves an array out."""
    rng = np.random.default_rng(seed)
    dones = np.zeros(steps, bool)
    dones[-1:] = True
    made: dict[str, np.ndarray | None] = {
        "observations": rng.integers(0, 256, (steps, 16, 24, 3), np.uint8),
        "actions": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "dones": dones,
    }
    return {name: array for name, array in {**made, **changes}.items() if array is not None}


def save(path: Path, content: Mapping[str, np.ndarray], *, packed: bool = False) -> Path:
    (np.savez_compressed if packed else np.savez)(path, **content)
    return path


def read_all(config: NpzConfig) -> list[Episode]:
    return [join(list(drive.episodes())) for drive in drives(config)]


@pytest.mark.parametrize("packed", [False, True])
def test_arrays_come_through(tmp_path: Path, packed: bool) -> None:
    content = arrays()
    [episode] = read_all(NpzConfig(save(tmp_path / "run.npz", content, packed=packed), fps=20, caption="a maze"))
    np.testing.assert_array_equal(episode.frames["front"], content["observations"])
    np.testing.assert_array_equal(episode.actions, content["actions"])
    np.testing.assert_array_equal(episode.truth["reward"], content["rewards"])
    np.testing.assert_array_equal(episode.truth["done"], content["dones"])
    np.testing.assert_allclose(episode.timestamps_s, np.arange(150) / 20)
    assert (episode.drive_id, episode.captions[0].text, episode.captions[0].end) == ("run", "a maze", 150)
    low, high = content["actions"].min(0), content["actions"].max(0)
    assert [(c.name, c.low, c.high) for c in episode.action_channels] == [(f"action_{k}", low[k], high[k]) for k in range(2)]


@pytest.mark.parametrize(
    "as_saved, said",
    [
        (lambda x: x, "(T, 16, 24, 3) uint8 are read as T, H, W, C in 0..255"),
        (lambda x: np.moveaxis(x, -1, 1), "(T, 3, 16, 24) uint8 are read as T, C, H, W in 0..255"),
        (lambda x: x / 255, "(T, 16, 24, 3) float64 are read as T, H, W, C in 0..1"),
        (lambda x: (np.moveaxis(x, -1, 1) / 255).astype(np.float32), "(T, 3, 16, 24) float32 are read as T, C, H, W in 0..1"),
        (lambda x: (x / 255).astype(np.float16), "(T, 16, 24, 3) float16 are read as T, H, W, C in 0..1"),
    ],
)
def test_layouts_are_told_apart_and_said(tmp_path: Path, as_saved, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = arrays(70)
    save(tmp_path / "run.npz", {**content, "observations": as_saved(content["observations"])})
    [episode] = read_all(NpzConfig(tmp_path))
    np.testing.assert_array_equal(episode.frames["front"], content["observations"])
    assert capsys.readouterr().err == f"1 files: observations {said}\n"


def test_gray_becomes_rgb(tmp_path: Path) -> None:
    gray = arrays(5)["observations"][..., :1]
    [episode] = read_all(NpzConfig(save(tmp_path / "run.npz", {"observations": gray})))
    np.testing.assert_array_equal(episode.frames["front"], np.repeat(gray, 3, axis=-1))
    assert episode.action_channels == () and episode.truth == {} and episode.captions == ()


def test_a_done_cuts_the_drive(tmp_path: Path) -> None:
    dones = np.zeros(150, np.float32)
    dones[[39, 99]] = 1
    content = arrays(dones=dones)
    first, second, third = read_all(NpzConfig(save(tmp_path / "run.npz", content)))
    assert [e.drive_id for e in (first, second, third)] == [f"run-episode{k:03d}" for k in range(3)]
    assert [e.steps for e in (first, second, third)] == [40, 60, 50]
    for episode, start in ((first, 0), (second, 40), (third, 100)):
        np.testing.assert_array_equal(episode.frames["front"], content["observations"][start : start + episode.steps])
        np.testing.assert_array_equal(episode.actions, content["actions"][start : start + episode.steps])
        assert episode.truth["done"][:-1].sum() == 0
    assert (first.truth["done"][-1], third.truth["done"][-1]) == (1, 0)  # the last one was not over


def test_choices_have_a_bin_each(tmp_path: Path) -> None:
    """Of whole numbers the bin centres are the numbers, over all files of a folder."""
    save(tmp_path / "a.npz", arrays(20, actions=np.arange(20) % 3))
    save(tmp_path / "b.npz", arrays(20, actions=np.arange(20) % 5))
    one, other = read_all(NpzConfig(tmp_path))
    [spec] = one.action_channels
    assert one.action_channels == other.action_channels and (spec.name, spec.bins) == ("action", 5)
    centres = spec.low + (np.arange(spec.bins) + 0.5) * (spec.high - spec.low) / spec.bins
    np.testing.assert_allclose(centres, range(5))
    np.testing.assert_array_equal(other.actions[:, 0], np.arange(20) % 5)


def test_names_and_ranges_of_the_file_count(tmp_path: Path) -> None:
    content = arrays(20, names=np.array(["steering_norm", "pedal"]), low=np.array([-1.0, -2.0]), high=np.array([1.0, 2.0]))
    [episode] = read_all(NpzConfig(save(tmp_path / "run.npz", content)))
    assert [(c.name, c.unit, c.low, c.high) for c in episode.action_channels] == [("steering_norm", "1", -1, 1), ("pedal", "1", -2, 2)]
    del content["low"], content["high"]
    content["names"] = np.array(["steering_rad", "acceleration_mps2"])  # ranges that their names stand for
    [episode] = read_all(NpzConfig(save(tmp_path / "run.npz", content)))
    assert [(c.unit, c.high) for c in episode.action_channels] == [("rad", 0.8), ("m/s^2", 10.0)]


def test_frames_can_be_fitted(tmp_path: Path) -> None:
    flat = np.broadcast_to(np.arange(30, dtype=np.uint8)[:, None, None, None] * 8, (30, 50, 60, 3))
    path = save(tmp_path / "run.npz", {"observations": flat})
    with pytest.raises(UserError, match=r"run\.npz: frames are 50x60, which does not divide by 8; give --size"):
        read_all(NpzConfig(path))
    [episode] = read_all(NpzConfig(path, size="16x24"))
    assert episode.frames["front"].shape == (30, 16, 24, 3)
    np.testing.assert_array_equal(episode.frames["front"][:, 8, 8, 0], np.arange(30) * 8)


def test_an_import_of_an_export_changes_nothing(tmp_path: Path) -> None:
    """Frames, channels, truth, captions, labels, times and splits of a store, through scripts/export_npz.py and back."""
    write_store(make_drives(11), tmp_path / "a", source="test", fps=10, workers=1, progress=False)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--data", str(tmp_path / "a"), "--output", str(tmp_path / "npz")], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == f"11 drives written to {tmp_path / 'npz'}\n", done.stderr
    write_store(drives(NpzConfig(tmp_path / "npz")), tmp_path / "b", source="npz", fps=10, workers=1, progress=False)
    one, other = EpisodeStore.open(tmp_path / "a").manifest, EpisodeStore.open(tmp_path / "b").manifest
    hashes = [{(d.drive_id, d.split): d.content_hash for d in manifest.drives} for manifest in (one, other)]
    assert hashes[0] == hashes[1] and len(hashes[0]) == 11  # over pixels, times, channels, truth, captions and labels
    assert one.actions == other.actions and one.telemetry == other.telemetry


def test_rewards_and_dones_survive_an_export(tmp_path: Path) -> None:
    dones = np.zeros(90, bool)
    dones[[29, 89]] = True
    content = arrays(90, dones=dones)
    save(tmp_path / "run.npz", content)
    write_store(drives(NpzConfig(tmp_path / "run.npz")), tmp_path / "a", source="npz", fps=10, workers=1, val_fraction=0, progress=False)
    assert export_store(EpisodeStore.open(tmp_path / "a"), tmp_path / "npz", progress=False) == 2
    again = join_fields(read_all(NpzConfig(tmp_path / "npz")))
    for name, array in again.items():
        np.testing.assert_array_equal(array, content[name])
    raw = read_member(tmp_path / "npz" / "train" / "run-episode000.npz", "dones")
    assert raw.dtype == bool and raw[-1] and not raw[:-1].any()
    exported = np.load(tmp_path / "npz" / "train" / "run-episode001.npz", allow_pickle=False)  # numpy itself reads it too
    np.testing.assert_array_equal(exported["observations"], content["observations"][30:])
    assert list(exported["names"]) == ["action_0", "action_1"]


def join_fields(episodes: list[Episode]) -> dict[str, np.ndarray]:
    fields = {"observations": [], "actions": [], "rewards": [], "dones": []}
    for episode in episodes:
        values = (episode.frames["front"], episode.actions, episode.truth["reward"], episode.truth["done"])
        for part, array in zip(fields.values(), values, strict=True):
            part.append(array)
    return {name: np.concatenate(parts) for name, parts in fields.items()}


def test_the_same_store_gives_the_same_files(tmp_path: Path) -> None:
    config = PhysicsConfig(episodes=1, val_episodes=1, steps=70, size="16x16")
    write_store(physics_drives(config), tmp_path / "a", source="physics", fps=10, workers=1, progress=False)
    for name in ("x", "y"):
        export_store(EpisodeStore.open(tmp_path / "a"), tmp_path / name, progress=False)
    files = sorted(path.relative_to(tmp_path / "x") for path in (tmp_path / "x").rglob("*.npz"))
    assert [str(file) for file in files] == ["train/train-00000-two_balls.npz", "val/val-00000-two_balls.npz"]
    assert all((tmp_path / "x" / file).read_bytes() == (tmp_path / "y" / file).read_bytes() for file in files)
    with pytest.raises(UserError, match="already holds files"):
        export_store(EpisodeStore.open(tmp_path / "a"), tmp_path / "x", progress=False)
    with pytest.raises(UserError, match=r"expected a camera with frames among \['front'\], got 'rear'"):
        export_store(EpisodeStore.open(tmp_path / "a"), tmp_path / "z", camera="rear", progress=False)
    assert not (tmp_path / "z").exists()


def test_long_arrays_are_streamed(tmp_path: Path) -> None:
    """Memory does not grow with the length: the end of 46 MB is read with less than 4, packed or not."""
    import tracemalloc

    rows = np.zeros((40_000, 16, 24, 3), np.uint8)
    rows[:, 0, 0, 0] = np.arange(40_000) % 251
    for packed in (False, True):
        path = save(tmp_path / "run.npz", {"observations": rows}, packed=packed)
        tracemalloc.start()
        last = [chunk[:, 0, 0, 0].copy() for chunk in stream_member(path, "observations", 30_000, 40_000)]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        np.testing.assert_array_equal(np.concatenate(last), np.arange(30_000, 40_000) % 251)
        assert rows.nbytes > 46e6 and peak < 4e6


def bad(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    return arrays(20, **changes)


@pytest.mark.parametrize(
    "content, message",
    [
        (bad(observations=None), "expected an array 'observations', got actions, rewards, dones"),
        (bad(observations=np.zeros((20, 16, 24), np.uint8)), "'observations' expected uint8 or floats of 4 axes, got uint8"),
        (bad(observations=np.zeros((20, 16, 24, 3), np.int32)), "'observations' expected uint8 or floats of 4 axes, got int32"),
        (bad(observations=np.zeros((20, 16, 24, 4), np.uint8)), "with C of 1 or 3, got (20, 16, 24, 4)"),
        (bad(observations=np.zeros((20, 3, 24, 3), np.uint8)), "with C of 1 or 3, got (20, 3, 24, 3)"),
        (bad(observations=np.zeros((0, 16, 24, 3), np.uint8)), "'observations' expected at least one row"),
        (bad(observations=np.full((20, 16, 24, 3), 200.0)), "'observations' of floats expected 0..1, got 200..200"),
        (bad(observations=np.full((20, 16, 24, 3), np.nan)), "'observations' of floats expected 0..1, got nan"),
        (bad(observations=np.asfortranarray(np.zeros((20, 16, 24, 3), np.uint8))), "'observations' expected rows one after the other"),
        (bad(actions=np.zeros((19, 2))), "'actions' expected 20 rows as in 'observations', got 19"),
        (bad(actions=np.zeros((20, 2, 2))), "'actions' expected numbers of 1 or 2 axes, got float64 (20, 2, 2)"),
        (bad(actions=np.full((20, 2), np.nan)), "'action_0' expected a finite number, got nan in row 1"),
        (bad(rewards=np.array([0.0] * 19 + [np.inf])), "'rewards' expected a finite number, got inf in row 20"),
        (bad(dones=np.zeros(21, bool)), "'dones' expected 20 rows as in 'observations', got 21"),
        (bad(names=np.array(["a", "b", "c"])), "'names' expected 2 values, one a column of 'actions', got shape (3,)"),
        (bad(names=np.array(["a", "a"])), "'names' expected every name once, got a, a"),
        (bad(low=np.ones(2), high=np.zeros(2)), "channel 'action_0': expected low < high"),
        (bad(fps=np.array(30.0)), "'fps' is 30, --fps expected the same, got 10"),
        (bad(timestamps_s=np.array([0.0, 0.2, 0.1, *range(1, 18)])), "timestamps_s expected to rise, got 0.1 at step 2"),
        (bad(captions=np.array("no json")), "'captions' expected JSON"),
        (bad(captions=np.array('[{"text": "x"}]')), "'captions' expected a JSON list of start, end, text"),
    ],
)
def test_a_bad_file_is_named_and_the_others_come_through(tmp_path: Path, content: dict[str, np.ndarray], message: str) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    for k in range(2):
        save(folder / f"good{k}.npz", arrays(20, k))
    save(folder / "wrong.npz", content)
    manifest = write_store(drives(NpzConfig(folder)), tmp_path / "out", source="npz", fps=10, workers=1, progress=False)
    assert len(manifest.drives) == 2 and list(manifest.skipped) == ["wrong"]
    reason = manifest.skipped["wrong"]
    assert message in reason and "wrong" in reason and "\n" not in reason


def test_a_pickle_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    path = save(tmp_path / "run.npz", arrays(20, actions=np.array([{"steer": 0.1}] * 20, dtype=object)))
    monkeypatch.setattr(pickle, "load", lambda *_: pytest.fail("unpickled"))
    with pytest.raises(UserError, match=r"run\.npz: 'actions' holds pickled objects, which are never read"):
        npz_members(path)
    for read in (lambda: read_member(path, "actions"), lambda: list(stream_member(path, "actions", 0, 20))):
        with pytest.raises(UserError, match="holds pickled objects"):
            read()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    good = save(tmp_path / "good.npz", arrays(20)).read_bytes()
    path = tmp_path / "run.npz"
    for content in (b"", b"no zip", good[: len(good) // 2], good[len(good) // 2 :]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"run\.npz: expected an npz file, got a truncated or foreign one"):
            npz_members(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("observations.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (9, 8, 8, 3), }")
    with pytest.raises(UserError, match=r"run\.npz: expected an npz file"):
        npz_members(path)
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (9999999, 8, 8, 3), }"
    header += " " * (118 - len(header) - 1) + "\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("observations.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0" * 99)
    with pytest.raises(UserError, match=r"run\.npz: 'observations' expected uint8 \(9999999, 8, 8, 3\) as its header says, got 99 bytes"):
        npz_members(path)
    with pytest.raises(UserError, match=r"none\.npz: no such file or folder"):
        list(drives(NpzConfig(tmp_path / "none.npz")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="expected npz files, got none"):
        list(drives(NpzConfig(tmp_path / "empty")))
