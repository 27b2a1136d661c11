"""nuScenes v1.0: scenes of 20 s with six cameras, in JSON tables (`v1.0-*/*.json`) that refer to each other and to pictures.

Cameras are not steady: pictures come 50 or 100 ms apart (12 a second), and each camera has its own moment. Steps are those of the first
camera; the others give their nearest pictures. Every picture has a pose of the car, x forward, y left, z up, on the map of its town.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.align import Log, covered, grid_runs, nearest
from data.calibration import mean_camera, pinhole_camera
from data.data_paths import inside
from data.drive_log import DriveLog, channel_table, log_episodes
from data.episode import Camera, Caption, ChannelSpec, Drive, Episode
from data.errors import UserError
from data.image import parse_size, read_image
from data.known_channels import KNOWN_CHANNELS
from data.motion import local_path, planar_motion, rotations, yaw_of
from data.recordings import broken_drive, chosen_cameras
from data.resample import check_rates
from data.source import Source

CAMERAS = {name: f"CAM_{name.upper()}" for name in ("front", "front_left", "front_right", "back", "back_left", "back_right")}
_SYNC_S = 0.075
"""Pictures of other cameras lie within this of the first one's: half of the widest step, and a little more."""
_POSE_TOLERANCE_S = 0.05
_STEERING = (("steeranglefeedback", "value", 1.0, 0.1), ("zoe_veh_info", "steer_corrected", np.pi / 180, 0.1))
_STEERING += (("vehicle_monitor", "steering", np.pi / 180, 0.5),)
"""(message, field, its unit in radians, tolerance in s) in which CAN tells the steering wheel's angle, the finest first. nuScenes documents
that left is positive in the first; the signs of the others are not documented, and taken to be the same."""


_KINDS = {"timestamp": (int, float), "translation": list, "rotation": list, "camera_intrinsic": list}
"""Of the fields that are no text."""


@dataclass(frozen=True)
class NuscenesConfig:
    """nuScenes: scenes with up to six cameras, speed, yaw rate, path and caption, and steering where the CAN bus expansion is there."""

    input: Path
    """The root, which holds v1.0-trainval (or -mini, -test), samples/, sweeps/ and perhaps can_bus/."""
    version: str | None = None
    """Folder of the tables, such as v1.0-mini, where there are several."""
    size: str = "64x128"
    """Height x width of the frames in pixels: cut to this aspect about the centre, then resized by area."""
    fps: float = 10.0
    """Frames a second to keep, picked by timestamp: at most 12 with sweeps, 2 with key frames (samples/) alone."""
    cameras: tuple[str, ...] = ()
    """Cameras out of front (the default), front_left, front_right, back, back_left, back_right."""
    steering_ratio: float | None = None
    """Turn of the steering wheel for one of the road wheels. With it the action is steering_rad (road wheels), without it
    steering_wheel_rad, which is what CAN reports."""
    caption: str | None = None
    """What is said of every frame; without it, the scene's description is said."""

    def __post_init__(self) -> None:
        parse_size(self.size)
        check_rates(self.fps, None)
        chosen_cameras(self.cameras, tuple(CAMERAS))
        if self.steering_ratio is not None and not self.steering_ratio > 0:
            raise UserError(f"--steering-ratio: expected a number above 0, got {self.steering_ratio}")


@dataclass
class _Scene:
    """What the tables say of a scene, gathered row by row."""

    name: str
    description: str
    labels: Mapping[str, str]
    pictures: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """{camera: (timestamp in us, file name)}."""
    poses: list[tuple[int, list[float], list[float]]] = field(default_factory=list)
    """(timestamp in us, translation, rotation) of every sensor's every reading."""


@dataclass(frozen=True)
class _Stretch:
    """Steps of a scene without a gap."""

    drive_id: str
    scene: str
    times_s: np.ndarray
    pictures: Mapping[str, tuple[Path, ...]]
    motion: Mapping[str, np.ndarray]
    """{name: (T,)}: speed, yaw rate and pose on the map."""
    caption: str | None
    labels: Mapping[str, str]
    cameras: Mapping[str, Camera]


def drives(config: NuscenesConfig) -> Iterator[Drive]:
    """One drive a scene, or one a stretch without gaps where pictures are missing."""
    names = chosen_cameras(config.cameras, tuple(CAMERAS))
    tables = _find_tables(config)
    scenes, cameras = _read_tables(tables, names, parse_size(config.size))
    for scene in scenes:
        try:
            stretches = list(_stretches(scene, tables, config, cameras))
            yield from (Drive(part.drive_id, partial(episodes, part, config), steps=len(part.times_s)) for part in stretches)
        except UserError as error:
            yield broken_drive(scene.name, error)


