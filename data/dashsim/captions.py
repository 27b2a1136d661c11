"""Captions of a drive: what is true of it, in many wordings, and what the car is doing, in stretches of two seconds or more."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np

from data.dashsim.config import Road, Traffic
from data.dashsim.events import Event, Moment, event_words
from data.dashsim.scene import TimeOfDay, Weather
from data.episode import Caption

SHORTEST_S = 2.0
"""No caption lasts shorter, but in a drive that is itself shorter."""
LONGEST_S = 8.0
WORDINGS = 6
"""Draws of a wording for the same stretch: with one alone, a prompt would name its drive rather than what it says."""
TRUE_SHARE = 0.75
"""What the car does is told where it does so for at least this share of the caption's steps."""

NOTHING, OFF_ROAD = "nothing", "off_road"

TIME_WORDS: dict[TimeOfDay, tuple[str, ...]] = {
    "day": ("day", "daytime", "daylight"),
    "dusk": ("dusk", "evening", "twilight"),
    "night": ("night", "nighttime", "dark"),
}
AT_TIME: dict[TimeOfDay, str] = {"day": "by day", "dusk": "at dusk", "night": "at night"}
LOOK_WORDS: dict[Weather, dict[str, tuple[str, ...]]] = {
    "clear": {"adjective": ("clear", "clear", "dry"), "noun": ("clear weather", "dry weather", "clear sky")},
    "rain": {"adjective": ("rainy", "wet", "rainy"), "noun": ("rain", "rain", "falling rain", "wet road")},
    "fog": {"adjective": ("foggy", "misty", "foggy"), "noun": ("fog", "fog", "mist", "thick fog")},
    "snow": {"adjective": ("snowy", "wintry", "snowy"), "noun": ("snow", "snow", "snowfall", "falling snow")},
    "overcast": {"adjective": ("overcast", "cloudy", "grey"), "noun": ("clouds", "overcast sky", "grey sky")},
}
SUNNY = ("sunny day", "sunny day", "sunshine", "sunny", "bright sunny day")
"""Only of a clear day."""
TRAFFIC_WORDS: dict[Traffic, tuple[str, ...]] = {
    "none": ("empty road", "no traffic", "no other cars", "deserted road"),
    "light": ("light traffic", "little traffic", "few cars", "light traffic"),
    "moderate": ("moderate traffic", "some traffic", "some cars", "moderate traffic"),
    "heavy": ("heavy traffic", "dense traffic", "heavy traffic", "many cars"),
}
ROAD_WORDS: dict[Road, tuple[str, ...]] = {
    "highway": ("highway", "motorway", "highway", "freeway"),
    "merge": ("highway with slip roads", "highway with an on-ramp", "motorway with on-ramps"),
    "two_way": ("country road", "rural road", "winding country road", "two-way road"),
    "roundabout": ("road with a roundabout", "town road at a roundabout", "roundabout"),
    "intersection": ("road with an intersection", "town road at a crossroads", "intersection"),
    "racetrack": ("racetrack", "race track", "racing circuit"),
}
LANE_WORDS = {1: "single-lane", 2: "two-lane", 3: "three-lane", 4: "four-lane"}
DOING_WORDS: dict[str, tuple[str, ...]] = {
    "turn_left": ("turning left", "turning left", "turning to the left", "a sharp left turn"),
    "turn_right": ("turning right", "turning right", "turning to the right", "a sharp right turn"),
    "bend_left": ("in a left bend", "the road bends left", "curving left", "following a bend to the left"),
    "bend_right": ("in a right bend", "the road bends right", "curving right", "following a bend to the right"),
    "change_left": ("changing lanes to the left", "moving to the left lane", "changing to the left"),
    "change_right": ("changing lanes to the right", "moving to the right lane", "changing to the right"),
    "circle": ("going round the roundabout", "in the roundabout", "circling the roundabout"),
    OFF_ROAD: ("off the road", "on the grass", "driving on the verge", "beside the road"),
    "stop": ("standing still", "stopped", "waiting"),
    "brake": ("braking", "slowing down", "braking"),
    "accelerate": ("accelerating", "speeding up", "accelerating"),
    "follow": ("following a car", "behind another car", "following the car ahead"),
    "straight": ("driving straight", "straight ahead", "going straight"),
    NOTHING: (),
}


@dataclass(frozen=True)
class Facts:
    """What is true of a whole drive."""

    weather: Weather
    time_of_day: TimeOfDay
    road: Road
    traffic: Traffic
    lane_count: int


