"""Training of a frame tokenizer on a store of episodes.

Axes: B frames of a batch, N frames, H W pixels, h w code grid.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from data.errors import UserError
from data.folder import atomic_folder, prepare_output
from data.image import save_png
from data.store import EpisodeStore
from tokenizer.config import TokenizerTrainConfig
from tokenizer.frames import FramePool, held_out_frames
from tokenizer.keyed import keyed_rng
from tokenizer.loop import run_loop
from tokenizer.losses import PatchDiscriminator, ReconstructionLoss, adversarial_terms
from tokenizer.memory import TRAINED_BYTES, USABLE, batch_advice, saved_bytes
from tokenizer.model import FrameTokenizer, FrameTokenizerConfig, Reconstruction, load_tokenizer, to_signal
from tokenizer.parallel import processes
from tokenizer.report import comparison_sheet, figures, reconstruct, write_report

_BATCH_STREAM = 1
"""Keeps the draws of batches apart from the loop's own draws under the same seed."""


class Trainee(nn.Module):
    """The tokenizer and, where the loss asks for one, its discriminator: what one optimizer trains."""

    def __init__(self, tokenizer: FrameTokenizer, discriminator: PatchDiscriminator | None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.discriminator = discriminator

    def forward(self, frames: Tensor) -> Reconstruction:
        return self.tokenizer(frames)


class TokenizerTask:
    """What `tokenizer.loop.run_loop` trains."""

    def __init__(self, config: TokenizerTrainConfig, store: EpisodeStore) -> None:
        height, width = store.manifest.size
        _check_first_batch(config, config.tokenizer.grid(height, width))
        self.config = config
        self.pool = FramePool(store, "train")
        self.held_out = held_out_frames(store, "val", config.evaluation_frames)
        self.reconstruction_loss = ReconstructionLoss(config.losses)
        with torch.random.fork_rng():
            torch.manual_seed(config.loop.seed)
            self.tokenizer = FrameTokenizer(
                FrameTokenizerConfig(
                    tokenizer=asdict(config.tokenizer),
                    height=height,
                    width=width,
                    cameras=list(store.manifest.signals.frame_sizes),
                    data_hash=store.manifest.hash,
                )
            )
            if config.init_from is not None:
                _start_from(self.tokenizer, config.init_from)
            self.discriminator = PatchDiscriminator() if config.losses.adversarial else None
        self.model: nn.Module = Trainee(self.tokenizer, self.discriminator)

    def batch(self, step: int, micro: int) -> Mapping[str, Tensor]:
        """{"frames": (B, H, W, 3) uint8, "step": 0-dim}."""
        rng = keyed_rng(self.config.loop.seed, _BATCH_STREAM, step, micro)
        frames = self.pool.draw(rng, self.config.loop.batch_size, self.config.flip)
        return {"frames": torch.from_numpy(frames), "step": torch.tensor(step)}

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the terms, and each of them. VQ draws from the global generator, which the loop keys by step."""
        frames = batch["frames"]
        reconstruction, true = self.model(frames), to_signal(frames)
        parts = self.reconstruction_loss(reconstruction.frames, true)
        if self.config.tokenizer.quantizer == "vq":
            parts["commitment"] = reconstruction.quantizer_loss
        if self.discriminator is not None:
            fool, parts["discriminator"] = adversarial_terms(self.discriminator, reconstruction.frames, true)
            if int(batch["step"]) >= self.config.losses.adversarial_start:
                parts["adversarial"] = self.config.losses.adversarial * fool
        total = torch.stack(list(parts.values())).sum()
        return total, {name: part.detach() for name, part in parts.items()}

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out drives: pictures and codes."""
        made, codes = reconstruct(self.tokenizer, self.held_out.frames)
        return figures(self.held_out, made, codes)

    def score(self, figures: Mapping[str, float]) -> float:
        return -figures["psnr_db"]

    def save(self, folder: Path) -> None:
        """Each file in one piece."""
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder / ".part") as part:
            self.tokenizer.save_pretrained(part)
        for path in sorted((folder / ".part").iterdir()):
            path.replace(folder / path.name)
        (folder / ".part").rmdir()

    def sample(self, folder: Path, step: int) -> None:
        save_png(comparison_sheet(self.tokenizer, self.held_out.frames), folder / f"step_{step:07d}.png")

    def units(self) -> tuple[str, float]:
        return "frames", float(self.config.loop.batch_size)

    def flops(self) -> float:
        """Convolutions forward, and twice as much backward."""
        device = self.tokenizer.device
        frame = torch.zeros(1, *self.held_out.frames.shape[1:], dtype=torch.uint8, device=device)
        was_training = self.model.training
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self.model.eval()(frame)
        self.model.train(was_training)
        return 3.0 * counter.get_total_flops() * self.config.loop.batch_size

    def advice(self, memory: int) -> str:
        """From what one frame keeps for the backward pass; the discriminator's share and working memory are allowed for by half as much."""
        model, frame = copy.deepcopy(self.tokenizer).cpu(), torch.from_numpy(self.held_out.frames[:1])
        each = 1.5 * saved_bytes(lambda: model.eval()(frame), model)
        fixed = TRAINED_BYTES * sum(p.numel() for p in self.model.parameters())
        return batch_advice(self.config.loop, int((USABLE * memory - fixed) / each))


def _check_first_batch(config: TokenizerTrainConfig, grid: tuple[int, int]) -> None:
    """UserError where VQ's k-means start would have fewer vectors than the codebook."""
    vectors = config.loop.batch_size * math.prod(grid)
    if config.tokenizer.quantizer == "vq" and vectors < config.tokenizer.codebook_size:
        raise UserError(
            f"loop.batch_size: the codebook of {config.tokenizer.codebook_size} starts from as many vectors of the first batch, "
            f"which has {vectors}; raise the batch size or lower tokenizer.codebook_size"
        )


def _start_from(tokenizer: FrameTokenizer, folder: str) -> None:
    """Copy the weights of a trained tokenizer; UserError where its shape is another one."""
    source = load_tokenizer(folder)
    for name, value in vars(tokenizer.shape).items():
        if getattr(source.shape, name) != value:
            theirs = getattr(source.shape, name)
            raise UserError(f"{folder}: --init-from expected tokenizer.{name} = {value}, got {theirs}; name its --preset")
    tokenizer.load_state_dict(source.state_dict())


def train_tokenizer(config: TokenizerTrainConfig) -> dict[str, Any]:
    """Trains, saves and reports; returns what report.json holds. UserError before anything is written where data or shape do not fit."""
    state = processes()
    with state.main_process_first():
        store = EpisodeStore.open(config.data)
        task = TokenizerTask(config, store)
        output = prepare_output(config.output, resume=config.resume, overwrite=config.overwrite)
    run_loop(task, config.loop, output, resume=config.resume, description={"config": asdict(config), "data_hash": store.hash})
    if not state.is_main_process:
        return {}
    return write_report(output, store, task.held_out, task.tokenizer.device)
