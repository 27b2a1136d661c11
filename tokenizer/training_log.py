"""What a training says while it runs: progress bar, console lines, log.jsonl and TensorBoard."""

import json
import math
import time
from pathlib import Path
from typing import Any, TextIO

import torch

from tokenizer.loop_config import LoopConfig, learning_rate_factor

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
    """Progress bar, console lines, log.jsonl and TensorBoard."""

    def __init__(self, output: Path, config: LoopConfig, first_step: int, active: bool, dtype: torch.dtype) -> None:
        self.output, self.config, self.active, self.dtype = output, config, active, dtype
        self.first_step, self.sums, self.count = first_step, {}, 0
        self.board: Any = None

    def __enter__(self) -> "TrainingLog":
        self.peak_flops = 0.0
        self.began = time.perf_counter()
        if self.active:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self.progress = Progress(*columns)
            self.progress.start()
            self.bar = self.progress.add_task("training", total=self.config.steps, completed=self.first_step)
            self.file = _log_until(self.output / "log.jsonl", self.first_step)
            self.board = _tensorboard(self.output)
        return self

    def __exit__(self, *_: object) -> None:
        if self.active:
            self.progress.stop()
            self.file.close()
            if self.board is not None:
                self.board.close()

    def update(self, step: int, parts: dict[str, float], norm: float, work: tuple[str, float, float]) -> None:
        if not self.active:
            return
        for name, value in {**parts, "gradient_norm": norm}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        self.progress.update(self.bar, completed=step, description=f"loss {parts['loss']:.3f}")
        # A line at every checkpoint too, so that a resumed training averages over the same updates.
        if step % self.config.log_every == 0 or step % self.config.checkpoint_every == 0 or step == self.config.steps:
            self._line(step, work)

    def _line(self, step: int, work: tuple[str, float, float]) -> None:
        now = time.perf_counter()
        unit, units, flops = work
        rate = self.count / (now - self.began)
        figures = {name: value / self.count for name, value in self.sums.items()}
        figures[f"{unit}_per_s"] = units * rate
        figures["learning_rate"] = self.config.learning_rate * learning_rate_factor(self.config, step - 1)
        if flops:
            figures["tflops"] = flops * rate / 1e12
            figures["flops_utilisation"] = flops * rate / self._peak()
        self._write(step, "train", figures)
        self.progress.console.print(
            f"step {step:6d}  " + "  ".join(f"{k} {v:.4g}" for k, v in figures.items() if k != "learning_rate"),
            highlight=False,
            soft_wrap=True,
        )
        self.sums, self.count, self.began = {}, 0, time.perf_counter()

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
        finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}  # JSON knows no NaN
        self.file.write(json.dumps({"step": step, "split": split, **finite}) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(f"{split}/{name}", value, step)


def _log_until(path: Path, step: int) -> TextIO:
    """The log, open to be gone on with, without the lines behind `step`: those updates are made again."""
    lines = path.read_text().splitlines() if step and path.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]  # a killed run may have cut the last one
    path.write_text("".join(f"{line}\n" for line in kept))
    return path.open("a")


def _tensorboard(output: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("TensorBoard is not installed: figures go to log.jsonl only")
        return None
    return SummaryWriter(str(output / "tensorboard"))
