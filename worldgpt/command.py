"""The command line that a training was started with, as far as its record tells."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from worldgpt.config import presets

PLACES = ("data", "tokenizer", "output", "init_from")
"""Settings that are folders on somebody's machine: told as names to be filled in."""
_LEFT_OUT = ("resume", "overwrite", "from_run", "loop.trackers", "loop.log_every")
"""Of no consequence for the weights."""


def training_command(config: Mapping[str, Any]) -> str:
    """`python scripts/train_worldgpt.py ...` from run.json's `config`: the preset that needs the fewest flags, and these.

    >>> from dataclasses import asdict, replace
    >>> small = presets()["small"]
    >>> print(training_command(asdict(replace(small, beginnings=0.5))))
    python scripts/train_worldgpt.py --preset small --data DATA --tokenizer TOKENIZER --output OUTPUT --beginnings 0.5
    """
    given = dict(_flat(config))
    flags = {name: _flags(given, dict(_flat(asdict(preset)))) for name, preset in presets().items()}
    name = min(flags, key=lambda preset: len(flags[preset]))
    places = [f"--{place.replace('_', '-')} {place.upper()}" for place in PLACES if given.get(place)]
    return " ".join(["python scripts/train_worldgpt.py --preset", name, *places, *flags[name]])


def _flags(given: Mapping[str, Any], preset: Mapping[str, Any]) -> list[str]:
    """What differs, and is known in both."""
    known = [name for name in given if name in preset and name not in PLACES and name not in _LEFT_OUT]
    return [_flag(name, given[name]) for name in known if _plain(given[name]) != _plain(preset[name])]


def _flag(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        group, _, last = flag.rpartition(".")
        return f"--{flag}" if value else f"--{group}.no-{last}" if group else f"--no-{last}"
    values = value if isinstance(value, (list, tuple)) else [value]
    return " ".join([f"--{flag}", *(shlex.quote(str(one)) for one in values)])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
