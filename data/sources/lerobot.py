"""LeRobot data sets of v2 and v3, read without the lerobot package: any robot's, and L2D's (yaak-ai) as what they are, driving.

Rows carry the clock; pictures are found by their times in the videos. What is done (the task, or L2D's instructions) and what the world
is like (weather, lighting, road) become captions of the steps that they hold for.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data.drive_log import DriveLog, channel_table, log_episodes, rows_at, text_runs
from data.episode import Caption, ChannelSpec, Drive, Episode
from data.errors import UserError
from data.image import parse_size
from data.known_channels import KNOWN_CHANNELS
from data.lerobot_channels import Column, Columns, find_columns
from data.lerobot_files import numbers, read_rows, texts
from data.lerobot_set import LerobotEpisode, VideoSpan, open_lerobot
from data.recordings import chosen_cameras
from data.resample import check_rates
from data.source import Source
from data.video import count_frames
from data.video_times import frames_at

INSTRUCTIONS = "task.instructions"
_LABELS = {"conditions": "weather", "lighting": "time_of_day"}
"""{last part of a text column's key: label}; others keep their name."""
_SAID = ("weather", "precipitation", "time_of_day", "road")
"""Labels that a caption is made of."""
_NOTHING = ("", "na", "n/a", "none", "nan", "unknown")


@dataclass(frozen=True)
class LerobotConfig:
    """LeRobot data sets (v2, v3) such as L2D: videos with state, actions and tasks."""

    input: Path
    """The data set's folder, which holds meta/, data/ and videos/."""
    cameras: tuple[str, ...] = ()
    """Cameras by their short names (front_left for observation.images.front_left); default: the first one that looks to the front."""
    size: str = "64x128"
    """Height x width of the frames in pixels: cut to this aspect about the centre, then resized by area."""
    fps: float = 10.0
    """Frames a second to keep, picked by timestamp."""
    source_fps: float | None = None
    """True rows a second, where the set's own clock is wrong."""
    caption: str | None = None
    """Said of every frame besides the set's own tasks; training takes it as the prompt."""

    def __post_init__(self) -> None:
        parse_size(self.size)
        check_rates(self.fps, self.source_fps)


def drives(config: LerobotConfig) -> Iterator[Drive]:
    """One drive an episode."""
    found = open_lerobot(config.input)
    rate = config.source_fps or found.fps
    check_rates(config.fps, rate)
    if not found.cameras:
        kinds = sorted({feature.dtype for feature in found.features.values()})
        raise UserError(f"{config.input / 'meta/info.json'}: expected a feature of dtype 'video', got only {', '.join(kinds)}")
    cameras = {name: found.cameras[name] for name in chosen_cameras(config.cameras, tuple(found.cameras))}
    columns = find_columns(found)
    for episode in found.episodes:
        drive_id = f"episode_{episode.index:06d}"
        reader = partial(episodes, config, drive_id, episode, cameras, columns, rate)
        yield Drive(drive_id, reader, episode.split, round(episode.rows * config.fps / rate))


def episodes(
    config: LerobotConfig, drive_id: str, episode: LerobotEpisode, cameras: dict[str, str], columns: Columns, rate: float
) -> Iterator[Episode]:
    """The rows of an episode at `config.fps`, with their pictures; cameras: {short name: key}."""
    keys = [*columns.sizes, *columns.texts, "timestamp", "task_index"]
    table = read_rows(episode.data, keys, episode.index)
    name = f"{episode.data}, episode {episode.index}"
    if table.num_rows != episode.rows or not episode.rows:
        raise UserError(f"{name}: expected {episode.rows} rows as in meta/, got {table.num_rows}")
    clock = numbers(table, "timestamp", 1, episode.data)[:, 0]
    times = clock if config.source_fps is None else np.arange(episode.rows) / config.source_fps
    rows = rows_at(times, config.fps, source_fps=rate, name=f"{name}, 'timestamp'")
    values = {key: numbers(table, key, size, episode.data) for key, size in columns.sizes.items()}
    motion = columns.motion(values, times, name)
    said = {key: texts(table, key) for key in columns.texts}
    doing = said.get(INSTRUCTIONS) or [episode.tasks.get(int(task), "") for task in numbers(table, "task_index", 1, episode.data)[:, 0]]
    world = _world(said)

    def chosen(group: tuple[Column, ...]) -> list[tuple[ChannelSpec, np.ndarray]]:
        return [(column.spec, values[column.key][rows, column.place] * column.factor) for column in group]

    yaw_rate = [(KNOWN_CHANNELS["yaw_rate_rps"].spec, motion.pop("yaw_rate_rps")[rows])] if motion else []
    log = DriveLog(
        drive_id=drive_id,
        fps=config.fps,
        timestamps_s=times[rows],
        table=channel_table(len(rows), [*chosen(columns.telemetry), *yaw_rate], chosen(columns.actions), name=name),
        truth={n: v[rows] for n, v in motion.items()} | {n: values[key][rows, 0] for n, key in columns.truth.items()},
        captions=(*_captions(doing, world, rows), *(() if config.caption is None else (Caption(0, len(rows), config.caption),))),
        labels={label: Counter(filter(None, words)).most_common(1)[0][0] for label, words in world.items() if any(words)},
    )
    pictures = {
        camera: _frames(config, episode, episode.videos[key], clock[rows], 1 / rate if config.source_fps is None else np.diff(clock).mean())
        for camera, key in cameras.items()
    }
    yield from log_episodes(log, pictures)


def _world(said: dict[str, list[str]]) -> dict[str, list[str]]:
    """{label: what it is at each row, "" where nothing is said}, out of the columns of text about the observed world."""
    found = {}
    for key, words in said.items():
        if key.startswith("observation."):
            last = key.rsplit(".", 1)[-1]
            found[_LABELS.get(last, last)] = ["" if word.lower() in _NOTHING else word for word in words]
    return found


def _captions(doing: list[str], world: dict[str, list[str]], rows: np.ndarray) -> tuple[Caption, ...]:
    """What is done and what the world is like, each as captions of its own: both are true, and a prompt may be either."""

    def scene(row: int) -> str:
        words = {label: world[label][row].lower() for label in _SAID if label in world and world[label][row]}
        if "road" in words:
            words["road"] = f"{words['road'].replace('_', ' ')} road"
        return ", ".join(dict.fromkeys(words.values()))

    return (*text_runs([doing[row] for row in rows]), *text_runs([scene(row) for row in rows]))


def _frames(config: LerobotConfig, episode: LerobotEpisode, span: VideoSpan, clock_s: np.ndarray, period_s: float) -> Iterator[np.ndarray]:
    """The pictures of rows whose clock says `clock_s`; UserError where a file of its own has more or fewer than the episode has rows."""
    if span.whole and abs((count := count_frames(span.path)) - episode.rows) > 1:
        raise UserError(f"{span.path}: expected {episode.rows} frames, one a row of {episode.data.name}, got {count}")
    yield from frames_at(span.path, span.start_s + clock_s, tolerance_s=0.5 * period_s, size=parse_size(config.size))


SOURCE = Source(LerobotConfig, drives, frames_a_second=100)
