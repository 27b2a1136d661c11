"""What a training says while it runs: progress bar, console lines, log.jsonl and trackers."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import torch

from data.folder import atomic_file
from tokenizer.loop_config import LoopConfig, learning_rate_factor
from tokenizer.trackers import Tracker, open_trackers

BF16_GAIN = 1.2
"""Gain over float32 on a matrix product from which bf16 pays: autocast costs something too."""


def bf16_is_fast(device: torch.device) -> bool:
    """Whether bf16 is faster than float32 here: asked of a GPU, measured on a CPU, as some with its instructions are slower for them."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return measured_peak_flops(device, torch.bfloat16) > BF16_GAIN * measured_peak_flops(device, torch.float32)


def measured_peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The machine's own rate on a large matrix product, in floating-point operations a second: the reference of utilisation."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device).to(dtype)
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        product = a @ a
        float(product[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


class TrainingLog:
    """Progress bar, console lines, log.jsonl and trackers; `state` and `restore` carry the next line's sums over an interruption."""

    def __init__(
        self, output: Path, config: LoopConfig, first_step: int, active: bool, dtype: torch.dtype, run: Mapping[str, Any] | None = None
    ) -> None:
        self.output, self.config, self.active, self.dtype, self.run = output, config, active, dtype, run or {}
        self.first_step, self.count = first_step, 0
        self.sums: dict[str, float] = {}
        self.trackers: list[Tracker] = []
        self.skipped = 0
        """Updates not made so far; told where there are any."""

    def __enter__(self) -> "TrainingLog":
        self.peak_flops = 0.0
        self.began, self.began_all, self.timed = time.perf_counter(), time.perf_counter(), 0
        if self.active:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            text, rate = TextColumn("{task.description}"), TextColumn("{task.fields[rate]}")
            columns = (text, BarColumn(), MofNCompleteColumn(), rate, TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("left"))
            self.progress = Progress(*columns)
            self.progress.start()
            self.bar = self.progress.add_task("training", total=self.config.steps, completed=self.first_step, rate="")
            self.file = log_until(self.output / "log.jsonl", self.first_step)
            self.trackers = open_trackers(self.config.trackers, self.output, self.run, self.first_step > 0)
        return self

    def __exit__(self, *_: object) -> None:
        if self.active:
            self.progress.stop()
            self.file.close()
            for tracker in self.trackers:
                tracker.close()

    def state(self) -> dict[str, Any]:
        return {"sums": {name: _finite(value) for name, value in self.sums.items()}, "count": self.count}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.sums = {name: math.nan if value is None else value for name, value in state["sums"].items()}
        self.count = state["count"]

    def update(self, step: int, parts: dict[str, float], norm: float, work: tuple[str, float, float]) -> None:
        if not self.active:
            return
        for name, value in {**parts, "gradient_norm": norm}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count, self.timed = self.count + 1, self.timed + 1
        rate = (step - self.first_step) * work[1] / (time.perf_counter() - self.began_all)
        self.progress.update(self.bar, completed=step, description=f"loss {parts['loss']:.3f}", rate=f"{rate:,.0f} {work[0]}/s")
        # A line at every checkpoint too, so that a resumed training averages over the same updates.
        if step % self.config.log_every == 0 or step % self.config.checkpoint_every == 0 or step == self.config.steps:
            self._line(step, work)

    def _line(self, step: int, work: tuple[str, float, float]) -> None:
        now = time.perf_counter()
        unit, units, flops = work
        rate = self.timed / (now - self.began)  # updates that were made before an interruption are in the sums, not in the time
        figures = {name: value / self.count for name, value in self.sums.items()}
        figures[f"{unit}_per_s"] = units * rate
        figures["learning_rate"] = self.config.learning_rate * learning_rate_factor(self.config, step - 1)
        if self.skipped:
            figures["skipped_updates"] = float(self.skipped)
        if flops:
            figures["tflops"] = flops * rate / 1e12
            figures["flops_utilisation"] = flops * rate / self._peak()
        self._write(step, "train", figures)
        self.progress.console.print(
            f"step {step:6d}  " + "  ".join(f"{k} {v:.4g}" for k, v in figures.items() if k != "learning_rate"),
            highlight=False,
            soft_wrap=True,
        )
        self.sums, self.count, self.timed, self.began = {}, 0, 0, time.perf_counter()

    def _peak(self) -> float:
        if not self.peak_flops:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            self.peak_flops = measured_peak_flops(device, self.dtype)
        return self.peak_flops

    def evaluation(self, step: int, figures: dict[str, float]) -> None:
        if self.active:
            self._write(step, "held_out", figures)
            self.progress.console.print(
                f"step {step:6d}  held out  " + "  ".join(f"{k} {v:.4g}" for k, v in figures.items()), highlight=False, soft_wrap=True
            )

    def _write(self, step: int, split: str, figures: dict[str, float]) -> None:
        finite = {name: _finite(value) for name, value in figures.items()}
        self.file.write(json.dumps({"step": step, "split": split, **finite}) + "\n")
        self.file.flush()
        for tracker in self.trackers:
            tracker.log(step, {f"{split}/{name}": value for name, value in figures.items()})


def _finite(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if math.isfinite(value) else None


def log_until(path: Path, step: int) -> TextIO:
    """A file of JSON lines, open to be gone on with, without those behind `step`: these updates are made again."""
    lines = path.read_text().splitlines() if step > 0 and path.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]  # a killed run may have cut the last one
    with atomic_file(path) as temp:
        temp.write_text("".join(f"{line}\n" for line in kept))
    return path.open("a")
