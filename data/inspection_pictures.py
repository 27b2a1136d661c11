"""Pictures of a prepared set: which neighbours are equal, where a camera froze, what train and val share, and how pictures move."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from data.errors import UserError
from data.inspection_channels import specs_of
from data.inspection_motion import MotionFigures, motion_figures, picture_motion
from data.manifest import DriveRecord
from data.progress import Bar
from data.shard import CHUNK_STEPS, decode_png
from data.store import EpisodeStore

Item = TypeVar("Item")
MOST_COMPARED = 100_000
"""Pictures of 64x128 that are compared with their neighbours: bytes against bytes, without decoding them; fewer where they are larger."""
MOST_WATCHED = 4_096
"""Pictures up to 128x256 that are decoded to see them move."""
FROZEN_S = 1.0


@dataclass(frozen=True)
class Stretch:
    """Steps first <= t < last of a drive whose pictures are all equal."""

    camera: str
    drive_id: str
    first: int
    last: int
    speed_mps: float | None
    """Mean speed meanwhile, where it is known."""


@dataclass(frozen=True)
class PictureFigures:
    """What was found among the pictures, or codes, that were looked at."""

    looked_at: int
    """Steps looked at, out of all."""
    pairs: int
    """Neighbouring pictures compared, over all cameras."""
    equal: int
    """Pairs that are equal to the last bit."""
    frozen: tuple[Stretch, ...]
    """Stretches of 1 s or longer, the longest first."""
    seen_in_train: Mapping[str, int]
    """{other split: steps looked at whose pictures stand in train, too}."""
    in_split: Mapping[str, int]
    """{split: steps looked at}."""
    motion: MotionFigures | None
    """None where there are codes only."""


@dataclass
class _Run:
    """A stretch of equal pictures that may go on."""

    first: int
    last: int
    picture: bytes
    speeds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Chunk:
    """Up to 32 steps as they are stored."""

    record: DriveRecord
    first: int
    pictures: Mapping[str, list[bytes]]
    """{camera: a PNG file, or codes, a step}."""
    channels: np.ndarray
    """(T, M + A)."""


def picture_figures(store: EpisodeStore, *, progress: bool = True) -> PictureFigures:
    """Look at all pictures, or where there are too many, at stretches spread evenly over the set."""
    sizes = store.manifest.signals.frame_sizes
    watched_camera = next(iter(sizes), None)
    pixels = store.manifest.size[0] * store.manifest.size[1] if sizes else 0
    everywhere = [(record, first) for record in store.manifest.drives for first in range(0, record.steps, CHUNK_STEPS)]
    most = MOST_COMPARED / len(store.manifest.cameras) / max(1.0, pixels / (64 * 128))
    compared = _spread(everywhere, round(most / CHUNK_STEPS))
    most = MOST_WATCHED / max(1.0, pixels / (128 * 256))
    watched = set(_spread([(record.drive_id, first) for record, first in compared], round(most / CHUNK_STEPS)))
    search = _Search(store)
    motion: list[np.ndarray] = []
    between: list[np.ndarray] = []
    with Bar("looking", total=len(compared), unit="stretches", enabled=progress) as bar:
        for chunk in _read(store, compared):
            search.add(chunk)
            if watched_camera and (chunk.record.drive_id, chunk.first) in watched:
                frames = np.stack([decode_png(data) for data in chunk.pictures[watched_camera]])
                motion.append(picture_motion(frames))
                between.append((chunk.channels[1:] + chunk.channels[:-1]) / 2)
            bar.advance(1)
    names = [spec.name for spec in specs_of(store)]
    watched_all = motion_figures(watched_camera, np.concatenate(motion), np.concatenate(between), names) if watched_camera else None
    return search.figures(watched_all)


class _Search:
    """Goes through chunks in their order, and keeps what is equal."""

    def __init__(self, store: EpisodeStore) -> None:
        self._fps = store.manifest.fps
        names = [spec.name for spec in specs_of(store)]
        self._speed = names.index("speed_mps") if "speed_mps" in names else None
        self._runs: dict[str, tuple[str, _Run]] = {}
        self._frozen: list[Stretch] = []
        self._hashes: dict[str, list[bytes]] = defaultdict(list)
        self._pairs = self._equal = self._steps = 0

    def add(self, chunk: _Chunk) -> None:
        steps = len(chunk.channels)
        self._steps += steps
        for camera, pictures in chunk.pictures.items():
            for step, picture in enumerate(pictures):
                self._step(camera, chunk, step, picture)
        for step in range(steps):
            shown = hashlib.blake2b(digest_size=8)
            for pictures in chunk.pictures.values():
                shown.update(pictures[step])
            self._hashes[chunk.record.split].append(shown.digest())

    def _step(self, camera: str, chunk: _Chunk, step: int, picture: bytes) -> None:
        now = chunk.first + step
        drive_id, run = self._runs.get(camera, ("", None))
        follows = run is not None and drive_id == chunk.record.drive_id and run.last == now
        self._pairs += follows
        if run is not None and follows and run.picture == picture:
            self._equal += 1
            run.last = now + 1
        else:
            self._close(camera)
            run = _Run(now, now + 1, picture)
            self._runs[camera] = chunk.record.drive_id, run
        if self._speed is not None:
            run.speeds.append(float(chunk.channels[step, self._speed]))

    def _close(self, camera: str) -> None:
        """Note the camera's stretch if it was long enough, and forget it."""
        drive_id, run = self._runs.pop(camera, ("", None))
        if run is not None and run.last - run.first > FROZEN_S * self._fps:
            speed = float(np.mean(run.speeds)) if run.speeds else None
            self._frozen.append(Stretch(camera, drive_id, run.first, run.last, speed))

    def figures(self, motion: MotionFigures | None) -> PictureFigures:
        for camera in list(self._runs):
            self._close(camera)
        trained = set(self._hashes.get("train", ()))
        others = {split: shown for split, shown in self._hashes.items() if split != "train"}
        return PictureFigures(
            looked_at=self._steps,
            pairs=self._pairs,
            equal=self._equal,
            frozen=tuple(sorted(self._frozen, key=lambda run: run.first - run.last)),
            seen_in_train={split: sum(digest in trained for digest in shown) for split, shown in others.items()},
            in_split={split: len(shown) for split, shown in self._hashes.items()},
            motion=motion,
        )


