"""A recorded drive as rows: all of it but the pictures, and how rows and pictures become episodes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice

import numpy as np

from data.episode import Camera, Caption, ChannelSpec, Episode
from data.errors import UserError
from data.recordings import CHUNK_STEPS, ChannelTable
from data.resample import resample


@dataclass(frozen=True)
class DriveLog:
    """T steps of a drive at a steady rate."""

    drive_id: str
    fps: float
    timestamps_s: np.ndarray
    """(T,) float64, rising."""
    table: ChannelTable
    """T rows."""
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)
    """{name: (T,)}."""
    captions: tuple[Caption, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    cameras: Mapping[str, Camera] = field(default_factory=dict)


def log_episodes(
    log: DriveLog, pictures: Mapping[str, Iterable[np.ndarray]], codes: Mapping[str, np.ndarray] | None = None, codebook_size: int = 0
) -> Iterator[Episode]:
    """Episodes of up to 64 steps.

    pictures: {camera: one uint8 (H, W, 3) a step, read as they are needed}; codes: {camera: (T, h, w)}, out of `codebook_size` ids.
    """
    streams = {camera: iter(images) for camera, images in pictures.items()}
    steps = len(log.timestamps_s)
    for start in range(0, steps, CHUNK_STEPS):
        part = slice(start, min(start + CHUNK_STEPS, steps))
        yield Episode(
            drive_id=log.drive_id,
            fps=log.fps,
            timestamps_s=log.timestamps_s[part],
            frames={camera: np.stack(list(islice(stream, part.stop - start))) for camera, stream in streams.items()},
            codes={camera: grid[part].astype(np.int32) for camera, grid in (codes or {}).items()},
            codebook_size=codebook_size,
            telemetry=log.table.telemetry[part],
            telemetry_channels=log.table.telemetry_channels,
            actions=log.table.actions[part],
            action_channels=log.table.action_channels,
            captions=log.captions,
            truth={name: values[part].astype(np.float32) for name, values in log.truth.items()},
            labels=log.labels,
            cameras=log.cameras,
            start=start,
        )


def channel_table(
    steps: int,
    telemetry: Sequence[tuple[ChannelSpec, np.ndarray]] = (),
    actions: Sequence[tuple[ChannelSpec, np.ndarray]] = (),
    *,
    name: str,
) -> ChannelTable:
    """A table of columns (spec, (T,) values); UserError, naming the file `name` and the channel, for what is no finite number."""
    for spec, values in (*telemetry, *actions):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise UserError(f"{name}: {spec.name!r} expected a finite number, got {values[bad[0]]} in row {bad[0] + 1}")

    def columns(chosen: Sequence[tuple[ChannelSpec, np.ndarray]]) -> tuple[np.ndarray, tuple[ChannelSpec, ...]]:
        values = np.stack([values for _, values in chosen], axis=1) if chosen else np.zeros((steps, 0))
        return values.astype(np.float32), tuple(spec for spec, _ in chosen)

    return ChannelTable(*columns(telemetry), *columns(actions))


def take_rows(table: ChannelTable, rows: np.ndarray | slice) -> ChannelTable:
    return ChannelTable(table.telemetry[rows], table.telemetry_channels, table.actions[rows], table.action_channels)


def rows_at(times_s: np.ndarray, fps: float, *, source_fps: float, name: str) -> np.ndarray:
    """Rows nearest to a steady rate; UserError as `resample` has it: time that does not rise, a gap, a rate above the source's."""
    rows = zip(times_s.tolist(), range(len(times_s)), strict=True)
    return np.array([row for _, row in resample(rows, fps, source_fps=source_fps, name=name)])


def text_runs(texts: Sequence[str]) -> tuple[Caption, ...]:
    """A caption for every stretch of steps of which the same (and not nothing) is said."""
    captions, start = [], 0
    for text, group in groupby(texts):
        end = start + len(list(group))
        if text:
            captions.append(Caption(start, end, text))
        start = end
    return tuple(captions)
