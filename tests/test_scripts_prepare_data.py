import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from real_data import real_data

from data.image import read_image
from data.sources import SOURCES
from data.store import EpisodeStore
from data.video import VideoWriter

SCRIPT = Path(__file__).parents[1] / "scripts" / "prepare_data.py"


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], cwd=cwd, capture_output=True, text=True)


def make_clips(folder: Path, count: int) -> Path:
    folder.mkdir()
    for k in range(count):
        with VideoWriter(folder / f"clip{k}.mp4", fps=10, size=(64, 128)) as video:
            for t in range(30):
                video.write(np.full((64, 128, 3), 5 * t + k, np.uint8))
    return folder


def test_a_folder_of_clips_becomes_a_set(tmp_path: Path) -> None:
    clips = make_clips(tmp_path / "clips", 10)
    (clips / "broken.mp4").write_bytes((clips / "clip0.mp4").read_bytes()[:700])
    done = run("video", "--input", clips, "--size", "32x64", "--workers", "2", "--caption", "gray", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("video: 11 drives, about 300 frames of 32x64, up to")
    assert "skipped broken: " in done.stderr
    store = EpisodeStore.open(tmp_path / "runs" / "data" / "video")
    assert store.manifest.size == (32, 64) and len(store.manifest.drives) == 10 and set(store.splits) == {"train", "val"}
    assert read_image(store.path / "contact_sheet.png").shape[2] == 3

    again = run("video", "--input", clips, "--size", "32x64", "--caption", "gray", cwd=tmp_path)
    assert again.returncode == 2 and "--resume" in again.stderr and again.stderr.count("\n") == 1
    resumed = run("video", "--input", clips, "--size", "32x64", "--caption", "gray", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert EpisodeStore.open(store.path).hash == store.hash
    other = run("video", "--input", clips, "--size", "64x128", "--caption", "gray", "--resume", cwd=tmp_path)
    assert other.returncode == 2 and "was begun with size = 32x64, got 64x128" in other.stderr


def test_the_real_tub(tmp_path: Path) -> None:
    tub = real_data("real/donkeycar_tub")
    done = run("donkeycar", "--input", tub, "--source-fps", "20", "--output", tmp_path / "car", "--license", "MIT", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    store = EpisodeStore.open(tmp_path / "car")
    assert store.manifest.license == "MIT"
    assert [channel.name for channel in store.manifest.actions] == ["steering_norm", "throttle_norm"]
    [train], [val] = store.drives("train"), store.drives("val")
    assert train.steps + 20 + val.steps == 500 and val.steps == 72


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], f"expected one of {', '.join(SOURCES)} first, got 'nothing'"),
        (["tape"], f"expected one of {', '.join(SOURCES)} first, got 'tape'"),
        (["video"], "--input PATH"),
        (["video", "--input", "none.mp4"], "none.mp4: no such file or folder"),
        (["video", "--input", "text.mp4"], "text.mp4: expected a video"),
        (["video", "--input", "text.mp4", "--size", "60x128"], "divide by 8, got 60x128"),
        (["video", "--input", "text.mp4", "--fps", "0"], "--fps: expected a rate above 0"),
        (["donkeycar", "--input", "."], "--source-fps: expected the car's recording rate"),
        (["donkeycar", "--input", ".", "--source-fps", "20"], "expected a donkeycar v2 tub"),
        (["dashsim", "--size", "64"], "size: expected HEIGHTxWIDTH"),
        (["dashsim", "--episodes", "0"], "episodes expected at least 1"),
        (["dashsim", "--resume", "--overwrite"], "expected at most one"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "runs" / "data").exists() or not any((tmp_path / "runs" / "data").iterdir())


def test_a_drive_of_dashsim(tmp_path: Path) -> None:
    size = ["--size", "32x64", "--steps", "12", "--long-steps", "12", "--val-episodes", "1", "--heldout-episodes", "1"]
    done = run("dashsim", "--episodes", "2", *size, "--output", tmp_path / "sim", "--workers", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    store = EpisodeStore.open(tmp_path / "sim")
    assert store.manifest.size == (32, 64) and set(store.splits) == {"train", "val", "heldout"}
    more = run("dashsim", "--episodes", "3", *size, "--output", tmp_path / "sim", "--workers", "1", "--resume", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    assert len(EpisodeStore.open(tmp_path / "sim").drives("train")) == 3
    assert cv2.imread(str(tmp_path / "sim" / "contact_sheet.png")) is not None
