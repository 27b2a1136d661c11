"""An episode store as npz files: `<folder>/<split>/<drive>.npz`, which `prepare_data.py npz` reads back."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from data.episode import Episode
from data.errors import UserError
from data.folder import disk_free_check, prepare_output, remove_if_unused, remove_leftovers
from data.manifest import DriveRecord, safe_name
from data.npz import CHUNK_ROWS, npz_writer
from data.npz_drive import CHANNEL_FIELDS, TRUTH
from data.progress import Bar
from data.store import EpisodeStore


def export_store(store: EpisodeStore, folder: Path, *, camera: str | None = None, overwrite: bool = False, progress: bool = True) -> int:
    """Write every drive of a store and return their number; `camera` None: the first one.

    A file holds observations (T, H, W, 3) uint8, and where the store has them actions (T, A), telemetry (T, M), rewards and dones (T,),
    names and ranges of channels, timestamps_s, fps, captions. UserError where the store has no such camera, or codes in place of frames.
    """
    sizes = store.manifest.signals.frame_sizes
    camera = camera or next(iter(sizes), "none")
    if camera not in sizes:
        raise UserError(f"{store.path}: expected a camera with frames among {list(sizes)}, got {camera!r}")
    drives = store.manifest.drives
    pixels = sum(drive.steps for drive in drives) * sizes[camera][0] * sizes[camera][1] * 3
    disk_free_check(folder, pixels)
    prepare_output(folder, overwrite=overwrite)
    try:
        with Bar("exporting", total=sum(drive.steps for drive in drives), unit="frames", enabled=progress) as bar:
            for drive in drives:
                _write_drive(store, drive, camera, folder / safe_name(drive.split) / f"{safe_name(drive.drive_id)}.npz", bar)
    finally:
        remove_leftovers(folder)
        remove_if_unused(folder)
    return len(drives)


def _write_drive(store: EpisodeStore, drive: DriveRecord, camera: str, path: Path, bar: Bar) -> None:
    """Frames go straight into the file; the rest, tens of bytes a step, is gathered on the way."""
    parts: dict[str, list[np.ndarray]] = {}

    def frames() -> Iterator[np.ndarray]:
        for start in range(0, drive.steps, CHUNK_ROWS):
            chunk = store.read(drive.drive_id, start, min(start + CHUNK_ROWS, drive.steps))
            for name, values in _rows(chunk).items():
                parts.setdefault(name, []).append(values)
            yield chunk.frames[camera]
            bar.advance(chunk.steps)

    size = store.manifest.signals.frame_sizes[camera]
    with npz_writer(path) as file:
        file.rows("observations", (drive.steps, *size, 3), np.dtype(np.uint8), frames())
        for name, chunks in parts.items():
            file.array(name, np.concatenate(chunks))
        for name, array in _facts(store, drive).items():
            file.array(name, array)


def _rows(chunk: Episode) -> dict[str, np.ndarray]:
    """What a step has but its frame; nothing stands in for what the store does not have."""
    rows = {"timestamps_s": chunk.timestamps_s}
    if chunk.action_channels:
        rows["actions"] = chunk.actions
    if chunk.telemetry_channels:
        rows["telemetry"] = chunk.telemetry
    if "reward" in chunk.truth:
        rows["rewards"] = chunk.truth["reward"]
    if "done" in chunk.truth:
        rows["dones"] = chunk.truth["done"] != 0
    return rows | {f"{TRUTH}{name}": values for name, values in chunk.truth.items() if name not in ("reward", "done")}


def _facts(store: EpisodeStore, drive: DriveRecord) -> dict[str, np.ndarray]:
    """What is said of the channels and of the drive as a whole."""
    facts = {}
    for prefix, channels in (("", store.manifest.actions), ("telemetry_", store.manifest.telemetry)):
        for field, attribute in CHANNEL_FIELDS.items():
            if channels:
                facts[prefix + field] = np.array([getattr(channel, attribute) for channel in channels])
    facts["fps"] = np.array(store.manifest.fps)
    facts["captions"] = np.array(json.dumps([asdict(caption) for caption in drive.captions]))
    facts["labels"] = np.array(json.dumps(dict(drive.labels)))
    return facts