def episodes(stretch: _Stretch, config: NuscenesConfig) -> Iterator[Episode]:
    """The pictures of a stretch with what poses and CAN say of their times."""
    steering = _steering_log(config.input, stretch)
    times = stretch.times_s
    kept = covered(times, [] if steering is None else [steering], name=stretch.drive_id)
    motion = {name: values[kept] for name, values in stretch.motion.items()}
    steps = kept.stop - kept.start
    telemetry = [(KNOWN_CHANNELS[name].spec, motion[name]) for name in ("speed_mps", "yaw_rate_rps")]
    actions: list[tuple[ChannelSpec, np.ndarray]] = []
    if steering is not None:
        [angle] = steering.at(times[kept]).values()
        name = "steering_wheel_rad" if config.steering_ratio is None else "steering_rad"
        actions = [(KNOWN_CHANNELS[name].spec, angle / (config.steering_ratio or 1))]
    log = DriveLog(
        drive_id=stretch.drive_id,
        fps=config.fps,
        timestamps_s=times[kept] - times[0],
        table=channel_table(steps, telemetry, actions, name=stretch.drive_id),
        truth=local_path(motion["x_m"], motion["y_m"], motion["yaw_rad"]),
        captions=() if stretch.caption is None else (Caption(0, steps, stretch.caption),),
        labels=stretch.labels,
        cameras=stretch.cameras,
    )
    size = parse_size(config.size)
    yield from log_episodes(log, {name: (read_image(path, size) for path in paths[kept]) for name, paths in stretch.pictures.items()})


