"""Training of the world model on an encoded set; what the loop needs to know of it."""

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conditioning.familiarity import WordCounts
from conditioning.text import fit_text_encoder
from conditioning.wording import Rewording
from data.errors import UserError
from data.folder import read_json, write_json
from tokenizer.keyed import keyed_rng
from tokenizer.loop import run_loop
from tokenizer.model import FrameTokenizer
from tokenizer.parallel import processes, shards
from tokenizer.run_record import check_identity
from worldgpt.baselines import fit_baselines
from worldgpt.config import WorldTrainConfig
from worldgpt.decoding import decoded
from worldgpt.evaluate.teacher_forcing import baseline_figures, batch_nats, teacher_forcing
from worldgpt.layout import Layout
from worldgpt.loss import total_loss
from worldgpt.mixture import Mixture
from worldgpt.model import WorldGPT, WorldGPTConfig
from worldgpt.own_history import with_own_history
from worldgpt.pipeline import WorldGPTPipeline, load_world_model
from worldgpt.plan import advice
from worldgpt.samples import sample_sheet
from worldgpt.token_store import TokenStore
from worldgpt.token_table import TokenTable
from worldgpt.transfer import load_matching, text_of
from worldgpt.windows import AnchorPlan, WindowReader, corrupt, model_batch

BASELINE_ROWS = 200_000
"""Training steps that the baselines are counted on, at most."""


class WorldTask:
    """A tokenizer.loop.Task: windows of tokens in, nats out."""

    def __init__(self, config: WorldTrainConfig, model: WorldGPT, mixture: Mixture, tokenizer: FrameTokenizer | None) -> None:
        self.config, self.model, self.tokenizer = config, model, tokenizer
        steps = config.model.context_steps
        words = model.caption_words
        self.rewording = Rewording(config.wording, model.text, words.counts if words is not None else ())
        self.training = WindowReader(mixture, "train", model.layout, steps)
        self.single_steps = WindowReader(mixture, "train", model.layout, 1)
        self.held_out = WindowReader(mixture, "val", model.layout, steps).spaced(config.evaluation_windows)

    def batch(self, step: int, micro: int) -> Mapping[str, Tensor]:
        rng = keyed_rng(self.config.loop.seed, step, micro)
        if keyed_rng(self.config.loop.seed, step).random() < self.config.beginnings:
            windows = self.single_steps.random(self.config.loop.batch_size * self.training.steps, rng)
            windows = replace(windows, before=np.broadcast_to(self.model.layout.null_tokens, windows.before.shape))
        else:
            windows = self.training.random(self.config.loop.batch_size, rng, AnchorPlan.draw(self.config.history, rng))
        inputs = corrupt(windows, self.model.layout, self.config.history, self.config.dropout, rng)
        return model_batch(inputs, windows.tokens, lambda captions: self.rewording.tokenize(captions, rng))

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        known = dict(batch)
        if "own" in known:
            known = with_own_history(self.model, known, self.config.history.self_rollout_passes, generator)
        loss, parts = total_loss(self.model, batch_nats(self.model, known), batch["targets"], self.config.channel_weight)
        codes = sum(s.tokens for s in self.model.layout.of_kind("frame"))
        return loss, {**parts, "bits_per_frame": parts["frame_nats"] * codes / float(np.log(2))}

    def evaluate(self) -> dict[str, float]:
        for table in self.model.embedding.modules():
            if isinstance(table, TokenTable):
                table.forget()  # sharded weights come together anew each time, where a table cannot see that they have changed
        return teacher_forcing(self.model, self.held_out, self.config.loop.batch_size)

    def baselines(self) -> dict[str, dict[str, float]]:
        """Trivial predictors on the same held-out windows."""
        layout = self.model.layout
        sizes = [layout.codebook(s).parts for s in layout.streams for _ in range(s.tokens)]
        return baseline_figures(fit_baselines(self.training.rows(BASELINE_ROWS), sizes), self.held_out, self.model)

    def score(self, figures: Mapping[str, float]) -> float:
        return figures["frame_nats"]

    def advice(self, memory: int) -> str:
        return advice(self.config, self.model.layout, memory, shards=shards(), bf16=self.config.loop.precision != "fp32")

    def save(self, folder: Path) -> None:
        WorldGPTPipeline(self.model, self.tokenizer).save_pretrained(folder)

    def sample(self, folder: Path, step: int) -> None:
        if self.tokenizer is not None and self.config.sample_steps:
            pipeline = WorldGPTPipeline(self.model, self.tokenizer)
            sample_sheet(pipeline, self.held_out, self.config.sample_steps, folder / f"rollout_{step:07d}.png")

    def units(self) -> tuple[str, float]:
        return "tokens", self.config.loop.batch_size * self.config.model.context_steps * self.model.layout.tokens_per_step

    def flops(self) -> float:
        """6 a weight and position (Kaplan et al. 2020), and the causal half of attention's two products, forward and backward."""
        config, layout, steps = self.config.model, self.model.layout, self.config.model.context_steps
        positions, width, code = steps * layout.positions_per_step, config.width, config.code_width
        blocks = positions * sum(p.numel() for p in self.model.blocks.parameters())
        # A token is brought in, its hints too, and compared with every id of its codebook.
        around = [code * width + layout.hint_count(s.kind) * code * 2 * width + width**2 + width * code for s in layout.streams]
        ends = steps * sum(s.tokens * (a + code * sum(layout.codebook(s).parts)) for s, a in zip(layout.streams, around, strict=True))
        return self.config.loop.batch_size * 6.0 * (blocks + ends + positions**2 * width * config.layers)


