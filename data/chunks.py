"""Cutting and joining episodes along time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from data.episode import Caption, Episode


def cut(episode: Episode, first: int, last: int) -> Episode:
    """Steps first <= t < last of an episode, counted from its own first step; arrays are views."""

    def part(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array[first:last] for name, array in arrays.items()}

    return replace(
        episode,
        timestamps_s=episode.timestamps_s[first:last],
        frames=part(episode.frames),
        codes=part(episode.codes),
        telemetry=episode.telemetry[first:last],
        actions=episode.actions[first:last],
        truth=part(episode.truth),
        start=episode.start + first,
    )


def overlap(episode: Episode, first: int, last: int | None) -> Episode | None:
    """What `episode` holds of the drive's steps first <= t < last (None: to the end), or None where that is nothing."""
    low = max(first - episode.start, 0)
    high = episode.steps if last is None else min(last - episode.start, episode.steps)
    return cut(episode, low, high) if low < high else None


def join(episodes: Sequence[Episode]) -> Episode:
    """One episode out of consecutive ones of a drive."""
    if len(episodes) == 1:
        return episodes[0]
    head = episodes[0]

    def whole(field: str) -> dict[str, np.ndarray]:
        return {name: np.concatenate([getattr(e, field)[name] for e in episodes]) for name in getattr(head, field)}

    return replace(
        head,
        timestamps_s=np.concatenate([e.timestamps_s for e in episodes]),
        frames=whole("frames"),
        codes=whole("codes"),
        telemetry=np.concatenate([e.telemetry for e in episodes]) if head.telemetry_channels else head.telemetry,
        actions=np.concatenate([e.actions for e in episodes]) if head.action_channels else head.actions,
        truth=whole("truth"),
        captions=tuple(dict.fromkeys(caption for e in episodes for caption in e.captions)),
    )


def rechunk(episodes: Iterable[Episode], steps: int) -> Iterator[Episode]:
    """The same steps in episodes of `steps` each; the last one may be shorter."""
    pending: list[Episode] = []
    for episode in episodes:
        pending.append(episode)
        if sum(e.steps for e in pending) < steps:
            continue
        whole = join(pending)
        full = whole.steps - whole.steps % steps
        for first in range(0, full, steps):
            yield cut(whole, first, first + steps)
        pending = [cut(whole, full, whole.steps)] if full < whole.steps else []
    if pending:
        yield join(pending)


def shift_captions(captions: Sequence[Caption], first: int, last: int) -> tuple[Caption, ...]:
    """Captions of a drive as seen from its part first <= t < last, counted from the part's first step."""
    moved = (Caption(max(c.start, first) - first, min(c.end, last) - first, c.text) for c in captions)
    return tuple(c for c in moved if c.start < c.end)
