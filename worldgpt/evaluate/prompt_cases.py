"""Prompts whose truth is known: what each tells, so that it can be read back; the same in other words, with typos and with unknown words.

For dashsim they are built from its captions' own vocabulary. For other sources they are captions of drives, scored by the drives' labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.dashsim.captions import AT_TIME, LOOK_WORDS, ROAD_WORDS, TIME_WORDS, TRAFFIC_WORDS
from data.dashsim.config import HELD_OUT, ROADS, TRAFFICS
from data.dashsim.scene import TIMES_OF_DAY, WEATHERS
from data.store import EpisodeStore
from worldgpt.evaluate.probes import EVENT, LOOKS

SEEN, HELD_OUT_KIND = "seen", "held_out"
CONSTRUCTIONS, TYPOS, UNKNOWN = "constructions", "typos", "unknown_words"
CAPTIONS = "captions"
SYNONYMS: Mapping[str, str] = {
    "clear": "cloudless", "rain": "drizzle", "fog": "haze", "snow": "blizzard", "overcast": "gloom",
    "day": "noon", "dusk": "sundown", "night": "midnight",
}  # fmt: skip
"""Words that no caption of dashsim holds."""


@dataclass(frozen=True)
class PromptCase:
    """A prompt and what it tells."""

    text: str
    told: Mapping[str, str]
    """{weather, time_of_day, road, traffic, event: the name of the label}."""


def dashsim_cases(kind: str, count: int, seed: int) -> list[PromptCase]:
    """`count` prompts of a kind; looks, roads and densities of traffic take turns, so that each comes up about as often.

    seen, held_out: as the captions say it, with looks that training saw, or never saw together. constructions: known words as no caption
    puts them. typos: seen prompts with a letter wrong in every longer word. unknown_words: words that no caption holds.
    """
    looks = [(w, t) for w in WEATHERS for t in TIMES_OF_DAY if ((w, t) in HELD_OUT) == (kind == HELD_OUT_KIND)]
    rng = np.random.default_rng([seed, 71])
    shuffled = [looks[i] for i in rng.permutation(len(looks))]
    cases = []
    for number in range(count):
        weather, time = shuffled[number % len(looks)]
        road, traffic = ROADS[number % len(ROADS)], TRAFFICS[(number + number // len(TRAFFICS)) % len(TRAFFICS)]
        told = {"weather": weather, "time_of_day": time}
        if kind == CONSTRUCTIONS:
            cases.append(PromptCase(_construction(number, weather, time, road), {**told, "road": road}))
        elif kind == UNKNOWN:
            cases.append(PromptCase(f"{SYNONYMS[weather]} at {SYNONYMS[time]}", told))
        else:
            look = f"{LOOK_WORDS[weather]['adjective'][0]} {TIME_WORDS[time][0]}"
            text = f"{look} on {_article(ROAD_WORDS[road][0])}, {TRAFFIC_WORDS[traffic][0]}"
            case = PromptCase(text, {**told, "road": road, "traffic": traffic})
            cases.append(PromptCase(misspelt(text, rng), case.told) if kind == TYPOS else case)
    return cases


def _construction(number: int, weather: str, time: str, road: str) -> str:
    """Known words in an order that no caption has: a look torn apart by the road, or told behind "driving"."""
    adjective, noun = LOOK_WORDS[weather]["adjective"][0], LOOK_WORDS[weather]["noun"][0]  # type: ignore[index]
    name, plain, at = ROAD_WORDS[road][0], TIME_WORDS[time][0], AT_TIME[time]  # type: ignore[index]
    forms = (
        f"driving on {_article(f'{adjective} {name}')} {at}",
        f"{noun} {name} {plain}",
        f"a {plain} on {_article(name)} in the {noun}",
        f"going straight {at} on {_article(name)} with {noun}",
    )
    return forms[number % len(forms)]


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def misspelt(text: str, rng: np.random.Generator) -> str:
    """A letter wrong in every word of four letters or more: two exchanged, one left out or one doubled, never the first."""
    return " ".join(_misspelt_word(word, rng) if len(word.strip(",")) > 3 else word for word in text.split())


def _misspelt_word(word: str, rng: np.random.Generator) -> str:
    letters = word.strip(",")
    places = [i for i in range(1, len(letters) - 1) if letters[i] != letters[i + 1]]
    place, kind = int(rng.choice(places)), int(rng.integers(3))
    middle = (letters[place + 1] + letters[place], letters[place + 1], letters[place] * 2 + letters[place + 1])[kind]
    return letters[:place] + middle + letters[place + 2 :] + word[len(letters) :]


def caption_cases(store: EpisodeStore, split: str, count: int) -> list[PromptCase]:
    """First captions of drives spread over a split, told by the drives' labels; fewer where fewer drives have both."""
    found = []
    for drive in store.drives(split):
        told = {look: drive.labels[look] for look in LOOKS if look in drive.labels and look != EVENT}
        if drive.captions and told:
            found.append(PromptCase(drive.captions[0].text, told))
    return [found[i] for i in np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)]


def event_cases(store: EpisodeStore, split: str, count: int) -> list[PromptCase]:
    """Captions of the moments at which something was staged, told by the drives' label `event`; none where a set has no events."""
    found = []
    for drive in store.drives(split):
        name = drive.labels.get(EVENT)
        codes = store.read(drive.drive_id, frames=False).truth.get(EVENT) if name else None
        if codes is None or not codes.any():
            continue
        first = int(np.flatnonzero(codes)[0])
        texts = [c.text for c in drive.captions if c.start <= first < c.end]
        found += [PromptCase(text, {EVENT: str(name)}) for text in texts[:1]]
    return [found[i] for i in np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)]


def cases_of(store: EpisodeStore, split: str, heldout_split: str, count: int, seed: int) -> dict[str, list[PromptCase]]:
    """{kind: prompts} that a data set can be asked for; kinds without any are left out."""
    if store.manifest.source == "dashsim":
        kinds = (SEEN, HELD_OUT_KIND, CONSTRUCTIONS, TYPOS, UNKNOWN)
        cases = {kind: dashsim_cases(kind, count, seed) for kind in kinds}
    else:
        splits = {CAPTIONS: split, HELD_OUT_KIND: heldout_split}
        cases = {kind: caption_cases(store, name, count) for kind, name in splits.items() if name in store.splits}
    cases["events"] = event_cases(store, split, count)
    return {kind: found for kind, found in cases.items() if found}


def told_names(cases: Sequence[PromptCase], look: str) -> list[str | None]:
    """What each prompt tells of a look; None where it says nothing of it."""
    return [case.told.get(look) for case in cases]
