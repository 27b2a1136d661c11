"""Measure a trained world model: `python scripts/evaluate.py control --checkpoint runs/worldgpt --data runs/data/dashsim`."""

import cli

from worldgpt.evaluate.control_config import ControlConfig
from worldgpt.evaluate.drift_config import DriftConfig
from worldgpt.evaluate.page_config import PageConfig
from worldgpt.evaluate.physics_config import PhysicsEvaluationConfig
from worldgpt.evaluate.quality_config import QualityConfig


def drift(config: DriftConfig) -> None:
    from worldgpt.evaluate.drift import evaluate_drift

    evaluate_drift(config)
    print(f"report: {config.output} (report.json, table.md, curves.png, rollouts.mp4, rollouts.png)")


def control(config: ControlConfig) -> None:
    from worldgpt.evaluate.control import evaluate_control

    evaluate_control(config)
    print(f"report: {config.output} (report.json, table.md; response, guidance and confusion.png; actions, prompts, look as mp4 and png)")


def quality(config: QualityConfig) -> None:
    from worldgpt.evaluate.quality import evaluate_quality

    evaluate_quality(config)
    print(f"report: {config.output} (report.json, table.md, curves.png, rollouts.png)")


def physics(config: PhysicsEvaluationConfig) -> None:
    from worldgpt.evaluate.physics import evaluate_physics

    evaluate_physics(config)
    print(f"report: {config.output} (report.json, table.md, curves.png, rollouts.png)")


def everything(config: PageConfig) -> None:
    from worldgpt.evaluate.page import evaluate_all

    print(f"report: {evaluate_all(config)}")


COMMANDS = {
    "quality": (QualityConfig, quality),
    "drift": (DriftConfig, drift),
    "control": (ControlConfig, control),
    "physics": (PhysicsEvaluationConfig, physics),
    "all": (PageConfig, everything),
}


def main() -> None:
    settings = {name: config for name, (config, _) in COMMANDS.items()}
    config = cli.parse_command(settings, about="Measure a trained world model on true drives.")
    next(run for kind, run in COMMANDS.values() if kind is type(config))(config)


if __name__ == "__main__":
    cli.main(main)
