"""Actions, telemetry and paths, measured: does the pictures' motion follow what was commanded, and does the model know where it drives.

Axes: B rollouts, F frames.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from worldgpt.evaluate.control_scene import Scene, row_means
from worldgpt.evaluate.counterfactuals import COUNTERFACTUALS, commanded_motion
from worldgpt.evaluate.following import fits_of, response
from worldgpt.evaluate.intervals import mean_of
from worldgpt.evaluate.logged import Logged
from worldgpt.evaluate.paths import integrate, path_errors, seen_from
from worldgpt.evaluate.read_back import ReadBack
from worldgpt.evaluate.trips import Driven

PATH_SECONDS = (1.0, 3.0)
END_FRAMES = 3
"""Last frames of a deviation whose mean offset counts."""


def measure_actions(scene: Scene, driven: Mapping[str, Driven], real: Mapping[str, ReadBack]) -> dict[str, Any]:
    """{number: {"floor", "true", "free", counterfactual: {"given": response to what was given, "logged": to what truly happened}}}."""
    logged = scene.logged
    truth = realised(logged.signals)
    figures: dict[str, Any] = {}
    for number, happened in truth.items():
        if _source(number) not in scene.probes.settings.means:
            continue
        rows: dict[str, Any] = {
            "floor": {name: response(happened, _read_number(number, read, logged)).to_dict() for name, read in real.items()}
        }
        for name, trip in driven.items():
            if not name.startswith("actions/"):
                continue
            kind = name.removeprefix("actions/")
            made = _read_number(number, trip.read, logged)
            given = happened if kind == "true" else commanded_by(scene, kind).get(number)
            rows[kind] = {
                "given": None if given is None or kind == "free" else response(given, made).to_dict(),
                "logged": response(happened, made).to_dict(),
            }
        figures[number] = rows
    return figures


def realised(signals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{yaw_rate_rps, speed_change_mps: (B, F)} of signals (B, F + 1) that begin a frame before."""
    found = {}
    if "yaw_rate_rps" in signals:
        found["yaw_rate_rps"] = signals["yaw_rate_rps"][:, 1:]
    if "speed_mps" in signals:
        found["speed_change_mps"] = signals["speed_mps"][:, 1:] - signals["speed_mps"][:, :1]
    return found


def commanded_by(scene: Scene, kind: str) -> dict[str, np.ndarray]:
    """What a counterfactual's actions ask for; nothing where the data tells no speed."""
    logged, specs = scene.logged, scene.pipeline.model.actions.specs
    if kind not in COUNTERFACTUALS or "speed_mps" not in logged.signals:
        return {}
    actions = COUNTERFACTUALS[kind](logged.actions, specs)
    fps = scene.pipeline.model.config.fps
    return commanded_motion(actions, logged.last_actions, specs, logged.follows("speed_mps"), logged.start("speed_mps"), fps)


def _source(number: str) -> str:
    return "speed_mps" if number == "speed_change_mps" else number


def _read_number(number: str, read: ReadBack, logged: Logged) -> np.ndarray:
    values = read.numbers[_source(number)].astype(np.float64)
    return values - logged.start("speed_mps")[:, None] if number == "speed_change_mps" else values


def measure_lateral(scene: Scene, driven: Mapping[str, Driven]) -> dict[str, Any] | None:
    """Deviations that were commanded and realised, against rollouts of the same seed that hold their course; None where none could be.

    path_m is read from the pictures' speed and yaw rate, lane_m from the lane that the pictures show, told_m from the telemetry tokens.
    """
    if scene.straight is None:
        return None
    hold = driven["lateral/+0"]
    commands = [float(name.removeprefix("lateral/")) for name in driven if name.startswith("lateral/")]
    fps = scene.pipeline.model.config.fps
    found: dict[str, Any] = {"starts": len(scene.straight.captions), "steps": scene.config.deviation_steps, "realised": {}, "response": {}}
    ways: dict[str, dict[float, np.ndarray]] = {}
    for command in commands:
        if command:
            made = deviations(driven[f"lateral/{command:+g}"], hold, fps)
            found["realised"][f"{command:+g}"] = {way: mean_of(values).to_dict() for way, values in made.items()}
            for way, values in made.items():
                ways.setdefault(way, {})[command] = values
    for way, table in ways.items():
        given = np.repeat(np.array(list(table))[None], len(scene.straight.captions), 0)  # (B, commands)
        fits = fits_of(given, np.stack(list(table.values()), axis=1))
        found["response"][way] = {name: fit.to_dict() for name, fit in zip(("slope", "intercept", "r2"), fits, strict=True)}
    return found


