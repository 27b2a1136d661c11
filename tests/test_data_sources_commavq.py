from pathlib import Path

import numpy as np
import pytest
from real_data import real_data

from data.chunks import join
from data.episode import Episode
from data.errors import UserError
from data.sources.commavq import CommavqConfig, drives
from data.store import EpisodeStore, write_store


def make_codes(path: Path, steps: int = 100, seed: int = 0, *, grid: bool = True) -> np.ndarray:
    codes = np.random.default_rng(seed).integers(0, 1024, (steps, 8, 16)).astype(np.int16)
    np.save(path, codes if grid else codes.reshape(steps, 128))
    return codes


def make_poses(path: Path, steps: int = 100) -> np.ndarray:
    """Speeds up from 0 while it turns to the right, then to the left."""
    poses = np.random.default_rng(1).normal(0, 0.01, (steps, 6)).astype(np.float32)
    poses[:, 0], poses[:, 5] = np.arange(steps) / 5, np.linspace(0.2, -0.3, steps)
    np.save(path, poses)
    return poses


def read_all(config: CommavqConfig) -> list[Episode]:
    return [join(list(drive.episodes())) for drive in drives(config)]


def test_the_real_codes() -> None:
    """Against the file's bytes: a header of 128, then little-endian int16 in raster order."""
    path = real_data("layouts/commavq/tokens.npy")
    raw = np.frombuffer(path.read_bytes()[128:], "<i2").reshape(600, 8, 16)
    [episode] = read_all(CommavqConfig(path.parent))
    assert (episode.drive_id, episode.steps, episode.fps) == ("tokens", 600, 20.0)
    np.testing.assert_array_equal(episode.codes["front"], raw)
    np.testing.assert_allclose(episode.timestamps_s, np.arange(600) / 20)
    assert episode.frames == {} and episode.telemetry_channels == () and episode.action_channels == ()
    [half] = read_all(CommavqConfig(path, fps=10))
    np.testing.assert_array_equal(half.codes["front"], raw[::2])
    np.testing.assert_allclose(half.timestamps_s, np.arange(300) / 10)


def test_the_real_codes_lie_in_raster_order() -> None:
    """Neighbours in a picture are alike: equal codes are most frequent at distances of 1 and 16, as a grid of 8 x 16 has them."""
    path = real_data("layouts/commavq/tokens.npy")
    [episode] = read_all(CommavqConfig(path))
    flat = episode.codes["front"].reshape(600, 128)
    alike = np.array([(flat[:, gap:] == flat[:, :-gap]).mean() for gap in range(1, 40)])
    assert alike[0] == alike.max() and alike[15] == alike[3:].max()


def test_the_whole_line_needs_no_tokenizer(tmp_path: Path) -> None:
    """prepare -> store -> token store: the codes of training are those of the file."""
    import torch

    from worldgpt.token_store import encode_store

    path = real_data("layouts/commavq/tokens.npy")
    raw = np.load(path, allow_pickle=False)
    write_store(drives(CommavqConfig(path)), tmp_path / "data", source="commavq", fps=20, workers=1, progress=False)
    tokens = encode_store(EpisodeStore.open(tmp_path / "data"), None, tmp_path / "tokens", device=torch.device("cpu"))
    assert dict(tokens.info.grids) == {"front": (8, 16)} and tokens.info.codebook_size == 1024
    train, _ = tokens.arrays("train")
    val, _ = tokens.arrays("val")
    np.testing.assert_array_equal(train, raw[: len(train)])
    np.testing.assert_array_equal(val, raw[600 - len(val) :])
    assert len(train) + 40 + len(val) == 600


def test_poses_give_speed_and_yaw_rate(tmp_path: Path) -> None:
    """Axes forward, right, down: turning right is positive there and negative here."""
    codes = make_codes(tmp_path / "a.token.npy")
    poses = make_poses(tmp_path / "a.pose.npy")
    [episode] = read_all(CommavqConfig(tmp_path, fps=10, caption="a road"))
    assert episode.drive_id == "a" and [(c.name, c.unit) for c in episode.telemetry_channels] == [
        ("speed_mps", "m/s"), ("yaw_rate_rps", "rad/s")
    ]  # fmt: skip
    np.testing.assert_array_equal(episode.codes["front"], codes[::2])
    np.testing.assert_allclose(episode.telemetry[:, 0], poses[::2, 0])
    np.testing.assert_allclose(episode.telemetry[:, 1], -poses[::2, 5])
    assert episode.telemetry[0, 1] < 0 < episode.telemetry[-1, 1] and episode.captions[0].text == "a road"


