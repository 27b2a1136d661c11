"""Waymo Open Dataset v2: a Parquet file a segment in a folder a component, `<root>/<split>/camera_image/<segment>.parquet` and so on.

Rows belong together by segment, microsecond and camera. `vehicle_pose` tells where the car (x forward, y left, z up) stands in the world,
at the times of the pictures. Pictures are decoded one by one, and of a file of 400 MB one row group is held at most.
"""

import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from data.align import Log, covered
from data.calibration import mean_camera, pinhole_camera
from data.drive_log import DriveLog, channel_table, log_episodes, rows_at
from data.episode import Camera, Caption, Drive, Episode
from data.errors import UserError
from data.image import fit, parse_size
from data.known_channels import KNOWN_CHANNELS
from data.motion import local_path, planar_motion, yaw_of
from data.recordings import chosen_cameras
from data.resample import check_rates
from data.source import Source

if TYPE_CHECKING:
    import pyarrow.parquet as pq

SOURCE_FPS = 10.0
CAMERAS = {"front": 1, "front_left": 2, "front_right": 3, "side_left": 4, "side_right": 5}
"""Number of each camera; some files have the name in capitals in its place."""
_SPLITS = {"training": "train", "validation": "val", "testing": "test"}
_TIME, _CAMERA, _IMAGE = "key.frame_timestamp_micros", "key.camera_name", "[CameraImageComponent].image"
_POSE = "[VehiclePoseComponent].world_from_vehicle.transform"
_ROWS = 8
"""Pictures read at once, of about 300 kB each."""
_BUFFER_BYTES = 1 << 20
_WORDS = {"sunny": "sunny", "rain": "rainy", "fog": "foggy", "snow": "snowy", "dawn/dusk": "dawn or dusk"}
"""What Waymo's labels are called in captions; others are taken as they are."""


@dataclass(frozen=True)
class WaymoConfig:
    """Waymo Open Dataset v2 segments: up to five cameras, speed, yaw rate, path, and a caption from time of day and weather."""

    input: Path
    """The root, which holds training/ and validation/, or a single split, which holds camera_image/."""
    size: str = "64x128"
    """Height x width of the frames in pixels: cut to this aspect about the centre, then resized by area."""
    fps: float = 10.0
    """Frames a second to keep, of 10."""
    cameras: tuple[str, ...] = ()
    """Cameras out of front (the default), front_left, front_right, side_left, side_right."""
    caption: str | None = None
    """What is said of every frame; without it, time of day and weather are said, such as "rainy night"."""

    def __post_init__(self) -> None:
        parse_size(self.size)
        check_rates(self.fps, SOURCE_FPS)
        chosen_cameras(self.cameras, tuple(CAMERAS))


@dataclass(frozen=True)
class _Segment:
    """A segment's files: one a component, of the same name."""

    split: Path
    file: str

    def component(self, name: str) -> Path:
        return self.split / name / self.file


def drives(config: WaymoConfig) -> Iterator[Drive]:
    """One drive a segment. Splits are Waymo's own where both training and validation are there."""
    names = chosen_cameras(config.cameras, tuple(CAMERAS))
    segments = _find(config.input)
    splits = {segment.split.name for segment in segments}
    theirs = {"training", "validation"} <= splits
    calibrations = [_calibration(segment, parse_size(config.size)) for segment in segments]
    cameras = {name: mean_camera([known[name] for known in calibrations if name in known]) for name in names}
    for segment in segments:
        split = _SPLITS.get(segment.split.name, segment.split.name) if theirs else None
        yield Drive(Path(segment.file).stem, partial(episodes, segment, config, cameras), split, _expected_steps(segment, config.fps))


def episodes(segment: _Segment, config: WaymoConfig, cameras: Mapping[str, Camera]) -> Iterator[Episode]:
    """A segment's pictures with its pose and labels."""
    name, images = Path(segment.file).stem, segment.component("camera_image")
    times, rows = _picture_rows(name, images, tuple(cameras))
    chosen = rows_at(times, config.fps, source_fps=SOURCE_FPS, name=str(images))
    poses = _pose_log(segment.component("vehicle_pose"))
    telemetry, truth = [], {}
    if poses is None:
        print(f"{name}: no {segment.component('vehicle_pose')}, so frames only", file=sys.stderr)
    else:
        chosen = chosen[covered(times[chosen], [poses], name=name)]
        motion = poses.at(times[chosen])
        telemetry = [(KNOWN_CHANNELS[channel].spec, motion[channel]) for channel in ("speed_mps", "yaw_rate_rps")]
        truth = local_path(motion["x_m"], motion["y_m"], motion["yaw_rad"])
    labels = _labels(segment.component("stats"))
    caption = config.caption if config.caption is not None else _caption(labels)
    log = DriveLog(
        drive_id=name,
        fps=config.fps,
        timestamps_s=times[chosen] - times[0],
        table=channel_table(len(chosen), telemetry, name=name),
        truth=truth,
        captions=(Caption(0, len(chosen), caption),) if caption else (),
        labels=labels,
        cameras=cameras,
    )
    size = parse_size(config.size)
    yield from log_episodes(log, _images(images, {camera: found[chosen] for camera, found in rows.items()}, size))


