"""Measure a trained world model: `python scripts/evaluate.py control --checkpoint runs/worldgpt --data runs/data/dashsim`."""

import sys
from importlib import import_module

import cli

from worldgpt.evaluate.control_config import ControlConfig
from worldgpt.evaluate.drift_config import DriftConfig
from worldgpt.evaluate.page_config import PageConfig
from worldgpt.evaluate.physics_config import PhysicsEvaluationConfig
from worldgpt.evaluate.quality_config import QualityConfig

COMMANDS = {
    "quality": (QualityConfig, "quality", "report.json, table.md, curves.png, rollouts.png"),
    "drift": (DriftConfig, "drift", "report.json, table.md, curves.png, rollouts.mp4, rollouts.png"),
    "control": (
        ControlConfig,
        "control",
        "report.json, table.md; response, guidance, confusion.png; actions, prompts, look as mp4 and png",
    ),
    "physics": (PhysicsEvaluationConfig, "physics", "report.json, table.md, curves.png, rollouts.png"),
    "all": (PageConfig, "page", "report.html, and a folder for each part"),
}
"""{name: its settings, the module of worldgpt.evaluate that holds evaluate_<name>, what it writes}."""


def main() -> None:
    config = cli.parse_command(
        {name: config for name, (config, _, _) in COMMANDS.items()}, about="Measure a trained world model on true drives."
    )
    name = sys.argv[1]
    _, module, files = COMMANDS[name]
    getattr(import_module(f"worldgpt.evaluate.{module}"), f"evaluate_{name}")(config)
    print(f"report: {config.output} ({files})")


if __name__ == "__main__":
    cli.main(main)
