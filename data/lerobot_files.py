"""The files of a LeRobot set, read with care: what is wrong with one is told in one line that names it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import UserError
from data.folder import read_json

if TYPE_CHECKING:
    import pyarrow as pa


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; UserError where the file is missing, empty or holds anything else."""
    _check_not_empty(path)
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A file with a JSON object a line; UserError as in `read_object`, naming the line."""
    _check_not_empty(path)
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}: line {number} expected JSON ({error})") from error
            if not isinstance(rows[-1], dict):
                raise UserError(f"{path}: line {number} expected a JSON object, got {type(rows[-1]).__name__}")
    return rows


def column_names(path: Path) -> list[str]:
    """Columns of a Parquet file; UserError where it is missing, truncated or no Parquet."""
    import pyarrow.parquet as pq

    with _explained(path):
        return pq.read_schema(path).names


def read_rows(path: Path, columns: Sequence[str], episode: int | None = None) -> "pa.Table":
    """Columns of a Parquet file, of one episode or of all; UserError, naming file and column, for what is missing."""
    import pyarrow.parquet as pq

    held = column_names(path)
    for name in columns if episode is None else ("episode_index", *columns):
        if name not in held:
            raise UserError(f"{path}: expected a column {name!r}, got {', '.join(held)}")
    rows = None if episode is None else [("episode_index", "=", episode)]
    with _explained(path):
        # Folders of the path are no columns, whatever they are called.
        return pq.read_table(path, columns=list(columns), filters=rows, partitioning=None)  # type: ignore[arg-type]


def numbers(table: "pa.Table", key: str, size: int, path: Path) -> np.ndarray:
    """A column of numbers, or of lists of `size` numbers, as (T, size) float64; UserError where it is none."""
    try:
        flat = table[key].combine_chunks()
        if "list" in str(flat.type):
            flat = flat.flatten()
        return flat.to_numpy(zero_copy_only=False).astype(np.float64).reshape(table.num_rows, size)
    except (ValueError, TypeError) as error:
        held = table.schema.field(key).type
        raise UserError(f"{path}: {key!r} expected {size} numbers a row as in meta/info.json, got {held} of another length") from error


def texts(table: "pa.Table", key: str) -> list[str]:
    """A column of texts; "" where nothing is said."""
    return ["" if value is None else str(value).strip() for value in table[key].to_pylist()]


def _check_not_empty(path: Path) -> None:
    if path.is_file() and not path.stat().st_size:
        raise UserError(f"{path}: expected the description of a LeRobot set, got an empty file")
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a LeRobot set of v2 or v3")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    import pyarrow as pa

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: expected Parquet, got a truncated or foreign file") from error