def _find_tables(config: NuscenesConfig) -> Path:
    if not config.input.is_dir():
        raise UserError(f"--input {config.input}: no such folder")
    found = sorted(path.parent for path in config.input.glob(f"{config.version or 'v1.0-*'}/scene.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(f"--input {config.input}: expected one {config.version or 'v1.0-*'}/scene.json, got {names}; --version names one")
    return found[0]


def _table(tables: Path, name: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a table, each with all of `fields`, of the kinds that nuScenes gives them.

    UserError, naming file, row and field, where that is not so.
    """
    path = tables / f"{name}.json"
    rows = _read_rows(path)
    kinds = {key: _KINDS.get(key, str) for key in fields}
    for number, row in enumerate(rows):
        for key, kind in kinds.items():
            if not isinstance(row, dict) or not isinstance(row.get(key), kind):
                raise UserError(f"{path}: row {number} expected {key!r} of the usual kind, got {str(row)[:60]}")
    return rows


def _read_rows(path: Path) -> list[Any]:
    """The rows of a JSON file; NaN passes here, so that it breaks the one drive that has it."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, got an empty, truncated or foreign file ({error})") from error
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: expected a list of rows, got {'an empty one' if rows == [] else type(rows).__name__}")
    return rows


def _read_tables(tables: Path, names: tuple[str, ...], size: tuple[int, int]) -> tuple[list[_Scene], dict[str, Camera]]:
    """(scenes with their pictures and poses, {camera: its mean calibration})."""
    scenes = _read_scenes(tables)
    samples = {row["token"]: row["scene_token"] for row in _table(tables, "sample", ("token", "scene_token"))}
    sensors = {row["token"]: row["channel"] for row in _table(tables, "sensor", ("token", "channel"))}
    rows = _table(tables, "calibrated_sensor", ("token", "sensor_token", "translation", "rotation", "camera_intrinsic"))
    mounted = {row["token"]: row for row in rows}
    wanted = {CAMERAS[name]: name for name in names}
    data = _table(tables, "sample_data", ("sample_token", "ego_pose_token", "calibrated_sensor_token", "timestamp", "filename"))
    scene_of = {row["ego_pose_token"]: scenes.get(samples.get(row["sample_token"], "")) for row in data}
    found: dict[str, dict[str, Camera]] = {name: {} for name in names}
    for row in data:
        scene, mount = scene_of[row["ego_pose_token"]], mounted.get(row["calibrated_sensor_token"])
        name = wanted.get(sensors.get(mount["sensor_token"], "")) if mount else None
        if scene is None or mount is None or name is None:
            continue
        scene.pictures.setdefault(name, []).append((row["timestamp"], row["filename"]))
        if mount["token"] not in found[name]:
            found[name][mount["token"]] = _camera(tables, mount, (row.get("height", 900), row.get("width", 1600)), size)
    for row in _table(tables, "ego_pose", ("token", "timestamp", "translation", "rotation")):
        scene = scene_of.get(row["token"])
        if scene is not None:
            scene.poses.append((row["timestamp"], row["translation"], row["rotation"]))
    return list(scenes.values()), {name: mean_camera(list(cameras.values())) for name, cameras in found.items()}


def _read_scenes(tables: Path) -> dict[str, _Scene]:
    """{token: scene}; where it was driven is a label, if the table of logs is there."""
    logs, scenes = {}, {}
    if (tables / "log.json").is_file():
        logs = {row["token"]: row["location"] for row in _table(tables, "log", ("token", "location"))}
    for row in _table(tables, "scene", ("token", "name", "description", "log_token")):
        place = logs.get(row["log_token"])
        scenes[row["token"]] = _Scene(str(row["name"]), str(row["description"]), {"location": place} if place else {})
    return scenes


def _camera(tables: Path, mount: Mapping[str, Any], source_size: tuple[int, int], size: tuple[int, int]) -> Camera:
    path = tables / "calibrated_sensor.json"
    try:
        [[focal, _, centre], *_] = mount["camera_intrinsic"]
        axis = rotations(np.array([mount["rotation"]], float), name=str(path))[0, :, 2]  # a camera looks along its z
        return pinhole_camera(float(focal), float(centre), source_size, size, axis=axis.tolist(), height_m=float(mount["translation"][2]))
    except UserError:
        raise
    except (ValueError, TypeError, IndexError) as error:
        raise UserError(f"{path}: {mount['token']} expected a camera_intrinsic of 3 x 3, rotation and translation, got others") from error


def _stretches(scene: _Scene, tables: Path, config: NuscenesConfig, cameras: Mapping[str, Camera]) -> Iterator[_Stretch]:
    there = {name: _pictures_there(scene, name, config.input) for name in cameras}
    poses = _pose_log(scene, tables / "ego_pose.json")
    reference = next(iter(cameras))
    times = np.array([time for time, _ in there[reference]])
    partners = {name: nearest(np.array([time for time, _ in found]), times) for name, found in there.items()}
    offsets = [np.abs(np.array([found[index][0] for index in partners[name]]) - times) for name, found in there.items()]
    whole = np.flatnonzero(np.max(offsets, axis=0) <= _SYNC_S)
    if not len(whole):
        raise UserError(f"{scene.name}: expected pictures of {', '.join(cameras)} within {_SYNC_S} s of each other, got none")
    runs = grid_runs(times[whole], config.fps, name=f"{scene.name}, pictures of {CAMERAS[reference]}")
    for number, run in enumerate(runs):
        drive_id = scene.name if len(runs) == 1 else f"{scene.name}-run{number:03d}"
        chosen = whole[run]
        chosen = chosen[covered(times[chosen], [poses], name=drive_id)]
        yield _Stretch(
            drive_id=drive_id,
            scene=scene.name,
            times_s=times[chosen],
            pictures={name: tuple(found[partners[name][index]][1] for index in chosen) for name, found in there.items()},
            motion=poses.at(times[chosen]),
            caption=config.caption if config.caption is not None else scene.description or None,
            labels=scene.labels,
            cameras=cameras,
        )


def _pictures_there(scene: _Scene, camera: str, root: Path) -> list[tuple[float, Path]]:
    """(time in s, file) of a camera's pictures that are on the disk, by time; says on stderr how many are not."""
    listed = sorted(scene.pictures.get(camera, []))
    found = [(time * 1e-6, inside(root, name, source=f"{scene.name}: sample_data.json, 'filename'")) for time, name in listed]
    there = [(time, path) for time, path in found if path.is_file()]
    if not there:
        raise UserError(f"{scene.name}: expected pictures of {CAMERAS[camera]} in {root}, got none of the {len(found)} in sample_data.json")
    if len(there) < len(found):
        missing = next(path for _, path in found if not path.is_file())
        count = f"{len(found) - len(there)} of {len(found)} pictures of {CAMERAS[camera]}"
        print(f"{scene.name}: {count} are missing, {missing} first", file=sys.stderr)
    return there


def _pose_log(scene: _Scene, path: Path) -> Log:
    """The car's motion from the poses of all sensors."""
    poses = sorted({time: (translation, rotation) for time, translation, rotation in scene.poses}.items(), key=lambda pose: pose[0])
    try:
        times = np.array([time for time, _ in poses], float) * 1e-6
        places = np.array([translation for _, (translation, _) in poses], float).reshape(len(poses), 3)
        turns = np.array([rotation for _, (_, rotation) in poses], float).reshape(len(poses), 4)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: expected translations of 3 and rotations of 4 numbers in poses of {scene.name}, got others") from error
    for name, values in (("translation", places), ("rotation", turns)):
        if not np.isfinite(values).all():
            raise UserError(f"{path}: {name!r} expected finite numbers in the poses of {scene.name}, got nan or inf")
    yaw = yaw_of(rotations(turns, name=f"{path}, {scene.name}")[:, :, 0])
    motion = planar_motion(times, places[:, 0], places[:, 1], yaw, name=f"{path}, {scene.name}")
    return Log(path, times, motion.columns, _POSE_TOLERANCE_S)


def _steering_log(root: Path, stretch: _Stretch) -> Log | None:
    """The steering wheel's angle in radians; None, said on stderr where there is a CAN bus folder, if the scene has none."""
    folder = root / "can_bus"
    for message, key, unit, tolerance_s in _STEERING:
        path = inside(folder, f"{stretch.scene}_{message}.json", source=f"{stretch.scene}: scene.json, 'name'")
        if path.is_file():
            times, values = _messages(path, _read_rows(path), key)
            return Log(path, times * 1e-6, {key: values * unit}, tolerance_s)
    if folder.is_dir():
        print(f"{stretch.drive_id}: no steering in {folder}, so no such channel", file=sys.stderr)
    return None


def _messages(path: Path, rows: Iterable[Any], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(times in us, values) of CAN messages."""
    try:
        return np.array([row["utime"] for row in rows], float), np.array([row[key] for row in rows], float)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: expected numbers 'utime' and {key!r} in every message, got others") from error


SOURCE = Source(NuscenesConfig, drives, frames_a_second=70, license="CC BY-NC-SA 4.0")
