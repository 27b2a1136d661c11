"""Settings of `scripts/evaluate.py physics`; free of torch, so that `--help` is quick."""

from dataclasses import dataclass

from worldgpt.evaluate.settings import EvaluationConfig


@dataclass(frozen=True)
class PhysicsEvaluationConfig(EvaluationConfig):
    """What a world model of bouncing balls has understood: where they are, what collisions keep, and that nothing vanishes."""

    data: str = "runs/data/physics"
    """Set prepared by `prepare_data.py physics`."""
    output: str = "runs/physics"
    """Folder for report.json, table.md, curves.png and rollouts.png; refused if it exists, unless --overwrite is given."""
    rollouts: int = 64
    """Rollouts of the figures over the horizon, and at most as many of each kind of collision."""
    horizon: int = 40
    """Frames of a rollout."""

    def __post_init__(self) -> None:
        self.expect(rollouts=1, horizon=4)
