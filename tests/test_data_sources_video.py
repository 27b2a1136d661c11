from pathlib import Path

import numpy as np
import pytest
from real_data import real_data

from data.chunks import join
from data.episode import Episode
from data.errors import UserError
from data.image import save_png
from data.known_channels import KNOWN_CHANNELS, parse_channel
from data.sources.video import VideoConfig, drives
from data.store import EpisodeStore, write_store
from data.telemetry_csv import read_telemetry
from data.video import VideoWriter


def make_clip(path: Path, frames: int = 40, fps: float = 20) -> Path:
    with VideoWriter(path, fps=fps, size=(64, 128)) as video:
        for k in range(frames):
            video.write(np.full((64, 128, 3), 4 * k + 10, np.uint8))
    return path


def make_csv(path: Path, rows: int = 40, **changes: str) -> Path:
    """Row k drives at k / 10 m/s and steers by k / 100; `changes` put a text into a row of speeds (`row7="nan"`)."""
    lines = ["frame,speed_mps,steering_norm"]
    lines += [f"{k},{changes.get(f'row{k}', k / 10)},{k / 100}" for k in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def read_all(config: VideoConfig) -> list[Episode]:
    return [join(list(drive.episodes())) for drive in drives(config)]


def test_rows_follow_their_frames(tmp_path: Path) -> None:
    make_csv(make_clip(tmp_path / "drive.mp4").with_suffix(".csv"))
    [episode] = read_all(VideoConfig(tmp_path, caption="gray world"))
    assert (episode.drive_id, episode.steps, episode.fps) == ("drive", 20, 10.0)
    np.testing.assert_allclose(episode.telemetry[:, 0], np.arange(0, 40, 2) / 10, atol=1e-6)
    np.testing.assert_allclose(episode.actions[:, 0], np.arange(0, 40, 2) / 100, atol=1e-6)
    np.testing.assert_allclose(episode.frames["front"].mean((1, 2, 3)), 8 * np.arange(20) + 10, atol=2)
    assert [channel.name for channel in (*episode.telemetry_channels, *episode.action_channels)] == ["speed_mps", "steering_norm"]
    assert episode.captions[0].text == "gray world"


def test_a_clip_without_telemetry_has_no_channels(tmp_path: Path) -> None:
    [episode] = read_all(VideoConfig(make_clip(tmp_path / "drive.mp4")))
    assert episode.telemetry_channels == episode.action_channels == () and episode.captions == ()


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for name in ("clip10.mp4", "clip9.mp4", "clip9.mkv"):
        make_clip(tmp_path / "clip.mp4").rename(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    assert [drive.drive_id for drive in drives(VideoConfig(tmp_path))] == ["clip9.mkv", "clip9.mp4", "clip10"]


def test_one_bad_file_in_a_folder_is_left_out(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for k in range(9):
        make_clip(clips / f"clip{k}.mp4", 24)
    (clips / "empty.mp4").touch()
    (clips / "cut.mp4").write_bytes((clips / "clip0.mp4").read_bytes()[:500])
    (clips / "text.avi").write_text("no video")
    config = VideoConfig(clips)
    manifest = write_store(drives(config), tmp_path / "out", source="video", fps=10, workers=1, progress=False)
    assert set(manifest.skipped) == {"empty", "cut", "text"}
    assert all(f"{name}." in reason for name, reason in manifest.skipped.items())
    assert len(EpisodeStore.open(tmp_path / "out").manifest.drives) == 9


@pytest.mark.parametrize(
    "rows, changes, message",
    [
        (39, {}, r"drive\.csv: expected 40 rows, one a frame of drive\.mp4, got 39"),
        (40, {"row7": "nan"}, r"drive\.csv: row 9, 'speed_mps' expected 0\.0\.\.45\.0 m/s, got nan"),
        (40, {"row7": "46"}, r"drive\.csv: row 9, 'speed_mps' expected 0\.0\.\.45\.0 m/s, got 46"),
        (40, {"row7": "fast"}, r"drive\.csv: row 9, 'speed_mps' expected a number, got 'fast'"),
        (40, {"row7": ""}, r"drive\.csv: row 9, 'speed_mps' expected a number, got ''"),
        (40, {"row7": "1,2"}, r"drive\.csv: row 9 expected 3 values, got 4"),
        (0, {}, r"drive\.csv: expected a header of channel names and at least one row"),
    ],
)
def test_bad_telemetry_names_file_row_and_range(tmp_path: Path, rows: int, changes: dict[str, str], message: str) -> None:
    make_csv(make_clip(tmp_path / "drive.mp4").with_suffix(".csv"), rows, **changes)
    with pytest.raises(UserError, match=message):
        read_all(VideoConfig(tmp_path))


def test_range_ends_are_inside(tmp_path: Path) -> None:
    table = read_telemetry(make_csv(tmp_path / "a.csv", 3, row0="0", row1="45", row2=" 44.5 "), KNOWN_CHANNELS)
    np.testing.assert_allclose(table.telemetry[:, 0], [0, 45, 44.5])


def test_a_column_must_be_known_or_declared(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("gap_m\n5\n")
    with pytest.raises(UserError, match=r"a\.csv: unknown column 'gap_m'; expected speed_mps, .* or declare it with --channel"):
        read_telemetry(path, KNOWN_CHANNELS)
    declared = parse_channel("gap_m:m:0:100:telemetry")
    table = read_telemetry(path, {"gap_m": declared})
    assert table.telemetry_channels == (declared.spec,) and table.telemetry.tolist() == [[5.0]]
    path.write_text("speed_mps,speed_mps\n5,6\n")
    with pytest.raises(UserError, match="every column once"):
        read_telemetry(path, KNOWN_CHANNELS)


@pytest.mark.parametrize("text", ["gap_m", "gap_m:m:0:100", "gap_m:m:low:100:action", "gap_m:m:0:100:state", "gap_m:m:5:5:action"])
def test_a_bad_declaration_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"gap_m"):
        parse_channel(text)


def test_inputs_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        list(drives(VideoConfig(tmp_path / "none")))
    with pytest.raises(UserError, match=r"expected videos .* or pictures .*, got none"):
        list(drives(VideoConfig(tmp_path)))
    with pytest.raises(UserError, match="divide by 8, got 60x128"):
        VideoConfig(tmp_path, size="60x128")
    for k in range(2):
        make_clip(tmp_path / f"{k}.mp4", 4)
    with pytest.raises(UserError, match="expected a single clip, got 2"):
        list(drives(VideoConfig(tmp_path, csv=tmp_path / "a.csv")))


def make_pictures(folder: Path, count: int = 30) -> Path:
    folder.mkdir()
    for k in range(count):
        save_png(np.full((64, 128, 3), 5 * k, np.uint8), folder / f"frame_{k}.png")
    return folder


def test_pictures_are_one_drive(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "pictures")
    [episode] = read_all(VideoConfig(folder, source_fps=20, csv=make_csv(tmp_path / "a.csv", 30)))
    assert episode.drive_id == "pictures"
    np.testing.assert_array_equal(episode.frames["front"][:, 0, 0, 0], np.arange(0, 150, 10))
    np.testing.assert_allclose(episode.telemetry[:, 0], np.arange(0, 30, 2) / 10, atol=1e-6)
    np.testing.assert_allclose(episode.timestamps_s, np.arange(15) / 10)


def test_pictures_need_a_rate_and_as_many_rows(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "pictures")
    with pytest.raises(UserError, match="pictures have no clock; give their rate with --source-fps"):
        read_all(VideoConfig(folder))
    with pytest.raises(UserError, match=r"expected 30 rows, one a picture in .*, got 29"):
        read_all(VideoConfig(folder, source_fps=20, csv=make_csv(tmp_path / "a.csv", 29)))


def test_broken_pictures_cut_the_drive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_pictures(tmp_path / "pictures")
    for k in (10, 11):
        (folder / f"frame_{k}.png").write_bytes(b"")
    first, second = read_all(VideoConfig(folder, source_fps=20))
    assert (first.drive_id, first.steps, second.drive_id, second.steps) == ("pictures-run000", 5, "pictures-run001", 9)
    assert second.frames["front"][0, 0, 0, 0] == 5 * 12
    assert "frame_10.png: expected a picture, got an empty file" in capsys.readouterr().err


def test_real_pictures_and_clips(tmp_path: Path) -> None:
    [episode] = read_all(VideoConfig(real_data("real/kitti_raw_color91"), source_fps=10))
    assert episode.steps == 91 and episode.frames["front"].std() > 20
    config = VideoConfig(real_data("real/dashcam_mp4"), caption="highway")
    manifest = write_store(drives(config), tmp_path / "out", source="video", fps=10, workers=1, progress=False)
    steps = {(drive.drive_id, drive.split): drive.steps for drive in manifest.drives}
    assert steps[("solidWhiteRight-part001", "val")] >= 20 and steps[("cosmos_front_1", "train")] == 20
    assert all(drive.captions[0].end == drive.steps for drive in manifest.drives)
