"""Settings of `scripts/evaluate.py physics`; free of torch, so that `--help` is quick."""

from dataclasses import dataclass, replace

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
    quick: bool = False
    """A rough table in minutes: few and short rollouts."""

    def __post_init__(self) -> None:
        self.expect(rollouts=1, horizon=4)

    def shortened(self) -> "PhysicsEvaluationConfig":
        """What --quick stands for; without it, the same settings."""
        if not self.quick:
            return self
        return replace(self, rollouts=min(self.rollouts, 12), horizon=min(self.horizon, 20))
