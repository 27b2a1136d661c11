"""Fields of the training loop that the tokenizer and the world model share; free of torch, so that `--help` is quick."""

from dataclasses import dataclass
from typing import Literal

from data.errors import UserError


@dataclass(frozen=True)
class LoopConfig:
    """How long, how fast and in which numbers a model is trained."""

    steps: int = 1000
    """Updates of the weights."""
    batch_size: int = 32
    """Samples in one micro-batch on one device."""
    gradient_accumulation: int = 1
    """Micro-batches summed into one update."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """'muon' (matrices along their orthogonalised momentum, the rest as AdamW) needs whole matrices; 'adamw' works sharded too."""
    learning_rate: float = 3e-4
    """Peak learning rate; it means the same for both optimizers."""
    weight_decay: float = 0.01
    """Decoupled weight decay of the matrices; embeddings, norms and biases have none."""
    beta2: float = 0.99
    """Decay of AdamW's second moment; the first moment's is 0.9."""
    warmup_steps: int = 50
    """Updates over which the learning rate rises linearly from 0."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """After the warm-up: 'cosine' down to 5 % of the peak, or 'wsd' (stay, then fall linearly to 5 % over the last fifth)."""
    gradient_clip: float = 1.0
    """Largest global gradient norm; larger gradients are scaled down to it."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Autocast of the forward pass; 'auto' takes bf16 where it is measured to be faster."""
    ema_decay: float = 0.999
    """Decay of the running mean of the weights, which is what is evaluated and saved; 0 switches it off."""
    log_every: int = 20
    """Updates between lines in the log."""
    evaluate_every: int = 0
    """Updates between evaluations on held-out drives; 0: only at the end."""
    checkpoint_every: int = 500
    """Updates between checkpoints; one is always written at the end."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept; where held-out drives are evaluated on the way, the best one too, and its model in best/."""
    explosion: float = 3.0
    """A loss above this many times the largest of the last 50 updates counts as exploded: no update is made with it; 0: never."""
    seed: int = 0
    """Decides initial weights, batches and every other draw of the training."""
    deterministic: bool = False
    """Only algorithms that give the same numbers every time, or an error; float32 unless a precision is named. Slower on a GPU."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    """Who is told the figures beside log.jsonl; none, one or several."""
    compile: bool = False
    """Compile the model with torch.compile."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "gradient_accumulation", "log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise UserError(f"loop.{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("seed", "warmup_steps", "evaluate_every"):
            if getattr(self, name) < 0:
                raise UserError(f"loop.{name}: expected 0 or more, got {getattr(self, name)}")
        if self.explosion and not self.explosion > 1:
            raise UserError(f"loop.explosion: expected more than 1, or 0 for never, got {self.explosion}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"loop.ema_decay: expected 0 <= decay < 1, got {self.ema_decay}")


def learning_rate_factor(config: LoopConfig, step: int) -> float:
    """Share of the peak learning rate at update `step` (0-based).

    >>> config = LoopConfig(steps=100, warmup_steps=10)
    >>> [round(learning_rate_factor(config, step), 2) for step in (0, 9, 55, 99)]
    [0.1, 1.0, 0.53, 0.05]
    """
    import math

    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    if config.schedule == "wsd":
        return min(1.0, max(0.05, 0.05 + 0.95 * (1 - progress) / 0.2))
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
