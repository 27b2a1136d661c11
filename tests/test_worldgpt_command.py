"""The command of a training: given to the script's own parser, it makes the same settings again."""

from dataclasses import asdict, replace

import pytest

from scripts import cli
from worldgpt.command import training_command
from worldgpt.config import HistoryConfig, WorldTrainConfig, presets

CHANGED = {
    "demo": lambda c: replace(c, beginnings=0.3, activation_checkpointing=True, loop=replace(c.loop, steps=7, compile=True)),
    "small": lambda c: replace(c, history=HistoryConfig(corruption=0.5, kind="neighbour"), loop=replace(c.loop, learning_rate=1e-4)),
    "gaia": lambda c: replace(c, activation_checkpointing=False),
}


@pytest.mark.parametrize("name", CHANGED)
def test_the_command_makes_the_same_settings(name: str) -> None:
    config = replace(
        CHANGED[name](presets()[name]), data=("here:2", "there"), tokenizer="tok", output="/secret/out", init_from="/secret/in"
    )
    command = training_command(asdict(config)).split()
    assert command[:4] == ["python", "scripts/train_worldgpt.py", "--preset", name] and "secret" not in " ".join(command)
    again = cli.parse(WorldTrainConfig, presets=presets(), default_preset=lambda: "demo", argv=command[2:])
    named = {"data": ("DATA",), "tokenizer": "TOKENIZER", "output": "OUTPUT", "init_from": "INIT_FROM"}
    assert again == replace(config, **named)


def test_what_a_newer_version_does_not_know_is_left_out() -> None:
    assert "--model.wings" not in training_command({**asdict(presets()["small"]), "model": {"wings": 2}})
