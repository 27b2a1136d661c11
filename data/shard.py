"""One drive as a Parquet file: a row holds a chunk of up to 32 steps, a row group holds one row.

Columns: `drive_id`, `start`, `steps`, `timestamps_s`, `frames_<camera>` (a list of PNG files), `codes_<camera>` (a flat list),
`telemetry` and `actions` (flat lists of steps x channels), `truth_<name>`. The file's metadata repeats what the manifest says of the
drive, so that a shard describes itself and an interrupted preparation goes on from what is there.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from data.chunks import rechunk, shift_captions
from data.episode import Caption, Episode
from data.errors import UserError
from data.folder import atomic_file
from data.manifest import VERSION, DriveRecord, Signals, record_from_json, signals_from_json, signals_to_json

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK_STEPS = 32
_METADATA_KEY = "worldgpt"
# Lossless; level 1 with run lengths encodes 64x128 photographs at 2,700 a second and core; level 6 saves less than 1 % more.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)


@dataclass(frozen=True)
class ShardInfo:
    """What a shard says of itself."""

    record: DriveRecord
    signals: Signals
    settings: Mapping[str, Any]


def encode_png(image: np.ndarray) -> bytes:
    """PNG file of a uint8 (H, W, 3) RGB image."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _PNG)[1].tobytes()


