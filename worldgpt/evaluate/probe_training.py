"""Training of the measuring networks on real drives, and their floor: how well they read drives that they have not seen.

Axes: N steps of a split, B clips or frames of a batch, H W pixels, n numbers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import UserError
from data.progress import Bar
from data.store import EpisodeStore
from tokenizer.keyed import keyed_rng, keyed_seed
from tokenizer.model import FrameTokenizer
from tokenizer.muon import Muon
from tokenizer.report import reconstruct
from worldgpt.evaluate.broken_frames import break_frames, kinds_with
from worldgpt.evaluate.probes import (
    CHUNK,
    CLIP,
    EVENT,
    LOOKS,
    MIRRORED,
    NO_EVENT,
    ProbeConfig,
    Probes,
    ProbeSettings,
    check_folder,
    mirrored_order,
)

_MOTION, _ROAD, _CALIBRATE, _MEASURE = range(4)
"""Keep the draws of the two trainings and of the two held-out halves apart under one seed."""
LOOK_WEIGHT = 0.5
"""Of the looks' cross-entropies beside the numbers' squared errors."""
EVENT_SHARE = 0.25
"""Share of the clips trained on that show an event, where there are events at all: they are rare, and nothing would be learned of them."""
OTHERS = 8
"""Unrelated frames that a batch of broken ones is blended with."""
GRADIENT_CLIP = 1.0


@dataclass(frozen=True)
class Steps:
    """All steps of a split and what is known of them."""

    frames: np.ndarray
    """(N, H, W, 3) uint8, read from disk as they are asked for."""
    numbers: np.ndarray
    """(N, n) float32, NaN where not known."""
    looks: tuple[np.ndarray, ...]
    """(N,) int64 for each look: which of its names, -1 where it is none of them."""
    drives: np.ndarray
    """(N,) int: which drive."""
    rows: np.ndarray
    """Steps that have the two frames before them that a clip needs."""
    eventful: np.ndarray
    """Those of `rows` at which an event is under way."""

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """`count` of `rows`: evenly, but for the share that shows events."""
        rows = rng.choice(self.rows, count)
        if len(self.eventful):
            chosen = rng.random(count) < EVENT_SHARE
            rows[chosen] = rng.choice(self.eventful, int(chosen.sum()))
        return rows

    def clips(self, rows: np.ndarray) -> np.ndarray:  # (B,) -> (B, 3, H, W, 3)
        return np.stack([self.frames[row - CLIP + 1 : row + 1] for row in rows])


def read_steps(store: EpisodeStore, split: str, numbers: list[str], look_names: dict[str, list[str]]) -> Steps:
    """The steps of a split; UserError where no drive is as long as a clip."""
    found: list[np.ndarray] = []
    looks: dict[str, list[np.ndarray]] = {name: [] for name in look_names}
    for drive in store.drives(split):
        episode = store.read(drive.drive_id, frames=False)
        telemetry = {c.name: episode.telemetry[:, k] for k, c in enumerate(episode.telemetry_channels)}
        known = {**episode.truth, **telemetry}
        found.append(np.stack([known.get(name, np.full(drive.steps, np.nan)) for name in numbers], axis=1).astype(np.float32))
        for name, names in look_names.items():
            label = episode.labels.get(name)
            number = np.full(drive.steps, names.index(label) if label in names else -1)
            if name == EVENT and EVENT in episode.truth:
                number = np.where(episode.truth[EVENT] > 0, number, names.index(NO_EVENT))
            looks[name].append(number)
    index = store.frame_index(split)
    rows = [np.arange(first + CLIP - 1, last) for _, first, last in index]
    drives = [np.full(last - first, k) for k, (_, first, last) in enumerate(index)]
    if not sum(map(len, rows)):
        raise UserError(f"{store.path}: expected drives of at least {CLIP} steps in split {split!r}, got none")
    labels = {name: np.concatenate(parts) for name, parts in looks.items()}
    there = np.concatenate(rows)
    quiet = look_names[EVENT].index(NO_EVENT) if EVENT in labels else -1
    eventful = there[(labels[EVENT][there] >= 0) & (labels[EVENT][there] != quiet)] if EVENT in labels else there[:0]
    return Steps(store.frame_array(split), np.concatenate(found), tuple(labels.values()), np.concatenate(drives), there, eventful)


def train_probes(config: ProbeConfig, store: EpisodeStore, output: Path, tokenizer: FrameTokenizer | None = None) -> Probes:
    """Train on the split `train`, calibrate and measure on `val`, save to `output`.

    With a tokenizer, a share of the real frames goes through it, so that its blur alone is not taken for a break, and frames decoded
    from random codes are among the broken ones. UserError before anything is trained where data, settings or output do not fit.
    """
    check_folder(output)
    kinds = kinds_with(tokenizer, config.left_out)
    settings = _settings(config, store)
    train, held_out = (read_steps(store, split, list(settings.means), settings.look_names) for split in ("train", "val"))
    settings = _standardised(settings, train)
    if tokenizer is not None:
        tokenizer.grid(*settings.frame_size)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        probes = Probes(settings)
    if torch.cuda.is_available():
        probes.to("cuda")
    _fit(probes.motion, config, config.steps, "motion", lambda step: motion_loss(probes, train, step, tokenizer))
    _fit(probes.road, config, config.road_steps, "road", lambda step: road_loss(probes, train, kinds, step, tokenizer))
    probes.settings = calibrated(probes, held_out, kinds, tokenizer)
    probes.settings = replace(probes.settings, floor=measure_floor(probes, held_out, tokenizer))
    probes.save(output)
    return probes


def motion_loss(probes: Probes, steps: Steps, step: int, tokenizer: FrameTokenizer | None) -> Tensor:
    """Squared errors of the standardised numbers that are known, and cross-entropies of the looks, of batch `step`."""
    config = probes.settings.config
    rng = keyed_rng(config.seed, _MOTION, step)
    rows = steps.draw(rng, config.batch_size)
    frames = steps.clips(rows)  # (B, 3, H, W, 3)
    if tokenizer is not None:
        there = rng.random(len(rows)) < config.reconstructed
        frames[there] = _there_and_back(tokenizer, frames[there])
    turned = torch.from_numpy(rng.random(len(rows)) < 0.5)
    clips, numbers = mirror(torch.from_numpy(frames), torch.from_numpy(standard_numbers(probes, steps.numbers[rows])), probes.signs, turned)
    read, logits, _ = probes.motion(roughened(clips.to(probes.device), keyed_seed(config.seed, _MOTION, step)))
    numbers = numbers.to(probes.device)
    known = numbers.isfinite()
    errors = torch.where(known, read - numbers.nan_to_num(), 0.0).square().sum(0) / known.sum(0).clamp(min=1)
    loss = errors.sum()
    for logit, labels, names in zip(logits, steps.looks, probes.look_names.values(), strict=True):
        order = np.array([*mirrored_order(names), -1])  # the last for labels that are none of the names
        target = torch.from_numpy(np.where(turned.numpy(), order[labels[rows]], labels[rows])).to(probes.device)
        if (target >= 0).any():
            loss = loss + LOOK_WEIGHT * F.cross_entropy(logit, target, ignore_index=-1)
    return loss


def road_loss(probes: Probes, steps: Steps, kinds: tuple[str, ...], step: int, tokenizer: FrameTokenizer | None) -> Tensor:
    """Cross-entropy of real against broken frames, half of each."""
    config = probes.settings.config
    rng = keyed_rng(config.seed, _ROAD, step)
    half = config.road_batch_size // 2
    drawn = steps.frames[rng.integers(len(steps.frames), size=2 * half + OTHERS)]
    mirrored = rng.random(len(drawn)) < 0.5
    drawn[mirrored] = drawn[mirrored, :, ::-1]
    real, sources, others = drawn[:half], drawn[half : 2 * half], drawn[2 * half :]
    if tokenizer is not None:
        there = rng.random(half) < config.reconstructed
        real[there] = _there_and_back(tokenizer, real[there])
    broken = break_frames(sources, others, list(rng.choice(kinds, half)), rng, tokenizer)
    frames = torch.from_numpy(np.concatenate([real, broken])).to(probes.device)
    truth = torch.cat([torch.ones(half), torch.zeros(half)]).to(probes.device)
    return F.binary_cross_entropy_with_logits(probes.road(roughened(frames, keyed_seed(config.seed, _ROAD, step))), truth)


def mirror(clips: Tensor, numbers: Tensor, signs: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """clips (B, 3, H, W, 3) and their standardised numbers (B, n) with those of `which` (B,) bool left to right."""
    flipped = torch.where(which[:, None, None, None, None], clips.flip(3), clips)
    return flipped, torch.where(which[:, None], numbers * signs.to(numbers.device), numbers)


def roughened(frames: Tensor, seed: int) -> Tensor:
    """Half of frames or clips (B, ..., H, W, 3), a little softer and noisier, 0..255, so that decoded ones can be read too."""
    generator = torch.Generator(frames.device).manual_seed(seed)
    values = frames.float()
    chosen = torch.rand(len(values), generator=generator, device=values.device) < 0.5
    some = values[chosen]
    shape = (len(some), *[1] * (values.ndim - 1))
    softness, spread = (torch.rand(shape, generator=generator, device=values.device) * most for most in (1.0, 4.0))
    planes = some.flatten(0, -4).permute(0, 3, 1, 2)
    soft = F.avg_pool2d(planes, 3, stride=1, padding=1, count_include_pad=False).permute(0, 2, 3, 1).view_as(some)
    noise = torch.randn(some.shape, generator=generator, device=values.device)
    values[chosen] = (some.lerp(soft, softness) + spread * noise).clamp(0, 255)
    return values


def calibrated(probes: Probes, steps: Steps, kinds: tuple[str, ...], tokenizer: FrameTokenizer | None) -> ProbeSettings:
    """Settings with the least threshold that no more than the allowed share of broken frames pass, and never below even odds."""
    scores, _ = broken_scores(probes, steps, kinds, _CALIBRATE, tokenizer)
    return replace(probes.settings, threshold=threshold_for(scores, probes.settings.config.false_alarms))


def threshold_for(scores: np.ndarray, false_alarms: float) -> float:
    """The least of 0 and the scores (B,) of broken frames above which at most the share `false_alarms` of them lie."""
    allowed = int(false_alarms * len(scores))
    return max(0.0, float(np.sort(scores)[::-1][allowed]))


def broken_scores(
    probes: Probes, steps: Steps, kinds: tuple[str, ...], half: int, tokenizer: FrameTokenizer | None
) -> tuple[np.ndarray, np.ndarray]:
    """Road scores (B,) of held-out frames broken in turn in each of `kinds`, and their kinds (B,)."""
    config, scores = probes.settings.config, []
    rows = _half(steps, half, config.floor_frames)
    named = np.resize(np.array(kinds), len(rows))
    for first in range(0, len(rows), CHUNK):
        rng = keyed_rng(config.seed, half, first)
        chosen = slice(first, first + CHUNK)
        others = steps.frames[rng.choice(rows, OTHERS)]
        scores.append(probes.road_scores(break_frames(steps.frames[rows[chosen]], others, list(named[chosen]), rng, tokenizer)))
    return np.concatenate(scores), named


def measure_floor(probes: Probes, steps: Steps, tokenizer: FrameTokenizer | None = None) -> dict[str, Any]:
    """{"numbers": {name: {r2, slope, mae, spread, steps}}, "looks": {name: {accuracy, by_name, largest_share, steps}}, "road": ...} on
    held-out steps; slope is that of what is read on what is true.

    A figure without data is None. `reconstructed` holds numbers and looks read after the frames went through the tokenizer, if given.
    """
    read = _figures(probes, steps, None)
    return {**read, "road": _road_floor(probes, steps, tokenizer), "reconstructed": tokenizer and _figures(probes, steps, tokenizer)}


def _figures(probes: Probes, steps: Steps, tokenizer: FrameTokenizer | None) -> dict[str, Any]:
    config = probes.settings.config
    rows = _spread(steps.rows, config.floor_steps)
    parts = []
    for first in range(0, len(rows), CHUNK):
        clips = steps.clips(rows[first : first + CHUNK])
        parts.append(probes.read_clips(clips if tokenizer is None else _there_and_back(tokenizer, clips)))
    numbers = np.concatenate([part[0] for part in parts])
    looks = [np.concatenate([part[1][k] for part in parts]).argmax(1) for k in range(len(steps.looks))]
    return {
        "numbers": {name: _number_figures(steps.numbers[rows, k], numbers[:, k]) for k, name in enumerate(probes.settings.means)},
        "looks": {look: _look_figures(steps.looks[k][rows], looks[k], names) for k, (look, names) in enumerate(probes.look_names.items())},
    }


def _number_figures(true: np.ndarray, read: np.ndarray) -> dict[str, float | int | None]:
    known = np.isfinite(true)
    true, read = true[known].astype(np.float64), read[known]
    if len(true) == 0:
        return {"r2": None, "slope": None, "mae": None, "spread": None, "steps": 0}
    spread = float(true.std())
    r2 = 1 - float(np.square(true - read).mean()) / spread**2 if spread > 0 else None
    slope = float(((true - true.mean()) * (read - read.mean())).mean() / spread**2) if spread > 0 else None
    return {"r2": r2, "slope": slope, "mae": float(np.abs(true - read).mean()), "spread": spread, "steps": len(true)}


def _look_figures(true: np.ndarray, read: np.ndarray, names: list[str]) -> dict[str, Any]:
    known = true >= 0
    if not known.any():
        return {"accuracy": None, "by_name": {}, "largest_share": None, "steps": 0}
    largest = np.bincount(true[known]).max() / known.sum()
    by_name = {name: float((read == k)[true == k].mean()) for k, name in enumerate(names) if (true == k).any()}
    return {"accuracy": float((true == read)[known].mean()), "by_name": by_name, "largest_share": float(largest), "steps": int(known.sum())}


def _road_floor(probes: Probes, steps: Steps, tokenizer: FrameTokenizer | None) -> dict[str, Any]:
    """Shares in which a road is found, on other drives than calibrated: real frames, broken ones by kind, kinds never trained on."""
    config, threshold = probes.settings.config, probes.settings.threshold
    real = steps.frames[_half(steps, _MEASURE, config.floor_frames)]
    kinds = kinds_with(tokenizer, config.left_out)
    unseen = tuple(kind for kind in kinds_with(tokenizer) if kind not in kinds)
    found: dict[str, Any] = {"threshold": threshold, "frames": len(real), "found": float((probes.road_scores(real) > threshold).mean())}
    for name, some in (("false_alarms", kinds), ("left_out", unseen)):
        if some:
            scores, named = broken_scores(probes, steps, some, _MEASURE, tokenizer)
            passed = scores > threshold
            found[name] = {kind: float(passed[named == kind].mean()) for kind in some if (named == kind).any()}
            found[f"{name}_share"] = float(passed.mean())
    if tokenizer is not None:
        made = np.concatenate([reconstruct(tokenizer, real[i : i + CHUNK])[0] for i in range(0, len(real), CHUNK)])
        found["found_reconstructed"] = float((probes.road_scores(made) > threshold).mean())
    return found


def _fit(network: nn.Module, config: ProbeConfig, steps: int, name: str, loss_of: Callable[[int], Tensor]) -> None:
    """Muon under a cosine; UserError at once where the loss is not finite."""
    matrices = {"params": [p for p in network.parameters() if p.ndim >= 2], "matrices": True, "weight_decay": config.weight_decay}
    rest = {"params": [p for p in network.parameters() if p.ndim < 2]}
    optimizer = Muon([matrices, rest], config.learning_rate, betas=(0.9, 0.98))
    network.train()
    with Bar(f"probes: {name}", total=steps, unit="updates") as bar:
        for step in range(steps):
            warmth = min(1.0, (step + 1) / (config.warmup_steps + 1))
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * warmth * (1 + math.cos(math.pi * step / steps)) / 2
            loss = loss_of(step)
            if not loss.isfinite():
                raise UserError(f"probes: {name} stopped at update {step}, its loss is not finite; lower learning_rate")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_CLIP)
            optimizer.step()
            bar.advance(1)
    network.eval()


def standard_numbers(probes: Probes, numbers: np.ndarray) -> np.ndarray:
    """(B, n) in their units -> in units of their spread about their mean."""
    means, spreads = (np.array(list(table.values()), np.float32) for table in (probes.settings.means, probes.settings.spreads))
    return (numbers - means) / spreads


def _settings(config: ProbeConfig, store: EpisodeStore) -> ProbeSettings:
    """What a store can teach, with means and spreads yet to be counted; UserError where that is nothing."""
    signals = store.manifest.signals
    known = {channel.name for channel in signals.telemetry} | set(signals.truth)
    numbers = [name for name in MIRRORED if name in known]
    looks = {look: sorted({drive.labels[look] for drive in store.drives("train") if look in drive.labels}) for look in LOOKS}
    if looks[EVENT]:  # which steps show it is told by the truth alone
        looks[EVENT] = sorted({*looks[EVENT], NO_EVENT}) if EVENT in signals.truth else []
    looks = {look: names for look, names in looks.items() if len(names) > (look == EVENT)}
    if not (numbers or looks) or not signals.frame_sizes:
        raise UserError(f"{store.path}: expected frames and some of {', '.join((*MIRRORED, *LOOKS))} to learn to read, got none")
    size = next(iter(signals.frame_sizes.values()))
    zeros, ones = dict.fromkeys(numbers, 0.0), dict.fromkeys(numbers, 1.0)
    return ProbeSettings(config, (int(size[0]), int(size[1])), store.manifest.fps, zeros, ones, looks, store.hash)


def _standardised(settings: ProbeSettings, steps: Steps) -> ProbeSettings:
    """Settings with the mean and spread of each number; a mean of 0 where mirroring turns it round, a spread of 1 where it has none."""
    means, spreads = {}, {}
    for name, values in zip(settings.means, steps.numbers.T.astype(np.float64), strict=True):
        values = values[np.isfinite(values)]
        means[name] = float(values.mean()) if len(values) and MIRRORED[name] > 0 else 0.0
        spreads[name] = (float(values.std()) if len(values) else 0.0) or 1.0
    return replace(settings, means=means, spreads=spreads)


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    """About `count` of `rows`, evenly spread, none twice."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))]


def _half(steps: Steps, half: int, count: int) -> np.ndarray:
    """Half of `count` steps, of every other drive for one half and of the rest for the other; of the only drive for both."""
    mine = np.flatnonzero(steps.drives % 2 == (half == _MEASURE))
    return _spread(mine if len(mine) else np.arange(len(steps.frames)), max(1, count // 2))


def _there_and_back(tokenizer: FrameTokenizer, frames: np.ndarray) -> np.ndarray:
    """Frames (..., H, W, 3) through the tokenizer."""
    if not len(frames):
        return frames
    made, _ = reconstruct(tokenizer, frames.reshape(-1, *frames.shape[-3:]))
    return made.reshape(frames.shape)
