"""npz files read and written row by row: a zip of npy members, of which a long one never sits in memory whole.

Pickled members (object arrays) are refused before anything of them is read.
"""

import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from data.errors import UserError
from data.folder import atomic_file

CHUNK_ROWS = 64
_SKIPPED = 1 << 20


@dataclass(frozen=True)
class Member:
    """What the header of an array says."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool


def npz_members(path: Path) -> dict[str, Member]:
    """{name: header} of every array; UserError where the file is missing, truncated, no npz, or holds a pickle."""
    with _opened(path) as archive:
        found = {}
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                continue
            name = info.filename.removesuffix(".npy")
            with archive.open(info) as file:
                member = _read_header(path, name, file)
                held = info.file_size - file.tell()
            if math.prod(member.shape) * member.dtype.itemsize != held:
                raise UserError(f"{path}: {name!r} expected {member.dtype} {member.shape} as its header says, got {held} bytes")
            found[name] = member
        return found


def read_member(path: Path, name: str) -> np.ndarray:
    """A whole array, for short ones."""
    with _opened(path) as archive, archive.open(f"{name}.npy") as file:
        member = _read_header(path, name, file)
        flat = np.frombuffer(file.read(), member.dtype)
        return flat.reshape(member.shape, order="F" if member.fortran_order else "C")


def stream_member(path: Path, name: str, first: int, last: int) -> Iterator[np.ndarray]:
    """Rows first <= t < last of an array, up to 64 at a time. A compressed member is unpacked, not kept, up to its row `first`."""
    with _opened(path) as archive, archive.open(f"{name}.npy") as file:
        member = _read_header(path, name, file)
        if member.fortran_order:
            raise UserError(f"{path}: {name!r} expected rows one after the other, got Fortran order; save np.ascontiguousarray of it")
        row = math.prod(member.shape[1:]) * member.dtype.itemsize
        _skip(file, first * row)
        for start in range(first, last, CHUNK_ROWS):
            count = min(CHUNK_ROWS, last - start)
            data = file.read(count * row)
            if len(data) < count * row:
                raise UserError(f"{path}: {name!r} ends at row {start + len(data) // max(row, 1)}, expected {member.shape[0]}: truncated")
            yield np.frombuffer(data, member.dtype).reshape(count, *member.shape[1:])


def _skip(file: IO[bytes], count: int) -> None:
    """Read past `count` bytes in small pieces; a zip member's own seek takes 16 MB at a time."""
    while count > 0 and (piece := file.read(min(count, _SKIPPED))):
        count -= len(piece)


class NpzWriter:
    """Takes arrays, whole or as they come; see `npz_writer`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def array(self, name: str, array: np.ndarray) -> None:
        with self._entry(name) as file:
            np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)

    def rows(self, name: str, shape: tuple[int, ...], dtype: np.dtype, chunks: Iterable[np.ndarray]) -> None:
        """An array of `shape`, of which each chunk holds the next rows."""
        written = 0
        with self._entry(name) as file:
            np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
            for chunk in chunks:
                file.write(np.ascontiguousarray(chunk, dtype).tobytes())
                written += len(chunk)
        if written != shape[0]:
            raise ValueError(f"{name!r}: {written} rows came, expected {shape[0]}")

    def _entry(self, name: str) -> IO[bytes]:
        """A member with a fixed date: the same arrays give the same bytes."""
        return self._archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)


@contextmanager
def npz_writer(path: Path) -> Iterator[NpzWriter]:
    """`with npz_writer(path) as file: file.array("actions", actions)`; the file appears when the block ends well."""
    with atomic_file(path) as temp, zipfile.ZipFile(temp, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        yield NpzWriter(archive)


def _read_header(path: Path, name: str, file: IO[bytes]) -> Member:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise UserError(f"{path}: {name!r} expected an array of numbers or text, got npy version {version[0]}.{version[1]}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    if dtype.hasobject:
        raise UserError(f"{path}: {name!r} holds pickled objects, which are never read, expected an array of numbers or text")
    return Member(shape, dtype, fortran_order)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; what goes wrong while it is in use is told in one line."""
    if not path.is_file():
        raise UserError(f"{path}: no such npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{path}: no member {error.args[0]}") from error
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OSError, NotImplementedError) as error:
        raise UserError(f"{path}: expected an npz file, got a truncated or foreign one ({' '.join(str(error).split())})") from error
