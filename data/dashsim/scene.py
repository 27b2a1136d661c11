"""What the simulation hands to the renderer: plain facts in world coordinates (metres, radians; x forward, y left, yaw to the left)."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Weather = Literal["clear", "rain", "fog", "snow", "overcast"]
TimeOfDay = Literal["day", "dusk", "night"]
WEATHERS: tuple[Weather, ...] = get_args(Weather)
TIMES_OF_DAY: tuple[TimeOfDay, ...] = get_args(TimeOfDay)


@dataclass(frozen=True)
class Conditions:
    """Weather and light of a drive; constant over it."""

    weather: Weather
    time_of_day: TimeOfDay


@dataclass(frozen=True, eq=False)
class LaneStrip:
    """Asphalt of one lane: its centre line and its width."""

    centre_m: np.ndarray
    """(N, 2) float64, points at most about 4 m apart on curves, in driving direction."""
    width_m: float


@dataclass(frozen=True, eq=False)
class PaintLine:
    """A painted line on the asphalt."""

    points_m: np.ndarray
    """(N, 2) float64."""
    dashed: bool
    """Dashes of 3 m with gaps of 6 m, measured along the line from its first point; else solid."""
    width_m: float = 0.15
    colour: Literal["white", "yellow"] = "white"


@dataclass(frozen=True, eq=False)
class RoadMap:
    """All that stands still: the same for every step of a drive."""

    lanes: tuple[LaneStrip, ...]
    paint: tuple[PaintLine, ...]
    seed: int
    """Decides trees, hills, textures: everything else that is anchored in the world."""


@dataclass(frozen=True)
class CarState:
    """Another road user, seen at one time."""

    car_id: int
    """Stays with the car over the drive; decides its colour and shape."""
    x_m: float
    y_m: float
    """Centre of the car."""
    yaw_rad: float
    length_m: float = 4.6
    width_m: float = 1.9
    height_m: float = 1.5
    braking: bool = False


@dataclass(frozen=True)
class Snapshot:
    """One step of the world, seen from the ego car."""

    time_s: float
    x_m: float
    y_m: float
    yaw_rad: float
    speed_mps: float
    cars: tuple[CarState, ...]
