"""Measure a trained world model: `python scripts/evaluate.py drift --checkpoint runs/worldgpt --data runs/data/dashsim`."""

import cli

from worldgpt.evaluate.drift_config import DriftConfig


def main() -> None:
    config = cli.parse_command({"drift": DriftConfig}, about="Measure a trained world model on true drives.")
    from worldgpt.evaluate.drift import evaluate_drift

    evaluate_drift(config)
    print(f"report: {config.output} (report.json, curves.png, rollouts.mp4, rollouts.png)")


if __name__ == "__main__":
    cli.main(main)
