"""A training small enough to be checked by hand, killed and repeated many times: a line through noisy points."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tokenizer.keyed import keyed_rng
from tokenizer.loop import run_loop
from tokenizer.loop_config import LoopConfig

CONFIG = LoopConfig(
    steps=10,
    batch_size=4,
    learning_rate=0.02,
    warmup_steps=2,
    log_every=3,
    evaluate_every=5,
    checkpoint_every=4,
    precision="fp32",
    ema_decay=0.8,
    trackers=(),
)
CLOCK = ("points_per_s",)


class LineTask:
    """Fits a line to noisy points, with noise from the loop's generator too. The micro-batches of an update are parts of one draw."""

    def __init__(
        self, config: LoopConfig, *, bad: tuple[int, ...] = (), factors: Mapping[int, float] | None = None, noise: float = 0.1
    ) -> None:
        self.config, self.noise = config, noise
        self.factors = {**dict.fromkeys(bad, math.nan), **(factors or {})}
        torch.manual_seed(config.seed)
        self.model: nn.Module = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.saved: list[dict[str, Tensor]] = []
        self.scores: Mapping[int, float] = {}
        self.step = 0

    def batch(self, step: int, micro: int) -> Mapping[str, Tensor]:
        x = keyed_rng(self.config.seed, step).normal(size=(8, 3)).astype(np.float32)
        rows = x.reshape(-1, self.config.batch_size, 3)[micro]
        return {"x": torch.from_numpy(rows), "factor": torch.tensor(self.factors.get(step, 1.0))}

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x = batch["x"]
        noise = self.noise * torch.randn(len(x), generator=generator)
        loss = (self.model(x)[:, 0] - x.sum(1) - noise).square().mean() * batch["factor"]
        return loss, {"half": loss.detach() / 2}

    def evaluate(self) -> dict[str, float]:
        with torch.no_grad():
            return {"weight": float(self.model[0].weight.sum())}  # type: ignore[index, union-attr]

    def score(self, figures: Mapping[str, float]) -> float:
        return figures["weight"]

    def advice(self, memory: int) -> str:
        return "take less"

    def save(self, folder: Path) -> None:
        self.saved.append({name: p.detach().clone() for name, p in self.model.named_parameters()})

    def sample(self, folder: Path, step: int) -> None:
        folder.mkdir(exist_ok=True)

    def units(self) -> tuple[str, float]:
        return "points", 4.0

    def flops(self) -> float:
        return 0.0


def train(output: Path, config: LoopConfig = CONFIG, *, resume: bool = False, **options: object) -> tuple[LineTask, dict[str, float]]:
    task = LineTask(config, **options)  # type: ignore[arg-type]
    return task, run_loop(task, config, output, resume=resume, description={})


def log(output: Path) -> list[dict[str, float]]:
    """Lines of the log, without what the clock says."""
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def weights(task: LineTask) -> Tensor:
    return torch.cat([p.detach().flatten() for p in task.model.parameters()])


if __name__ == "__main__":
    train(Path(sys.argv[1]), LoopConfig(**json.loads(sys.argv[2])), resume=True)
