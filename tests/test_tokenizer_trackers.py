"""Trackers are told what the log holds; one that is not installed is named before anything is written."""

import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from line_samples import CONFIG, train

from data.errors import UserError


class FakeWandb(ModuleType):
    """What is used of Weights & Biases: init gives a run with an id, log and finish."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.inits: list[dict[str, Any]] = []
        self.lines: list[tuple[int, Mapping[str, float]]] = []
        self.finished = 0

    def init(self, **options: Any) -> SimpleNamespace:
        self.inits.append(options)
        return SimpleNamespace(id=options["id"] or "abc123", log=self.log, finish=self.finish)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.lines.append((step, figures))

    def finish(self) -> None:
        self.finished += 1


class FakeTrackio(FakeWandb):
    """trackio has the same words, on the module itself."""

    def init(self, **options: Any) -> SimpleNamespace:
        self.inits.append(options)
        return SimpleNamespace()


def logged(output: Path) -> list[tuple[int, dict[str, float]]]:
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [(line.pop("step"), {f"{line['split']}/{k}": v for k, v in line.items() if k != "split"}) for line in lines]


@pytest.mark.parametrize("name, fake", [("wandb", FakeWandb), ("trackio", FakeTrackio)])
def test_a_tracker_is_told_what_the_log_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fake: type[FakeWandb]) -> None:
    module = fake()
    monkeypatch.setitem(sys.modules, name, module)
    config = replace(CONFIG, trackers=(name,))
    train(tmp_path / "run", config)
    assert module.lines == logged(tmp_path / "run")
    assert module.finished == 1
    assert module.inits[0]["project"] == "worldgpt"
    assert module.inits[0]["name"] == "run"
    assert module.inits[0]["config"]["loop"]["seed"] == CONFIG.seed
    assert not (tmp_path / "run" / "tensorboard").exists()
    train(tmp_path / "run", replace(config, steps=12), resume=True)
    assert len(module.inits) == 2
    if name == "wandb":
        assert (module.inits[0]["id"], module.inits[1]["id"]) == (None, "abc123")
    else:
        assert (module.inits[0]["resume"], module.inits[1]["resume"]) == ("never", "allow")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_one_that_is_not_installed_is_named_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as an import of what is not there
    with pytest.raises(UserError, match=rf"^loop.trackers: {name} is not installed \(.+\); pip install {name}$"):
        train(tmp_path / "run", replace(CONFIG, trackers=(name,)))
    assert not (tmp_path / "run").exists()


def test_tensorboard_has_the_figures(tmp_path: Path) -> None:
    train(tmp_path / "run", replace(CONFIG, trackers=("tensorboard",)))
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    board = accumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    told = {name: [(event.step, event.value) for event in board.Scalars(name)] for name in board.Tags()["scalars"]}
    assert [step for step, _ in told["train/loss"]] == [step for step, line in logged(tmp_path / "run") if "train/loss" in line]
    assert told["held_out/weight"][-1][1] == pytest.approx(logged(tmp_path / "run")[-1][1]["held_out/weight"])


def test_no_tracker_and_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"wandb": FakeWandb(), "trackio": FakeTrackio()}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    train(tmp_path / "none", CONFIG)
    assert not modules["wandb"].inits
    train(tmp_path / "both", replace(CONFIG, trackers=("wandb", "trackio", "wandb")))
    assert len(modules["wandb"].inits) == len(modules["trackio"].inits) == 1
