"""The user's words for driving -> tables of commands in physical units.

A command is a value for one channel at one generated frame; NaN leaves the channel free, and the world model decides.
Axes: F generated frames, A action channels, M telemetry channels. Steering is positive to the left.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conditioning.channels import ChannelSet
from data.errors import UserError

# A direction is a share of a comfortable turn, so that "left" at 30 m/s is not a spin.
TURNS = {
    "hard_left": 2.0,
    "left": 1.0,
    "slight_left": 0.5,
    "straight": 0.0,
    "slight_right": -0.5,
    "right": -1.0,
    "hard_right": -2.0,
}
COMFORTABLE_MPS2 = 2.5
"""Sideways acceleration of a plain turn."""
TIGHTEST_M = 12.0
"""Smallest radius asked for: at a crawl sideways acceleration alone would ask for a point."""
WHEELBASE_M = 5.0
"""highway-env's bicycle turns like a car of this wheelbase; real cars have about 2.7 m and turn tighter at the same angle."""
NORM_TURN = 0.35
"""Share of full lock of a plain turn, where a log knows no unit."""
USUAL_MPS = 12.0
"""Speed assumed for a turn where none is asked for."""
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Turn:
    """One direction, held."""

    direction: str
    """A key of TURNS."""
    frames: int | None
    """Generated frames that it lasts; None: to the end."""


@dataclass(frozen=True, eq=False)
class Commands:
    """What the user asks of every generated frame; NaN where the world model is free."""

    actions: np.ndarray
    """(F, A) float32."""
    telemetry: np.ndarray
    """(F, M) float32."""

    @classmethod
    def named(
        cls, values: Mapping[str, float | Sequence[float] | np.ndarray], actions: ChannelSet, telemetry: ChannelSet, frames: int
    ) -> "Commands":
        """From {channel: one value for all `frames`, or up to as many}, NaN where the model is free; other channels are free.

        UserError where there is no such channel, or more values than frames.
        """
        tables = {kind: _free(channels, frames) for kind, channels in (("action", actions), ("telemetry", telemetry))}
        for name, given in values.items():
            kind, channels = ("telemetry", telemetry) if name in telemetry.names else ("action", actions)
            if name not in channels.names:
                raise UserError(f"actions: expected channels among {', '.join((*actions.names, *telemetry.names)) or 'none'}, got {name!r}")
            column = np.asarray(given, np.float32)
            if column.ndim > 1 or (column.ndim and len(column) > frames):
                raise UserError(f"actions: {name} expected one value or up to {frames}, one a generated frame; got shape {column.shape}")
            tables[kind][: len(column) if column.ndim else frames, channels.index(name)] = column
        return cls(tables["action"], tables["telemetry"])


def build_commands(
    actions: ChannelSet,
    telemetry: ChannelSet,
    frames: int,
    steer: str | None = None,
    speed_mps: float | None = None,
    actions_csv: str | Path | None = None,
) -> Commands:
    """All that the user asked for in one table each, in physical units; what leaves a channel's range does so still."""
    driven = _free(actions, frames)
    if actions_csv is not None:
        driven = read_actions_csv(actions_csv, actions, frames)
    if steer is not None:
        turned = steer_actions(parse_steer(steer), actions, frames, speed_mps)
        twice = (np.isfinite(driven) & np.isfinite(turned)).any(axis=0)
        if twice.any():
            raise UserError(f"--steer: {actions.names[int(twice.argmax())]!r} is given by {actions_csv} too; leave one of them out")
        driven = np.where(np.isnan(driven), turned, driven)
    held = _free(telemetry, frames) if speed_mps is None else speed_telemetry(speed_mps, telemetry, frames)
    return Commands(driven, held)


def parse_steer(text: str) -> tuple[Turn, ...]:
    """`left:20,straight:30` (direction:frames); the last may stand bare and then lasts to the end, as in `left`.

    >>> parse_steer("left:20,straight")
    (Turn(direction='left', frames=20), Turn(direction='straight', frames=None))
    """
    turns = []
    parts = [part.strip() for part in text.split(",")]
    for number, part in enumerate(parts, start=1):
        direction, colon, count = (word.strip() for word in part.partition(":"))
        if direction not in TURNS:
            raise UserError(f"--steer: expected one of {', '.join(TURNS)}, got {direction!r}")
        if colon and not (count.isascii() and count.isdigit() and int(count) > 0):
            raise UserError(f"--steer: expected a number of frames from 1 up after {direction!r}, got {count!r}")
        if not colon and number < len(parts):
            raise UserError(f"--steer: {direction!r} is followed by more, so it needs a number of frames, as in {direction}:20")
        turns.append(Turn(direction, int(count) if colon else None))
    return tuple(turns)


