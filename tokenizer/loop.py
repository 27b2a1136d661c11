"""The training loop that the tokenizer and the world model share: accelerate, optimizer, running mean, checkpoints, logs.

Every draw is keyed by (seed, step, micro-batch), never taken from a running generator: so a resumed training equals the
uninterrupted one bit for bit, and N processes see the micro-batches that one process with N-fold accumulation sees.
"""

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from data.ahead import ahead
from data.errors import UserError
from tokenizer.loop_config import LoopConfig, learning_rate_factor
from tokenizer.muon import Muon
from tokenizer.training_log import TrainingLog, bf16_is_fast
from tokenizer.training_state import RunningMean, checkpoints, load_state, save_state

BAD_STEPS_IN_A_ROW = 3


class Task(Protocol):
    """What is trained: the loop owns updates and checkpoints, the task owns data, loss and figures."""

    @property
    def model(self) -> nn.Module: ...

    def batch(self, step: int, micro: int) -> Mapping[str, Tensor]:
        """The micro-batch `micro` of update `step`: a pure function of the two and the seed."""
        ...

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and the named parts to log (0-dim, detached)."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out drives, of the model as it stands."""
        ...

    def save(self, folder: Path) -> None:
        """Write the deployable model into `folder`."""
        ...

    def sample(self, folder: Path, step: int) -> None:
        """Write pictures of what the model does into `folder`."""
        ...

    def units(self) -> tuple[str, float]:
        """Name and number of what one micro-batch holds, e.g. ("tokens", 8192.0)."""
        ...

    def flops(self) -> float:
        """Floating-point operations of one micro-batch, forward and backward; 0 where not known."""
        ...


def keyed_seed(*key: int) -> int:
    """One 63-bit seed from a tuple of integers, well mixed (NumPy's SeedSequence)."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def keyed_rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def run_loop(task: Task, config: LoopConfig, output: Path, *, resume: bool, description: Mapping[str, Any]) -> dict[str, float]:
    """Train `task`, from the newest checkpoint in `output` if `resume`; returns the figures of the last evaluation.

    `description` goes into `output/run.json` with the config and the versions in use.
    """
    return Loop(task, config, output, resume, description).run()


class _LossModule(nn.Module):
    """Puts the task's loss behind one forward, which data-parallel wrappers need."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model, self._loss = task.model, task.loss

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return self._loss(batch, generator)


