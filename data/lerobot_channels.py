"""Which columns of a LeRobot set become which channels, true state and labels.

Keys that begin with `action` are actions, with `observation.` telemetry, with `next.` true state. Names are those of meta/info.json, or
`<key>_<i>`; ranges are those of the set. L2D's columns, whose units the set does not say, are known by name: its publisher's own code
has speed in km/h, accelerations in m/s^2 along the sensor's axes, steering positive to the right; heading is in degrees clockwise from
north. `heading_error` (an error of measurement) and `altitude` (seen to repeat the latitude) are left out.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from data.channel_ranges import choice_spec, quantity_spec
from data.episode import ChannelSpec
from data.known_channels import KNOWN_CHANNELS
from data.lerobot_set import Feature, LerobotSet, value_range
from data.motion import ecef_of, ground_axes, local_path, planar_motion

_VEHICLE, _CONTROLS = "observation.state.vehicle", "action.continuous"
_L2D: Mapping[tuple[str, str], tuple[ChannelSpec, float]] = {
    (_VEHICLE, "speed"): (KNOWN_CHANNELS["speed_mps"].spec, 1 / 3.6),
    (_VEHICLE, "acceleration_x"): (ChannelSpec("imu_acceleration_x_mps2", "m/s^2", -10.0, 10.0), 1.0),
    (_VEHICLE, "acceleration_y"): (ChannelSpec("imu_acceleration_y_mps2", "m/s^2", -10.0, 10.0), 1.0),
    (_CONTROLS, "gas"): (KNOWN_CHANNELS["throttle_norm"].spec, 1.0),
    (_CONTROLS, "brake"): (KNOWN_CHANNELS["brake_norm"].spec, 1.0),
    (_CONTROLS, "steering"): (KNOWN_CHANNELS["steering_norm"].spec, -1.0),
}
"""{(key, name): (channel, factor)}."""
_POSE = ("heading", "latitude", "longitude")
_LEFT_OUT = ("heading_error", "altitude")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
_FLOATS = ("float16", "float32", "float64")
_BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")


@dataclass(frozen=True)
class Column:
    """One value of a vector column."""

    key: str
    place: int
    spec: ChannelSpec
    factor: float = 1.0
    """From the set's unit and sign to ours."""


@dataclass(frozen=True)
class Columns:
    """What is read of a set's rows."""

    sizes: Mapping[str, int]
    """{key: values a row}, of all columns of numbers that are read."""
    telemetry: tuple[Column, ...]
    actions: tuple[Column, ...]
    truth: Mapping[str, str]
    """{name of ours: key of a single number}."""
    texts: tuple[str, ...]
    """Keys of columns of text."""
    pose: tuple[int, ...] = ()
    """Places of heading, latitude, longitude in L2D's vehicle state."""

    def motion(self, values: Mapping[str, np.ndarray], times_s: np.ndarray, name: str) -> dict[str, np.ndarray]:
        """yaw_rate_rps, and x_m, y_m, yaw_rad as seen from the first row, {name: (T,)}; nothing where the set has no pose."""
        if not self.pose:
            return {}
        heading, latitude, longitude = (values[_VEHICLE][:, place] for place in self.pose)
        places = ecef_of(latitude, longitude, np.zeros_like(latitude))
        east, north, _ = ground_axes(places[0]) @ (places - places[0]).T
        motion = planar_motion(times_s, east, north, np.radians(90 - heading), name=name)
        return {"yaw_rate_rps": motion.yaw_rate_rps, **local_path(motion.x_m, motion.y_m, motion.yaw_rad)}


def find_columns(found: LerobotSet) -> Columns:
    """The columns of a set; says on stderr what is left out."""
    kinds: dict[str, list[tuple[Feature, int, str]]] = {"telemetry": [], "actions": []}
    truth: dict[str, str] = {}
    texts: list[str] = []
    left: list[str] = []
    pose: tuple[int, ...] = ()
    for key, feature in found.features.items():
        kind = "actions" if key.split(".")[0] == "action" else "telemetry" if key.startswith("observation.") else None
        if feature.dtype == "video" or key in _BOOKKEEPING:
            continue
        if feature.dtype == "string":
            texts.append(key)
        elif feature.dtype not in (*_INTEGERS, *_FLOATS) or len(feature.shape) != 1 or key.endswith(".timestamp"):
            left.append(f"{key} ({feature.dtype} {'x'.join(map(str, feature.shape))})")
        elif key.startswith("next.") and feature.shape == (1,):
            truth[key.removeprefix("next.").replace(".", "_")] = key
        elif kind is None:
            left.append(key)
        else:
            names = [_plain(name) if key in (_VEHICLE, _CONTROLS) else name for name in _value_names(feature)]
            apart: tuple[str, ...] = ()
            if key == _VEHICLE and set(_POSE) <= set(names):
                pose = tuple(names.index(name) for name in _POSE)
                apart = (*_POSE, *_LEFT_OUT)
                left += [f"{key} {name!r}" for name in _LEFT_OUT if name in names]
            kinds[kind] += [(feature, place, name) for place, name in enumerate(names) if name not in apart]
    if left:
        print(f"{found.root}: left out {', '.join(left)}", file=sys.stderr)
    columns = {kind: tuple(_columns(found, chosen, kinds)) for kind, chosen in kinds.items()}
    keys = [column.key for group in columns.values() for column in group] + list(truth.values()) + [_VEHICLE] * bool(pose)
    sizes = {key: found.features[key].shape[0] for key in keys}
    return Columns(sizes, columns["telemetry"], columns["actions"], truth, tuple(texts), pose)


def _plain(name: str) -> str:
    """'hp_loc_latitude' -> 'latitude', 'gas_pedal_normalized' -> 'gas': L2D has gone through several spellings."""
    return re.sub(r"^hp_loc_|_pedal_normalized$|_angle_normalized$", "", name)


def _value_names(feature: Feature) -> tuple[str, ...]:
    """Names of a vector's values: those that the set gives, or the key's with a number."""
    stem = feature.key.removeprefix("observation.")
    return feature.names or ((stem,) if feature.shape == (1,) else tuple(f"{stem}_{k}" for k in range(feature.shape[0])))


def _columns(
    found: LerobotSet, chosen: list[tuple[Feature, int, str]], kinds: Mapping[str, list[tuple[Feature, int, str]]]
) -> Iterator[Column]:
    """Columns with their channels; a name that occurs twice in the set is told apart by its key."""
    everything = [name for group in kinds.values() for _, _, name in group]
    ranges = {}
    for feature, place, name in chosen:
        if (feature.key, name) in _L2D:
            spec, factor = _L2D[feature.key, name]
            yield Column(feature.key, place, spec, factor)
            continue
        if feature.key not in ranges:
            ranges[feature.key] = value_range(found, feature.key)
        low, high = (float(ends[place]) for ends in ranges[feature.key])
        whole = name if everything.count(name) == 1 else f"{feature.key.removeprefix('observation.')}_{name}"
        safe = re.sub(r"\W", "_", whole)  # the name of a module of the model, where dots cannot stand
        make = choice_spec if feature.dtype in _INTEGERS else quantity_spec
        yield Column(feature.key, place, KNOWN_CHANNELS[safe].spec if safe in KNOWN_CHANNELS else make(safe, "1", low, high))
