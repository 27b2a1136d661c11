"""What all evaluations of a checkpoint can be told; free of torch, so that `--help` is quick."""

from dataclasses import dataclass

from data.errors import UserError


@dataclass(frozen=True)
class EvaluationConfig:
    """Where checkpoint, data and report lie, and how rollouts are drawn."""

    checkpoint: str = "runs/worldgpt"
    """Folder of a trained world model, or user/name on the Hub."""
    data: str = "runs/data/dashsim"
    """Prepared data set; its drives must be longer than the context and what is rolled out after it."""
    overwrite: bool = False
    """Replace the output folder."""
    split: str = "val"
    """Split of the data set that the true drives are taken from."""
    seed: int = 0
    """Decides every draw."""
    temperature: float = 1.0
    """Of the draws."""
    top_p: float = 0.95
    """Draw from the likeliest tokens that together reach this probability."""
    batch: int = 16
    """Worlds that are rolled out together."""

    def expect(self, **least: int) -> None:
        """UserError where a field is below the least value that makes sense."""
        for name, value in {"batch": 1, "seed": 0, **least}.items():
            if getattr(self, name) < value:
                raise UserError(f"--{name.replace('_', '-')}: expected at least {value}, got {getattr(self, name)}")


@dataclass(frozen=True)
class ProbedConfig(EvaluationConfig):
    """The same for what the measuring networks read."""

    probes: str = "runs/probes"
    """Folder of the measuring networks; trained on the data set's own split `train` if it is missing, which takes some minutes."""
