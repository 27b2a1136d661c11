"""Reading an episode store: `<folder>/<split>/<drive>.parquet` and a manifest; training reads nothing else."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.episode import Episode
from data.errors import UserError
from data.folder import atomic_file, bytes_text, disk_free_check
from data.manifest import DriveRecord, Manifest, load_manifest
from data.progress import Bar
from data.shard import CHUNK_STEPS, ShardInfo, read_shard
from data.store_writer import write_store

__all__ = ["DriveRecord", "EpisodeStore", "Manifest", "write_store"]

_DECODED_STEPS = 16 * CHUNK_STEPS
"""Held at once while frames are decoded: 12 MB at 64x128."""


class EpisodeStore:
    """The drives of one prepared data set, read as episodes."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._records = {drive.drive_id: drive for drive in manifest.drives}

    @staticmethod
    def open(path: str | Path) -> "EpisodeStore":
        """UserError where there is no finished set, its format is another one, or a drive's file is missing."""
        path = Path(path)
        manifest = load_manifest(path)
        for drive in manifest.drives:
            if not (path / drive.file).is_file():
                raise UserError(f"{path / drive.file}: missing, though {path} lists this drive; prepare the data again with --resume")
        return EpisodeStore(path, manifest)

    @property
    def hash(self) -> str:
        """Fingerprint of the data: caches of what was computed from it are keyed by this."""
        return self.manifest.hash

    @property
    def splits(self) -> tuple[str, ...]:
        return self.manifest.splits

    def drives(self, split: str) -> tuple[DriveRecord, ...]:
        """The drives of a split, in a fixed order; UserError where there is no such split."""
        found = tuple(drive for drive in self.manifest.drives if drive.split == split)
        if not found:
            raise UserError(f"{self.path}: expected a split {split!r}, got only {', '.join(self.splits)}")
        return found

    def read(self, drive_id: str, start: int = 0, stop: int | None = None, *, frames: bool = True) -> Episode:
        """Steps start <= t < stop (None: to the end) of a drive, with its captions and labels; without its frames it is read at once."""
        record = self._record(drive_id)
        stop = record.steps if stop is None else stop
        if not 0 <= start < stop <= record.steps:
            raise UserError(f"{drive_id}: expected steps within 0..{record.steps}, got {start}..{stop}")
        info = ShardInfo(record, self.manifest.signals, self.manifest.settings)
        return read_shard(self.path / record.file, info, start, stop, frames=frames)

    def episodes(self, split: str) -> Iterator[Episode]:
        """Every drive of a split, whole, one after the other."""
        for drive in self.drives(split):
            yield self.read(drive.drive_id)

    def frame_index(self, split: str) -> list[tuple[str, int, int]]:
        """(drive_id, first, last) for every drive: its rows first <= n < last in `frame_array`."""
        index, first = [], 0
        for drive in self.drives(split):
            index.append((drive.drive_id, first, first + drive.steps))
            first += drive.steps
        return index

    def frame_array(self, split: str, camera: str | None = None, *, progress: bool = True) -> np.memmap:
        """All frames of a split and camera (default: the first) as a read-only uint8 (N, H, W, 3) memory map.

        Decoded once into `<folder>/cache/`, under a name that holds the data's hash; memory use does not grow with N.
        """
        camera = camera or next(iter(self.manifest.cameras))
        if camera not in self.manifest.signals.frame_sizes:
            raise UserError(f"{self.path}: expected a camera with frames among {list(self.manifest.signals.frame_sizes)}, got {camera!r}")
        path = self.path / "cache" / f"frames-{split}-{camera}-{self.hash[:16]}.npy"
        if not path.is_file():
            self._decode_frames(split, camera, path, progress)
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def _decode_frames(self, split: str, camera: str, path: Path, progress: bool) -> None:
        drives = self.drives(split)
        shape = (sum(drive.steps for drive in drives), *self.manifest.signals.frame_sizes[camera], 3)
        disk_free_check(path, np.prod(shape, dtype=np.float64))
        for old in path.parent.glob(f"frames-{split}-{camera}-*.npy"):
            old.unlink()
        if progress:
            print(f"decoding {shape[0]} frames of {split!r} once into {path} ({bytes_text(float(np.prod(shape)))})", file=sys.stderr)
        with atomic_file(path) as temp, temp.open("wb") as file, Bar("decoding", total=shape[0], unit="frames", enabled=progress) as bar:
            # Written in order, not through a memory map: a disk that fills up then is an error and not a crash.
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for drive in drives:
                for start in range(0, drive.steps, _DECODED_STEPS):
                    chunk = self.read(drive.drive_id, start, min(start + _DECODED_STEPS, drive.steps))
                    file.write(chunk.frames[camera].tobytes())
                    bar.advance(chunk.steps)

    def _record(self, drive_id: str) -> DriveRecord:
        if drive_id not in self._records:
            raise UserError(f"{self.path}: no drive {drive_id!r}; it holds {len(self._records)}, such as {next(iter(self._records))!r}")
        return self._records[drive_id]
