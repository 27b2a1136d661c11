"""What the user should know of prompts and commands before a world is driven by them: each a UserNotice of one line.

Axes: B worlds, F frames, A action channels.
"""

import warnings
from collections.abc import Iterable

import numpy as np

from conditioning.channels import ChannelSet
from conditioning.familiarity import THRESHOLD
from conditioning.steering import Commands
from data.errors import UserNotice
from worldgpt.model import WorldGPT

CALLERS = 4
"""Frames up the stack to where the pipeline was called."""


def tell_unfamiliar(model: WorldGPT, prompts: Iterable[str]) -> None:
    """Of every prompt whose words training has not shown; or, once, that the checkpoint does not know which it has."""
    for prompt in dict.fromkeys(prompts):
        if model.caption_words is None:
            if prompt.strip():
                _tell("familiarity of the prompts is unknown: the checkpoint does not say which words it was trained on")
                return
        elif (found := model.caption_words.familiarity(prompt)).score < THRESHOLD:
            _tell(f"prompt {prompt!r:.80}: {found}")


def tell_clamped(model: WorldGPT, commands: Iterable[Commands | None]) -> None:
    """Of every channel that commands take beyond its range; of several worlds the first that does so."""
    told: dict[str, str] = {}
    for given in commands:
        if given is not None:
            told = {**model.actions.clamp_report(given.actions), **model.telemetry.clamp_report(given.telemetry), **told}
    for line in told.values():
        _tell(line)


def tell_planner(channels: ChannelSet, actions: np.ndarray, frame: int, told: set[str]) -> None:
    """Of every channel that a planner's actions (B, A) take beyond its range for the first time; its name enters `told`."""
    for name, line in channels.clamp_report(actions).items():
        if name not in told:
            _tell(f"planner, frame {frame}: {line}; told once")
        told.add(name)


def _tell(line: str) -> None:
    warnings.warn(line, UserNotice, stacklevel=CALLERS)
