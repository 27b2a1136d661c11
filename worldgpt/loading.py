"""Whether training waits for data: updates fed by the loader against updates on the same batches, which are there already.

One batch over and over would not do: updates on single steps are cheaper than those on windows.
"""

import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from data.episode import Caption, ChannelSpec
from data.folder import write_json
from tokenizer.loop import Loop
from worldgpt.config import WorldTrainConfig
from worldgpt.mixture import Mixture
from worldgpt.token_store import FORMAT, SIDECAR, TokenDrive, TokenStore, TokenStoreInfo
from worldgpt.train import WorldTask, build_model

DRIVES, STEPS, GRID, CODES = 100, 200, (8, 16), 256


@dataclass(frozen=True)
class Loading:
    """Medians over rounds of some updates each, fed in turn."""

    ratio: float
    """Rate of the loader over that of batches in memory, within a round: 1 is a loader that costs nothing."""
    lowest: float
    highest: float
    tokens_per_s: float
    """With the loader."""

    def line(self) -> str:
        ratio = f"{self.ratio:.3f} ({self.lowest:.3f} to {self.highest:.3f})"
        return f"training on the loader runs at {ratio} of its speed on batches in memory; {self.tokens_per_s:,.0f} tokens/s"


def measure_loading(config: WorldTrainConfig, folder: Path, *, updates: int, rounds: int) -> Loading:
    """Train a fresh model of `config` on random drives that are written to `folder`: a batch takes as long to read whatever it holds."""
    mixture = Mixture.of(write_random_tokens(folder / "tokens"))
    task = WorldTask(config, build_model(config, mixture), mixture, None)
    loop = Loop(task, config.loop, folder / "run", False, {})
    micros = range(config.loop.gradient_accumulation)
    ready = [[task.batch(step, micro) for micro in micros] for step in range(1, updates + 1)]
    _timed(loop, ready[:2])
    ratios, rates = [], []
    for _ in range(rounds):
        fed = loop.batches()
        next(fed)  # the first batch is waited for, later ones are prepared beside the updates
        seconds = _timed(loop, (next(fed) for _ in range(updates)))
        ratios.append(_timed(loop, ready) / seconds)
        rates.append(updates * task.units()[1] * config.loop.gradient_accumulation / seconds)
    return Loading(statistics.median(ratios), min(ratios), max(ratios), statistics.median(rates))


def _timed(loop: Loop, batches: Iterable[list[Mapping[str, Tensor]]]) -> float:
    start = time.perf_counter()
    for batch in batches:
        loop.update(batch)
    return time.perf_counter() - start


def write_random_tokens(folder: Path) -> TokenStore:
    """An encoded set of the usual size (8x16 codes, four channels) that holds noise."""
    rng, folder = np.random.default_rng(0), Path(folder)
    folder.mkdir(parents=True)
    channels = [ChannelSpec(name, "1", -1.0, 1.0) for name in ("speed_norm", "yaw_norm", "steering_norm", "throttle_norm")]
    drives = []
    for split, count in (("train", DRIVES), ("val", 2)):
        rows = count * STEPS
        np.save(folder / f"{split}.codes.npy", rng.integers(0, CODES, (rows, GRID[0] * GRID[1]), np.uint16))
        np.save(folder / f"{split}.channels.npy", rng.uniform(-1, 1, (rows, len(channels))).astype(np.float32))
        captions = (Caption(0, STEPS, "rainy night"),)
        drives += [TokenDrive(f"{split}{k}", split, k * STEPS, (k + 1) * STEPS, captions, {}) for k in range(count)]
    info = TokenStoreInfo(
        {"front": GRID}, CODES, (), "codes", "noise", (0, 0), 10.0, tuple(channels[:2]), tuple(channels[2:]), tuple(drives)
    )
    write_json(folder / SIDECAR, {"format": FORMAT, **asdict(info)})
    return TokenStore.open(folder)
