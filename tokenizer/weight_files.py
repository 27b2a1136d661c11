"""Weights of a checkpoint as their headers declare them, looked at before anything of them is loaded.

The format is safetensors' own: eight bytes with the header's length, a JSON header {name: dtype, shape, place}, then the numbers.
Whoever writes a file by hand may declare what they like, so everything is checked against the bytes that are there.
"""

import json
import re
import stat
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, cast

from data.errors import UserError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
CONFIG_BYTES = 1 << 20
"""Largest config.json that is read."""
HEADER_BYTES = 16 << 20
"""Largest header, and largest index, that is read: room for 100,000 tensors."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_STEERING = re.compile(r"adapter_config\.json|shard-\d+-.*\.safetensors|\.metadata")
"""Files by which transformers would load something else than the weights that are looked at here."""
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64"), 64),
}


@dataclass(frozen=True)
class Declared:
    """What a header says of one tensor."""

    dtype: str
    """As safetensors writes it: F32, BF16, U8, ..."""
    shape: tuple[int, ...]
    file: str


def is_ours(name: str) -> bool:
    """Whether a checkpoint's loading reads a file of this name."""
    return name in (CONFIG, WEIGHTS, INDEX) or SHARD.fullmatch(name) is not None


def refuse_foreign(names: list[str], place: str) -> None:
    """UserError where a file among `names` could run code when it is loaded, or lead the loading astray."""
    for name in sorted(names):
        if name.endswith(_PICKLES):
            raise UserError(f"{place}: holds {name!r}, which may be a pickle and run code when it is read; expected safetensors alone")
        if _STEERING.fullmatch(name):
            raise UserError(f"{place}: holds {name!r}, which is no part of a checkpoint of ours; expected {CONFIG} and {WEIGHTS}")


def declared_tensors(folder: Path) -> dict[str, Declared]:
    """{name: what is declared} of all weights in a checkpoint's folder; UserError where a file is missing, false, or leads elsewhere."""
    whole, index = folder / WEIGHTS, folder / INDEX
    if whole.exists() and index.exists():
        raise UserError(f"{folder}: holds {WEIGHTS} and {INDEX}, expected one of the two")
    if not index.exists():
        if not whole.exists():
            raise UserError(f"{folder}: holds no weights, expected {WEIGHTS}")
        return read_header(whole)
    wanted = _read_index(index)
    found: dict[str, Declared] = {}
    for file in sorted(set(wanted.values())):
        if not (folder / file).exists():
            raise UserError(f"{folder}: could not be read, the weights' part {file} is missing")
        for name, declared in read_header(check_file(folder / file)).items():
            if wanted.get(name) != file:
                raise UserError(f"{folder}: {file} holds {name!r:.80}, which {INDEX} does not look for there")
            found[name] = declared
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise UserError(f"{folder}: {wanted[missing[0]]} does not hold {missing[0]!r:.80}, which {INDEX} looks for there")
    return found


def check_file(path: Path) -> Path:
    """`path` itself; UserError where it is no plain file, or a link that leads out of the checkpoint.

    Links inside the Hub's cache lead from a snapshot to the repository's blobs, and those may be shared among repositories.
    """
    target, folder = path.resolve(), path.parent.resolve()
    roots = [folder]
    for snapshot in (folder, *folder.parents):
        if snapshot.parent.name == "snapshots" and "--" in snapshot.parent.parent.name:
            repository = snapshot.parent.parent
            roots += [snapshot, repository / "blobs", repository.parent / "blobs"]
    if not any(target.is_relative_to(root) for root in roots):
        raise UserError(f"{path}: is a link that leads out of the checkpoint; expected a file of its own")
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise UserError(f"{path}: expected a file")
    return path


def read_limited(path: Path, limit: int) -> dict[str, Any]:
    """The JSON object in a file of at most `limit` bytes; UserError for anything else."""
    size = check_file(path).stat().st_size
    if size > limit:
        raise UserError(f"{path}: expected at most {limit:,} bytes, got {size:,}")
    return _json_object(path.read_bytes(), path)


def read_header(path: Path) -> dict[str, Declared]:
    """{tensor: what is declared} of one safetensors file, in which every byte belongs to one tensor; reads nothing but the header."""
    size = check_file(path).stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(HEADER_BYTES, size - 8):
            told = f"a header of {length:,} bytes in a file of {size:,}" if len(start) == 8 else f"{size} bytes"
            raise UserError(f"{path}: could not be read as weights: expected safetensors, got {told}")
        header = _json_object(file.read(length), path)
    header.pop("__metadata__", None)
    places: list[tuple[int, int]] = []
    found: dict[str, Declared] = {}
    for name, value in header.items():
        found[name], place = _declared(name, value, path)
        places.append(place)
    end = 0
    for begin, stop in sorted(places):
        if begin != end:
            raise UserError(f"{path}: could not be read as weights: the tensors overlap or leave gaps at byte {min(begin, end):,}")
        end = stop
    if end != size - 8 - length:
        raise UserError(f"{path}: could not be read as weights: {end:,} bytes are declared, {size - 8 - length:,} are there")
    return found


def _declared(name: str, value: Any, path: Path) -> tuple[Declared, tuple[int, int]]:
    told: dict[str, Any] = value if isinstance(value, dict) else {}
    dtype, shape, offsets = (cast(Any, told.get(key)) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(dtype, str) and dtype in _BITS and _counts(shape) and len(shape) <= 8 and _counts(offsets) and len(offsets) == 2):
        raise UserError(f"{path}: could not be read as weights: tensor {name!r:.80} has no dtype, shape and place that we know")
    begin, end = offsets
    if end - begin != prod(shape) * _BITS[dtype] // 8:
        wrong = f"tensor {name!r:.80} of shape {shape!s:.80} takes {prod(shape) * _BITS[dtype] // 8:,} bytes, {end - begin:,} are declared"
        raise UserError(f"{path}: could not be read as weights: {wrong}")
    return Declared(dtype, tuple(shape), path.name), (begin, end)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _read_index(path: Path) -> dict[str, str]:
    """{tensor: shard} with names of shards that stand beside the index."""
    places = read_limited(path, HEADER_BYTES).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{path}: expected a 'weight_map' of tensors and the files that they are in")
    for name, file in places.items():
        if not isinstance(file, str) or not SHARD.fullmatch(file):
            raise UserError(f"{path}: tensor {name!r:.80} expected in a file such as model-00001-of-00002.safetensors, got {file!r:.80}")
    return places


def _json_object(text: bytes, path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON, got a truncated or foreign file ({error!s:.100})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value
