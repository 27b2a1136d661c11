"""Settings of `scripts/evaluate.py control`; free of torch, so that `--help` is quick."""

from dataclasses import dataclass, replace

from data.errors import UserError
from worldgpt.evaluate.settings import ProbedConfig


@dataclass(frozen=True)
class ControlConfig(ProbedConfig):
    """Does it do what it is told: how much of prompts, actions and telemetry is realised in the pictures, each beside its floor."""

    output: str = "runs/control"
    """Folder for report.json, the plots, confusion.png and the videos side by side; refused if it exists, unless --overwrite is given."""
    heldout_split: str = "heldout"
    """Split whose looks (weather and time of day) were never seen together in training; left out where the data set has none."""
    rollouts: int = 64
    """Rollouts of a figure."""
    frames: int = 50
    """Frames of a rollout."""
    guidance: float = 2.0
    """Scale of guidance under which prompts are followed; action figures are taken without guidance."""
    guidance_curve: tuple[float, ...] = (1.0, 1.5, 3.0, 5.0)
    """Further scales of the curve over the guidance scale."""
    deviations_m: tuple[float, ...] = (0.5, 1.0)
    """Lateral deviations that are commanded, each to both sides."""
    deviation_steps: int = 25
    """Steps within which a deviation is to be realised."""
    quick: bool = False
    """A rough table in about 5 minutes on two cores with a model of the preset `demo`: few rollouts, most of them short."""

    def __post_init__(self) -> None:
        self.expect(rollouts=2, frames=8, deviation_steps=2)
        wrong = [deviation for deviation in self.deviations_m if not 0 < deviation <= 2]
        if wrong:
            raise UserError(f"--deviations-m: expected metres above 0 and up to 2, got {wrong[0]:g}")

    def shortened(self) -> "ControlConfig":
        """What --quick stands for; without it, the same settings."""
        if not self.quick:
            return self
        return replace(self, rollouts=min(self.rollouts, 6), frames=min(self.frames, 20), guidance_curve=(1.0,), deviation_steps=20)
