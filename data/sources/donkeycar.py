"""Donkeycar v2 tubs: `manifest.json` (JSON lines), `catalog_*.catalog` (a JSON row a frame) and `images/`.

`_timestamp_ms` says when a row was written or converted, not when it was captured (steps of 2-3 ms in converted tubs), so the true
rate must be given. Neighbouring pictures that are equal stay: dropping them would bend time.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.episode import Drive
from data.errors import UserError
from data.image import parse_size
from data.known_channels import KNOWN_CHANNELS
from data.recordings import ChannelTable, Picture, picture_drives
from data.resample import check_rates
from data.source import Source

_STEERING = KNOWN_CHANNELS["steering_norm"].spec
_THROTTLE = KNOWN_CHANNELS["throttle_norm"].spec


@dataclass(frozen=True)
class DonkeycarConfig:
    """A donkeycar v2 tub: camera pictures with steering and throttle."""

    input: Path
    """The tub's folder, which holds manifest.json, catalog files and images/."""
    source_fps: float | None = None
    """Rate at which the car recorded (DRIVE_LOOP_HZ of its configuration, 20 by default there). Required: the tub's own timestamps are not
    capture times."""
    size: str = "64x128"
    """Height x width of the frames in pixels: cut to this aspect about the centre, then resized by area."""
    fps: float = 10.0
    """Frames a second to keep."""
    caption: str | None = None
    """What is said of every frame, such as "indoor track"; training takes it as the prompt."""

    def __post_init__(self) -> None:
        parse_size(self.size)
        check_rates(self.fps, self.source_fps)


@dataclass(frozen=True)
class _Row:
    index: int
    image: Path
    angle: float
    throttle: float


def drives(config: DonkeycarConfig) -> Iterator[Drive]:
    """One drive a stretch without gaps (deleted and broken rows make gaps)."""
    if config.source_fps is None:
        raise UserError(f"--source-fps: expected the car's recording rate (often 20): timestamps in {config.input} are not capture times")
    rows = sorted(_read_rows(config.input), key=lambda row: row.index)
    if not rows:
        raise UserError(f"{config.input}: expected at least one usable row in the catalogs, got none")
    _report_twins(config.input, rows)
    # user/angle is positive to the right; ours is positive to the left.
    actions = np.array([(-row.angle, row.throttle) for row in rows], np.float32)
    table = ChannelTable(np.zeros((len(rows), 0), np.float32), (), actions, (_STEERING, _THROTTLE))
    pictures = [Picture(row.index, number, row.image) for number, row in enumerate(rows)]
    yield from picture_drives(
        config.input.resolve().name,
        pictures,
        table,
        fps=config.fps,
        source_fps=config.source_fps,
        size=parse_size(config.size),
        caption=config.caption,
    )


def _read_rows(tub: Path) -> Iterator[_Row]:
    """Every row that is not deleted and can be used; the others are reported."""
    catalogs, deleted = _read_manifest(tub)
    for catalog in catalogs:
        for number, line in enumerate(_read_lines(catalog), start=1):
            try:
                row = _parse_row(tub, json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                print(f"skipped {catalog}, row {number}: {error if isinstance(error, UserError) else repr(error)}", file=sys.stderr)
                continue
            if row.index not in deleted:
                yield row


def _read_manifest(tub: Path) -> tuple[list[Path], set[int]]:
    """(catalog files, indexes of deleted rows): the last line of manifest.json has both."""
    path = tub / "manifest.json"
    if not path.is_file():
        raise UserError(f"{tub}: expected a donkeycar v2 tub, got a folder without manifest.json (or none)")
    try:
        entry: dict[str, Any] = json.loads(_read_lines(path)[-1])
        catalogs = [_inside(tub, name) for name in entry["paths"]]
        return catalogs, {int(index) for index in entry.get("deleted_indexes", [])}
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: expected JSON lines with the catalogs' paths in the last one, got a truncated or foreign file") from error


def _read_lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected text, got a foreign file") from error


def _parse_row(tub: Path, value: dict[str, Any]) -> _Row:
    angle, throttle = float(value["user/angle"]), float(value["user/throttle"])
    for name, number, spec in (("user/angle", angle, _STEERING), ("user/throttle", throttle, _THROTTLE)):
        if not spec.low <= number <= spec.high:
            raise UserError(f"{name} expected {spec.low}..{spec.high}, got {number}")
    return _Row(int(value["_index"]), _inside(tub / "images", value["cam/image_array"]), angle, throttle)


def _inside(folder: Path, name: str) -> Path:
    """`folder/name`; UserError where the name leads out of the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"expected a file inside {folder}, got {name!r}")
    return path


def _report_twins(tub: Path, rows: list[_Row]) -> None:
    """Say how many pictures equal the one before them."""
    before, twins = b"", 0
    for row in rows:
        content = row.image.read_bytes() if row.image.is_file() else b""
        twins += bool(content) and content == before
        before = content
    if twins:
        print(f"{tub}: {twins} of {len(rows)} pictures equal the one before; kept, since dropping them would bend time", file=sys.stderr)


SOURCE = Source(DonkeycarConfig, drives, frames_a_second=1000)