def test_poses_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "codes" / "pose").mkdir(parents=True)
    make_codes(tmp_path / "codes" / "a.npy", grid=False)
    poses = make_poses(tmp_path / "codes" / "pose" / "a.npy")
    [episode] = read_all(CommavqConfig(tmp_path / "codes", poses=tmp_path / "codes" / "pose"))
    np.testing.assert_allclose(episode.telemetry[:, 0], poses[:, 0])


def test_names_of_files_in_folders_hold_the_folder(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        make_codes(tmp_path / name / "0.npy")
    assert [drive.drive_id for drive in drives(CommavqConfig(tmp_path))] == ["x_0", "y_0"]


def test_poses_that_are_no_numbers_cut_the_drive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes, poses = make_codes(tmp_path / "a.token.npy"), make_poses(tmp_path / "a.pose.npy")
    poses[0, 0] = poses[40:44, 5] = np.nan
    np.save(tmp_path / "a.pose.npy", poses)
    first, second = read_all(CommavqConfig(tmp_path))
    assert (first.drive_id, second.drive_id) == ("a-run000", "a-run001")
    np.testing.assert_array_equal(first.codes["front"], codes[1:40])
    np.testing.assert_array_equal(second.codes["front"], codes[44:])
    assert second.timestamps_s[0] == pytest.approx(44 / 20)
    assert capsys.readouterr().err == f"{tmp_path / 'a.pose.npy'}: left out 5 of 100 rows, whose pose is no finite number (row 1)\n"


@pytest.mark.parametrize(
    "name, array, message",
    [
        ("token", np.zeros((100, 127), np.int16), "wrong.token.npy: expected whole numbers of shape (N, 128) or (N, 8, 16), got int16"),
        ("token", np.zeros((100, 8, 16), np.float32), "wrong.token.npy: expected whole numbers"),
        ("token", np.zeros((0, 8, 16), np.int16), "wrong.token.npy: expected whole numbers"),
        ("token", np.int16(3), "wrong.token.npy: expected whole numbers"),
        ("token", np.full((100, 128), 1024, np.int16), "wrong.token.npy: expected codes 0..1023, got 1024..1024"),
        ("token", np.full((100, 128), -1, np.int16), "wrong.token.npy: expected codes 0..1023, got -1..-1"),
        ("pose", np.zeros((99, 6), np.float32), "wrong.pose.npy: expected floats of shape (100, 6), a row for each row of codes"),
        ("pose", np.zeros((100, 5), np.float32), "wrong.pose.npy: expected floats of shape (100, 6)"),
        ("pose", np.full((100, 6), np.nan, np.float32), "wrong.pose.npy: expected finite velocities and rotation rates, got none"),
    ],
)
def test_a_bad_file_is_named_and_the_others_come_through(tmp_path: Path, name: str, array: np.ndarray, message: str) -> None:
    folder = tmp_path / "codes"
    folder.mkdir()
    for stem in ("good", "wrong"):
        make_codes(folder / f"{stem}.token.npy")
        make_poses(folder / f"{stem}.pose.npy")
    np.save(folder / f"wrong.{name}.npy", array)
    check_only_wrong_is_skipped(folder, tmp_path / "out", message)


def test_damaged_and_pickled_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "codes"
    folder.mkdir()
    make_codes(folder / "good.npy")
    make_codes(folder / "wrong.npy")
    whole = (folder / "wrong.npy").read_bytes()
    for number, content in enumerate((b"", b"no array", whole[:1000], whole[:40])):
        (folder / "wrong.npy").write_bytes(content)
        check_only_wrong_is_skipped(folder, tmp_path / f"out{number}", "wrong.npy: expected an array of numbers (.npy), got a truncated")
    np.save(folder / "wrong.npy", np.array([{}], dtype=object), allow_pickle=True)
    check_only_wrong_is_skipped(folder, tmp_path / "pickle", "wrong.npy: expected an array of numbers (.npy), got a truncated, pickled or")


def check_only_wrong_is_skipped(folder: Path, output: Path, message: str) -> None:
    manifest = write_store(drives(CommavqConfig(folder)), output, source="commavq", fps=20, workers=1, progress=False)
    assert [drive.drive_id.split("-")[0] for drive in manifest.drives] == ["good"] and list(manifest.skipped) == ["wrong"]
    assert message in manifest.skipped["wrong"] and "\n" not in manifest.skipped["wrong"]


def test_inputs_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: no such file or folder"):
        list(drives(CommavqConfig(tmp_path / "none")))
    with pytest.raises(UserError, match=r"expected \.npy files of codes, got none"):
        list(drives(CommavqConfig(tmp_path)))
    with pytest.raises(UserError, match=r"--fps: expected at most the source's 20\.0, got 30"):
        CommavqConfig(tmp_path, fps=30)
    make_codes(tmp_path / "a.npy")
    [drive] = drives(CommavqConfig(tmp_path, poses=tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"nowhere/a\.npy: no such file"):
        list(drive.episodes())
