import json
import subprocess
import sys
from pathlib import Path

from episode_samples import make_drives

from data.store import EpisodeStore, write_store

SCRIPT = str(Path(__file__).parents[1] / "scripts" / "inspect_data.py")


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], cwd=cwd, capture_output=True, text=True)


def test_a_set_is_shown(tmp_path: Path) -> None:
    write_store(make_drives(12, 40), tmp_path / "set", source="test", fps=10.0, workers=1, progress=False)
    done = run("set", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[0] == "set: source test, licence not known, 10 steps a second"
    assert lines[1] == "train: 10 drives, 400 steps, 0.01 h" and lines[2] == "val: 2 drives, 80 steps, 0.00 h"
    assert "camera front: 16x24 pixels" in lines
    assert any(line.split()[:3] == ["action", "steering_rad", "rad"] and "-0.5 to 0.5" in line for line in lines)
    assert "captions: 2 different ones, something is said of 100% of the steps; most of all:" in lines and '50.0%  "rain"' in lines
    assert lines[-1] == "written to set/inspection: channels.png, contact_sheet.png, inspection.json"
    figures = json.loads((tmp_path / "set/inspection/inspection.json").read_text())
    assert [channel["name"] for channel in figures["channels"]] == ["speed_mps", "steering_rad", "acceleration_mps2"]
    assert figures["hash"] == EpisodeStore.open(tmp_path / "set").hash  # looking changes nothing


def test_what_cannot_be_shown_is_one_line(tmp_path: Path) -> None:
    write_store(make_drives(3, 40), tmp_path / "set", source="test", fps=10.0, workers=1, progress=False)
    shard = next((tmp_path / "set").glob("train/*.parquet"))
    shard.write_bytes(shard.read_bytes()[:500])
    for folder, message in (("none", "none: no such data set"), ("set", f"{shard.name}: expected a shard of episodes, got a damaged file")):
        done = run(folder, cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "set/inspection").exists()
