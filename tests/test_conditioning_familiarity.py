"""What training has shown of a prompt: known words, typos, and what no caption held."""

import json

import numpy as np
import pytest

from conditioning.familiarity import MOST_WORDS, THRESHOLD, WordCounts, edit_distance
from data.dashsim.captions import Facts, describe

WEATHERS, TIMES = ("clear", "rain", "fog", "snow"), ("day", "dusk", "night")


@pytest.fixture(scope="module")
def counts() -> WordCounts:
    """Of a thousand captions of dashsim."""
    rng = np.random.default_rng(0)
    facts = [Facts(w, t, road, "light", 2) for w in WEATHERS for t in TIMES for road in ("highway", "intersection")]  # type: ignore[arg-type]
    return WordCounts.of(describe(facts[i % len(facts)], "turn_left", rng) for i in range(1000))


def test_known_words_are_familiar_in_any_order_case_and_spelling(counts: WordCounts) -> None:
    for prompt in (
        "rainy night",
        "NIGHT, rainy!",
        "turning left on a highway, snowy, with light traffic",
        "night on a two-lane road at rain",
    ):
        found = counts.familiarity(prompt)
        assert (found.score, found.unknown, found.typos) == (1.0, (), ()), prompt


def test_what_no_caption_held_is_not_familiar(counts: WordCounts) -> None:
    found = counts.familiarity("a volcano erupts on mars")
    assert found.score < 0.3
    assert found.unknown == ("volcano", "erupts", "mars")
    assert str(found) == f"familiarity {found.score:.2f}; never seen in training: volcano, erupts, mars"
    assert counts.familiarity("rainy night, a volcano").score < THRESHOLD  # a rare word weighs more than common ones
    assert counts.familiarity("дождь ночью").score == 0


def test_typos_stand_between(counts: WordCounts) -> None:
    found = counts.familiarity("rany nihgt")
    assert found.score == 0.5
    assert found.typos == (("rany", "rainy"), ("nihgt", "night"))
    assert "rany (rainy?), nihgt (night?)" in str(found)
    assert 0.5 < counts.familiarity("rany night").score < 1
    assert counts.familiarity("ofggy").typos == (("ofggy", "foggy"),)


def test_an_empty_prompt_is_no_prompt(counts: WordCounts) -> None:
    assert [counts.familiarity(prompt).score for prompt in ("", "  ", "?!")] == [1.0] * 3
    assert WordCounts.of([]).familiarity("fog").score == 0
    assert WordCounts.of([]).familiarity("").score == 1


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("", "", 0), ("fog", "fog", 0), ("fog", "", 3), ("fog", "fgo", 1), ("snow", "now", 1), ("day", "dusk", 3), ("ab", "bca", 3)],
)
def test_edit_distance(one: str, other: str, distance: int) -> None:
    assert edit_distance(one, other) == edit_distance(other, one) == distance


def test_counts_are_of_captions_add_up_and_survive_json() -> None:
    first = WordCounts.of(["fog, fog", "Fog at night"])
    assert first.counts == {"fog": 2, "at": 1, "night": 1}
    both = WordCounts.of(["night"], first)
    assert both == WordCounts.of(["night", "fog, fog", "Fog at night"])
    assert WordCounts.from_dict(json.loads(json.dumps(both.to_dict()))) == both
    many = WordCounts.of(["fog", "fog", " ".join(f"w{i}" for i in range(2 * MOST_WORDS)), "x" * 1000])
    assert len(many.counts) == MOST_WORDS and next(iter(many.counts)) == "fog"
    for broken in ({"words": ["a"], "counts": []}, {"words": ["a"], "counts": [0]}, {"words": [1], "counts": [1]}):
        with pytest.raises(ValueError, match="expected a count of 1 or more for every word"):
            WordCounts.from_dict(broken)