def deviations(made: Driven, hold: Driven, fps: float) -> dict[str, np.ndarray]:
    """{way of reading: (B,) metres to the left of the course held}, at the end."""
    found = {}
    sources = {"path_m": (made.read.numbers, hold.read.numbers), "told_m": (made.telemetry, hold.telemetry)}
    for way, (numbers, held) in sources.items():
        if {"speed_mps", "yaw_rate_rps"} <= set(numbers):
            course = {name: _filled(held[name]) for name in ("speed_mps", "yaw_rate_rps")}
            gone = {name: _parted(numbers[name], values) for name, values in course.items()}
            paths = [integrate(values["speed_mps"], values["yaw_rate_rps"], fps) for values in (gone, course)]
            found[way] = seen_from(paths[0], paths[1][:, -1])[:, -1, 1]
    if "lateral_offset_m" in made.read.numbers:
        ends = [driven.read.numbers["lateral_offset_m"][:, -END_FRAMES:].mean(1) for driven in (made, hold)]
        found["lane_m"] = ends[0] - ends[1]
    return found


def _filled(values: np.ndarray) -> np.ndarray:
    """(B, F) with the unread first frames as the first that is read."""
    first = np.isfinite(values).argmax(1)
    return np.where(np.isfinite(values), values, np.take_along_axis(values, first[:, None], 1))


def _parted(values: np.ndarray, held: np.ndarray) -> np.ndarray:
    """(B, F) whose unread first frames part from `held` evenly: before the first frame both are the same context."""
    first = np.isfinite(values).argmax(1)[:, None]
    apart = np.take_along_axis(values - held, first, 1)
    return np.where(np.isfinite(values), values, held + apart * (np.arange(values.shape[1]) + 1) / (first + 1))


def measure_telemetry(scene: Scene, driven: Driven, floor: ReadBack) -> dict[str, Any]:
    """{channel: mean absolute difference between the telemetry tokens and what the pictures show, beside that of real drives through the
    tokenizer, and the ratio of the two}."""
    found = {}
    for name in driven.telemetry:
        if name in driven.read.numbers and name in scene.logged.signals:
            apart = mean_of(row_means(np.abs(driven.telemetry[name] - driven.read.numbers[name])))
            least = mean_of(row_means(np.abs(scene.logged.follows(name) - floor.numbers[name])))
            found[name] = {"mae": apart.to_dict(), "floor_mae": least.to_dict(), "over_floor": apart.over(least.value).to_dict()}
    return found


def measure_path(scene: Scene, free: Driven) -> dict[str, Any] | None:
    """ADE and FDE of the path that the model drives by itself, beside constant speed and turn rate, and beside the logged telemetry
    integrated (what the integration alone costs); None where speed and yaw rate are not known."""
    logged, fps = scene.logged, scene.pipeline.model.config.fps
    names = ("speed_mps", "yaw_rate_rps")
    if not set(names) <= set(logged.signals) or not set(names) <= set(free.telemetry):
        return None
    before = logged.start("speed_mps")
    speed, rate = (np.repeat(logged.start(name)[:, None], scene.config.frames, 1) for name in names)
    paths = {
        "model": integrate(free.telemetry["speed_mps"], free.telemetry["yaw_rate_rps"], fps, before),
        "constant_speed_and_turn_rate": integrate(speed, rate, fps, before),
        "logged_telemetry": integrate(logged.follows("speed_mps"), logged.follows("yaw_rate_rps"), fps, before),
    }
    errors = {name: path_errors(path, true_path(logged, paths["logged_telemetry"]), fps, PATH_SECONDS) for name, path in paths.items()}
    return {
        name: {second: found and {k: e.to_dict() for k, e in found.items()} for second, found in table.items()}
        for name, table in errors.items()
    }


def true_path(logged: Logged, integrated: np.ndarray) -> np.ndarray:
    """Poses (B, F, 3) that the drives truly took, as seen from the context's last step; where these are not known, `integrated`."""
    names = ("x_m", "y_m", "yaw_rad")
    if not set(names) <= set(logged.signals):
        return integrated
    poses = np.stack([logged.signals[name] for name in names], axis=-1)
    return seen_from(poses[:, 1:], poses[:, 0])
