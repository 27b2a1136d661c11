"""Settings of the world model and its training, and the presets; free of torch, so that `--help` is quick."""

from dataclasses import dataclass, field, replace
from typing import Literal

from conditioning.guidance import DropoutConfig
from conditioning.text_config import TextConfig, WordingConfig
from data.errors import UserError
from tokenizer.config import WHOLE
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
    code_width: int = 64
    """Width of the vector that a token has before it is brought to D; the same vectors are what predictions are compared with."""
    mlp_width: int = 768
    """Hidden width of the SwiGLU."""
    context_steps: int = 16
    """Steps in the window, the one being predicted included."""
    part_ids: int = WHOLE
    """A code of more ids, whose digits they are, is told in parts of no more than this many. Small parts train faster on a CPU; each is one
    draw more."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width // self.heads % 8:
            raise UserError(f"model.heads: expected width / heads to be divisible by 8, got {self.width} / {self.heads}")
        if not 2 <= self.part_ids <= WHOLE:
            raise UserError(f"model.part_ids: expected 2 to {WHOLE}, got {self.part_ids}")
        if self.context_steps < 2:
            raise UserError(f"model.context_steps: expected at least 2, got {self.context_steps}")


@dataclass(frozen=True)
class HistoryConfig:
    """What training does to the past, so that the model learns to live with one that it made itself."""

    corruption: float = 0.15
    """Largest share of frame codes put in as another code; each window draws its share from 0 to this."""
    kind: Literal["uniform", "neighbour", "own"] = "uniform"
    """What stands there instead: 'uniform' a code from elsewhere in the batch, 'neighbour' one that differs in one digit by one level,
    'own' what the model itself draws there from the true past."""
    digit_noise: float = 0.0
    """Largest share of the digits of all frame codes moved by one level, as if the pictures were slightly off; each window draws its share
    from 0 to this."""
    recency: float = 0.0
    """How much more of it recent steps get: 0 all alike, 1 from none at the window's first step to twice as much at the last."""
    self_rollout: float = 0.0
    """Share of updates in which all frames of the past but the window's first are the model's own, drawn in parallel."""
    self_rollout_passes: int = 1
    """Draws, each on top of the one before: after n of them a step looks as after a rollout of n steps."""
    anchors: float = 0.0
    """Share of updates whose windows begin with anchors, one or two other steps of the drive; `keyframe` and `future` need it."""
    future: float = 0.3
    """Share of those whose anchor lies ahead, a goal; else it lies behind."""
    reach: int = 90
    """Steps that an anchor lies away at most."""

    def __post_init__(self) -> None:
        for name in ("corruption", "digit_noise", "recency", "self_rollout", "anchors", "future"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"history.{name}: expected 0 to 1, got {getattr(self, name)}")
        for name in ("self_rollout_passes", "reach"):
            if getattr(self, name) < 1:
                raise UserError(f"history.{name}: expected at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class WorldTrainConfig:
    """Train the world model on a prepared data set, seen through a trained tokenizer."""

    data: tuple[str, ...] = ("runs/data/dashsim",)
    """Folders of prepared data sets (scripts/prepare_data.py), each FOLDER or FOLDER:WEIGHT; the embedded one is made if it is missing."""
    tokenizer: str = "runs/tokenizer"
    """Folder of a trained tokenizer."""
    output: str = "runs/worldgpt"
    """Folder to write to."""
    init_from: str | None = None
    """Checkpoint to fine-tune: what matches by name and shape is loaded, the rest starts fresh."""
    from_run: str | None = None
    """Folder of a training to make again: the settings in its run.json take the place of the defaults; name another --output."""
    finetune_decode: str = "raster"
    """How many tokens come in one pass: raster (one after the other), rows (a row of codes together), rows:2 (a row in two passes) or
    diagonal:2 (a code of every row, each row two codes behind the one above it).
    Anything but raster needs --init-from: a few hundred updates teach a trained model the new order."""
    resume: bool = False
    """Go on from the newest checkpoint in the output folder."""
    overwrite: bool = False
    """Replace the output folder."""
    evaluation_windows: int = 64
    """Held-out windows that an evaluation reads."""
    sample_steps: int = 24
    """Steps of the sample rollouts drawn at an evaluation; 0: none."""
    channel_weight: float = 4.0
    """Weight of a channel token's loss; a frame code's is 1, and there are many more of those."""
    beginnings: float = 0.2
    """Share of updates made of single steps without a past, from which the model learns what a prompt looks like."""
    activation_checkpointing: bool = False
    """Compute activations twice instead of keeping them for the backward pass: much less memory, a third more work."""
    model: ModelConfig = field(default_factory=ModelConfig)
    text: TextConfig = field(default_factory=TextConfig)
    wording: WordingConfig = field(default_factory=WordingConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    history: HistoryConfig = field(default_factory=HistoryConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.finetune_decode != "raster" and self.init_from is None:
            raise UserError(f"--finetune-decode {self.finetune_decode}: expected --init-from with the checkpoint that learns it")
        if not 0 <= self.beginnings <= 1:
            raise UserError(f"beginnings: expected 0 to 1, got {self.beginnings}")


def presets() -> dict[str, WorldTrainConfig]:
    """Sizes to pick from; parameters and positions are for 8x16 codes, two telemetry channels and two actions. Memory is measured for the
    first two and planned for the others (scripts/plan.py), in bf16.

    | preset | parameters | positions in the window | memory to train | made for |
    | --- | --- | --- | --- | --- |
    | demo  | 5 M   | 5 x 136   | 2 GiB   | 5 minutes on two CPU cores |
    | small | 8 M   | 6 x 136   | 2 GiB   | an hour on two CPU cores, or a few minutes on a GPU |
    | base  | 314 M | 16 x 136  | 50 GiB  | one GPU |
    | large | 1 B   | 16 x 136  | 60 GiB with half the batch and twice the accumulation | one to eight GPUs |
    | gaia  | 6.6 B | 26 x 584  | 31 GiB a GPU, sharded over 64 | many GPUs; 18x32 codes (frames of 288x512) |

    What two cores can compute in an hour is best spent on few parameters and many tokens: hence `small` is small.
    """
    return {
        "demo": _preset(ModelConfig(width=256, layers=4, heads=2, mlp_width=704, context_steps=5), _loop(300, 8, 3e-3, 20, 0.97)),
        "small": replace(
            _preset(
                ModelConfig(width=256, layers=6, heads=2, mlp_width=704, context_steps=6, part_ids=256), _loop(1500, 8, 3e-3, 60, 0.99)
            ),
            history=HistoryConfig(corruption=0.3, anchors=0.15),
        ),
        "base": _preset(
            ModelConfig(width=1024, layers=24, heads=8, mlp_width=2752, context_steps=16, code_width=128),
            _loop(50_000, 16, 1e-3, 1000, 0.9995),
        ),
        "large": _preset(
            ModelConfig(width=1792, layers=26, heads=14, mlp_width=4864, context_steps=16, code_width=256),
            _loop(100_000, 16, 6e-4, 2000, 0.9999, accumulate=4),
        ),
        "gaia": replace(
            _preset(
                ModelConfig(width=4096, layers=32, heads=32, mlp_width=11008, context_steps=26, code_width=256),
                replace(_loop(100_000, 1, 1e-4, 2500, 0.9999, accumulate=2), optimizer="adamw"),
            ),
            activation_checkpointing=True,
        ),
    }


def _preset(model: ModelConfig, loop: LoopConfig) -> WorldTrainConfig:
    return WorldTrainConfig(model=model, loop=loop)


def _loop(steps: int, batch: int, learning_rate: float, warmup: int, ema: float, accumulate: int = 1) -> LoopConfig:
    return LoopConfig(
        steps=steps,
        batch_size=batch,
        gradient_accumulation=accumulate,
        learning_rate=learning_rate,
        warmup_steps=warmup,
        ema_decay=ema,
        weight_decay=0.05,
        log_every=50,
    )
