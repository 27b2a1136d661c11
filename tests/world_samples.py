"""A world small enough to be learned in seconds: one lit column that the action moves left or right, and models that fit it."""

from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import torch

from conditioning.text import fit_text_encoder
from conditioning.text_config import TextConfig
from data.episode import Caption, ChannelSpec, Drive, Episode
from data.store import EpisodeStore, write_store
from tokenizer.config import TokenizerConfig
from tokenizer.loop_config import LoopConfig
from tokenizer.model import FrameTokenizer, FrameTokenizerConfig
from worldgpt.config import ModelConfig, WorldTrainConfig
from worldgpt.layout import Layout
from worldgpt.model import WorldGPT, WorldGPTConfig
from worldgpt.token_table import TokenTable

HEIGHT, WIDTH, CELL, STEPS = 8, 32, 8, 48
SPEED = ChannelSpec("speed_mps", "m/s", 0.0, 8.0, bins=4)
STEERING = ChannelSpec("steering_norm", "norm", -1.5, 1.5, bins=3)
TEXT = TextConfig(vocab_size=300, width=16, layers=1, heads=2, max_pieces=24, prompt_tokens=2)
MODEL = ModelConfig(width=48, layers=2, heads=2, mlp_width=96, context_steps=4)
LOOP = LoopConfig(
    steps=6, batch_size=4, learning_rate=1e-2, warmup_steps=2, log_every=2, checkpoint_every=3, precision="fp32", ema_decay=0.9
)


def column_episode(number: int, steps: int = STEPS) -> Episode:
    """Day or night, and one lit column of 8 pixels; an action of +1 (left) or -1 (right) moves it by a column, round about."""
    rng = np.random.default_rng(number)
    actions = rng.integers(-1, 2, (steps, 1)).astype(np.float32)
    column = (number - np.concatenate([[0], actions[:-1, 0].cumsum()])).astype(int) % (WIDTH // CELL)
    lit = np.arange(WIDTH) // CELL == column[:, None]  # (T, W)
    night = number % 2 == 0
    picture = np.where(lit, 255, 20 if night else 130).astype(np.uint8)
    frames = np.broadcast_to(picture[:, None, :, None], (steps, HEIGHT, WIDTH, 3)).copy()
    half, text = steps // 2, "night on a road" if night else "sunny day"
    return Episode(
        drive_id=f"drive{number}",
        fps=10.0,
        timestamps_s=np.arange(steps) / 10,
        frames={"front": frames},
        telemetry=np.full((steps, 1), number % 4 * 2 + 1, np.float32),
        telemetry_channels=(SPEED,),
        actions=actions,
        action_channels=(STEERING,),
        captions=(Caption(0, half, text), Caption(half, steps, f"{text}, late")),
        labels={"time_of_day": "night" if night else "day"},
    )


def column_drive(number: int, split: str) -> Drive:
    return Drive(f"drive{number}", partial(_episodes, number), split=split, steps=STEPS)


def _episodes(number: int) -> list[Episode]:
    return [column_episode(number)]


def write_columns(path: Path, train: range = range(24), val: range = range(24, 32)) -> EpisodeStore:
    """A prepared data set of such drives."""
    drives = [column_drive(k, "train") for k in train] + [column_drive(k, "val") for k in val]
    write_store(drives, path, source="columns", fps=10.0, workers=1, progress=False)
    return EpisodeStore.open(path)


def column_tokenizer(store: EpisodeStore) -> FrameTokenizer:
    """Untrained, and yet its codes tell day from night, and which column is lit: this seed of a few."""
    shape = {"encoder_width": 8, "decoder_width": 8, "decoder_depth": 1, "levels": (5, 3)}
    with torch.random.fork_rng():
        torch.manual_seed(194)
        config = FrameTokenizerConfig({**vars(TokenizerConfig(**shape))}, HEIGHT, WIDTH, ("front",), store.hash)
        return FrameTokenizer(config).eval()


def train_config(output: Path, **changes: object) -> WorldTrainConfig:
    """Six updates; for library calls, which are handed their data."""
    values = {"evaluation_windows": 16, "sample_steps": 0, "model": MODEL, "text": TEXT, "loop": LOOP, **changes}
    return WorldTrainConfig(output=str(output), **values)  # type: ignore[arg-type]


def random_model(
    *,
    cameras: dict[str, tuple[int, int]] | None = None,
    telemetry: int = 1,
    actions: int = 2,
    context_steps: int = 4,
    seed: int = 0,
    levels: tuple[int, ...] = (),
    together: int = 1,
    slope: int = 0,
) -> WorldGPT:
    """A model in float64 whose weights are random and large, so that everything has an effect on everything that may see it.

    Its codes are 11 ids, or those of `levels`; `together` tokens come in one pass, or a row begins `slope` passes after the one above.
    """
    text, proto = fit_text_encoder(["rainy night", "sunny day, turning left", "fog"], TEXT)
    channels = [ChannelSpec(f"channel{i}_norm", "norm", -1.0, 1.0, bins=5 + i) for i in range(telemetry + actions)]
    kinds = tuple(channels[:telemetry]), tuple(channels[telemetry:])
    layout = Layout.build(cameras or {"front": (2, 3)}, prod(levels) if levels else 11, *kinds, text.prompt_tokens, levels)
    config = WorldGPTConfig(
        model={**vars(MODEL), "context_steps": context_steps},
        layout={**layout.to_dict(), "together": together, "slope": slope},
        text=dict(vars(text)),
        telemetry=[dict(vars(c)) for c in kinds[0]],
        actions=[dict(vars(c)) for c in kinds[1]],
        frame_size=(16, 24),
        tokenizer_hash="codes",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WorldGPT(config)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3)
        for table in (module for module in model.modules() if isinstance(module, TokenTable)):
            torch.nn.init.normal_(table.out.weight, std=0.05)  # logits that leave a choice
    model.text.set_proto(proto)
    return model.double().eval()


def random_tokens(layout: Layout, *leading: int, seed: int = 0) -> torch.Tensor:
    """(..., J) int64, evenly from each place's ids, NULL left out."""
    rng = np.random.default_rng(seed)
    sizes = [layout.codebook(s).size for s in layout.streams for _ in range(s.tokens)]
    return torch.from_numpy(rng.integers(0, sizes, (*leading, len(sizes))))


def random_prompts(model: WorldGPT, *leading: int, seed: int = 0) -> torch.Tensor:
    """(..., P, D_text) in the model's dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*leading, model.layout.prompt_tokens, model.config.text["width"], generator=generator, dtype=model.dtype)