def _spread(items: list[Item], most: int) -> list[Item]:
    """At most `most` (and one at least) of the items, evenly spread, in their order."""
    if len(items) <= max(1, most):
        return items
    return [items[round(k)] for k in np.linspace(0, len(items) - 1, max(1, most))]


def _read(store: EpisodeStore, chunks: list[tuple[DriveRecord, int]]) -> Iterator[_Chunk]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    signals = store.manifest.signals
    channels = {"telemetry": len(signals.telemetry), "actions": len(signals.actions)}
    given = [name for name, width in channels.items() if width]
    columns = [*(f"frames_{name}" for name in signals.frame_sizes), *(f"codes_{name}" for name in signals.code_grids), *given]
    grouped: dict[str, list[int]] = defaultdict(list)
    records = {record.drive_id: record for record, _ in chunks}
    for record, first in chunks:
        grouped[record.drive_id].append(first)
    for drive_id, firsts in grouped.items():
        record = records[drive_id]
        path = store.path / record.file
        try:
            with pq.ParquetFile(path) as file:
                for first in firsts:
                    row = file.read_row_group(first // CHUNK_STEPS, columns=columns)
                    steps = min(CHUNK_STEPS, record.steps - first)
                    values = {name: row.column(name).combine_chunks().flatten() for name in columns}
                    pictures = {name: [image.as_py() for image in values[f"frames_{name}"]] for name in signals.frame_sizes}
                    for name in signals.code_grids:
                        pictures[name] = [codes.tobytes() for codes in values[f"codes_{name}"].to_numpy().reshape(steps, -1)]
                    numbers = [values[name].to_numpy().reshape(steps, channels[name]) for name in given]
                    yield _Chunk(record, first, pictures, np.concatenate([np.zeros((steps, 0), np.float32), *numbers], axis=1))
        except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
            raise UserError(f"{path}: expected a shard of episodes, got a damaged file") from error
