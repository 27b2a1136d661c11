"""Settings of `scripts/evaluate.py drift`; free of torch, so that `--help` is quick."""

import math
from dataclasses import dataclass
from typing import Literal

from data.errors import UserError
from worldgpt.evaluate.settings import ProbedConfig


@dataclass(frozen=True)
class DriftConfig(ProbedConfig):
    """How far rollouts drift: curves over the horizon, for each re-anchoring policy, beside their floor and trivial baselines."""

    output: str = "runs/drift"
    """Folder for report.json, curves.png, rollouts.mp4 and rollouts.png; refused if it exists, unless --overwrite is given."""
    horizon: int = 400
    """Frames that are generated from each start."""
    rollouts: int = 16
    """Starts, spread over the drives that are long enough."""
    policies: tuple[str, ...] = ("none", "every_n:20", "keyframe:20", "on_drift:1.3", "future:30", "real:50")
    """Re-anchoring policies to compare (worldgpt/anchors.py)."""
    actions: Literal["log", "model"] = "log"
    """Whose actions are taken: the log's, whatever road has been dreamed meanwhile, or the model's own: it drives itself. Its yaw rate in
    the pictures is then held against the one that it tells."""
    entropy: float = 0.0
    """Sharpens the draws where the model is sure, by this strength in nats; 0: all alike."""
    action_guidance: float = 1.0
    """Scale of guidance by the true actions; 1: none, above 1 at twice the cost."""

    def __post_init__(self) -> None:
        self.expect(horizon=10, rollouts=1)
        if not math.isfinite(self.action_guidance):
            raise UserError(f"--action-guidance: expected a finite scale, got {self.action_guidance}")
        if not self.policies:
            raise UserError("--policies: expected at least one policy")
