"""Captions say nothing that is not so, in many wordings, and cover a drive in stretches of two seconds or more."""

import re
from collections import Counter
from itertools import pairwise, product

import numpy as np
import pytest

from data.dashsim.captions import DOING_WORDS, NOTHING, OFF_ROAD, Facts, caption_drive, describe, doing_at_each_step, segments
from data.dashsim.config import ROADS, TRAFFICS
from data.dashsim.scene import TIMES_OF_DAY, WEATHERS

# Read independently of the templates: what a person would take each word for.
MEANINGS: dict[str, dict[str, str]] = {
    "weather": {
        "rain": r"\brain|\bwet\b",
        "snow": r"\bsnow|\bwintry",
        "fog": r"\bfog|\bmist",
        "overcast": r"\bovercast|\bcloud|\bgrey\b",
        "clear": r"\bclear\b|\bdry\b|\bsun",
    },
    "time_of_day": {"day": r"\bday|\bsun", "dusk": r"\bdusk\b|\bevening\b|\btwilight\b", "night": r"\bnight|\bdark\b"},
    "traffic": {
        "none": r"\bempty road\b|\bno traffic\b|\bno other cars\b|\bdeserted\b",
        "light": r"\blight traffic\b|\blittle traffic\b|\bfew cars\b",
        "moderate": r"\bmoderate traffic\b|\bsome traffic\b|\bsome cars\b",
        "heavy": r"\bheavy traffic\b|\bdense traffic\b|\bmany cars\b",
    },
    "road": {
        "highway": r"\b(highway|motorway|freeway)\b(?! with)",
        "merge": r"\b(highway|motorway) with",
        "two_way": r"\bcountry road\b|\brural road\b|\btwo-way road\b",
        "roundabout": r"\b(on|at|with) a (town road at a )?roundabout\b|\btown road at a roundabout\b|(^|, )roundabout\b|\ba roundabout\b",
        "intersection": r"\bintersection\b|\bcrossroads\b",
        "racetrack": r"\brace ?track\b|\bracing circuit\b",
    },
    "lane_count": {"1": r"\bsingle-lane\b", "2": r"\btwo-lane\b", "3": r"\bthree-lane\b", "4": r"\bfour-lane\b"},
    "side": {"left": r"\bleft\b", "right": r"\bright\b"},
}


def read(text: str) -> dict[str, set[str]]:
    """What a caption claims, by kind of fact."""
    return {kind: {value for value, pattern in values.items() if re.search(pattern, text)} for kind, values in MEANINGS.items()}


def claims_nothing_else(text: str, facts: Facts, doing: str) -> bool:
    truth = {name: {str(getattr(facts, name))} for name in ("weather", "time_of_day", "traffic", "road", "lane_count")}
    truth["side"] = {side for side in ("left", "right") if doing.endswith(side)}
    return all(values <= truth[kind] for kind, values in read(text).items())


def test_no_caption_ever_names_a_wrong_fact():
    rng = np.random.default_rng(0)
    for weather, time_of_day, road, traffic in product(WEATHERS, TIMES_OF_DAY, ROADS, TRAFFICS):
        for doing in DOING_WORDS:
            facts = Facts(weather, time_of_day, road, traffic, int(rng.integers(1, 5)))
            text = describe(facts, doing, rng)
            assert claims_nothing_else(text, facts, doing), f"{text!r} of {facts} {doing}"


@pytest.mark.parametrize("road", ROADS)
def test_what_is_told_can_be_read_back(road):
    """Over many wordings every fact is named again and again, so the words are not merely vague."""
    rng = np.random.default_rng(1)
    facts = Facts("snow", "dusk", road, "moderate", 2)
    told = [read(describe(facts, "turn_left", rng)) for _ in range(300)]
    for kind in ("weather", "time_of_day", "traffic", "road", "side"):
        assert sum(bool(claims[kind]) for claims in told) > 60, kind


def test_sunny_means_a_clear_day():
    rng = np.random.default_rng(2)
    for weather, time_of_day in product(WEATHERS, TIMES_OF_DAY):
        texts = [describe(Facts(weather, time_of_day, "highway", "light", 2), NOTHING, rng) for _ in range(200)]
        assert any("sun" in text for text in texts) == (weather == "clear" and time_of_day == "day")


