"""Settings of scripts/generate.py; free of torch, so that `--help` is quick."""

from dataclasses import dataclass

from data.errors import UserError


@dataclass(frozen=True)
class GenerateConfig:
    """Drive a trained world model from prompts, and write videos."""

    checkpoint: str = "runs/worldgpt"
    """Folder of a trained world model."""
    prompt: tuple[str, ...] = ("",)
    """What the drive looks like, as in "rainy night"; several prompts make several videos, sampled as one batch."""
    negative_prompt: str = ""
    """What guidance moves away from; empty: the absence of a prompt."""
    guidance: float = 1.0
    """Scale of classifier-free guidance; 1: none, above 1: the prompt counts more, at twice the cost."""
    context: str | None = None
    """True frames to go on from: a drive of a prepared set (its .parquet file), an mp4 or an image; without, the first frame is dreamed."""
    context_frames: int = 8
    """How many frames of the context are read."""
    actions: str | None = None
    """CSV file with a column a channel and a row a generated frame."""
    steer: str | None = None
    """Directions and for how many frames: left, or left:20,straight:30."""
    speed: float | None = None
    """Speed in m/s that the telemetry is held at."""
    frames: int = 100
    """Frames to generate; the context is not counted."""
    seed: int = 0
    """Decides every draw: the same seed makes the same file."""
    num_samples: int = 1
    """Worlds a prompt, drawn differently and shown as a grid."""
    temperature: float = 1.0
    """Of the draws; 0 takes the likeliest token, which is known to freeze."""
    top_k: int = 0
    """Draw from the k likeliest tokens; 0: all."""
    top_p: float = 0.95
    """Draw from the likeliest tokens that together reach this probability."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the likeliest one's probability."""
    output: str = "out.mp4"
    """Video to write, a contact sheet (.png) and a record (.json) beside it. With several prompts, their words are added to the name."""
    overlay: bool = True
    """Draw prompt, telemetry and action below the picture."""
    scale: int = 4
    """Enlargement of the frames in the video."""

    def __post_init__(self) -> None:
        for name in ("frames", "num_samples", "context_frames", "scale"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise UserError(f"--seed: expected 0 or more, got {self.seed}")
        if not self.output.endswith(".mp4"):
            raise UserError(f"--output: expected a name that ends in .mp4, got {self.output!r}")
        if not self.prompt:
            raise UserError("--prompt: expected at least one prompt")
