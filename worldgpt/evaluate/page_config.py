"""Settings of `scripts/evaluate.py all`; free of torch, so that `--help` is quick."""

from dataclasses import dataclass, replace

from worldgpt.evaluate.control_config import ControlConfig
from worldgpt.evaluate.drift_config import DriftConfig
from worldgpt.evaluate.quality_config import QualityConfig, WeightsConfig


@dataclass(frozen=True)
class PageConfig(WeightsConfig):
    """Everything in one: quality, control and drift, and a page of HTML that holds their tables and pictures and needs no other file."""

    output: str = "runs/report"
    """Folder for report.html, and the reports of the parts in folders of their own; refused if it exists, unless --overwrite is given."""
    horizon: int = 400
    """Frames of the rollouts that drift is measured on."""
    quick: bool = False
    """Rough figures in some minutes: few rollouts, most of them short."""

    def __post_init__(self) -> None:
        self.expect(horizon=10)

    def parts(self) -> dict[str, QualityConfig | ControlConfig | DriftConfig]:
        """{name: settings of a part}, in the order of the page."""
        names = ("checkpoint", "data", "split", "seed", "temperature", "top_p", "batch", "probes")
        shared = {name: getattr(self, name) for name in names}
        weights = {name: getattr(self, name) for name in ("inception", "i3d", "lpips")}
        drift = DriftConfig(**shared, output=f"{self.output}/drift", horizon=self.horizon)
        if self.quick:
            drift = replace(drift, horizon=min(self.horizon, 40), rollouts=2, policies=("none", "every_n:20"))
        return {
            "quality": QualityConfig(**shared, **weights, output=f"{self.output}/quality", quick=self.quick),
            "control": ControlConfig(**shared, output=f"{self.output}/control", quick=self.quick),
            "drift": drift,
        }
