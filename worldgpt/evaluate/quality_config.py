"""Settings of `scripts/evaluate.py quality`; free of torch, so that `--help` is quick."""

from dataclasses import dataclass, replace

from worldgpt.evaluate.settings import ProbedConfig


@dataclass(frozen=True)
class WeightsConfig(ProbedConfig):
    """The same for what is also measured with networks whose weights the user brings."""

    inception: str = ""
    """Safetensors file with Inception-v3's weights as used for FID; without it fid is null."""
    i3d: str = ""
    """Safetensors file with I3D's weights (Kinetics-400); without it fvd is null."""
    lpips: str = ""
    """Safetensors file with VGG-16's convolutions and LPIPS's heads; without it lpips is null."""


@dataclass(frozen=True)
class QualityConfig(WeightsConfig):
    """How well the next step is predicted, and how close rollouts come to true drives, beside floors and trivial baselines."""

    output: str = "runs/quality"
    """Folder for report.json, table.md, curves.png and rollouts.png; refused if it exists, unless --overwrite is given."""
    windows: int = 256
    """Held-out windows that are read with the true past."""
    baseline_steps: int = 20_000
    """Steps of the split `train` that the trivial predictors are counted on, about."""
    rollouts: int = 64
    """Rollouts under the true actions, spread over the drives."""
    horizon: int = 50
    """Frames of a rollout."""
    quick: bool = False
    """A rough table in minutes: few windows, few and short rollouts, small measuring networks."""

    def __post_init__(self) -> None:
        self.expect(windows=1, baseline_steps=100, rollouts=2, horizon=10)

    def shortened(self) -> "QualityConfig":
        """What --quick stands for; without it, the same settings."""
        if not self.quick:
            return self
        fewer = {"windows": 32, "baseline_steps": 3000, "rollouts": 4, "horizon": 20}
        return replace(self, **{name: min(getattr(self, name), most) for name, most in fewer.items()})