def steer_actions(turns: Sequence[Turn], channels: ChannelSet, frames: int, speed_mps: float | None = None) -> np.ndarray:
    """Actions (F, A) with the steering channel filled; frames after the last turn are left free."""
    asked = sum(turn.frames or 1 for turn in turns)
    if asked > frames:
        raise UserError(f"--steer: asks for {asked} frames, but {frames} are generated")
    table = _free(channels, frames)
    column, start = _steering_column(channels), 0
    for turn in turns:
        end = frames if turn.frames is None else start + turn.frames
        table[start:end, column] = _steering_value(channels.names[column], turn.direction, USUAL_MPS if speed_mps is None else speed_mps)
        start = end
    low, high = channels.specs[column].low, channels.specs[column].high
    return table.clip(low, high)  # a plain turn may ask for more than the data ever showed


def speed_telemetry(speed_mps: float, channels: ChannelSet, frames: int) -> np.ndarray:
    """Telemetry (F, M) with speed_mps held at the target and all else free."""
    if not 0 <= speed_mps <= LARGEST:
        raise UserError(f"--speed: expected metres a second from 0 up, got {speed_mps}")
    if "speed_mps" not in channels.names:
        raise UserError(f"--speed: needs the telemetry channel speed_mps, the model has {', '.join(channels.names) or 'none'}")
    table = _free(channels, frames)
    table[:, channels.index("speed_mps")] = speed_mps
    return table


def read_actions_csv(path: str | Path, channels: ChannelSet, frames: int) -> np.ndarray:
    """Actions (F, A) from a CSV file: a column a channel, named in the first row, then a row a generated frame.

    Channels without a column are left free.
    """
    header, rows = _read_csv(Path(path))
    for name in header:
        if name not in channels.names:
            raise UserError(f"{path}: unknown column {name!r}, expected some of {', '.join(channels.names) or 'none'}")
        if header.count(name) > 1:
            raise UserError(f"{path}: column {name!r} stands more than once")
    if len(rows) != frames:
        raise UserError(f"{path}: expected {frames} rows, one a generated frame, got {len(rows)}")
    table = _free(channels, frames)
    for frame, (line, cells) in enumerate(rows):
        if len(cells) != len(header):
            raise UserError(f"{path}: line {line} expected {len(header)} values ({', '.join(header)}), got {len(cells)}")
        for name, cell in zip(header, cells, strict=True):
            table[frame, channels.index(name)] = _number(cell, f"{path}: line {line}, column {name!r}")
    return table


def _free(channels: ChannelSet, frames: int) -> np.ndarray:
    return np.full((frames, len(channels)), np.nan, np.float32)


def _steering_column(channels: ChannelSet) -> int:
    known = ("steering_rad", "steering_norm", "curvature_inv_m")
    for name in known:
        if name in channels.names:
            return channels.index(name)
    raise UserError(f"--steer: needs one of the action channels {', '.join(known)}, the model has {', '.join(channels.names) or 'none'}")


def _steering_value(channel: str, direction: str, speed_mps: float) -> float:
    """What the channel must hold for a turn whose sideways acceleration is comfortable at this speed."""
    turn = TURNS[direction]
    if channel == "steering_norm":
        return turn * NORM_TURN
    sharpest = 1 / TIGHTEST_M
    wanted = turn * COMFORTABLE_MPS2 / max(speed_mps, 1.0) ** 2
    curvature = min(max(wanted, -sharpest), sharpest)
    return curvature if channel == "curvature_inv_m" else math.atan(WHEELBASE_M * curvature)


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Column names and (line number, cells) of every row that is not blank."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row)]
    except OSError as error:
        raise UserError(f"{path}: expected a CSV file of actions, {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected a CSV file of actions in UTF-8, {error}") from error
    if not rows:
        raise UserError(f"{path}: expected a first row with the names of the channels, the file is empty")
    return rows[0][1], rows[1:]


def _number(cell: str, place: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST:
        raise UserError(f"{place}: expected a finite number, got {cell!r}")
    return value
