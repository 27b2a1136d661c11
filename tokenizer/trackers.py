"""Where the figures of a training go beside log.jsonl: TensorBoard, Weights & Biases, trackio. Each is imported when it is asked for."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from data.errors import UserError
from data.folder import read_json, write_json

PROJECT = "worldgpt"


class Tracker(Protocol):
    """Told the figures of one training."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """{split/name: value} after `step` updates."""
        ...

    def close(self) -> None: ...


class TensorBoardTracker:
    """Event files in `output/tensorboard`."""

    def __init__(self, output: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(output / "tensorboard"))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WandbTracker:
    """A run of the project `worldgpt` on Weights & Biases, which a resumed training goes on with."""

    def __init__(self, output: Path, run: Mapping[str, Any], resume: bool) -> None:
        memory = output / "wandb.json"
        known = read_json(memory)["id"] if resume and memory.exists() else None
        self.run: Any = importlib.import_module("wandb").init(
            project=PROJECT, name=output.name, dir=str(output), config=dict(run), id=known, resume="allow"
        )
        write_json(memory, {"id": self.run.id})

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.run.log(dict(figures), step=step)

    def close(self) -> None:
        self.run.finish()


class TrackioTracker:
    """A run of the project `worldgpt` in trackio; it goes by its name, so a resumed training goes on with it."""

    def __init__(self, output: Path, run: Mapping[str, Any], resume: bool) -> None:
        self.module: Any = importlib.import_module("trackio")
        self.module.init(project=PROJECT, name=output.name, config=dict(run), resume="allow" if resume else "never")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.module.log(dict(figures), step=step)

    def close(self) -> None:
        self.module.finish()


def check_trackers(names: Sequence[str]) -> None:
    """UserError where a tracker's package is not installed. TensorBoard is on by default: its absence is told when it would be opened."""
    for name in names:
        if name != "tensorboard":
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise UserError(f"loop.trackers: {name} is not installed ({error}); pip install {name}") from error


def open_trackers(names: Sequence[str], output: Path, run: Mapping[str, Any], resume: bool) -> list[Tracker]:
    """The trackers by name, ready to be told figures."""
    found: list[Tracker] = []
    for name in dict.fromkeys(names):
        if name == "wandb":
            found.append(WandbTracker(output, run, resume))
        elif name == "trackio":
            found.append(TrackioTracker(output, run, resume))
        else:
            try:
                found.append(TensorBoardTracker(output))
            except ImportError:
                print("TensorBoard is not installed: figures go to log.jsonl only")
    return found