def caption_drive(
    facts: Facts, doings: Sequence[str], fps: float, rng: np.random.Generator, moment: Moment | None = None
) -> tuple[Caption, ...]:
    """Captions that cover all steps of a drive, given what the car does at each; each stretch is told in several wordings.

    At the `moment` of a staged event every wording tells the event, and leaves out what else the car does.
    """
    captions = []
    for first, last in [(0, len(doings))] if moment is None else [(0, moment.start), (moment.end, len(doings))]:
        for start, end, doing in segments(doings[first:last], fps, rng) if first < last else []:
            texts = dict.fromkeys(describe(facts, doing, rng) for _ in range(WORDINGS))
            captions += [Caption(first + start, first + end, text) for text in texts]
    if moment is not None:
        texts = dict.fromkeys(describe_event(facts, moment.event, rng) for _ in range(WORDINGS))
        captions += [Caption(moment.start, moment.end, text) for text in texts]
    return tuple(sorted(captions, key=lambda caption: caption.start))


def doing_at_each_step(road: Road, speed_mps: np.ndarray, truth: dict[str, np.ndarray], fps: float) -> list[str]:
    """What the car does, in the keys of DOING_WORDS, from its speed and truth, each (T,)."""
    yaw_rate = _smooth(np.gradient(np.unwrap(truth["yaw_rad"])) * fps, fps)
    pull = _smooth(np.gradient(speed_mps) * fps, fps)
    near = (truth["lead_distance_m"] < 12 + 0.9 * speed_mps) & (np.abs(truth["lead_speed_mps"] - speed_mps) < 3)
    tight = np.abs(_smooth(truth["curvature_inv_m"], fps)) > 1 / 60
    conditions = {
        "stop": speed_mps < 0.3,
        OFF_ROAD: truth["off_road"] > 0,
        "change_left": truth["lane_change"] > 0,
        "change_right": truth["lane_change"] < 0,
        "circle": (truth["in_junction"] > 0) & (road == "roundabout") & (yaw_rate > 0.1),
        "turn_left": tight & (yaw_rate > 0.12),
        "turn_right": tight & (yaw_rate < -0.12),
        "brake": pull < -1.2,
        "accelerate": pull > 1.1,
        "bend_left": (truth["curvature_inv_m"] > 1 / 600) & (yaw_rate > 0.02),
        "bend_right": (truth["curvature_inv_m"] < -1 / 600) & (yaw_rate < -0.02),
        "follow": near,
        "straight": np.abs(truth["curvature_inv_m"]) < 1 / 1200,
    }
    chosen = np.select(list(conditions.values()), list(range(len(conditions))), default=len(conditions))
    names = [*conditions, NOTHING]
    return [names[index] for index in chosen]


def _smooth(values: np.ndarray, fps: float) -> np.ndarray:
    """Mean over about 0.7 s round each step."""
    half = max(1, round(0.35 * fps))
    padded = np.pad(values, half, mode="edge")
    return np.convolve(padded, np.ones(2 * half + 1) / (2 * half + 1), mode="valid")


def segments(doings: Sequence[str], fps: float, rng: np.random.Generator) -> list[tuple[int, int, str]]:
    """(start, end, doing) that cover all steps, each of SHORTEST_S or more; NOTHING where no doing prevails."""
    shortest = min(round(SHORTEST_S * fps), len(doings))
    runs = [len(list(run)) for _, run in groupby(doings)]
    ends = np.cumsum(runs)
    long_runs = [(int(end) - run, int(end)) for run, end in zip(runs, ends, strict=True) if run >= shortest]
    cuts = [0, *sorted({border for run in long_runs for border in run} - {0, len(doings)}), len(doings)]
    stretches: list[tuple[int, int]] = []
    for start, end in pairwise(cuts):
        if stretches and end - start < shortest:
            stretches[-1] = (stretches[-1][0], end)
        else:
            stretches.append((start, end))
    if len(stretches) > 1 and stretches[0][1] < shortest:
        stretches[:2] = [(0, stretches[1][1])]
    pieces = [piece for stretch in stretches for piece in _split(*stretch, fps, rng)]
    return [(start, end, _prevailing(doings[start:end])) for start, end in pieces]


