"""Per-frame telemetry and actions from a CSV file: one column a channel, one row a frame."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data.episode import ChannelSpec
from data.errors import UserError
from data.known_channels import Channel
from data.recordings import ChannelTable

FRAME_COLUMN = "frame"
"""A column of this name only counts rows and is not read."""


def read_telemetry(path: Path, channels: Mapping[str, Channel]) -> ChannelTable:
    """Read `path`, whose header names channels out of `channels`.

    UserError, naming file, row and column, for an unknown column, a row of another length, and a value that is no finite number or lies
    outside its channel's range.
    """
    header, rows = _read_rows(path)
    columns = [(index, name) for index, name in enumerate(header) if name != FRAME_COLUMN]
    for _, name in columns:
        if name not in channels:
            raise UserError(f"{path}: unknown column {name!r}; expected {', '.join(channels)}, or declare it with --channel")
    if not columns or not rows:
        raise UserError(f"{path}: expected a header of channel names and at least one row, got {len(header)} columns and {len(rows)} rows")
    values = np.array([_parse_row(path, number, row, header, channels) for number, row in enumerate(rows, start=2)])

    def of_kind(kind: str) -> tuple[np.ndarray, tuple[ChannelSpec, ...]]:
        chosen = [(index, channels[name].spec) for index, name in columns if channels[name].kind == kind]
        return values[:, [index for index, _ in chosen]].astype(np.float32), tuple(spec for _, spec in chosen)

    return ChannelTable(*of_kind("telemetry"), *of_kind("action"))


def _read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such CSV file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected a CSV file ({error})") from error
    header = [name.strip() for name in rows[0]] if rows else []
    if len(set(header)) < len(header):
        raise UserError(f"{path}: expected every column once, got {', '.join(header)}")
    return header, rows[1:]


def _parse_row(path: Path, number: int, row: list[str], header: list[str], channels: Mapping[str, Channel]) -> list[float]:
    if len(row) != len(header):
        raise UserError(f"{path}: row {number} expected {len(header)} values, got {len(row)}")
    values = []
    for name, text in zip(header, row, strict=True):
        try:
            value = float(text)
        except ValueError as error:
            raise UserError(f"{path}: row {number}, {name!r} expected a number, got {text!r}") from error
        if name in channels:
            spec = channels[name].spec
            # NaN fails this comparison too.
            if not spec.low <= value <= spec.high:
                raise UserError(f"{path}: row {number}, {name!r} expected {spec.low}..{spec.high} {spec.unit}, got {text.strip()}")
        values.append(value)
    return values
