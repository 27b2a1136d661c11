"""What the sources of recorded drives share: frames and rows of channels in, drives out."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data.episode import Caption, ChannelSpec, Drive, Episode
from data.errors import UserError
from data.image import image_problem, read_image
from data.resample import resample, unbroken_runs
from data.video import VideoFrame

CAMERA = "front"
CHUNK_STEPS = 64
_REPORTED = 5
"""Broken pictures told one by one; the rest only counted."""


@dataclass(frozen=True)
class ChannelTable:
    """Channels of a recording, one row a source frame."""

    telemetry: np.ndarray
    """(N, M) float32."""
    telemetry_channels: tuple[ChannelSpec, ...]
    actions: np.ndarray
    """(N, A) float32."""
    action_channels: tuple[ChannelSpec, ...]

    def __len__(self) -> int:
        return len(self.telemetry)


@dataclass(frozen=True)
class Picture:
    """A picture file of a recording: `index` counts capture times, `row` is its row in the recording's ChannelTable."""

    index: int
    row: int
    path: Path


def stream_episodes(
    drive_id: str, frames: Iterable[VideoFrame], table: ChannelTable | None, *, fps: float, caption: str | None
) -> Iterator[Episode]:
    """Episodes of up to 64 steps; frame `index` takes that row of `table`."""
    chunk: list[VideoFrame] = []
    start = 0
    for frame in frames:
        chunk.append(frame)
        if len(chunk) == CHUNK_STEPS:
            yield _episode(drive_id, chunk, table, fps, caption, start)
            start += len(chunk)
            chunk = []
    if chunk:
        yield _episode(drive_id, chunk, table, fps, caption, start)


def picture_drives(
    name: str,
    pictures: Sequence[Picture],
    table: ChannelTable | None,
    *,
    fps: float,
    source_fps: float,
    size: tuple[int, int],
    caption: str | None,
) -> Iterator[Drive]:
    """One drive for every stretch of `pictures` without gaps; pictures that are missing or broken are reported and left out."""
    whole = _without_broken(name, pictures)
    runs = unbroken_runs([picture.index for picture in whole], fps=fps, source_fps=source_fps)
    for number, run in enumerate(runs):
        drive_id = name if len(runs) == 1 else f"{name}-run{number:03d}"
        stretch = tuple(whole[run])
        steps = round(len(stretch) * fps / source_fps)
        yield Drive(drive_id, partial(_picture_episodes, drive_id, stretch, table, fps, source_fps, size, caption), steps=steps)


def broken_drive(drive_id: str, error: UserError) -> Drive:
    """Stands for a drive that was found to be broken before it was read: the store reports it like any other and goes on."""
    return Drive(drive_id, partial(_raise, str(error)), steps=0)


def _raise(message: str) -> Iterator[Episode]:
    raise UserError(message)


def chosen_cameras(asked: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The cameras of `--cameras`, between which commas may stand, or the first known one; UserError for an unknown or repeated name."""
    names = tuple(name for text in asked for name in text.split(",") if name) or (known[0],)
    for name in names:
        if name not in known:
            raise UserError(f"--cameras: expected names out of {', '.join(known)}, got {name!r}")
        if names.count(name) > 1:
            raise UserError(f"--cameras: expected every camera once, got {name!r} twice")
    return names


def _without_broken(name: str, pictures: Sequence[Picture]) -> list[Picture]:
    whole, broken = [], 0
    for picture in pictures:
        problem = image_problem(picture.path)
        if problem is None:
            whole.append(picture)
            continue
        broken += 1
        if broken <= _REPORTED:
            print(f"skipped a picture of {name}: {problem}", file=sys.stderr)
    if broken > _REPORTED:
        print(f"skipped {broken} pictures of {name} in all", file=sys.stderr)
    if not whole:
        raise UserError(f"{name}: expected at least one whole picture, got {broken} broken ones")
    return whole


def _picture_episodes(
    drive_id: str,
    pictures: tuple[Picture, ...],
    table: ChannelTable | None,
    fps: float,
    source_fps: float,
    size: tuple[int, int],
    caption: str | None,
) -> Iterator[Episode]:
    timed = ((picture.index / source_fps, picture) for picture in pictures)
    picked = resample(timed, fps, source_fps=source_fps, name=drive_id)
    frames = (VideoFrame(picture.row, time, read_image(picture.path, size)) for time, picture in picked)
    return stream_episodes(drive_id, frames, table, fps=fps, caption=caption)


def _episode(
    drive_id: str, frames: Sequence[VideoFrame], table: ChannelTable | None, fps: float, caption: str | None, start: int
) -> Episode:
    rows = [frame.index for frame in frames]
    empty = np.zeros((len(frames), 0), np.float32)
    return Episode(
        drive_id=drive_id,
        fps=fps,
        timestamps_s=np.array([frame.timestamp_s for frame in frames]),
        frames={CAMERA: np.stack([frame.image for frame in frames])},
        telemetry=empty if table is None else table.telemetry[rows],
        telemetry_channels=() if table is None else table.telemetry_channels,
        actions=empty if table is None else table.actions[rows],
        action_channels=() if table is None else table.action_channels,
        # How long the drive is shows at its end only: the store cuts captions to it.
        captions=() if caption is None else (Caption(0, sys.maxsize, caption),),
        start=start,
    )