def build_model(config: WorldTrainConfig, mixture: Mixture, source: WorldGPT | None = None) -> WorldGPT:
    """A fresh model for encoded sets: layout, channels and text encoder fitted to them; or the text encoder of `source`, if it will do."""
    captions = [c.text for store in mixture.stores for d in store.drives("train") for c in d.captions]
    fitted = text_of(source, config.text) if source is not None else None
    text, proto = fitted or fit_text_encoder(captions, config.text)
    words = WordCounts.of(captions, source.caption_words if source is not None else None)
    channels, codes = (mixture.telemetry, mixture.actions), (mixture.codebook_size, mixture.codebook_levels)
    layout = decoded(
        Layout.build(mixture.grids, codes[0], *channels, text.prompt_tokens, codes[1], config.model.part_ids), config.finetune_decode
    )
    model_config = WorldGPTConfig(
        model=asdict(config.model),
        layout=layout.to_dict(),
        text=asdict(text),
        telemetry=[asdict(c) for c in mixture.telemetry],
        actions=[asdict(c) for c in mixture.actions],
        fps=mixture.fps,
        frame_size=mixture.frame_size,
        tokenizer_hash=mixture.tokenizer_hash,
        caption_words=words.to_dict(),
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.loop.seed)  # transformers' initial weights come from the global generator
        model = WorldGPT(model_config)
    if proto:
        model.text.set_proto(proto)
    return model


def data_facts(store: TokenStore) -> dict[str, Any]:
    """What a run's record says of a set: how much there is in each split."""
    facts: dict[str, Any] = {"hash": store.info.data_hash, "fps": store.info.fps}
    for split in dict.fromkeys(drive.split for drive in store.info.drives):
        drives = store.drives(split)
        facts[split] = {"drives": len(drives), "steps": sum(drive.steps for drive in drives)}
    return facts


def check_tokenizer(tokenizer: FrameTokenizer, manifest: Any, folder: str) -> None:
    """UserError where the tokenizer was trained on other cameras or another frame size than the data has."""
    trained = tokenizer.config
    if (trained.height, trained.width) != tuple(manifest.size):
        raise UserError(
            f"{folder}: the tokenizer was trained on frames of {trained.height}x{trained.width}, "
            f"the data has {manifest.size[0]}x{manifest.size[1]}"
        )
    missing = sorted(set(manifest.cameras) - set(trained.cameras))
    if missing:
        raise UserError(f"{folder}: the tokenizer was not trained on camera {missing[0]!r} (only on {', '.join(trained.cameras)})")


def train_worldgpt(config: WorldTrainConfig, mixture: Mixture, tokenizer: FrameTokenizer | None, output: Path) -> dict[str, Any]:
    """Train, evaluate against baselines, write `output`; returns the report (empty on all processes but the first)."""
    began, state = time.time(), processes()
    description = {
        "config": asdict(config),
        "data_hash": mixture.data_hash,
        "data": [data_facts(store) for store in mixture.stores],
        "tokenizer_hash": mixture.tokenizer_hash,
    }
    if config.resume:
        check_identity(output, description)  # before a model is built
    source = load_world_model(config.init_from) if config.init_from is not None else None
    model = build_model(config, mixture, source)
    model.activation_checkpointing = config.activation_checkpointing
    if source is not None:
        state.print(f"{config.init_from}: {load_matching(model, source)}")
    task = WorldTask(config, model, mixture, tokenizer)
    figures = run_loop(task, config.loop, output, resume=config.resume, description=description)
    if not state.is_main_process:
        return {}
    windows = len(task.held_out.tokens)
    report = {"held_out": figures, "baselines": task.baselines(), "seconds": round(time.time() - began), "windows": windows}
    floor = Path(config.tokenizer) / "report.json"
    measured = read_json(floor) if floor.is_file() else {}
    if tokenizer is not None and measured.get("tokenizer_hash") == mixture.tokenizer_hash:
        report["tokenizer"] = measured
    write_json(output / "report.json", report)
    print(comparison(report))
    return report


def comparison(report: Mapping[str, Any]) -> str:
    """The held-out figures beside the baselines', as a small table."""
    rows = {"model": report["held_out"], **report["baselines"]}
    names = ("frame_nats", "changed_code_nats", "bits_per_frame", "telemetry_nats", "action_nats")
    names = tuple(n for n in names if n in report["held_out"])
    lines = [f"held out{'':<12}" + "".join(f"{n:>19}" for n in names)]
    lines += [f"{name:<20}" + "".join(f"{row[n]:>19.3f}" for n in names) for name, row in rows.items()]
    shuffled = [n for n in (f"{kind}_nats_shuffled_actions" for kind in ("frame", "telemetry")) if n in report["held_out"]]
    if shuffled:
        lines.append("with shuffled actions: " + "  ".join(f"{n.split('_shuffled')[0]} {report['held_out'][n]:.3f}" for n in shuffled))
    return "\n".join(lines)