def decode_png(data: bytes) -> np.ndarray:
    """uint8 (H, W, 3) RGB image of a PNG file."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError("expected a PNG image in the data set, got damaged bytes")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def write_shard(
    path: Path, episodes: Iterable[Episode], drive_id: str, split: str, settings: Mapping[str, Any], advance: Callable[[int], None]
) -> ShardInfo:
    """Stream consecutive episodes of a drive into one complete file at `path`, or into none where something fails.

    `advance` is told of every chunk's steps. UserError where there is no step, or where time does not rise or signals change on the way.
    """
    import pyarrow.parquet as pq

    summary = _Summary(drive_id, split)
    writer = None
    with atomic_file(path) as temp:
        try:
            for chunk in rechunk(episodes, CHUNK_STEPS):
                summary.add(chunk)
                table = _table(chunk, drive_id, chunk.start - summary.first_step)
                if writer is None:
                    writer = pq.ParquetWriter(temp, table.schema, compression="zstd", use_dictionary=False)
                writer.write_table(table)
                advance(chunk.steps)
            info = ShardInfo(summary.record(), summary.checked_signals(), settings)
            assert writer is not None
            writer.add_key_value_metadata({_METADATA_KEY: json.dumps(_info_to_json(info))})
        finally:
            if writer is not None:
                writer.close()
    return info


def read_shard_info(path: Path) -> ShardInfo:
    """What the shard at `path` says of itself; UserError where it is not a complete shard of this version."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        value = json.loads((pq.read_metadata(path).metadata or {})[_METADATA_KEY.encode()])
        if value["version"] != VERSION:
            raise UserError(f"{path}: expected format version {VERSION}, got {value['version']}; prepare the data again")
        return ShardInfo(record_from_json(value["drive"]), signals_from_json(value["signals"]), value["settings"])
    except (KeyError, TypeError, json.JSONDecodeError, pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: expected a shard of episodes, got a damaged or foreign file") from error


def read_shard(path: Path, info: ShardInfo, start: int, stop: int, *, frames: bool = True) -> Episode:
    """Steps start <= t < stop of the drive at `path`; reads only the chunks that hold them, and no pictures where `frames` is False."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = start // CHUNK_STEPS
    last = max(first + 1, -(-stop // CHUNK_STEPS))
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if frames or not name.startswith("frames_")]
            table = file.read_row_groups(list(range(first, last)), columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: expected a shard of episodes, got a damaged file") from error
    return _episode(table, info, start, start - first * CHUNK_STEPS, stop - start)


@dataclass
class _Summary:
    """Gathers, chunk by chunk, what the manifest says of a drive."""

    drive_id: str
    split: str
    steps: int = 0
    first_step: int = 0
    signals: Signals | None = None
    last_time_s: float = -np.inf
    captions: dict[Caption, None] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    digests: dict[str, Any] = field(default_factory=dict)
    """{field: running hash}: one a field, so that the sum does not depend on how time was cut."""

    def add(self, chunk: Episode) -> None:
        signals = Signals.of(chunk)
        if self.signals is None:
            self.signals, self.first_step = signals, chunk.start
        elif difference := self.signals.difference(signals):
            raise UserError(f"{self.drive_id}: changes at step {chunk.start}: {difference}")
        if chunk.start != self.first_step + self.steps:
            raise UserError(f"{self.drive_id}: expected step {self.first_step + self.steps} next, got {chunk.start}")
        self._check_times(chunk)
        self.steps += chunk.steps
        self.captions.update(dict.fromkeys(chunk.captions))
        self.labels |= chunk.labels
        for name, array in _arrays(chunk):
            self.digests.setdefault(name, hashlib.sha256()).update(np.ascontiguousarray(array))

    def _check_times(self, chunk: Episode) -> None:
        times = np.concatenate([[self.last_time_s], chunk.timestamps_s])
        falls = np.flatnonzero(~(np.diff(times) > 0))
        if len(falls):
            step = chunk.start + falls[0]
            raise UserError(f"{self.drive_id}: timestamps_s expected to rise, got {times[falls[0] + 1]} at step {step}")
        self.last_time_s = float(times[-1])

    def checked_signals(self) -> Signals:
        if self.signals is None or not self.signals.cameras:
            raise UserError(f"{self.drive_id}: expected at least one step with a picture, got none")
        return self.signals

    def record(self) -> DriveRecord:
        captions = shift_captions(tuple(self.captions), self.first_step, self.first_step + self.steps)
        said = json.dumps([[asdict(caption) for caption in captions], self.labels], sort_keys=True)
        parts = [said, *(f"{name} {digest.hexdigest()}" for name, digest in sorted(self.digests.items()))]
        content_hash = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return DriveRecord(self.drive_id, self.split, self.steps, captions, self.labels, content_hash)


def _arrays(chunk: Episode) -> Iterator[tuple[str, np.ndarray]]:
    """(column, array with T first) of everything that a chunk holds, in the types that are stored."""
    yield "timestamps_s", chunk.timestamps_s.astype(np.float64)
    for name, frames in chunk.frames.items():
        yield f"frames_{name}", frames
    for name, codes in chunk.codes.items():
        yield f"codes_{name}", codes.astype(np.int32)
    if chunk.telemetry_channels:
        yield "telemetry", chunk.telemetry.astype(np.float32)
    if chunk.action_channels:
        yield "actions", chunk.actions.astype(np.float32)
    for name, values in chunk.truth.items():
        yield f"truth_{name}", values.astype(np.float32)


def _table(chunk: Episode, drive_id: str, start: int) -> "pa.Table":
    """One row."""
    import pyarrow as pa

    columns: dict[str, Any] = {
        "drive_id": pa.array([drive_id]),
        "start": pa.array([start], pa.int64()),
        "steps": pa.array([chunk.steps], pa.int64()),
    }
    for name, array in _arrays(chunk):
        if name.startswith("frames_"):
            columns[name] = pa.array([[encode_png(frame) for frame in array]], pa.list_(pa.binary()))
        else:
            flat = pa.array(np.ascontiguousarray(array).ravel())
            columns[name] = pa.ListArray.from_arrays(pa.array([0, len(flat)], pa.int32()), flat)
    return pa.table(columns)


def _episode(table: "pa.Table", info: ShardInfo, start: int, skip: int, steps: int) -> Episode:
    """Rows of a shard as an episode: `steps` steps after the first `skip` ones."""
    record, signals = info.record, info.signals

    def flat(name: str, width: int = 1) -> np.ndarray:
        values = table.column(name).combine_chunks().flatten()
        return np.array(values.slice(skip * width, steps * width).to_numpy())

    def channels(name: str, width: int) -> np.ndarray:
        return flat(name, width).reshape(steps, width) if width else np.zeros((0, 0), np.float32)

    def frames(name: str, size: tuple[int, int]) -> np.ndarray:
        images = table.column(name).combine_chunks().flatten().slice(skip, steps)
        result = np.empty((steps, *size, 3), np.uint8)
        for index, data in enumerate(images):
            result[index] = decode_png(data.as_py())
        return result

    return Episode(
        drive_id=record.drive_id,
        fps=signals.fps,
        timestamps_s=flat("timestamps_s"),
        frames={n: frames(f"frames_{n}", size) for n, size in signals.frame_sizes.items() if f"frames_{n}" in table.column_names},
        codes={name: flat(f"codes_{name}", h * w).reshape(steps, h, w) for name, (h, w) in signals.code_grids.items()},
        codebook_size=signals.codebook_size,
        telemetry=channels("telemetry", len(signals.telemetry)),
        telemetry_channels=signals.telemetry,
        actions=channels("actions", len(signals.actions)),
        action_channels=signals.actions,
        captions=record.captions,
        truth={name: flat(f"truth_{name}") for name in signals.truth},
        labels=record.labels,
        cameras=signals.cameras,
        start=start,
    )


def _info_to_json(info: ShardInfo) -> dict[str, Any]:
    return {
        "version": VERSION,
        "drive": asdict(info.record),
        "signals": signals_to_json(info.signals),
        "settings": dict(info.settings),
    }
