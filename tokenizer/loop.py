"""The training loop that the tokenizer and the world model share: accelerate, optimizer, running mean, checkpoints, logs.

Every draw is keyed by (seed, step, micro-batch), never taken from a running generator: so a resumed training equals the
uninterrupted one bit for bit, and N processes see the micro-batches that one process with N-fold accumulation sees.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from data.ahead import ahead
from data.errors import UserError
from data.folder import read_json, remove_leftovers
from tokenizer import run_record
from tokenizer.guard import Guard
from tokenizer.interruption import EXIT_STATUS, Termination
from tokenizer.keyed import keyed_seed
from tokenizer.loop_config import LoopConfig, learning_rate_factor
from tokenizer.memory import memory_told
from tokenizer.optimizer import build_optimizer
from tokenizer.parallel import called, gradients_kept, number, processes, shards, spread, whole_weights
from tokenizer.trackers import check_trackers
from tokenizer.training_log import TrainingLog, log_until
from tokenizer.training_state import RunningMean, checkpoint_path, checkpoints, load_state, save_state, training_tensors, writing_told

BAD_UPDATES_FILE = "bad_updates.jsonl"


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

    def score(self, figures: Mapping[str, float]) -> float:
        """What the best checkpoint is chosen by, from what `evaluate` gave: lower is better."""
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

    def advice(self, memory: int) -> str:
        """Which settings would fit into so many bytes, for who has run out of them."""
        ...


def run_loop(task: Task, config: LoopConfig, output: Path, *, resume: bool, description: Mapping[str, Any]) -> dict[str, float]:
    """Train `task`, from the newest checkpoint in `output` if `resume`; returns the figures of the last evaluation.

    `description` goes into `output/run.json` with the config and the versions in use. After SIGTERM it saves and raises SystemExit.
    """
    return Loop(task, config, output, resume, description).run()


class Loop:
    """One training: `run` makes all of it; `batches` and `update` are its two halves."""

    def __init__(self, task: Task, config: LoopConfig, output: Path, resume: bool, description: Mapping[str, Any]) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState

        check_trackers(config.trackers)
        if config.deterministic:
            be_deterministic()
        self.task, self.config, self.output = task, config, output
        output.mkdir(parents=True, exist_ok=True)
        state = processes()
        bf16 = _first(state, run_record.chosen_precision(config, output, cast(torch.device, state.device), resume)) == "bf16"
        AcceleratorState._reset_state()  # it would hold the next training in this process to the precision of the last one
        # Buffers need no broadcast: codebooks are kept in step by sums over all processes.
        ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        self.accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no", kwargs_handlers=[ddp])
        self.model = task.model.to(self.accelerator.device)
        self.wrapped = spread(self.model, self.accelerator, config.optimizer)
        self.optimizer = build_optimizer(self.model, config, bf16=bf16)
        self.mean = RunningMean(self.model, config.ema_decay) if config.ema_decay else None
        self.guard, self.termination = Guard(config.explosion), Termination()
        self.stop_asked = self.owed = False
        self.best: dict[str, float] | None = None
        self.log_state: Mapping[str, Any] | None = None
        if resume:
            run_record.check_identity(output, description)
        self.step = self._resume() if resume else 0
        if config.compile:
            self.model.compile()
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.record = run_record.describe_run(config, description, self.accelerator, self.parameters)
        self._tell_differences()
        if self.accelerator.is_main_process:
            run_record.write_run(output, self.record)

    def run(self) -> dict[str, float]:
        with self.termination, memory_told(self.task.advice, self.config.batch_size, self.accelerator.device):
            return self._run()

    def _run(self) -> dict[str, float]:
        self._announce()
        figures: dict[str, float] = {}
        dtype = torch.bfloat16 if self.accelerator.mixed_precision == "bf16" else torch.float32
        with TrainingLog(self.output, self.config, self.step, self.accelerator.is_main_process, dtype, self.record) as log:
            if self.log_state is not None:
                log.restore(self.log_state)
            if self.owed:  # SIGTERM left no time for it
                self.owed = False
                figures = self._evaluate(log)
                if self._is_best(figures):
                    self._checkpoint(log, True)
            for batches in self.batches():
                parts, norm = self.update(batches)
                self.step += 1
                log.skipped = self.guard.skipped
                log.update(self.step, parts, norm, self._work())
                last = self.step == self.config.steps
                stop = self.stop_asked and not last
                due = last or bool(self.config.evaluate_every and self.step % self.config.evaluate_every == 0)
                self.owed, better = due and stop, False
                if due and not stop:
                    figures = self._evaluate(log)
                    better = self._is_best(figures)
                if last or better or stop or self.step % self.config.checkpoint_every == 0:
                    self._checkpoint(log, better)
                if stop:
                    self.accelerator.print(f"SIGTERM: saved after update {self.step}; --resume goes on from there")
                    raise SystemExit(EXIT_STATUS)
        return figures or self._evaluate(None)

    def update(self, batches: list[Mapping[str, Tensor]]) -> tuple[dict[str, float], float]:
        """One update over the micro-batches of this process; parts of the loss, over all processes, and the gradient's norm."""
        config, parts = self.config, {}
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(config, self.step)
        self.model.train()
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            with self.accelerator.autocast(), gradients_kept(self.wrapped, not last):
                loss, named = self.wrapped(self.task.loss, self._to_device(batch), self._generator(index))
            self.accelerator.backward(loss / len(batches))
            for name, value in {"loss": loss.detach(), **named}.items():
                parts[name] = parts.get(name, 0.0) + value.float() / len(batches)
        norm = number(cast(Tensor, self.accelerator.clip_grad_norm_(self.model.parameters(), config.gradient_clip)))
        means = self._over_processes(parts)
        self._apply(norm, means["loss"], buffers)
        return means, norm

    def _over_processes(self, parts: dict[str, Tensor]) -> dict[str, float]:
        """Means over all processes; and whether any of them was asked to stop, which all must know at the same update."""
        asked = torch.tensor(float(self.termination.asked), device=self.accelerator.device)
        values = torch.stack([*parts.values(), asked])
        if self.accelerator.num_processes > 1:
            values = cast(Tensor, self.accelerator.reduce(values, "mean"))
        *means, stop = values.tolist()
        self.stop_asked = stop > 0
        return dict(zip(parts, means, strict=True))

    @torch.no_grad()
    def _apply(self, norm: float, loss: float, buffers: list[Tensor]) -> None:
        why = self.guard.objection(loss, norm)
        if why is None:
            self.optimizer.step()
            if self.mean is not None:
                self.mean.update(self.model, self.step)
        else:
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):  # a codebook learns in the forward pass
                buffer.copy_(before)
            self._tell_bad_update(why, norm, loss)
            self.guard.check(self.step)
        self.optimizer.zero_grad(set_to_none=True)

    def _tell_bad_update(self, why: str, norm: float, loss: float) -> None:
        """One line for the reader, and one in bad_updates.jsonl: `task.batch(step, micro)` gives each of its micro-batches again."""
        self.accelerator.print(f"update {self.step}: loss {loss}, gradient norm {norm}: {why}, no update made ({BAD_UPDATES_FILE})")
        if self.accelerator.is_main_process:
            micros = list(range(self.config.gradient_accumulation * self.accelerator.num_processes))
            line = {"step": self.step, "micro_batches": micros, "seed": self.config.seed, "why": why, "loss": loss, "gradient_norm": norm}
            finite = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in line.items()}
            with (self.output / BAD_UPDATES_FILE).open("a") as file:
                file.write(json.dumps(finite) + "\n")

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

    def _call(self, function: Any, *arguments: Any) -> Any:
        """`function` on the model as it stands; where it is sharded, all processes must call, and its shards come together on the way."""
        return called(self.wrapped, function, *arguments) if shards() > 1 else function(*arguments)

    def _evaluate(self, log: TrainingLog | None) -> dict[str, float]:
        main = self.accelerator.is_main_process
        with self._averaged():
            figures = self._call(self.task.evaluate)
            if main:
                self._call(self.task.sample, self.output / "samples", self.step)
            elif shards() > 1:
                with TemporaryDirectory() as unseen:
                    self._call(self.task.sample, Path(unseen), self.step)
        if log is not None:
            log.evaluation(self.step, figures)
        return figures

    def _is_best(self, figures: Mapping[str, float]) -> bool:
        """Whether no evaluation before was as good; asked only where held-out drives are evaluated on the way."""
        score = _first(self.accelerator, self.task.score(figures))
        if not self.config.evaluate_every or not math.isfinite(score) or (self.best is not None and score >= self.best["score"]):
            return False
        self.best = {"step": self.step, "score": score}
        return True

    def _checkpoint(self, log: TrainingLog, better: bool) -> None:
        main, folder = self.accelerator.is_main_process, self.output / "checkpoints"
        tensors = training_tensors(self.model, self.optimizer, self.mean, keep=main)
        with writing_told(self.output):
            if main:
                notes = {
                    "best": self.best,
                    "evaluation_owed": self.owed,
                    "guard": self.guard.state(),
                    "log": log.state(),
                    "run": self.record,
                }
                save_state(folder, self.step, tensors, notes)
                kept = {*checkpoints(folder)[-self.config.keep_checkpoints :], checkpoint_path(folder, self.step)}
                if self.best is not None:
                    kept.add(checkpoint_path(folder, int(self.best["step"])))
                for old in {*checkpoints(folder)} - kept:
                    shutil.rmtree(old)
            with self._averaged(), whole_weights(self.model):
                if main:
                    self.task.save(self.output)
                if main and better:
                    self.task.save(self.output / "best")

    def _resume(self) -> int:
        """Load the newest checkpoint that can be read; returns the number of its updates."""
        main, folder = self.accelerator.is_main_process, self.output / "checkpoints"
        if main:
            remove_leftovers(self.output)
        self.accelerator.wait_for_everyone()
        found, damaged = checkpoints(folder), []
        while found:
            try:
                state = load_state(found[-1], self.model, self.optimizer, self.mean)
            except UserError as error:
                damaged.append(found.pop())
                if not found:
                    raise
                self.accelerator.print(f"{error}; going back to the checkpoint before")
                continue
            self.accelerator.wait_for_everyone()
            if main:
                self._set_aside(damaged)
                log_until(self.output / BAD_UPDATES_FILE, state["step"] - 1).close()
            self._restore(state)
            return state["step"]
        self.accelerator.print(f"{self.output}: no checkpoint to resume from, starting anew")
        return 0

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.log_state, self.owed = state.get("best"), state.get("log"), state.get("evaluation_owed", False)
        if "guard" in state:
            self.guard.restore(state["guard"])
        before = state.get("run", {})
        if before:
            then = before["processes"] * before["loop"]["gradient_accumulation"]
            now = self.accelerator.num_processes * self.config.gradient_accumulation
            if then != now:
                self.accelerator.print(f"an update had {then} micro-batches, now it has {now}: the training will differ")

    def _set_aside(self, damaged: list[Path]) -> None:
        """Out of the way of the good ones, which else would be taken for the older ones and removed."""
        for path in damaged:
            aside = path.with_name(f"damaged_{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)

    def _tell_differences(self) -> None:
        first = self.record.get("config", {}).get("from_run")
        if first is not None:
            for line in run_record.differences(read_json(Path(first) / run_record.RUN_FILE), self.record):
                self.accelerator.print(line)

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
        self.accelerator.print(
            f"{self.parameters / 1e6:.1f} M parameters, {remaining} updates of {count:,.0f} {name} "
            f"({remaining * count:,.0f} in all), about {_peak_memory_gib(self.accelerator.device, self.parameters):.1f} GiB of memory "
            f"and {math.ceil(remaining * seconds / 60)} min on {self.accelerator.device.type} "
            f"({'bf16' if self.accelerator.mixed_precision == 'bf16' else 'float32'})"
        )

    def _timed_pass(self) -> float:
        batch = self._to_device(self.task.batch(self.step, 0))
        self.model.eval()  # quantizers leave their codebooks alone
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            with self.accelerator.autocast(), gradients_kept(self.wrapped, True):
                loss, _ = self.wrapped(self.task.loss, batch, self._generator(0))
                loss.backward()
            float(loss.detach())
            seconds.append(time.perf_counter() - start)
            self.optimizer.zero_grad(set_to_none=True)
        return min(seconds)


def be_deterministic() -> None:
    """From here on, only algorithms that give the same numbers every time, in this process."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def _first(state: Any, value: Any) -> Any:
    """What the first process says: the others might measure otherwise."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0] if state.num_processes > 1 else value


def _peak_memory_gib(device: torch.device, parameters: int) -> float:
    """Peak so far plus the optimizer's moments (AdamW's two; Muon's one is less), which the timed pass has not made yet."""
    import resource

    used = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (used + 8 * parameters) / 2**30
