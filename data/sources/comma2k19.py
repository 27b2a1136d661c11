"""comma2k19: one-minute segments of highway driving, `<dongle>|<date>/<number>/` with video.hevc, CAN logs and a pose for every frame.

The logs are .npy files whose names have no extension. The video is a bare stream without a clock: `global_pose/frame_times` is its clock,
and the CAN's own times are on the same one. Poses are in earth-centred axes, with the camera's own axes forward, right, down.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data.align import Log, covered
from data.calibration import mean_camera, pinhole_camera
from data.drive_log import DriveLog, channel_table, log_episodes, rows_at
from data.episode import Camera, Caption, ChannelSpec, Drive, Episode
from data.errors import UserError
from data.image import parse_size
from data.known_channels import KNOWN_CHANNELS
from data.motion import ground_axes, local_path, planar_motion, rotations, yaw_of
from data.recordings import CAMERA
from data.resample import check_rates
from data.source import Source
from data.video import count_frames, decode_frames

VIDEO_FPS = 20.0
_FOCAL_PX, _VIDEO_SIZE = 910.0, (874, 1164)
"""Of the EON, the telephone that recorded; the segments do not say how it was mounted."""
_CAN_TOLERANCE_S = 0.05
"""CAN comes at 83 Hz and begins about 40 ms after the first frame."""
_SAME_LENGTH = 0.95
"""A video with fewer frames than this share of frame_times is truncated; a few that are missing at the end are only told."""


@dataclass(frozen=True)
class Comma2k19Config:
    """comma2k19 segments: highway video with speed and steering from CAN and centimetre poses."""

    input: Path
    """A segment (the folder that holds video.hevc), a route, or a folder of routes or of chunks of routes."""
    size: str = "64x128"
    """Height x width of the frames in pixels: cut to this aspect about the centre, then resized by area."""
    fps: float = 10.0
    """Frames a second to keep, picked by timestamp."""
    steering_ratio: float | None = None
    """Turn of the steering wheel for one of the road wheels. With it the action is steering_rad (road wheels), without it
    steering_wheel_rad, which is what CAN reports: routes come from two cars, and the data do not give their ratios."""
    caption: str | None = None
    """What is said of every frame, such as "sunny highway"; training takes it as the prompt."""

    def __post_init__(self) -> None:
        parse_size(self.size)
        check_rates(self.fps, VIDEO_FPS)
        if self.steering_ratio is not None and not self.steering_ratio > 0:
            raise UserError(f"--steering-ratio: expected a number above 0, such as 15.3, got {self.steering_ratio}")


def drives(config: Comma2k19Config) -> Iterator[Drive]:
    """One drive a segment, in the order of routes and their segments."""
    for segment in _find_segments(config.input):
        yield Drive(_name(segment), partial(episodes, config, segment), steps=_expected_steps(config, segment))


def episodes(config: Comma2k19Config, segment: Path) -> Iterator[Episode]:
    """A segment's frames with everything that its logs say at their times."""
    name, times_file = _name(segment), segment / "global_pose/frame_times"
    times = _array(times_file)
    times = times[: _frames_with_times(name, segment / "video.hevc", times)]
    rows = rows_at(times, config.fps, source_fps=VIDEO_FPS, name=str(times_file))
    poses = _poses(segment, times)
    speed, steering = _can_log(segment, "speed"), _can_log(segment, "steering_angle")
    rows = rows[covered(times[rows], [log for log in (speed, steering) if log is not None], name=name)]
    motion = poses.at(times[rows])
    telemetry = [(KNOWN_CHANNELS["yaw_rate_rps"].spec, motion["yaw_rate_rps"])]
    if speed is not None:
        telemetry.insert(0, (KNOWN_CHANNELS["speed_mps"].spec, speed.at(times[rows])["speed"]))
    actions = [] if steering is None else [_steering(steering.at(times[rows])["steering_angle"], config.steering_ratio)]
    log = DriveLog(
        drive_id=name,
        fps=config.fps,
        timestamps_s=times[rows] - times[0],
        table=channel_table(len(rows), telemetry, actions, name=name),
        truth=local_path(motion["x_m"], motion["y_m"], motion["yaw_rad"]),
        captions=() if config.caption is None else (Caption(0, len(rows), config.caption),),
        cameras={CAMERA: _camera(parse_size(config.size))},
    )
    yield from log_episodes(log, {CAMERA: _frames(segment / "video.hevc", rows, parse_size(config.size))})