def _find(path: Path) -> list[_Segment]:
    """Every file of pictures in `path/camera_image` or `path/<split>/camera_image`."""
    if not path.is_dir():
        raise UserError(f"--input {path}: no such folder")
    found = [file for pattern in ("camera_image/*.parquet", "*/camera_image/*.parquet") for file in sorted(path.glob(pattern))]
    if not found:
        raise UserError(f"--input {path}: expected Waymo v2 segments (camera_image/*.parquet), got none")
    return [_Segment(file.parent.parent.resolve(), file.name) for file in found]


def _expected_steps(segment: _Segment, fps: float) -> int:
    """From the number of poses, or else of pictures of the commonest camera; 0 where the files are broken."""
    try:
        if segment.component("vehicle_pose").is_file():
            with _opened(segment.component("vehicle_pose")) as file:
                return round(file.metadata.num_rows * fps / SOURCE_FPS)
        cameras = _columns(segment.component("camera_image"), (_CAMERA,))[_CAMERA]
        return round(max(Counter(cameras.tolist()).values(), default=0) * fps / SOURCE_FPS)
    except UserError:
        return 0


@contextmanager
def _opened(path: Path, columns: tuple[str, ...] = ()) -> Iterator["pq.ParquetFile"]:
    """A Parquet file that has all of `columns`; what goes wrong while it is in use is told in one line."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Without a buffer, all of a row group's pictures would be held twice: as they lie in the file, and uncompressed.
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            for name in columns:
                if name not in file.schema_arrow.names:
                    raise UserError(f"{path}: expected a column {name!r}, got {', '.join(file.schema_arrow.names[:8])}")
            yield file
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: expected a Parquet file, got an empty, truncated or foreign one") from error


def _columns(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """{column: (N,), or (N, width) where each value is a list}; UserError, naming file and column, where one is missing or has gaps."""
    with _opened(path, names) as file:
        table = file.read(columns=list(names))
    try:
        values = {name: np.array(table.column(name).to_pylist()) for name in names}
    except ValueError as error:
        raise UserError(f"{path}: expected lists of one length in {' '.join(names)}, got others") from error
    for name, array in values.items():
        if array.dtype == object or not len(array):
            raise UserError(f"{path}: {name!r} expected a value in every row, got {'nulls' if len(array) else 'no row'}")
    return values


def _is_camera(values: np.ndarray, camera: str) -> np.ndarray:
    return values == (camera.upper() if values.dtype.kind == "U" else CAMERAS[camera])


def _picture_rows(name: str, path: Path, cameras: tuple[str, ...]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(times in s (N,), {camera: (N,) rows}) of the moments of which all cameras have a picture; says on stderr which have not."""
    keys = _columns(path, (_TIME, _CAMERA))
    found: dict[str, dict[int, int]] = {}
    for camera in cameras:
        rows = np.flatnonzero(_is_camera(keys[_CAMERA], camera))
        times = keys[_TIME][rows]
        if not len(rows):
            raise UserError(f"{path}: {_CAMERA!r} expected pictures of {camera}, got none")
        falls = np.flatnonzero(np.diff(times) <= 0)
        if len(falls):
            before, now = times[falls[0]], times[falls[0] + 1]
            raise UserError(f"{path}: {_TIME!r} expected to rise, got {now} after {before} in row {rows[falls[0] + 1]}")
        found[camera] = dict(zip(times.tolist(), rows.tolist(), strict=True))
    moments = sorted(set.intersection(*(set(rows) for rows in found.values())))
    most = max(len(rows) for rows in found.values())
    if len(moments) < most:
        print(f"{name}: {len(moments)} of {most} moments have a picture of every camera; the others are left out", file=sys.stderr)
    if not moments:
        raise UserError(f"{path}: expected moments with a picture of each of {', '.join(cameras)}, got none")
    return np.array(moments) * 1e-6, {camera: np.array([rows[time] for time in moments]) for camera, rows in found.items()}


