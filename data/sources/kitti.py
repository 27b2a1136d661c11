"""KITTI: raw drives (`<date>/<drive>_sync/` with image_0?/, oxts/) and odometry sequences (`sequences/NN/`, `poses/NN.txt`).

Pictures, times and logs belong together by their number. Raw oxts has a clock of its own, whose values are interpolated to the pictures'
times. Raw poses: x east, y north, yaw to the left; odometry poses: those of camera 0, x right, y down, z forward.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data.align import Log, covered, grid_runs
from data.calibration import mean_camera, pinhole_camera
from data.drive_log import DriveLog, channel_table, log_episodes
from data.episode import Camera, Caption, Drive, Episode
from data.errors import UserError
from data.image import IMAGE_SUFFIXES, parse_size, read_image
from data.known_channels import KNOWN_CHANNELS
from data.motion import ecef_of, ground_axes, local_path, planar_motion, yaw_of
from data.recordings import broken_drive, chosen_cameras
from data.resample import check_rates
from data.source import Source

CAMERAS = {"front": 2, "image_00": 0, "image_01": 1, "image_03": 3}
"""Number of each camera: the left colour one, the two gray ones, the right colour one."""
_HEIGHT_M = 1.65
"""Of all cameras, as KITTI's drawing of the car has it."""
_OXTS_TOLERANCE_S = 0.1
_OXTS = {"lat": 0, "lon": 1, "alt": 2, "yaw": 5, "vf": 8, "af": 14, "wz": 19}
"""{field: its place in a row}, of 30."""


@dataclass(frozen=True)
class KittiConfig:
    """KITTI raw drives and odometry sequences: pictures with speed, yaw rate, acceleration and the path driven."""

    input: Path
    """A drive (the folder that holds image_02 or image_2), or a folder of drives up to three levels above."""
    size: str = "64x128"
    """Height x width of the frames in pixels: cut to this aspect about the centre, then resized by area."""
    fps: float = 10.0
    """Frames a second to keep, picked by timestamp. KITTI's own rate is 9.7, which is kept as it is at 10."""
    cameras: tuple[str, ...] = ()
    """Cameras out of front (image_02, the default), image_00, image_01 (both gray), image_03."""
    caption: str | None = None
    """What is said of every frame, such as "sunny town"; training takes it as the prompt."""

    def __post_init__(self) -> None:
        parse_size(self.size)
        check_rates(self.fps, None)
        chosen_cameras(self.cameras, tuple(CAMERAS))


@dataclass(frozen=True)
class _Recording:
    """A drive's folder in one of the two forms."""

    folder: Path
    raw: bool

    @property
    def name(self) -> str:
        name = self.folder.resolve().name
        return name if self.raw else f"sequence_{name}"

    def image_folder(self, camera: str) -> Path:
        number = CAMERAS[camera]
        return self.folder / (f"image_{number:02d}" if self.raw else f"image_{number}")

    def pictures(self, camera: str) -> dict[int, Path]:
        """{number: file}; UserError where there are none."""
        folder = self.image_folder(camera) / "data" if self.raw else self.image_folder(camera)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        files = {int(f.stem): f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and f.stem.isdecimal()}
        if not files:
            raise UserError(f"{folder}: expected pictures named by numbers, got none")
        return files

    def times_file(self, camera: str) -> Path:
        return self.image_folder(camera) / "timestamps.txt" if self.raw else self.folder / "times.txt"


def drives(config: KittiConfig) -> Iterator[Drive]:
    """One drive a recording, or one a stretch without gaps where pictures are missing."""
    names = chosen_cameras(config.cameras, tuple(CAMERAS))
    recordings = _find(config.input)
    size = parse_size(config.size)
    known = {name: mean_camera([camera for r in recordings if (camera := _calibration(r, name, size))]) for name in names}
    for recording in recordings:
        try:
            yield from list(_drives_of(recording, config, known))
        except UserError as error:
            yield broken_drive(recording.name, error)


