"""commaVQ: minutes of real driving as codes, 128 a frame out of 1024, at 20 frames a second; there are no pictures.

The shards of the data set unpack to `<key>.token.npy` (N, 8, 16) and `<key>.pose.npy` (N, 6) beside it; single files are often (N, 128).
A pose holds velocities in m/s, then rotation rates in rad/s, about the axes forward, right, down: its yaw rate is positive to the right.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data.drive_log import DriveLog, channel_table, log_episodes, rows_at
from data.episode import Caption, Drive, Episode
from data.errors import UserError
from data.known_channels import KNOWN_CHANNELS
from data.recordings import CAMERA, broken_drive
from data.resample import check_rates
from data.source import Source

SOURCE_FPS = 20.0
GRID = (8, 16)
CODEBOOK_SIZE = 1024
_FORWARD, _YAW_RATE = 0, 5
"""Columns of a pose."""


@dataclass(frozen=True)
class CommavqConfig:
    """commaVQ: real driving as ready-made codes, with speed and yaw rate where poses are there."""

    input: Path
    """A file of codes (.npy), or a folder of them: <name>.token.npy or <name>.npy."""
    poses: Path | None = None
    """Folder of poses named as the files of codes are (<name>.npy). Without it, <name>.pose.npy beside the codes is taken, if any."""
    fps: float = SOURCE_FPS
    """Frames a second to keep out of 20."""
    caption: str | None = None
    """What is said of every frame; training takes it as the prompt."""

    def __post_init__(self) -> None:
        check_rates(self.fps, SOURCE_FPS)


def drives(config: CommavqConfig) -> Iterator[Drive]:
    """One drive a file, or one a stretch where poses that are no numbers make gaps."""
    for name, path in _find(config.input, config.poses).items():
        pose = _pose_file(config, name, path)
        try:
            runs = [slice(0, len(read_codes(path)))] if pose is None else _finite_runs(read_poses(pose, len(read_codes(path))), pose)
        except UserError as error:
            yield broken_drive(name, error)
            continue
        for number, run in enumerate(runs):
            drive_id = name if len(runs) == 1 else f"{name}-run{number:03d}"
            steps = round((run.stop - run.start) * config.fps / SOURCE_FPS)
            yield Drive(drive_id, partial(episodes, config, drive_id, path, pose, run), steps=steps)


def episodes(config: CommavqConfig, drive_id: str, path: Path, pose: Path | None, run: slice) -> Iterator[Episode]:
    """Rows `run` of a file of codes, with their poses."""
    codes = read_codes(path)
    times = np.arange(run.start, run.stop) / SOURCE_FPS
    rows = rows_at(times, config.fps, source_fps=SOURCE_FPS, name=str(path))
    telemetry = []
    if pose is not None:
        poses = read_poses(pose, len(codes))[run][rows]
        telemetry = [
            (KNOWN_CHANNELS["speed_mps"].spec, poses[:, _FORWARD]),
            (KNOWN_CHANNELS["yaw_rate_rps"].spec, -poses[:, _YAW_RATE]),
        ]
    log = DriveLog(
        drive_id=drive_id,
        fps=config.fps,
        timestamps_s=times[rows],
        table=channel_table(len(rows), telemetry, name=str(pose)),
        captions=() if config.caption is None else (Caption(0, len(rows), config.caption),),
    )
    yield from log_episodes(log, {}, codes={CAMERA: codes[run][rows]}, codebook_size=CODEBOOK_SIZE)


def read_codes(path: Path) -> np.ndarray:
    """int (N, 8, 16), 0..1023; UserError, naming the file, for anything else."""
    codes = _load(path)
    if codes.dtype.kind not in "iu" or codes.shape[1:] not in (GRID, (GRID[0] * GRID[1],)) or not codes.size:
        raise UserError(f"{path}: expected whole numbers of shape (N, 128) or (N, 8, 16), got {codes.dtype} {codes.shape}")
    if not 0 <= codes.min() <= codes.max() < CODEBOOK_SIZE:
        raise UserError(f"{path}: expected codes 0..{CODEBOOK_SIZE - 1}, got {codes.min()}..{codes.max()}")
    return codes.reshape(len(codes), *GRID)


def read_poses(path: Path, steps: int) -> np.ndarray:
    """float (N, 6), one row a frame; UserError, naming the file, for anything else."""
    poses = _load(path)
    if poses.dtype.kind != "f" or poses.shape != (steps, 6):
        raise UserError(f"{path}: expected floats of shape ({steps}, 6), a row for each row of codes, got {poses.dtype} {poses.shape}")
    return poses


def _find(path: Path, poses: Path | None) -> dict[str, Path]:
    """{name: file of codes} at `path` or below, in the order of names; in folders below, names hold the folder's."""
    if path.is_file():
        return {_name(path): path}
    if not path.is_dir():
        raise UserError(f"--input {path}: no such file or folder")
    files = [file for file in sorted(path.rglob("*.npy")) if not file.name.endswith(".pose.npy") and poses not in file.parents]
    if not files:
        raise UserError(f"--input {path}: expected .npy files of codes, got none; unpack archives first")
    return {"_".join([*file.parent.relative_to(path).parts, _name(file)]): file for file in files}


def _name(path: Path) -> str:
    return path.stem.removesuffix(".token")


def _pose_file(config: CommavqConfig, name: str, path: Path) -> Path | None:
    if config.poses is not None:
        return config.poses / f"{_name(path)}.npy"
    beside = path.with_name(f"{_name(path)}.pose.npy")
    return beside if beside.is_file() else None


def _finite_runs(poses: np.ndarray, path: Path) -> list[slice]:
    """Stretches of rows whose speed and yaw rate are numbers; says on stderr how many rows are left out."""
    bad = ~(np.isfinite(poses[:, _FORWARD]) & np.isfinite(poses[:, _YAW_RATE]))
    if bad.all():
        raise UserError(f"{path}: expected finite velocities and rotation rates, got none")
    if bad.any():
        row = int(np.argmax(bad)) + 1
        print(f"{path}: left out {bad.sum()} of {len(poses)} rows, whose pose is no finite number (row {row})", file=sys.stderr)
    edges = np.flatnonzero(np.diff(np.concatenate([[True], bad, [True]]).astype(int)))
    return [slice(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: expected an array of numbers (.npy), got a truncated, pickled or foreign file") from error


SOURCE = Source(CommavqConfig, drives, frames_a_second=20_000, license="MIT")