def _images(path: Path, rows: Mapping[str, np.ndarray], size: tuple[int, int]) -> dict[str, Iterator[np.ndarray]]:
    """{camera: the pictures in its rising rows, fitted to `size`}; the file is read once, whichever camera is asked."""
    camera_of = {int(row): camera for camera, found in rows.items() for row in found}
    waiting: dict[str, deque[np.ndarray]] = {camera: deque() for camera in rows}
    stream = _read_pictures(path, camera_of, size)

    def pictures(camera: str) -> Iterator[np.ndarray]:
        for _ in rows[camera]:
            while not waiting[camera]:
                found, image = next(stream)
                waiting[found].append(image)
            yield waiting[camera].popleft()

    return {camera: pictures(camera) for camera in rows}


def _read_pictures(path: Path, camera_of: Mapping[int, str], size: tuple[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """(camera, picture) of the rows in `camera_of`, in the file's order."""
    with _opened(path, (_IMAGE,)) as file:
        row = 0
        for batch in file.iter_batches(_ROWS, columns=[_IMAGE]):
            for value in batch.column(0):
                if row in camera_of:
                    yield camera_of[row], _decode(value.as_py(), f"{path}: {_IMAGE!r} in row {row}", size)
                row += 1


def _decode(data: bytes | None, name: str, size: tuple[int, int]) -> np.ndarray:
    """OpenCV paints the missing part of a truncated JPEG gray and says nothing, so its end is looked for here."""
    if not data or not data.startswith(b"\xff\xd8") or b"\xff\xd9" not in data[-4096:]:
        raise UserError(f"{name}: expected a whole JPEG picture, got a truncated one or none")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"{name}: expected a JPEG picture, got damaged bytes")
    return fit(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), size)


def _pose_log(path: Path) -> Log | None:
    """The car's motion; None where the segment has no poses."""
    if not path.is_file():
        return None
    values = _columns(path, (_TIME, _POSE))
    poses = values[_POSE].astype(float)
    if poses.shape[1:] != (16,) or not np.isfinite(poses).all():
        got = f"{poses.shape[1:]}" if poses.shape[1:] != (16,) else f"nan or inf in row {np.argwhere(~np.isfinite(poses))[0, 0]}"
        raise UserError(f"{path}: {_POSE!r} expected 16 finite numbers a row, got {got}")
    order = np.argsort(values[_TIME], kind="stable")
    times = values[_TIME][order] * 1e-6
    matrix = poses[order].reshape(-1, 4, 4)
    motion = planar_motion(times, matrix[:, 0, 3], matrix[:, 1, 3], yaw_of(matrix[:, :3, 0]), name=str(path))
    return Log(path, times, motion.columns, tolerance_s=0.5 / SOURCE_FPS)


def _labels(path: Path) -> dict[str, str]:
    """What is said of most of a segment's moments, as far as something is said; nothing where it has no stats."""
    if not path.is_file():
        return {}
    labels = {}
    with _opened(path) as file:
        for name in ("time_of_day", "weather", "location"):
            column = f"[StatsComponent].{name}"
            said = file.read(columns=[column]).column(0).to_pylist() if column in file.schema_arrow.names else []
            for text, _ in Counter(str(text) for text in said if text).most_common(1):
                labels[name] = text.lower()
    return labels


def _caption(labels: Mapping[str, str]) -> str:
    """{'weather': 'rain', 'time_of_day': 'night'} -> 'rainy night'."""
    said = [labels[name] for name in ("weather", "time_of_day") if labels.get(name)]
    return " ".join(_WORDS.get(word, word) for word in said)


def _calibration(segment: _Segment, size: tuple[int, int]) -> dict[str, Camera]:
    """{camera: what the segment's calibration says}; nothing where there is none, said on stderr where it cannot be read."""
    path = segment.component("camera_calibration")
    if not path.is_file():
        return {}
    part = "[CameraCalibrationComponent]"
    names = [f"{part}.{name}" for name in ("intrinsic.f_u", "intrinsic.c_u", "height", "width", "extrinsic.transform")]
    try:
        values = _columns(path, (_CAMERA, *names))
        focal, centre, height, width, mount = (values[name] for name in names)
        cameras = {}
        for camera in CAMERAS:
            for row in np.flatnonzero(_is_camera(values[_CAMERA], camera)):
                matrix = mount[row].reshape(4, 4)  # a camera looks along its x
                source_size = int(height[row]), int(width[row])
                cameras[camera] = pinhole_camera(
                    focal[row], centre[row], source_size, size, axis=matrix[:3, 0].tolist(), height_m=float(matrix[2, 3])
                )
        return cameras
    except (UserError, ValueError) as error:
        print(f"{error}; its cameras' fields of view stay unknown", file=sys.stderr)
        return {}


SOURCE = Source(WaymoConfig, drives, frames_a_second=45, license="Waymo Dataset License Agreement for Non-Commercial Use")
