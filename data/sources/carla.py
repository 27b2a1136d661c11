"""CARLA: drives on autopilot, recorded from a running server (`--host`) and read from the folder where they were recorded.

Recording and reading are two steps: a server holds one world, while a store is written by many processes, and what was driven once can be
prepared again at another size or rate. The recordings are data.carla_recording's.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from data.carla_collector import Simulator, collect
from data.carla_recording import FLAGS, DrivePlan, read_recording, read_table
from data.carla_simulator import CarlaSimulator, load_client
from data.drive_log import DriveLog, channel_table, log_episodes, rows_at
from data.episode import Camera, Caption, Drive, Episode
from data.errors import UserError
from data.image import fit, parse_size
from data.known_channels import KNOWN_CHANNELS
from data.motion import local_path, planar_motion
from data.npz import stream_member
from data.recordings import CAMERA, broken_drive
from data.resample import check_rates
from data.source import Source

_WEATHERS = ("ClearNoon", "CloudyNoon", "HardRainNoon", "ClearSunset", "ClearNight", "HardRainNight")
_SKY = {
    "Clear": ("clear", "clear"),
    "Cloudy": ("clouds", "cloudy"),
    "WetCloudy": ("clouds, wet road", "cloudy"),
    "Wet": ("wet road", "wet"),
    "SoftRain": ("light rain", "rainy"),
    "MidRain": ("rain", "rainy"),
    "MidRainy": ("rain", "rainy"),
    "HardRain": ("heavy rain", "rainy"),
}
"""{beginning of a preset's name: (what the weather is, what a time of day with it is)}."""
_TIMES = {"Noon": "day", "Sunset": "sunset", "Night": "night"}
_FLAG_NAMES = {"collision": "crashed", "lane_invasion": "lane_crossed"}


@dataclass(frozen=True)
class CarlaConfig:
    """Drives on autopilot in CARLA: recorded from a running server with --host, read from disk without."""

    input: Path = Path("runs/recordings/carla")
    """Folder of the recordings. With --host, drives that are missing here are driven and recorded first."""
    host: str | None = None
    """Name or address of a running CARLA server; needs the `carla` client package."""
    port: int = 2000
    """Its port."""
    episodes: int = 12
    """Drives to record."""
    steps: int = 600
    """Frames a drive."""
    towns: tuple[str, ...] = ()
    """Maps of the server, such as Town01, each for an equal share of the drives; default: the one that is loaded."""
    weathers: tuple[str, ...] = _WEATHERS
    """Presets of carla.WeatherParameters that take turns."""
    traffic: int = 40
    """Other vehicles."""
    record_size: str = "128x256"
    """Height x width of the recorded frames in pixels."""
    seed: int = 0
    """Of places, vehicles and traffic."""
    size: str = "64x128"
    """Height x width of the frames in pixels: cut to this aspect about the centre, then resized by area."""
    fps: float = 10.0
    """Frames a second, to record and to keep; recordings of a higher rate are thinned out by timestamp."""
    caption: str | None = None
    """Said of every frame besides the weather; training takes it as the prompt."""

    def __post_init__(self) -> None:
        parse_size(self.size)
        parse_size(self.record_size)
        check_rates(self.fps, None)
        for name, least in (("episodes", 1), ("steps", 2), ("traffic", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} expected {least} or more, got {getattr(self, name)}")
        if not self.weathers:
            raise UserError("weathers expected at least one preset, got none")


def drives(config: CarlaConfig, simulator: Simulator | None = None) -> Iterator[Drive]:
    """One drive a recording. `simulator` stands in for the server that --host names."""
    if config.host is not None:

        def connect() -> Simulator:
            return simulator or CarlaSimulator(load_client(), str(config.host), config.port)

        collect(connect, plan_drives(config), config.input)
    if not config.input.is_dir():
        raise UserError(f"--input {config.input}: no such folder; record drives with --host")
    files = sorted(config.input.glob("*.json"))
    if not files:
        raise UserError(f"--input {config.input}: expected recordings (<drive>.json and <drive>.npz), got none; record drives with --host")
    for file in files:
        try:
            plan, facts = read_recording(file)
        except UserError as error:
            yield broken_drive(file.stem, error)
            continue
        yield Drive(plan.drive_id, partial(episodes, config, plan, facts), steps=round(plan.steps * config.fps / plan.fps))


def plan_drives(config: CarlaConfig) -> list[DrivePlan]:
    """The drives to record. Towns take turns, then weathers: more drives change none of the first ones."""
    towns = config.towns or (None,)
    return [
        DrivePlan(
            drive_id=f"drive-{number:05d}",
            steps=config.steps,
            fps=config.fps,
            size=parse_size(config.record_size),
            weather=config.weathers[number // len(towns) % len(config.weathers)],
            town=towns[number % len(towns)],
            traffic=config.traffic,
            seed=int(np.random.default_rng([config.seed, number]).integers(2**31)),
        )
        for number in range(config.episodes)
    ]


def episodes(config: CarlaConfig, plan: DrivePlan, facts: dict[str, str]) -> Iterator[Episode]:
    """A recording in our units and axes: y, yaw and steering turned to the left."""
    path = config.input / f"{plan.drive_id}.npz"
    table = read_table(path, plan)
    times = table["time_s"]
    rows = rows_at(times, config.fps, source_fps=plan.fps, name=f"{path}, 'time_s'")
    motion = planar_motion(times, table["x_m"], -table["y_m"], -np.radians(table["yaw_deg"]), name=str(path))
    speed = table["vx_mps"] * np.cos(motion.yaw_rad) - table["vy_mps"] * np.sin(motion.yaw_rad)
    whole = {
        "speed_mps": speed,
        "yaw_rate_rps": motion.yaw_rate_rps,
        "steering_norm": -table["steer"],
        "throttle_norm": table["throttle"],
        "brake_norm": table["brake"],
    }
    columns = [(KNOWN_CHANNELS[name].spec, values[rows]) for name, values in whole.items()]
    labels, caption = weather_words(plan.weather)
    texts = [caption, *([] if config.caption is None else [config.caption])]
    log = DriveLog(
        drive_id=plan.drive_id,
        fps=config.fps,
        timestamps_s=times[rows] - times[0],
        table=channel_table(len(rows), columns[:2], columns[2:], name=str(path)),
        truth={name: values[rows] for name, values in local_path(motion.x_m, motion.y_m, motion.yaw_rad).items()}
        | {_FLAG_NAMES[name]: _since_the_row_before(table[name], rows) for name in FLAGS},
        captions=tuple(Caption(0, len(rows), text) for text in texts),
        labels=labels | {name: facts[name] for name in ("town",) if name in facts},
        cameras={CAMERA: Camera(plan.horizontal_fov_deg, plan.camera_height_m, 0.0, 0.0)},
    )
    yield from log_episodes(log, {CAMERA: _frames(config, plan, path, rows)})


def weather_words(preset: str) -> tuple[dict[str, str], str]:
    """(labels, caption) of a preset: HardRainNight -> weather "heavy rain", time_of_day "night", and "rainy night, heavy rain"."""
    match = re.fullmatch(r"(\w+?)(Noon|Sunset|Night)", preset)
    if match is None or match[1] not in _SKY:
        words = " ".join(re.findall("[A-Z][a-z]*", preset)).lower() or preset
        return {"weather": words}, words
    (weather, adjective), time = _SKY[match[1]], _TIMES[match[2]]
    short = "sunny day" if (adjective, time) == ("clear", "day") else f"{adjective} {time}"
    caption = short if weather in ("clear", "clouds", "rain") else f"{short}, {weather}"
    return {"weather": weather, "time_of_day": time}, caption


def _since_the_row_before(flags: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Whether something happened between each kept row and the one before: none is lost with the rows in between."""
    starts = np.concatenate([[0], rows[:-1] + 1])
    return np.maximum.reduceat(flags[: rows[-1] + 1] != 0, starts)


def _frames(config: CarlaConfig, plan: DrivePlan, path: Path, rows: np.ndarray) -> Iterator[np.ndarray]:
    size, wanted = parse_size(config.size), set(rows.tolist())
    images = chain.from_iterable(stream_member(path, "observations", 0, int(rows[-1]) + 1))
    for row, image in enumerate(images):
        if row in wanted:
            yield fit(image, size)


SOURCE = Source(CarlaConfig, drives, frames_a_second=1000, counts=("host", "port", "episodes"))