def episodes(
    drive_id: str,
    recording: _Recording,
    config: KittiConfig,
    times_s: np.ndarray,
    pictures: Mapping[str, tuple[Path, ...]],
    cameras: Mapping[str, Camera],
) -> Iterator[Episode]:
    """The pictures at `times_s` (T,) with what the log says of these times."""
    track = _oxts(recording.folder / "oxts") if recording.raw else _camera_poses(recording)
    kept = slice(0, len(times_s))
    telemetry, actions, truth = [], [], {}
    if track is None:
        print(f"{drive_id}: has no {'oxts' if recording.raw else 'poses'}, so frames only", file=sys.stderr)
    else:
        kept = covered(times_s, [track], name=drive_id)
        motion = track.at(times_s[kept])
        telemetry = [(KNOWN_CHANNELS[name].spec, motion[name]) for name in ("speed_mps", "yaw_rate_rps")]
        actions = [(KNOWN_CHANNELS["acceleration_mps2"].spec, motion["acceleration_mps2"])]
        truth = local_path(motion["x_m"], motion["y_m"], motion["yaw_rad"])
    steps = kept.stop - kept.start
    log = DriveLog(
        drive_id=drive_id,
        fps=config.fps,
        timestamps_s=times_s[kept] - times_s[0],
        table=channel_table(steps, telemetry, actions, name=drive_id),
        truth=truth,
        captions=() if config.caption is None else (Caption(0, steps, config.caption),),
        cameras=cameras,
    )
    size = parse_size(config.size)
    yield from log_episodes(log, {name: (read_image(path, size) for path in paths[kept]) for name, paths in pictures.items()})


def _find(path: Path) -> list[_Recording]:
    if not path.is_dir():
        raise UserError(f"--input {path}: no such folder")
    found = set()
    for depth in range(4):
        found |= {_Recording(folder.parent, raw=True) for folder in path.glob("*/" * depth + "image_0[0-3]")}
        found |= {_Recording(folder.parent, raw=False) for folder in path.glob("*/" * depth + "image_[0-3]")}
    if not found:
        raise UserError(f"--input {path}: expected KITTI raw drives (image_02/) or odometry sequences (image_2/), got none")
    return sorted(found, key=lambda recording: (recording.name, str(recording.folder)))


def _drives_of(recording: _Recording, config: KittiConfig, cameras: Mapping[str, Camera]) -> Iterator[Drive]:
    files = {camera: recording.pictures(camera) for camera in cameras}
    times_file = recording.times_file(next(iter(cameras)))
    times = _read_times(times_file, raw=recording.raw)
    whole = [number for number in range(len(times)) if all(number in numbers for numbers in files.values())]
    for camera, numbers in files.items():
        if len(whole) < max(len(numbers), len(times)):
            counts = f"{recording.image_folder(camera)} has {len(numbers)} pictures, {times_file.name} {len(times)} times"
            print(f"{recording.name}: {counts}; the {len(whole)} that have both are kept", file=sys.stderr)
    if not whole:
        raise UserError(f"{times_file}: expected times of the pictures {min(next(iter(files.values())))} and on, got {len(times)} times")
    runs = grid_runs(times[whole], config.fps, name=str(times_file))
    for number, run in enumerate(runs):
        chosen = [whole[index] for index in run]
        drive_id = recording.name if len(runs) == 1 else f"{recording.name}-run{number:03d}"
        pictures = {camera: tuple(numbers[index] for index in chosen) for camera, numbers in files.items()}
        yield Drive(drive_id, partial(episodes, drive_id, recording, config, times[chosen], pictures, cameras), steps=len(chosen))


def _read_times(path: Path, *, raw: bool) -> np.ndarray:
    """(N,) seconds: of the sequence, or of the era with raw drives ('2011-09-26 13:02:25.961661696')."""
    times = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            time = np.datetime64(line.strip().replace(" ", "T"), "ns").astype(float) * 1e-9 if raw else float(line)
        except ValueError:
            time = np.nan
        if not 0 <= time < 1e10:
            raise UserError(f"{path}: line {number} expected a time, got {line[:40]!r}")
        times.append(float(time))
    if not times:
        raise UserError(f"{path}: expected a time a line, got an empty file")
    return np.array(times)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").rstrip().splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected lines of text, got a foreign file") from error


