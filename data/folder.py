"""Output folders and files that are never half-written: the rules that every script shares."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.errors import DiskFullError, UserError

MARKER = ".worldgpt"
"""An (empty) file in every output folder of ours: only folders that hold it are ever removed."""
TEMP_PREFIX = ".tmp-"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def prepare_output(path: str | Path, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Make the folder `path` ready to be written to, and give it back.

    A folder that is absent or empty is made. One that is in use is refused, unless `resume` (kept as it is) or `overwrite` (removed
    first) is set; both act only on folders that this function made before.
    """
    path = Path(path)
    if resume and overwrite:
        raise UserError("--resume and --overwrite: expected at most one of the two")
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: expected a folder for the output, got a file")
    if _in_use(path):
        if not (resume or overwrite):
            raise UserError(f"{path}: already holds files; give --resume to go on, --overwrite to start anew, or another --output")
        if not (path / MARKER).is_file():
            raise UserError(f"{path}: holds files that are not an output of ours (no {MARKER} inside); give another --output")
        if overwrite:
            shutil.rmtree(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / MARKER).touch()
    except OSError as error:
        raise output_error(error, path) from error
    return path


def remove_if_unused(path: Path) -> None:
    """Remove an output folder in which no file but the marker was ever written."""
    if path.is_dir() and not _in_use(path):
        shutil.rmtree(path)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` (same suffix) that takes its place once the block ends well, and is removed if not.

    Raises DiskFullError where the disk is full, UserError where the place cannot be written.
    """
    path = Path(path)
    temp = path.with_name(f"{TEMP_PREFIX}{os.getpid()}-{path.name}")
    try:
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temp
            _flush_to_disk(temp)
            os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Like `atomic_file` for a folder: what stood at `path` stays until the new folder is complete."""
    path = Path(path)
    temp = path.with_name(f"{TEMP_PREFIX}{os.getpid()}-{path.name}")
    old = path.with_name(f"{TEMP_PREFIX}{os.getpid()}-old-{path.name}")
    try:
        with _explained(path):
            temp.mkdir(parents=True)
            yield temp
            for file in temp.rglob("*"):
                if file.is_file():
                    _flush_to_disk(file)
            if path.exists():
                os.replace(path, old)
            os.replace(temp, path)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files under `folder` that a killed run left behind."""
    for path in sorted(folder.rglob(f"{TEMP_PREFIX}*"), reverse=True):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` atomically; NaN and infinity are refused, since they are not JSON."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise UserError(f"{path}: expected finite numbers, got NaN or infinity") from error
    with atomic_file(path) as temp:
        temp.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; UserError where it is missing, truncated, or not JSON (NaN included)."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, got a truncated or foreign file ({error})") from error


def disk_free_check(path: str | Path, needed_bytes: float) -> None:
    """UserError where the disk of `path` (which need not exist yet) has less than `needed_bytes` left."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise DiskFullError(f"disk full: {path} needs about {bytes_text(needed_bytes)}, {bytes_text(free)} are free")


def is_disk_full(error: BaseException) -> bool:
    """Whether `error` says that there is no room left: an OSError, or the words of a library that hides the number."""
    return getattr(error, "errno", None) in _FULL or "No space left on device" in str(error)


def output_error(error: BaseException, path: str | Path) -> UserError:
    """`error`, met while writing `path`, in one line."""
    if is_disk_full(error):
        return DiskFullError(f"disk full: no room left to write {path}; free some space, or give another --output")
    return UserError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})")


def bytes_text(count: float) -> str:
    """1234567 -> '1.2 MB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _in_use(path: Path) -> bool:
    return any(not entry.is_dir() and entry.name != MARKER for entry in path.rglob("*"))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn a full disk, or a place that cannot be written, into a UserError; let every other error pass."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_disk_full(error) or (isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)):
            raise output_error(error, path) from error
        raise


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
