"""True frames to go on from, as tokens: from a prepared drive, a video or an image."""

from pathlib import Path

import numpy as np

from data.errors import UserError
from worldgpt.pipeline import WorldGPTPipeline


def read_context(pipeline: WorldGPTPipeline, path: str | Path, frames: int) -> np.ndarray:
    """Tokens (T, J) of the first `frames` steps of a drive's .parquet file, a video or an image.

    A drive brings its channels; a video and an image have none, they stand as NULL. UserError where there are fewer steps than asked.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: expected a drive of a prepared set (.parquet), a video or an image, found nothing there")
    if path.is_dir():
        raise UserError(f"{path}: expected one drive, a folder was given; name a .parquet file in it")
    if path.suffix == ".parquet":
        return _drive_tokens(pipeline, path, 0, frames)
    camera = pipeline.model.layout.of_kind("frame")[0].name.removeprefix("camera/")
    height, width = pipeline.model.config.frame_size
    return pipeline.context({camera: _pictures(path, frames, pipeline.model.config.fps, (height, width))})


def read_log(pipeline: WorldGPTPipeline, path: str | Path, first: int, frames: int) -> np.ndarray:
    """Tokens (T, J) of `frames` steps of a drive's .parquet file from step `first` on: what a log replay is held against."""
    if Path(path).suffix != ".parquet":
        raise UserError(f"{path}: a log replay needs a drive of a prepared set (.parquet), which knows its telemetry and actions")
    return _drive_tokens(pipeline, Path(path), first, frames)


def _drive_tokens(pipeline: WorldGPTPipeline, path: Path, first: int, frames: int) -> np.ndarray:
    from data.store import EpisodeStore

    store = EpisodeStore.open(path.absolute().parent.parent)
    record = next((d for d in store.manifest.drives if store.path / d.file == path.absolute()), None)
    if record is None:
        raise UserError(f"{path}: is not a drive of the prepared set in {store.path}")
    if record.steps < first + frames:
        asked = f"{first} steps of context and {frames} generated frames" if first else f"--context-frames {frames} steps"
        raise UserError(f"{path}: expected at least {asked}, the drive has {record.steps}")
    if store.manifest.fps != pipeline.model.config.fps:
        raise UserError(
            f"{path}: expected {pipeline.model.config.fps:g} frames a second as the world model has, got {store.manifest.fps:g}"
        )
    known = [stream.name.removeprefix("camera/") for stream in pipeline.model.layout.of_kind("frame")]
    if not set(known) & set(store.manifest.signals.frame_sizes):
        raise UserError(f"{path}: expected one of the world model's cameras ({', '.join(known)}), got {', '.join(store.manifest.cameras)}")
    episode = store.read(record.drive_id, first, first + frames)
    telemetry = {c.name: episode.telemetry[:, i] for i, c in enumerate(episode.telemetry_channels)}
    actions = {c.name: episode.actions[:, i] for i, c in enumerate(episode.action_channels)}
    return pipeline.context(episode.frames, telemetry, actions)


def _pictures(path: Path, frames: int, fps: float, size: tuple[int, int]) -> np.ndarray:
    """(T, H, W, 3) uint8; an image counts as one frame."""
    from itertools import islice

    from data.image import IMAGE_SUFFIXES, read_image
    from data.video import decode

    if path.suffix.lower() in IMAGE_SUFFIXES:
        return read_image(path, size)[None]
    found = [frame for _, frame in islice(decode(path, fps=fps, size=size), frames)]
    if len(found) < frames:
        raise UserError(f"{path}: expected at least --context-frames {frames} frames at {fps:g} a second, got {len(found)}")
    return np.stack(found)
