"""Drives of CARLA on disk: `<drive>.npz` with what the simulator said, in its own units and axes, and `<drive>.json` about it.

The JSON file is written last, so a drive without one is not complete. CARLA's axes: x forward, y right; yaw in degrees and steering are
positive to the right. Rows, one a frame: observations (T, H, W, 3), time_s, steer, throttle, brake, x_m, y_m, yaw_deg, vx_mps, vy_mps
(world axes), collision, lane_invasion. Controls of a row act from its frame to the next; flags tell what happened since the frame before.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UserError
from data.folder import read_json, write_json
from data.npz import npz_members, npz_writer, read_member

FORMAT = "worldgpt-carla"
VERSION = 1
CONTROLS = ("steer", "throttle", "brake")
STATE = ("x_m", "y_m", "yaw_deg", "vx_mps", "vy_mps")
FLAGS = ("collision", "lane_invasion")
COLUMNS = ("time_s", *CONTROLS, *STATE, *FLAGS)


@dataclass(frozen=True)
class DrivePlan:
    """What is asked of a drive before it is driven."""

    drive_id: str
    steps: int
    fps: float
    size: tuple[int, int]
    """(H, W) of the frames in pixels."""
    weather: str
    """A preset of carla.WeatherParameters, such as HardRainNight."""
    town: str | None
    """A map of the server; None: the one that is loaded."""
    traffic: int
    """Other vehicles."""
    seed: int
    horizontal_fov_deg: float = 90.0
    camera_height_m: float = 1.6
    """Above the ground, 1.2 m ahead of the car's middle, looking straight ahead."""


@dataclass(frozen=True)
class Reading:
    """What the simulator says after a step, in its own units and axes."""

    image: np.ndarray
    """uint8 (H, W, 3) RGB."""
    values: Mapping[str, float]
    """One for each of COLUMNS; controls are those that led here."""


def write_recording(folder: Path, plan: DrivePlan, readings: Iterable[Reading], facts: Mapping[str, str]) -> None:
    """Write a drive out of `plan.steps` + 1 readings as they come: the controls of each frame are read with the next one."""
    rows: list[Mapping[str, float]] = []

    def images() -> Iterator[np.ndarray]:
        for reading in readings:
            rows.append(reading.values)
            if len(rows) <= plan.steps:
                yield reading.image[None]

    with npz_writer(folder / f"{plan.drive_id}.npz") as file:
        file.rows("observations", (plan.steps, *plan.size, 3), np.dtype(np.uint8), images())
        for name in COLUMNS:
            values = [row[name] for row in rows]
            file.array(name, np.array(values[1 : plan.steps + 1] if name in CONTROLS else values[: plan.steps]))
    write_json(plan_file(folder, plan.drive_id), {"format": FORMAT, "version": VERSION, "plan": asdict(plan), "facts": dict(facts)})


def plan_file(folder: Path, drive_id: str) -> Path:
    return folder / f"{drive_id}.json"


def read_recording(path: Path) -> tuple[DrivePlan, dict[str, str]]:
    """The plan and the facts in a drive's JSON file; UserError, naming file and field, where it is no such file."""
    if path.is_file() and not path.stat().st_size:
        raise UserError(f"{path}: expected the description of a CARLA drive, got an empty file")
    value: Any = read_json(path)
    if not isinstance(value, dict) or (value.get("format"), value.get("version")) != (FORMAT, VERSION):
        raise UserError(f"{path}: expected format {FORMAT!r}, version {VERSION}, as prepare_data.py carla --host writes it")
    try:
        said = {field.name: value["plan"][field.name] for field in fields(DrivePlan)}
        height, width = said["size"]
        plan = DrivePlan(**{**said, "size": (int(height), int(width)), "fps": float(said["fps"]), "steps": int(said["steps"])})
        facts = {str(name): str(fact) for name, fact in value["facts"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: field {error} is missing or of another kind") from error
    if plan.drive_id != path.stem or not (plan.fps > 0 and plan.steps > 0):
        raise UserError(f"{path}: expected drive_id {path.stem!r}, fps and steps above 0, got {plan.drive_id!r}, {plan.fps}, {plan.steps}")
    return plan, facts


def read_table(path: Path, plan: DrivePlan) -> dict[str, np.ndarray]:
    """{column: float64 (T,)} of a drive's npz file; UserError, naming file and column, for other lengths and what is not finite."""
    members = npz_members(path)
    for name in ("observations", *COLUMNS):
        if name not in members:
            raise UserError(f"{path}: expected an array {name!r}, got {', '.join(members)}")
        shape = (plan.steps, *plan.size, 3) if name == "observations" else (plan.steps,)
        if members[name].shape != shape or members[name].dtype.kind not in "fiub":
            raise UserError(f"{path}: {name!r} expected numbers of shape {shape} as in {path.stem}.json, got {members[name].shape}")
    if members["observations"].dtype != np.uint8:
        raise UserError(f"{path}: 'observations' expected uint8, got {members['observations'].dtype}")
    table = {name: read_member(path, name).astype(np.float64) for name in COLUMNS}
    for name, values in table.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise UserError(f"{path}: {name!r} expected a finite number, got {values[bad[0]]} in row {bad[0] + 1}")
    return table