@pytest.mark.parametrize(
    "prompt, facts",
    [
        ("rainy night", Facts("rain", "night", "highway", "heavy", 2)),
        ("sunny day", Facts("clear", "day", "two_way", "light", 1)),
        ("foggy dusk", Facts("fog", "dusk", "merge", "light", 2)),
        ("snow, heavy traffic", Facts("snow", "day", "racetrack", "heavy", 2)),
        ("empty road at night", Facts("clear", "night", "two_way", "none", 1)),
    ],
)
def test_short_prompts_occur_word_for_word(prompt, facts):
    rng = np.random.default_rng(3)
    assert prompt in {describe(facts, NOTHING, rng) for _ in range(3000)}


def test_off_the_road_is_never_left_out():
    """So that a prompt which does not say it means a road."""
    rng = np.random.default_rng(8)
    for weather, time_of_day in product(WEATHERS, TIMES_OF_DAY):
        for text in (describe(Facts(weather, time_of_day, "two_way", "light", 1), OFF_ROAD, rng) for _ in range(100)):
            assert any(words in text for words in DOING_WORDS[OFF_ROAD]), text


def test_wording_varies():
    rng = np.random.default_rng(4)
    facts = Facts("rain", "night", "highway", "heavy", 2)
    assert len({describe(facts, "turn_left", rng) for _ in range(1000)}) > 400


@pytest.mark.parametrize("length", [1, 15, 40, 150, 600])
def test_segments_cover_the_drive_and_last_two_seconds(length):
    rng = np.random.default_rng(5)
    for _ in range(20):
        doings = [doing for doing in rng.choice(list(DOING_WORDS), 60) for _ in range(int(rng.integers(1, 50)))][:length]
        pieces = segments(doings, 10.0, rng)
        assert [pieces[0][0], *[end for _, end, _ in pieces]] == [*[start for start, _, _ in pieces], length]
        for start, end, doing in pieces:
            assert end - start >= min(20, length)
            if doing != NOTHING:
                assert doings[start:end].count(doing) >= 0.75 * (end - start)


def test_manoeuvres_of_real_drives_are_what_the_car_did():
    from data.dashsim.simulation import simulate

    seen = set()
    for road in ROADS:
        recording = simulate(road, "moderate", 400, seed=4)
        doings = doing_at_each_step(road, recording.telemetry[:, 0], recording.truth, 10.0)
        lane_change, speed = recording.truth["lane_change"], recording.telemetry[:, 0]
        yaw = np.unwrap(recording.truth["yaw_rad"])
        for start, end, doing in segments(doings, 10.0, np.random.default_rng(0)):
            seen.add(doing)
            turned, part = yaw[end - 1] - yaw[start], slice(start, end)
            if doing in ("turn_left", "bend_left", "circle"):
                assert turned > 0.03, (road, start, end, doing)
            if doing in ("turn_right", "bend_right"):
                assert turned < -0.03, (road, start, end, doing)
            if doing.startswith("change"):
                assert np.mean(np.sign(lane_change[part]) == (1 if doing == "change_left" else -1)) >= 0.75
            if doing in ("brake", "accelerate"):
                assert (speed[end - 1] - speed[start]) * (1 if doing == "accelerate" else -1) > 1.0
    assert len(seen) >= 7


def test_captions_of_a_drive_cover_it_in_several_wordings_and_are_the_same_for_the_same_seed():
    facts = Facts("fog", "day", "highway", "heavy", 3)
    doings = ["straight"] * 100 + ["turn_left"] * 50
    first, second = (caption_drive(facts, doings, 10.0, np.random.default_rng(9)) for _ in range(2))
    assert first == second and first[0].start == 0 and first[-1].end == 150
    spans = Counter((caption.start, caption.end) for caption in first)
    assert all(one[1] == two[0] for one, two in pairwise(spans))
    assert min(spans.values()) > 1 and len(set(first)) == len(first)