class Loop:
    """One training: `run` makes all of it; `batches` and `update` are its two halves."""

    def __init__(self, task: Task, config: LoopConfig, output: Path, resume: bool, description: Mapping[str, Any]) -> None:
        from accelerate import Accelerator, PartialState

        self.task, self.config, self.output = task, config, output
        output.mkdir(parents=True, exist_ok=True)
        device = cast(torch.device, PartialState().device)  # an Accelerator fixes its precision for the whole process
        bf16 = (config.precision if config.precision != "auto" else _precision(output, device, resume)) == "bf16"
        self.accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no")
        self.model = task.model.to(self.accelerator.device)
        self.optimizer = _optimizer(self.model, config, bf16)
        self.mean = RunningMean(self.model, config.ema_decay) if config.ema_decay else None
        self.step = self._resume() if resume else 0
        self.wrapped = self.accelerator.prepare_model(_LossModule(task))
        if config.compile:
            self.model.compile()
        self.bad_steps = 0
        if self.accelerator.is_main_process:
            _write_run(output, config, description, self.accelerator)

    def run(self) -> dict[str, float]:
        self._announce()
        figures: dict[str, float] = {}
        dtype = torch.bfloat16 if self.accelerator.mixed_precision == "bf16" else torch.float32
        with TrainingLog(self.output, self.config, self.step, self.accelerator.is_main_process, dtype) as log:
            for batches in self.batches():
                parts, norm = self.update(batches)
                self.step += 1
                log.update(self.step, parts, norm, self._work())
                last = self.step == self.config.steps
                if last or (self.config.evaluate_every and self.step % self.config.evaluate_every == 0):
                    figures = self._evaluate(log)
                if last or self.step % self.config.checkpoint_every == 0:
                    self._checkpoint()
        return figures or self._evaluate(None)

    def update(self, batches: list[Mapping[str, Tensor]]) -> tuple[dict[str, float], float]:
        """One update over the micro-batches of this process; parts of the loss and the gradient's norm."""
        config, parts = self.config, {}
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(config, self.step)
        self.model.train()
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            with self.accelerator.autocast(), self._no_sync(not last):
                loss, named = self.wrapped(self._to_device(batch), self._generator(index))
            self.accelerator.backward(loss / len(batches))
            for name, value in {"loss": loss.detach(), **named}.items():
                parts[name] = parts.get(name, 0.0) + value.float() / len(batches)
        norm = float(cast(Tensor, self.accelerator.clip_grad_norm_(self.model.parameters(), config.gradient_clip)))
        self._apply(norm, float(parts["loss"]))
        return {name: float(value) for name, value in parts.items()}, norm

    def _apply(self, norm: float, loss: float) -> None:
        if math.isfinite(norm) and math.isfinite(loss):
            self.optimizer.step()
            self.bad_steps = 0
            if self.mean is not None:
                self.mean.update(self.model, self.step)
        else:
            self.bad_steps += 1
            self.accelerator.print(f"update {self.step}: loss {loss}, gradient norm {norm}: not finite, no update made")
            if self.bad_steps == BAD_STEPS_IN_A_ROW:
                told = f"training stopped at update {self.step}: {BAD_STEPS_IN_A_ROW} updates in a row were not finite"
                raise UserError(f"{told}; lower loop.learning_rate")
        self.optimizer.zero_grad(set_to_none=True)

    def batches(self) -> Iterator[list[Mapping[str, Tensor]]]:
        """Micro-batches update by update; a thread prepares the next while this one is trained on."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index

        def load(step: int) -> list[Mapping[str, Tensor]]:
            return [self.task.batch(step, micro * ranks + rank) for micro in range(self.config.gradient_accumulation)]

        return ahead(load, range(self.step, self.config.steps))

    def _generator(self, index: int) -> torch.Generator:
        micro = index * self.accelerator.num_processes + self.accelerator.process_index
        seed = keyed_seed(self.config.seed, self.step, micro)
        torch.manual_seed(seed)  # libraries that draw from the global generator (k-means, dead-code revival) are keyed by it
        return torch.Generator(self.accelerator.device).manual_seed(seed)

    def _to_device(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.accelerator.device, non_blocking=True) for name, value in batch.items()}

    @contextmanager
    def _no_sync(self, active: bool) -> Iterator[None]:
        if active:
            with self.accelerator.no_sync(self.wrapped):
                yield
        else:
            yield

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The running mean stands in the model, in evaluation mode."""
        self.model.eval()
        if self.mean is not None:
            self.mean.swap(self.model)
        try:
            with torch.no_grad(), self.accelerator.autocast():
                yield
        finally:
            if self.mean is not None:
                self.mean.swap(self.model)

    def _evaluate(self, log: TrainingLog | None) -> dict[str, float]:
        with self._averaged():
            figures = self.task.evaluate()
            if self.accelerator.is_main_process:
                self.task.sample(self.output / "samples", self.step)
        if log is not None:
            log.evaluation(self.step, figures)
        return figures

    def _checkpoint(self) -> None:
        if not self.accelerator.is_main_process:
            return
        folder = self.output / "checkpoints"
        with full_disk_told(self.output):
            save_state(folder, self.step, self.model, self.optimizer, self.mean)
            for old in checkpoints(folder)[: -self.config.keep_checkpoints]:
                shutil.rmtree(old)
            with self._averaged():
                self.task.save(self.output)

    def _resume(self) -> int:
        """Load the newest checkpoint that can be read; returns the number of its updates."""
        found = checkpoints(self.output / "checkpoints")
        while found:
            try:
                return load_state(found.pop(), self.model, self.optimizer, self.mean)
            except UserError as error:
                if not found:
                    raise
                self.accelerator.print(f"{error}; going back to the checkpoint before")
        self.accelerator.print(f"{self.output}: no checkpoint to resume from, starting anew")
        return 0

    def _work(self) -> tuple[str, float, float]:
        """Unit, units and floating-point operations of one update over all processes."""
        name, count = self.task.units()
        micros = self.config.gradient_accumulation * self.accelerator.num_processes
        return name, count * micros, self.task.flops() * micros

    def _announce(self) -> None:
        """One line before the training: parameters, work, memory and time, the last two measured on a pass without update."""
        remaining = self.config.steps - self.step
        seconds = self._timed_pass() * self.config.gradient_accumulation
        name, count, _ = self._work()
        parameters = sum(p.numel() for p in self.model.parameters())
        self.accelerator.print(
            f"{parameters / 1e6:.1f} M parameters, {remaining} updates of {count:,.0f} {name} "
            f"({remaining * count:,.0f} in all), about {_peak_memory_gib(self.accelerator.device, parameters):.1f} GiB of memory "
            f"and {math.ceil(remaining * seconds / 60)} min on {self.accelerator.device.type} "
            f"({'bf16' if self.accelerator.mixed_precision == 'bf16' else 'float32'})"
        )

    def _timed_pass(self) -> float:
        batch = self._to_device(self.task.batch(self.step, 0))
        self.model.eval()  # quantizers leave their codebooks alone
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            with self.accelerator.autocast():
                loss, _ = self.task.loss(batch, self._generator(0))
            loss.backward()
            float(loss.detach())
            seconds.append(time.perf_counter() - start)
            self.optimizer.zero_grad(set_to_none=True)
        return min(seconds)


