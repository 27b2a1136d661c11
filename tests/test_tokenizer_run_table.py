"""The list of trainings: what each has written, no matter how it ended."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from data.errors import UserError
from tokenizer.loop_config import LoopConfig
from tokenizer.run_table import find_runs, read_run, table

ROOT = Path(__file__).parents[1]


def write_run(folder: Path, kind: str, *, steps: int = 100, report: bool = False) -> None:
    folder.mkdir(parents=True)
    config = {"model": {}, "tokenizer": "runs/t"} if kind == "world model" else {"tokenizer": {}}
    record = {"config": config, "loop": asdict(LoopConfig(steps=steps, seed=3)), "parameters": 5_000_000}
    (folder / "run.json").write_text(json.dumps(record))
    unit, figures = ("tokens", {"frame_nats": 2.5}) if kind == "world model" else ("frames", {"psnr_db": 28.25})
    lines = [
        {"step": 50, "split": "train", "loss": 3.0, f"{unit}_per_s": 1000.0},
        {"step": 50, "split": "held_out", **figures},
        {"step": 60, "split": "train", "loss": None, f"{unit}_per_s": 1234.5, "skipped_updates": 2.0},
    ]
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"step": 70, "spl')
    if report:
        (folder / "report.json").write_text("{}")


def test_runs_are_found_with_their_figures(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "worldgpt", "world model")
    write_run(tmp_path / "b", "tokenizer", steps=60, report=True)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "run.json").write_text('{"loop": ')
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "run.json").write_text("{}")
    runs, broken = find_runs(tmp_path)
    world, tokenizer = runs
    assert (world.kind, world.state, world.updates, world.of, world.held_out) == ("world model", "unfinished", 60, 100, 2.5)
    assert (world.loss, world.speed, world.skipped, world.seed, world.parameters) == (None, "1,234 tokens/s", 2, 3, 5_000_000)
    assert (tokenizer.kind, tokenizer.state, tokenizer.held_out) == ("tokenizer", "finished", 28.25)
    assert [line.partition(":")[0] for line in broken] == [str(tmp_path / "c"), str(tmp_path / "d")]
    head, first, second = table(runs).splitlines()
    assert head.split()[:3] == ["folder", "kind", "state"]
    assert "60/100" in first
    assert "2.500 nats/code" in first
    assert "28.250 dB" in second
    with pytest.raises(UserError, match="expected a folder of trainings, found none"):
        find_runs(tmp_path / "absent")


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "world model")
    (tmp_path / "run" / "log.jsonl").unlink()
    run = read_run(tmp_path / "run")
    assert (run.updates, run.loss, run.held_out, run.speed) == (0, None, None, "")
    assert "0/100" in table([run])


def test_a_real_training_is_listed(trained: Path) -> None:
    run = read_run(trained)
    assert (run.kind, run.state, run.updates, run.of) == ("world model", "finished", 400, 400)
    assert run.held_out == pytest.approx(json.loads((trained / "report.json").read_text())["held_out"]["frame_nats"])


def test_the_script_lists_and_refuses(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", "tokenizer")
    command = [sys.executable, str(ROOT / "scripts" / "runs.py")]
    listed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "runs/a" in listed.stdout
    found = json.loads(subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    assert found[0]["held_out"] == 28.25
    refused = subprocess.run([*command, "nowhere"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr) == (2, "error: nowhere: expected a folder of trainings, found none\n")
