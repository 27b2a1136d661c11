"""Settings of the world model and its training, and the presets; free of torch, so that `--help` is quick."""

from dataclasses import dataclass, field
from typing import Literal

from conditioning.guidance import DropoutConfig
from conditioning.text_config import TextConfig
from data.errors import UserError
from tokenizer.loop_config import LoopConfig


@dataclass(frozen=True)
class ModelConfig:
    """Size of the transformer."""

    width: int = 256
    """Width D of the residual stream."""
    layers: int = 6
    """Number of blocks."""
    heads: int = 4
    """Attention heads; width / heads must be divisible by 8."""
    mlp_width: int = 768
    """Hidden width of the SwiGLU."""
    context_steps: int = 16
    """Steps in the window, the one being predicted included."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width // self.heads % 8:
            raise UserError(f"model.heads: expected width / heads to be divisible by 8, got {self.width} / {self.heads}")
        if self.context_steps < 2:
            raise UserError(f"model.context_steps: expected at least 2, got {self.context_steps}")


@dataclass(frozen=True)
class WorldTrainConfig:
    """Train the world model on a prepared data set, seen through a trained tokenizer."""

    data: str = "runs/data/dashsim"
    """Folder of a prepared data set (scripts/prepare_data.py); the embedded one is made if it is missing."""
    tokenizer: str = "runs/tokenizer"
    """Folder of a trained tokenizer."""
    output: str = "runs/worldgpt"
    """Folder to write to."""
    init_from: str | None = None
    """Checkpoint to fine-tune: what matches by name and shape is loaded, the rest starts fresh."""
    resume: bool = False
    """Go on from the newest checkpoint in the output folder."""
    overwrite: bool = False
    """Replace the output folder."""
    evaluation_windows: int = 64
    """Held-out windows that an evaluation reads."""
    sample_steps: int = 24
    """Steps of the sample rollouts drawn at an evaluation; 0: none."""
    channel_weight: float = 1.0
    """Weight of a channel token's loss; a frame code's is 1."""
    history_corruption: float = 0.15
    """Largest share of frame codes put in as another code, so that the model meets mistakes; each window draws its share from 0 to this."""
    activation_checkpointing: bool = False
    """Compute activations twice instead of keeping them for the backward pass: much less memory, a third more work."""
    model: ModelConfig = field(default_factory=ModelConfig)
    text: TextConfig = field(default_factory=TextConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.history_corruption <= 1:
            raise UserError(f"history_corruption: expected 0 to 1, got {self.history_corruption}")


Preset = Literal["demo", "small", "base", "large", "gaia"]


def presets() -> dict[str, WorldTrainConfig]:
    """Sizes to pick from."""
    return {
        "demo": WorldTrainConfig(
            model=ModelConfig(width=256, layers=6, heads=4, mlp_width=704, context_steps=16),
            loop=LoopConfig(steps=500, batch_size=8, learning_rate=1.5e-3, warmup_steps=40, ema_decay=0.98, weight_decay=0.05),
        ),
    }