def _numbers(path: Path, number: int, line: str, count: int) -> list[float]:
    """The `count` numbers of a line; UserError, naming file and line, for anything else."""
    try:
        values = [float(text) for text in line.split()]
    except ValueError:
        values = []
    if len(values) != count:
        raise UserError(f"{path}: line {number} expected {count} numbers, got {line[:40]!r}")
    return values


def _oxts(folder: Path) -> Log | None:
    """What the GPS and inertial unit measured, on its own clock; None where the drive has none."""
    if not folder.is_dir():
        return None
    times = _read_times(folder / "timestamps.txt", raw=True)
    files = {int(file.stem): file for file in (folder / "data").glob("*.txt") if file.stem.isdecimal()}
    numbers = [number for number in sorted(files) if number < len(times)]
    rows = np.array([_oxts_row(files[number]) for number in numbers]).reshape(len(numbers), len(_OXTS))
    lat, lon, alt, yaw, speed, acceleration, yaw_rate = rows.T
    if not numbers:
        raise UserError(f"{folder / 'data'}: expected a file a time in timestamps.txt, got none")
    places = ecef_of(lat, lon, alt)
    east, north, _ = ground_axes(places[0]) @ (places - places[0]).T
    columns = {"speed_mps": speed, "yaw_rate_rps": yaw_rate, "acceleration_mps2": acceleration}
    return Log(
        folder / "timestamps.txt", times[numbers], {**columns, "x_m": east, "y_m": north, "yaw_rad": np.unwrap(yaw)}, _OXTS_TOLERANCE_S
    )


def _oxts_row(path: Path) -> list[float]:
    values = _numbers(path, 1, " ".join(_lines(path)), 30)
    for field, place in _OXTS.items():
        if not np.isfinite(values[place]):
            raise UserError(f"{path}: {field!r} expected a finite number, got {values[place]}")
    return [values[place] for place in _OXTS.values()]


def _camera_poses(recording: _Recording) -> Log | None:
    """Motion from the poses of camera 0; None where the sequence has none, as 11 to 21 have not."""
    path = recording.folder.resolve().parents[1] / "poses" / f"{recording.folder.resolve().name}.txt"
    if not path.is_file():
        return None
    lines = _lines(path)
    rows = np.array([_numbers(path, number, line, 12) for number, line in enumerate(lines, start=1)]).reshape(len(lines), 3, 4)
    bad = np.flatnonzero(~np.isfinite(rows).all((1, 2)))
    if len(bad):
        raise UserError(f"{path}: line {bad[0] + 1} expected finite numbers, got a pose with nan or inf")
    times = _read_times(recording.times_file("front"), raw=False)[: len(rows)]
    rows = rows[: len(times), [2, 0, 1]] * np.array([1, -1, -1])[:, None]  # world axes: x forward, y left, z up
    motion = planar_motion(times, rows[:, 0, 3], rows[:, 1, 3], yaw_of(rows[:, :, 2]), name=str(path))
    return Log(path, times, motion.columns, tolerance_s=0.05)


def _calibration(recording: _Recording, camera: str, size: tuple[int, int]) -> Camera | None:
    """What the calibration beside a recording says of a camera; None where there is none, or it cannot be read."""
    number = CAMERAS[camera]
    path = recording.folder.parent / "calib_cam_to_cam.txt" if recording.raw else recording.folder / "calib.txt"
    try:
        values = {key: text.split() for key, text in re.findall(r"^(\w+): (.*)$", "\n".join(_lines(path)), re.MULTILINE)}
        projection = [float(text) for text in values[f"P_rect_{number:02d}" if recording.raw else f"P{number}"]]
        if recording.raw:
            width, height = (round(float(text)) for text in values[f"S_rect_{number:02d}"])
        else:
            height, width = read_image(min(recording.pictures(camera).values())).shape[:2]
        return pinhole_camera(projection[0], projection[2], (height, width), size, height_m=_HEIGHT_M)
    except UserError:
        return None
    except (KeyError, ValueError, IndexError, ZeroDivisionError):
        print(f"{path}: expected the projection of camera {number}, got another text; its field of view stays unknown", file=sys.stderr)
        return None


SOURCE = Source(KittiConfig, drives, frames_a_second=80, license="CC BY-NC-SA 3.0")
