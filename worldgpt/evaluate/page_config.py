"""Settings of `scripts/evaluate.py all`; free of torch, so that `--help` is quick."""

from dataclasses import dataclass, replace

from worldgpt.evaluate.control_config import ControlConfig
from worldgpt.evaluate.drift_config import DriftConfig
from worldgpt.evaluate.physics_config import PhysicsEvaluationConfig
from worldgpt.evaluate.quality_config import QualityConfig, WeightsConfig


@dataclass(frozen=True)
class PageConfig(WeightsConfig):
    """Everything in one: quality, control, drift, and physics where a world of balls is named; and a page of HTML that holds their tables
    and pictures and needs no other file."""

    output: str = "runs/report"
    """Folder for report.html, and the reports of the parts in folders of their own; refused if it exists, unless --overwrite is given."""
    horizon: int = 400
    """Frames of the rollouts that drift is measured on."""
    physics_checkpoint: str | None = None
    """A world model of bouncing balls that is measured beside the other; without one the page has no part on physics."""
    physics_data: str = "runs/data/physics"
    """Set prepared by `prepare_data.py physics`, for that one."""
    quick: bool = False
    """Rough figures in some minutes: few rollouts, most of them short."""

    def __post_init__(self) -> None:
        self.expect(horizon=10)

    def parts(self) -> dict[str, QualityConfig | ControlConfig | DriftConfig | PhysicsEvaluationConfig]:
        """{name: settings of a part}, in the order of the page."""
        usual = ("split", "seed", "temperature", "top_p", "batch")
        shared = {name: getattr(self, name) for name in ("checkpoint", "data", "probes", *usual)}
        weights = {name: getattr(self, name) for name in ("inception", "i3d", "lpips")}
        drift = DriftConfig(**shared, output=f"{self.output}/drift", horizon=self.horizon)
        if self.quick:
            drift = replace(drift, horizon=min(self.horizon, 40), rollouts=2, policies=("none", "every_n:20"))
        parts = {
            "quality": QualityConfig(**shared, **weights, output=f"{self.output}/quality", quick=self.quick),
            "control": ControlConfig(**shared, output=f"{self.output}/control", quick=self.quick),
            "drift": drift,
        }
        if self.physics_checkpoint is None:
            return parts
        balls = {"checkpoint": self.physics_checkpoint, "data": self.physics_data, **{name: shared[name] for name in usual}}
        return {**parts, "physics": PhysicsEvaluationConfig(**balls, output=f"{self.output}/physics", quick=self.quick)}
