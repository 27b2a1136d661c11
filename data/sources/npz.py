"""npz files, the common currency of reinforcement learning: observations, actions, rewards, dones (data.npz_drive names the arrays).

`actions[t]`, `rewards[t]` and `dones[t]` are those of the step from t to t + 1, so a done ends an episode with its row. What
scripts/export_npz.py writes comes back as it was.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from data.channel_ranges import wider
from data.chunks import shift_captions
from data.drive_log import DriveLog, channel_table, log_episodes
from data.episode import Caption, ChannelSpec, Drive, Episode
from data.errors import UserError
from data.image import parse_size
from data.npz import read_member
from data.npz_drive import NpzDrive, check_divides, read_npz_drive
from data.recordings import CAMERA, broken_drive
from data.resample import check_rates
from data.source import Source

Ranges = Mapping[tuple[str, str], ChannelSpec]
"""{(telemetry or actions, name): channel}: what all files have in common."""


@dataclass(frozen=True)
class NpzConfig:
    """npz files of observations, actions, rewards and dones."""

    input: Path
    """A file, a folder of files, or a folder that holds a folder of files for each split (train, val, ...)."""
    size: str | None = None
    """Height x width of the frames in pixels: cut to this aspect about the centre, then resized by area. Without it, as they are."""
    fps: float = 10.0
    """Steps a second. Arrays have no clock, so every row is a step at this rate."""
    caption: str | None = None
    """What is said of every frame where a file has no `captions`; training takes it as the prompt."""

    def __post_init__(self) -> None:
        if self.size is not None:
            parse_size(self.size)
        check_rates(self.fps, None)


def drives(config: NpzConfig) -> Iterator[Drive]:
    """One drive an episode of a file."""
    paths = _find(config.input)
    files: dict[Path, tuple[NpzDrive, list[int]]] = {}
    for _, path in paths:
        try:
            file = _read(config, path)
            files[path] = file, file.ends()
        except UserError as error:
            yield broken_drive(path.stem, error)
    _tell_layouts(file for file, _ in files.values())
    ranges = _common_ranges(file for file, _ in files.values())
    for split, path in paths:
        _, ends = files.get(path, (None, []))
        for number, (first, last) in enumerate(pairwise([0, *ends])):
            drive_id = path.stem if len(ends) == 1 else f"{path.stem}-episode{number:03d}"
            yield Drive(drive_id, partial(_episodes, config, path, drive_id, ranges, first, last), split, last - first)


def _find(path: Path) -> list[tuple[str | None, Path]]:
    """(split or None, file), in the order of names."""
    if path.is_file():
        return [(None, path)]
    if not path.is_dir():
        raise UserError(f"--input {path}: no such file or folder")
    found: list[tuple[str | None, Path]] = [(None, file) for file in sorted(path.glob("*.npz"))]
    found += [(file.parent.name, file) for file in sorted(path.glob("*/*.npz"))]
    if not found:
        raise UserError(f"--input {path}: expected npz files, got none")
    return found


def _read(config: NpzConfig, path: Path) -> NpzDrive:
    drive = read_npz_drive(path)
    if config.size is None:
        check_divides(drive)
    if "fps" in drive.members:
        rate = float(read_member(path, "fps"))
        if abs(rate - config.fps) > 1e-6 * config.fps:
            raise UserError(f"{path}: 'fps' is {rate:g}, --fps expected the same, got {config.fps:g}")
    return drive


def _tell_layouts(files: Iterable[NpzDrive]) -> None:
    """One line for every kind of observations."""
    for layout, count in Counter(file.layout for file in files).items():
        print(f"{count} files: {layout}", file=sys.stderr)


def _common_ranges(files: Iterable[NpzDrive]) -> Ranges:
    """Every channel with a range that covers it in all files: drives of one store share their channels."""
    ranges: dict[tuple[str, str], ChannelSpec] = {}
    for file in files:
        for kind, channels in (("telemetry", file.telemetry_channels), ("actions", file.action_channels)):
            for spec in channels:
                ranges[kind, spec.name] = wider(ranges.get((kind, spec.name), spec), spec)
    return ranges


def _episodes(config: NpzConfig, path: Path, drive_id: str, ranges: Ranges, first: int, last: int) -> Iterator[Episode]:
    file = _read(config, path)
    rows = slice(first, last)

    def columns(kind: str, channels: tuple[ChannelSpec, ...]) -> list[tuple[ChannelSpec, np.ndarray]]:
        values = file.rows(kind) if channels else np.zeros((file.steps, 0))
        return [(ranges[kind, spec.name], values[rows, k].astype(np.float64)) for k, spec in enumerate(channels)]

    said = file.captions()
    if said is None:
        said = () if config.caption is None else (Caption(0, file.steps, config.caption),)
    log = DriveLog(
        drive_id=drive_id,
        fps=config.fps,
        timestamps_s=file.rows("timestamps_s")[rows] if "timestamps_s" in file.members else np.arange(first, last) / config.fps,
        table=channel_table(
            last - first, columns("telemetry", file.telemetry_channels), columns("actions", file.action_channels), name=str(path)
        ),
        truth={name: values[rows] for name, values in file.truth().items()},
        captions=shift_captions(said, first, last),
        labels=file.labels(),
    )
    size = None if config.size is None else parse_size(config.size)
    yield from log_episodes(log, {CAMERA: file.frames(first, last, size)})


SOURCE = Source(NpzConfig, drives, frames_a_second=2000)
