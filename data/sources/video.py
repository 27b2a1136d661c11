"""Any video: a file, a folder of files, or a folder of pictures; with per-frame telemetry from CSV files where there are some."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data.episode import Drive, Episode
from data.errors import UserError
from data.image import IMAGE_SUFFIXES, parse_size
from data.known_channels import KNOWN_CHANNELS, Channel, parse_channel
from data.recordings import Picture, picture_drives, stream_episodes
from data.resample import check_rates
from data.source import Source
from data.telemetry_csv import read_telemetry
from data.video import VIDEO_SUFFIXES, count_frames, decode_frames, probe


@dataclass(frozen=True)
class VideoConfig:
    """Video files (mp4, mkv, hevc, avi, ...) or pictures, with or without telemetry."""

    input: Path
    """A video file, a folder of video files (each one a drive), or a folder of pictures (one drive, in the order of their numbers)."""
    size: str = "64x128"
    """Height x width of the frames in pixels: cut to this aspect about the centre, then resized by area."""
    fps: float = 10.0
    """Frames a second to keep, picked by timestamp."""
    source_fps: float | None = None
    """True frames a second of the source, where it has no clock (pictures) or a wrong one."""
    csv: Path | None = None
    """Channels of a single clip, a column each, a row a source frame. Without this, <clip>.csv beside each clip is taken, if any."""
    channel: tuple[str, ...] = ()
    """Declares further CSV columns, each as NAME:UNIT:LOW:HIGH:telemetry or NAME:UNIT:LOW:HIGH:action."""
    caption: str | None = None
    """What is said of every frame, such as "sunny highway"; training takes it as the prompt."""

    def __post_init__(self) -> None:
        parse_size(self.size)
        check_rates(self.fps, self.source_fps)


def drives(config: VideoConfig) -> Iterator[Drive]:
    """One drive a clip, in natural order; a folder of pictures is one drive a stretch without gaps."""
    channels = {**KNOWN_CHANNELS, **{channel.spec.name: channel for channel in map(parse_channel, config.channel)}}
    clips, pictures = _find(config.input)
    if config.csv is not None and len(clips) > 1:
        raise UserError(f"--csv {config.csv}: expected a single clip, got {len(clips)}; put <clip>.csv beside each clip instead")
    if pictures:
        yield from _picture_drives(config, pictures, channels)
    names = _names(clips)
    for clip in clips:
        beside = clip.with_suffix(".csv")
        table = config.csv or (beside if beside.is_file() else None)
        yield Drive(names[clip], partial(_clip_episodes, config, clip, names[clip], table, channels), steps=_expected_steps(config, clip))


def natural_order(path: Path) -> list[tuple[int, str]]:
    """Sorts 'frame_9' before 'frame_10'."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _find(path: Path) -> tuple[list[Path], list[Path]]:
    """(video files, picture files) at `path`, in natural order; pictures only where there are no videos."""
    if path.is_file():
        return [path], []
    if not path.is_dir():
        raise UserError(f"--input {path}: no such file or folder")
    files = sorted((entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith(".")), key=natural_order)
    clips = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    pictures = [] if clips else [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if not clips and not pictures:
        raise UserError(f"--input {path}: expected videos ({' '.join(VIDEO_SUFFIXES)}) or pictures ({' '.join(IMAGE_SUFFIXES)}), got none")
    return clips, pictures


def _names(clips: list[Path]) -> dict[Path, str]:
    """Drives are named after their files, with the suffix where two files differ in it alone."""
    stems = [clip.stem for clip in clips]
    return {clip: clip.stem if stems.count(clip.stem) == 1 else clip.name for clip in clips}


def _expected_steps(config: VideoConfig, clip: Path) -> int:
    """From the header alone; 0 for a broken file, which is reported when it is read."""
    try:
        info = probe(clip)
    except UserError:
        return 0
    rate = config.source_fps or info.fps
    return round(info.frames / rate * config.fps) if rate else 0


def _clip_episodes(config: VideoConfig, clip: Path, name: str, csv: Path | None, channels: Mapping[str, Channel]) -> Iterator[Episode]:
    table = None if csv is None else read_telemetry(csv, channels)
    if table is not None and len(table) != (count := count_frames(clip)):
        raise UserError(f"{csv}: expected {count} rows, one a frame of {clip.name}, got {len(table)}")
    frames = decode_frames(clip, fps=config.fps, size=parse_size(config.size), source_fps=config.source_fps)
    return stream_episodes(name, frames, table, fps=config.fps, caption=config.caption)


def _picture_drives(config: VideoConfig, files: list[Path], channels: Mapping[str, Channel]) -> Iterator[Drive]:
    if config.source_fps is None:
        raise UserError(f"--input {config.input}: pictures have no clock; give their rate with --source-fps")
    table = None if config.csv is None else read_telemetry(config.csv, channels)
    if table is not None and len(table) != len(files):
        raise UserError(f"{config.csv}: expected {len(files)} rows, one a picture in {config.input}, got {len(table)}")
    pictures = [Picture(index, index, file) for index, file in enumerate(files)]
    yield from picture_drives(
        config.input.resolve().name,
        pictures,
        table,
        fps=config.fps,
        source_fps=config.source_fps,
        size=parse_size(config.size),
        caption=config.caption,
    )


SOURCE = Source(VideoConfig, drives, frames_a_second=150)