def _precision(output: Path, device: torch.device, resume: bool) -> str:
    """The faster one on this machine; a training that goes on keeps the one that it began with."""
    run = output / "run.json"
    if resume and run.exists():
        return "bf16" if json.loads(run.read_text())["precision"] == "bf16" else "fp32"
    return "bf16" if bf16_is_fast(device) else "fp32"


def _optimizer(model: nn.Module, config: LoopConfig, bf16: bool) -> torch.optim.Optimizer:
    """Weight decay on matrices and convolutions alone; only these are orthogonalised by Muon, embeddings are tables of rows."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    maps = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    trained = [p for p in model.parameters() if p.requires_grad]
    mapping = [p for p in trained if id(p) in maps]
    decayed = [p for p in trained if p.ndim >= 2 and id(p) not in embeddings and id(p) not in maps]
    chosen = {id(p) for p in (*mapping, *decayed)}
    decay = {"weight_decay": config.weight_decay}
    rest = {"params": [p for p in trained if id(p) not in chosen], "weight_decay": 0.0}
    betas = (0.9, config.beta2)
    if config.optimizer == "muon":
        groups = [{"params": mapping, "matrices": True, **decay}, {"params": decayed, **decay}, rest]
        return Muon(groups, config.learning_rate, betas, bf16=bf16)
    return torch.optim.AdamW([{"params": [*mapping, *decayed], **decay}, rest], lr=config.learning_rate, betas=betas, fused=True)


def _peak_memory_gib(device: torch.device, parameters: int) -> float:
    """Peak so far plus the optimizer's moments (AdamW's two; Muon's one is less), which the timed pass has not made yet."""
    import resource

    used = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (used + 8 * parameters) / 2**30


def _write_run(output: Path, config: LoopConfig, description: Mapping[str, Any], accelerator: Any) -> None:
    import platform
    from dataclasses import asdict
    from importlib.metadata import version

    versions = {name: version(name) for name in ("torch", "transformers", "accelerate", "vector-quantize-pytorch", "numpy")}
    run = {
        **description,
        "loop": asdict(config),
        "versions": versions,
        "processes": accelerator.num_processes,
        "device": str(accelerator.device),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "precision": accelerator.mixed_precision,
    }
    (output / "run.json").write_text(json.dumps(run, indent=2, default=str) + "\n")


@contextmanager
def full_disk_told(path: Path) -> Iterator[None]:
    """Turns a failing write under `path` into one line for the user."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror or error}); the last whole checkpoint is still there") from error