def _split(start: int, end: int, fps: float, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Cut a long stretch so that its wording changes now and then."""
    pieces = []
    while end - start > (LONGEST_S + SHORTEST_S) * fps:
        middle = start + round(rng.uniform(2 * SHORTEST_S, LONGEST_S) * fps)
        pieces.append((start, middle))
        start = middle
    return [*pieces, (start, end)]


def _prevailing(doings: Sequence[str]) -> str:
    names = sorted(set(doings))
    counts = [sum(doing == name for doing in doings) for name in names]
    best = int(np.argmax(counts))
    return names[best] if counts[best] >= TRUE_SHARE * len(doings) else NOTHING


def describe(facts: Facts, doing: str, rng: np.random.Generator) -> str:
    """One wording of facts and doing: all of them, or only some. That the car is off the road is always told, so that a prompt which does
    not say so means a road.
    """
    told = str(rng.choice(list(_SHARES), p=list(_SHARES.values())))
    parts = [_time_alone(facts, rng)] if told == "time" else _setting(facts, told, rng)
    if DOING_WORDS[doing] and ("doing" in told or doing == OFF_ROAD):
        parts.append(_pick(rng, DOING_WORDS[doing]))
    return _joined(parts, rng)


def describe_event(facts: Facts, event: Event, rng: np.random.Generator) -> str:
    """One wording of a staged event: alone, or with some or all of the facts."""
    told = str(rng.choice(list(_EVENT_SHARES), p=list(_EVENT_SHARES.values())))
    return _joined([*(_setting(facts, told, rng) if told else ()), event_words(event, facts.road, rng)], rng)


def _setting(facts: Facts, told: str, rng: np.random.Generator) -> list[str]:
    """Weather, road and traffic, as far as they are to be told."""
    parts = [_weather_alone(facts, rng) if "weather" in told else _look(facts, rng)]
    if "road" in told:
        road = _road(facts, rng)
        if rng.random() < 0.6:
            place = "at" if facts.road in ("roundabout", "intersection") and " " not in road else "on"
            parts[0] += f" {place} {'an' if road[0] in 'aeiou' else 'a'} {road}"
        else:
            parts.append(road)
    if "traffic" in told:
        parts.append(_pick(rng, TRAFFIC_WORDS[facts.traffic]))
    return parts


def _joined(parts: list[str], rng: np.random.Generator) -> str:
    if rng.random() < 0.35:
        parts = [parts[index] for index in rng.permutation(len(parts))]
    return ", ".join(parts)


_SHARES = {
    "look road traffic doing": 0.32,
    "look": 0.18,
    "look traffic": 0.12,
    "look road": 0.1,
    "look doing": 0.12,
    "look traffic doing": 0.06,
    "weather": 0.02,
    "weather traffic": 0.04,
    "time": 0.04,
}
"""What is told, and how often; "look" is weather and time of day in one phrase."""


_EVENT_SHARES = {"": 0.16, "look": 0.32, "look road": 0.16, "look traffic": 0.12, "look road traffic": 0.12, "weather": 0.12}
"""What is told beside an event, and how often."""


def _weather_alone(facts: Facts, rng: np.random.Generator) -> str:
    return _pick(rng, (*LOOK_WORDS[facts.weather]["noun"], LOOK_WORDS[facts.weather]["adjective"][0]))


def _time_alone(facts: Facts, rng: np.random.Generator) -> str:
    """Such as "night" or "empty road at night"."""
    if rng.random() < 0.4:
        return _pick(rng, TIME_WORDS[facts.time_of_day])
    return f"{_pick(rng, TRAFFIC_WORDS[facts.traffic])} {AT_TIME[facts.time_of_day]}"


def _pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def _look(facts: Facts, rng: np.random.Generator) -> str:
    """Weather and time of day in one phrase, such as "rainy night" or "night, rain"."""
    if facts.weather == "clear" and facts.time_of_day == "day" and rng.random() < 0.6:
        return _pick(rng, SUNNY)
    words = LOOK_WORDS[facts.weather]
    adjective, noun = _pick(rng, words["adjective"]), _pick(rng, words["noun"])
    plain, time = TIME_WORDS[facts.time_of_day][0], _pick(rng, TIME_WORDS[facts.time_of_day][:2])
    at = AT_TIME[facts.time_of_day]
    forms = (f"{adjective} {plain}", f"{adjective} {time}", f"{noun} {at}", f"{time}, {noun}", f"{plain} with {noun}", f"{noun}, {time}")
    return forms[int(rng.choice(len(forms), p=(0.4, 0.2, 0.16, 0.08, 0.06, 0.1)))]


def _road(facts: Facts, rng: np.random.Generator) -> str:
    name = _pick(rng, ROAD_WORDS[facts.road])
    if facts.road in ("highway", "merge", "racetrack") and rng.random() < 0.6:
        return f"{LANE_WORDS[facts.lane_count]} {name}"
    return name
