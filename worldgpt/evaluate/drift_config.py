"""Settings of `scripts/evaluate.py drift`; free of torch, so that `--help` is quick."""

from dataclasses import dataclass

from data.errors import UserError


@dataclass(frozen=True)
class DriftConfig:
    """How far rollouts drift: curves over the horizon, for each re-anchoring policy, beside their floor and trivial baselines."""

    checkpoint: str = "runs/worldgpt"
    """Folder of a trained world model, or user/name on the Hub."""
    data: str = "runs/data/dashsim"
    """Prepared data set; its drives must be longer than context and horizon."""
    output: str = "runs/drift"
    """Folder for report.json, curves.png, rollouts.mp4 and rollouts.png; refused if it exists, unless --overwrite is given."""
    overwrite: bool = False
    """Replace the output folder."""
    probes: str = "runs/probes"
    """Folder of the measuring networks; trained on the data set's own split `train` if it is missing, which takes some minutes."""
    split: str = "val"
    """Split of the data set that the true drives are taken from."""
    horizon: int = 400
    """Frames that are generated from each start."""
    rollouts: int = 16
    """Starts, spread over the drives that are long enough."""
    policies: tuple[str, ...] = ("none", "every_n:20", "keyframe:20", "on_drift:1.3", "future:30", "real:50")
    """Re-anchoring policies to compare (worldgpt/anchors.py)."""
    seed: int = 0
    """Decides every draw."""
    temperature: float = 1.0
    """Of the draws."""
    top_p: float = 0.95
    """Draw from the likeliest tokens that together reach this probability."""
    entropy: float = 0.0
    """Sharpens the draws where the model is sure, by this strength in nats; 0: all alike."""
    batch: int = 16
    """Worlds that are rolled out together."""

    def __post_init__(self) -> None:
        for name, least in (("horizon", 10), ("rollouts", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--{name}: expected at least {least}, got {getattr(self, name)}")
        if not self.policies:
            raise UserError("--policies: expected at least one policy")