def _find_segments(path: Path) -> list[Path]:
    """Folders of segments at `path` or up to three levels below."""
    if not path.is_dir():
        raise UserError(f"--input {path}: no such folder")
    marks = ("global_pose", "processed_log", "video.hevc")
    found = {mark.parent for depth in range(4) for name in marks for mark in path.glob("*/" * depth + name)}
    if not found:
        raise UserError(f"--input {path}: expected comma2k19 segments (folders with video.hevc and global_pose/), got none")
    return sorted(found, key=lambda segment: (segment.parent.name, [int(part) for part in re.findall(r"\d+", segment.name)], str(segment)))


def _name(segment: Path) -> str:
    segment = segment.resolve()
    return f"{segment.parent.name.replace('|', '_')}--{segment.name}"


def _expected_steps(config: Comma2k19Config, segment: Path) -> int:
    """From frame_times; 0 where they are broken, which is reported when the segment is read."""
    try:
        return round(len(_array(segment / "global_pose/frame_times")) * config.fps / VIDEO_FPS)
    except UserError:
        return 0


def _array(path: Path, width: int | None = None) -> np.ndarray:
    """Finite float64 (N,), or (N, width), out of an .npy file; UserError, naming it, for anything else."""
    try:
        values = np.array(np.load(path, mmap_mode="r", allow_pickle=False), np.float64)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: expected a numpy array of numbers, got a truncated or foreign file") from error
    if values.ndim == 2 and values.shape[1] == 1 and width is None:
        values = values[:, 0]  # some logs have a column, others none
    if values.shape != ((len(values),) if width is None else (len(values), width)) or not len(values):
        raise UserError(f"{path}: expected an array of shape {'(N,)' if width is None else f'(N, {width})'}, got {values.shape}")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise UserError(f"{path}: expected finite numbers, got {values[tuple(bad[0])]} in row {bad[0][0]}")
    return values


def _frames_with_times(name: str, video: Path, times: np.ndarray) -> int:
    """How many frames have both a picture and a time; says on stderr where the two numbers differ."""
    frames = count_frames(video)
    if frames < _SAME_LENGTH * len(times):
        raise UserError(f"{video}: expected {len(times)} frames as in global_pose/frame_times, got {frames}: truncated")
    if frames != len(times):
        kept = min(frames, len(times))
        print(f"{name}: video.hevc has {frames} frames, global_pose/frame_times {len(times)}; the first {kept} are kept", file=sys.stderr)
    return min(frames, len(times))


def _poses(segment: Path, times: np.ndarray) -> Log:
    """The camera's motion over the ground at its start, at every frame time."""
    folder = segment / "global_pose"
    places = _array(folder / "frame_positions", 3)
    turns = rotations(_array(folder / "frame_orientations", 4), name=str(folder / "frame_orientations"))
    for file, rows in (("frame_positions", len(places)), ("frame_orientations", len(turns))):
        if rows < len(times):
            raise UserError(f"{folder / file}: expected {len(times)} rows, one a frame, got {rows}")
    axes = ground_axes(places[0])
    east, north, _ = axes @ (places[: len(times)] - places[0]).T
    forward = turns[: len(times), :, 0] @ axes.T
    motion = planar_motion(times, east, north, yaw_of(forward), name=str(folder / "frame_times"))
    return Log(folder, times, motion.columns, tolerance_s=0.5 / VIDEO_FPS)


def _can_log(segment: Path, field: str) -> Log | None:
    """A CAN log, or None, said on stderr, where the segment has none."""
    folder = segment / "processed_log/CAN" / field
    if not folder.is_dir():
        print(f"{_name(segment)}: no {folder}, so no such channel", file=sys.stderr)
        return None
    return Log(folder, _array(folder / "t"), {field: _array(folder / "value")}, _CAN_TOLERANCE_S)


def _steering(wheel_deg: np.ndarray, ratio: float | None) -> tuple[ChannelSpec, np.ndarray]:
    """CAN counts degrees of the steering wheel, positive to the left as ours."""
    if ratio is None:
        return KNOWN_CHANNELS["steering_wheel_rad"].spec, np.radians(wheel_deg)
    return KNOWN_CHANNELS["steering_rad"].spec, np.radians(wheel_deg) / ratio


def _camera(size: tuple[int, int]) -> Camera:
    return mean_camera([pinhole_camera(_FOCAL_PX, _VIDEO_SIZE[1] / 2, _VIDEO_SIZE, size)])


def _frames(video: Path, rows: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
    wanted = set(rows.tolist())
    last = int(rows[-1])
    for frame in decode_frames(video, size=size, source_fps=VIDEO_FPS):
        if frame.index in wanted:
            yield frame.image
        if frame.index == last:
            return
    raise UserError(f"{video}: expected {last + 1} frames that can be decoded, got fewer: truncated")


SOURCE = Source(Comma2k19Config, drives, frames_a_second=100)
