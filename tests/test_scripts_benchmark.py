import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.benchmark_data import measure_memory, prepare_clip, repeat_clip
from data.store import EpisodeStore
from data.video import VideoWriter, decode, probe

SCRIPT = str(Path(__file__).parents[1] / "scripts" / "benchmark.py")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """20 frames at 20 a second, of gray levels 0, 10, 20, ..."""
    with VideoWriter(tmp_path / "clip.mp4", fps=20, size=(64, 128)) as video:
        for k in range(20):
            video.write(np.full((64, 128, 3), 10 * k, np.uint8))
    return tmp_path / "clip.mp4"


def test_a_repeated_clip_is_the_clip_over_and_over(clip: Path) -> None:
    repeat_clip(clip, clip.with_name("long.mp4"), 3)
    frames = list(decode(clip.with_name("long.mp4")))
    once = [frame.mean() for _, frame in decode(clip)]
    assert [frame.mean() for _, frame in frames] == once * 3
    assert [time for time, _ in frames] == pytest.approx(np.arange(60) / 20)
    assert probe(clip.with_name("long.mp4")).frames == 60


def test_what_is_measured_is_what_prepares(clip: Path) -> None:
    prepare_clip(clip, clip.with_name("store"))
    manifest = EpisodeStore.open(clip.with_name("store")).manifest
    assert (manifest.source, manifest.size, manifest.fps, manifest.drives[0].steps) == ("video", (64, 128), 10.0, 10)


def test_ratios_come_first_and_are_of_pairs(clip: Path) -> None:
    arguments = ["data", "--input", str(clip), "--rounds", "3", "--hours", "0", "--updates", "0", "--json", "figures.json"]
    done = subprocess.run([sys.executable, SCRIPT, *arguments], cwd=clip.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("preparing runs at ")
    figures = json.loads((clip.parent / "figures.json").read_text())
    ratio, rates = figures["decoding"]["ratio"], [figures["decoding"][name] for name in ("prepare_fps", "bare_fps")]
    assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"] and figures["memory"] is None and figures["loading"] is None
    assert rates[0]["low"] / rates[1]["high"] <= ratio["median"] <= rates[0]["high"] / rates[1]["low"]
    assert {path.name for path in clip.parent.iterdir()} == {"clip.mp4", "figures.json"}  # its store was a temporary one


def test_memory_does_not_grow_with_the_file(clip: Path) -> None:
    measured = measure_memory(clip, clip.parent, hours=240 / 3600)
    assert 50 < measured.short_mb < 1000 and abs(measured.long_mb - measured.short_mb) < 20
    # 1,800 more steps would be 44 MB as frames; the whole file is 2,400.
    assert EpisodeStore.open(clip.with_name("long")).manifest.drives[0].steps > 1800
    assert measured.lines()[0].startswith(f"memory: {measured.long_mb - measured.short_mb:+.1f} MB for 4 times the length")



BAD = [(["--rounds", "0"], "--rounds: expected 1 or more"), (["--input", "none.mp4"], "none.mp4: no such")]


@pytest.mark.parametrize("arguments, message", BAD)
def test_bad_input_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = subprocess.run([sys.executable, SCRIPT, "data", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
