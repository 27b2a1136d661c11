"""What a kind of driving data is to the rest: settings that become flags, and a function that lists drives."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from data.episode import Drive


@dataclass(frozen=True)
class Source:
    """One kind of driving data; every module of `data.sources` ends with one named SOURCE."""

    config: type
    """Frozen dataclass of settings, each with a line of docstring: they become the flags of `prepare_data.py <name>`."""
    drives: Callable[[Any], Iterator[Drive]]
    """Lists the drives of a config; nothing heavy is read before a drive's `episodes()` are."""
    frames_a_second: float
    """Rough rate of one core at 64x128, for the estimate of time."""
    license: str | None = None
    """Licence of the data, where the source fixes one."""
    counts: tuple[str, ...] = ()
    """Settings that only say how many drives there are: they may change when a store is gone on with."""
