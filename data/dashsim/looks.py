"""How each weather and time of day looks: colours and strengths, no geometry."""

from dataclasses import dataclass

import numpy as np

from data.dashsim.scene import Conditions, TimeOfDay, Weather

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Look:
    """Light, air and ground of one pair of conditions. Colours are RGB 0..255, light is a factor on albedo."""

    zenith: Colour
    """Sky at 25 degrees of elevation."""
    horizon: Colour
    """Sky at the horizon and everything that the air hides."""
    glow: Colour
    """Added around the sun's azimuth."""
    cloud: Colour
    cloud_cover: float
    """Share of the sky under clouds, 0..1."""
    ambient: Colour
    """Light from all sides."""
    direct: Colour
    """Light from the sun; 0 where it casts no shadow."""
    sun_elevation_deg: float
    extinction_per_m: float
    hill_haze: float
    """How much of the nearer hills the air hides, 0..1."""
    beam: float
    """Strength of the ego car's headlights on the road, 0..1."""
    lamps: float
    """Strength of other cars' lights, 0..1."""
    wet: float
    """How much the road mirrors, 0..1."""
    snow: float
    """How much lies under snow, 0..1."""
    stars: bool
    """Stars and moon."""
    town: bool
    """Lit windows at the horizon."""


_SKIES: dict[tuple[Weather, TimeOfDay], tuple[Colour, Colour, Colour, Colour]] = {  # zenith, horizon, glow, cloud
    ("clear", "day"): ((58, 118, 202), (186, 214, 236), (24, 20, 10), (248, 250, 252)),
    ("overcast", "day"): ((138, 146, 156), (190, 196, 202), (0, 0, 0), (166, 172, 180)),
    ("rain", "day"): ((92, 100, 110), (146, 154, 162), (0, 0, 0), (108, 116, 126)),
    ("fog", "day"): ((188, 192, 196), (198, 202, 205), (0, 0, 0), (196, 200, 203)),
    ("snow", "day"): ((176, 184, 196), (214, 219, 226), (0, 0, 0), (196, 203, 213)),
    ("clear", "dusk"): ((56, 62, 118), (206, 132, 104), (70, 42, 0), (226, 128, 104)),
    ("overcast", "dusk"): ((74, 74, 92), (142, 118, 120), (22, 8, 0), (94, 88, 102)),
    ("rain", "dusk"): ((50, 54, 70), (96, 88, 98), (12, 4, 0), (62, 62, 76)),
    ("fog", "dusk"): ((116, 106, 112), (134, 118, 116), (26, 10, 0), (128, 116, 116)),
    ("snow", "dusk"): ((96, 98, 122), (146, 136, 150), (16, 6, 0), (116, 114, 134)),
    ("clear", "night"): ((6, 9, 26), (20, 27, 54), (0, 0, 0), (22, 27, 46)),
    ("overcast", "night"): ((15, 15, 21), (40, 36, 40), (0, 0, 0), (26, 25, 30)),
    ("rain", "night"): ((11, 12, 19), (34, 36, 46), (0, 0, 0), (20, 22, 29)),
    ("fog", "night"): ((34, 36, 41), (50, 52, 57), (0, 0, 0), (36, 38, 43)),
    ("snow", "night"): ((26, 27, 38), (58, 56, 66), (0, 0, 0), (40, 40, 50)),
}
_AMBIENT: dict[Weather, Colour] = {
    "clear": (0.52, 0.57, 0.69),
    "overcast": (0.86, 0.88, 0.90),
    "rain": (0.60, 0.64, 0.68),
    "fog": (0.84, 0.85, 0.86),
    "snow": (0.92, 0.94, 0.97),
}
_DAYLIGHT: dict[TimeOfDay, Colour] = {"day": (1.0, 1.0, 1.0), "dusk": (0.54, 0.45, 0.50), "night": (0.15, 0.18, 0.26)}
_DIRECT: dict[TimeOfDay, Colour] = {"day": (0.76, 0.70, 0.56), "dusk": (0.62, 0.34, 0.16), "night": (0.0, 0.0, 0.0)}
_EXTINCTION: dict[Weather, float] = {"clear": 1 / 1500, "overcast": 1 / 900, "rain": 1 / 260, "fog": 1 / 26, "snow": 1 / 170}
_CLOUDS: dict[Weather, float] = {"clear": 0.3, "overcast": 0.75, "rain": 0.8, "fog": 0.3, "snow": 0.6}
_HILL_HAZE: dict[Weather, float] = {"clear": 0.25, "overcast": 0.4, "rain": 0.68, "fog": 1.0, "snow": 0.5}
_LAMPS: dict[TimeOfDay, dict[Weather, float]] = {
    "day": {"clear": 0.0, "overcast": 0.12, "rain": 0.5, "fog": 0.6, "snow": 0.45},
    "dusk": {"clear": 0.65, "overcast": 0.7, "rain": 0.8, "fog": 0.85, "snow": 0.8},
    "night": {"clear": 1.0, "overcast": 1.0, "rain": 1.0, "fog": 1.0, "snow": 1.0},
}


def look_of(conditions: Conditions) -> Look:
    """The look of a weather at a time of day."""
    weather, time = conditions.weather, conditions.time_of_day
    zenith, horizon, glow, cloud = _SKIES[weather, time]
    ambient = np.multiply(_AMBIENT[weather], _DAYLIGHT[time])
    sunny = weather == "clear" and time != "night"
    return Look(
        zenith=zenith,
        horizon=horizon,
        glow=glow,
        cloud=cloud,
        cloud_cover=_CLOUDS[weather],
        ambient=(float(ambient[0]), float(ambient[1]), float(ambient[2])),
        direct=_DIRECT[time] if sunny else (0.0, 0.0, 0.0),
        sun_elevation_deg=36.0 if time == "day" else 7.0,
        extinction_per_m=_EXTINCTION[weather],
        hill_haze=_HILL_HAZE[weather],
        beam={"day": 0.0, "dusk": 0.3, "night": 1.0}[time],
        lamps=_LAMPS[time][weather],
        wet=1.0 if weather == "rain" else 0.0,
        snow=1.0 if weather == "snow" else 0.0,
        stars=weather == "clear" and time == "night",
        town=time == "night" and weather in ("clear", "overcast", "rain"),
    )
