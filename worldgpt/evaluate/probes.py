"""The measuring networks that every evaluation shares: what a drive's frames say of motion, place and look, and whether they show a road.

Trained on real frames alone (and, where a tokenizer is given, on real frames there and back), and kept with their own floor: how well they
read real drives that they have not seen. Axes: T steps of a drive, N steps of a split, B clips or frames, H W pixels, F features, L looks.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import UserError
from data.folder import MARKER, atomic_folder, read_json, write_json
from tokenizer.blocks import ChannelNorm, residual_stack

CLIP = 3
"""Frames that a reading of motion needs: those of its step and of the two before."""
MIRRORED = {"yaw_rate_rps": -1.0, "speed_mps": 1.0, "lateral_offset_m": -1.0, "heading_error_rad": -1.0}
"""{number: what mirroring a drive multiplies it by}."""
EVENT, NO_EVENT = "event", "none"
"""Label of a drive in which something is staged; which of its steps show that, its truth of the same name says. At all others: none."""
LOOKS = ("weather", "time_of_day", "road", "traffic", EVENT)
"""Labels that are read back, as far as the training drives have them."""
FOLD = 4
"""Pixels that are folded into channels before the first convolution, in each direction."""
POOLED = (4, 8)
"""Grid on which places are told apart before they are mixed into features, whatever the frame's size."""
POOLED_CHANNELS = 32
DIFFERENCE_GAIN = 4.0
"""Frames differ little from one to the next: this brings their differences to the size of the pictures."""
CHUNK = 64
"""Clips or frames that are read at once."""
SETTINGS_FILE, WEIGHTS_FILE = "probes.json", "probes.safetensors"
FORMAT, VERSION = "worldgpt_probes", 1


@dataclass(frozen=True)
class ProbeConfig:
    """A training of the measuring networks. The defaults take about 5 minutes on one CPU core with 64x128 frames."""

    steps: int = 1500
    """Updates of the motion probe."""
    batch_size: int = 32
    """Clips in an update of the motion probe."""
    road_steps: int = 800
    """Updates of the road detector."""
    road_batch_size: int = 32
    """Frames in an update of the road detector: half of them real, half broken."""
    learning_rate: float = 2e-3
    """Peak learning rate of both; a cosine takes it to 0."""
    weight_decay: float = 0.02
    """Decoupled weight decay of the matrices."""
    warmup_steps: int = 50
    """Updates over which the learning rate rises linearly from 0."""
    width: int = 32
    """Channels of the motion probe behind its fold of 4x4 pixels; each of two halvings of the grid doubles them."""
    road_width: int = 24
    """The same of the road detector."""
    depth: int = 1
    """Residual blocks on each grid."""
    features: int = 64
    """Numbers in the feature vector, from which every reading is a linear map away."""
    false_alarms: float = 0.01
    """Largest share of the broken frames it is calibrated on that the road detector may take for a road."""
    reconstructed: float = 0.3
    """Share of the real clips and frames that are trained on there and back through the tokenizer, where one is given."""
    left_out: tuple[str, ...] = ("torn",)
    """Kinds of broken frames (`broken_frames.KINDS`) that are never trained or calibrated on, only measured."""
    floor_steps: int = 2400
    """Held-out steps that the floor of the readings is measured on, about."""
    floor_frames: int = 2400
    """Held-out real frames, and as many broken ones, for the threshold and the floor of the road detector: half for each."""
    seed: int = 0
    """Decides initial weights, batches and broken frames."""

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 2, "road_steps": 1, "road_batch_size": 2, "warmup_steps": 0, "width": 1, "road_width": 1}
        least |= {"depth": 0, "features": 1, "floor_steps": 1, "floor_frames": 2, "seed": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UserError(f"probes: {name} expected at least {value}, got {getattr(self, name)}")
        if not 0 <= self.reconstructed <= 1:
            raise UserError(f"probes: reconstructed expected between 0 and 1, got {self.reconstructed}")
        if not 0 < self.false_alarms < 1:
            raise UserError(f"probes: false_alarms expected between 0 and 1, got {self.false_alarms}")
        if not self.learning_rate > 0:
            raise UserError(f"probes: learning_rate expected above 0, got {self.learning_rate}")


class Trunk(nn.Module):
    """Fold, three grids of residual blocks, a coarse pool, and a feature vector."""

    def __init__(self, channels: int, width: int, depth: int, features: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        layers: list[nn.Module] = [nn.Conv2d(channels * FOLD**2, width, 3, padding=1), residual_stack(width, depth)]
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), residual_stack(wide, depth)]
        self.grids = nn.Sequential(*layers, ChannelNorm(widths[-1]), nn.Conv2d(widths[-1], POOLED_CHANNELS, 1), nn.SiLU())
        self.mix = nn.Linear(POOLED_CHANNELS * math.prod(POOLED), features)

    def forward(self, pictures: Tensor) -> Tensor:  # (B, C, H, W), values about -1..1 -> (B, F)
        folded = rearrange(pictures, "b c (h p) (w q) -> b (c p q) h w", p=FOLD, q=FOLD)
        pooled = F.adaptive_avg_pool2d(self.grids(folded), POOLED)
        return F.silu(self.mix(rearrange(pooled, "b d h w -> b (d h w)")))


class MotionProbe(nn.Module):
    """The picture of a step and the two last differences of brightness -> features -> numbers and looks."""

    def __init__(self, config: ProbeConfig, numbers: int, looks: Sequence[int]) -> None:
        super().__init__()
        self.trunk = Trunk(3 + CLIP - 1, config.width, config.depth, config.features)
        self.numbers = nn.Linear(config.features, numbers)
        self.looks = nn.ModuleList(nn.Linear(config.features, size) for size in looks)

    def forward(self, clips: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """clips (B, 3, H, W, 3), values 0..255 -> numbers (B, n) in units of their spread, logits of each look (B, L), features (B, F)."""
        signal = clips.float() / 127.5 - 1
        grey = signal.mean(-1)  # (B, 3, H, W)
        now = rearrange(signal[:, -1], "b h w c -> b c h w")
        features = self.trunk(torch.cat([now, DIFFERENCE_GAIN * (grey[:, 1:] - grey[:, :-1])], dim=1))
        return self.numbers(features), [head(features) for head in self.looks], features


class RoadDetector(nn.Module):
    """One frame -> how much it looks like a road: log odds of real against broken."""

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        self.trunk = Trunk(3, config.road_width, config.depth, config.features)
        self.score = nn.Linear(config.features, 1)

    def forward(self, frames: Tensor) -> Tensor:  # (B, H, W, 3), values 0..255 -> (B,)
        return self.score(self.features(frames))[:, 0]

    def features(self, frames: Tensor) -> Tensor:  # (B, H, W, 3), values 0..255 -> (B, F)
        return self.trunk(rearrange(frames.float() / 127.5 - 1, "b h w c -> b c h w"))


@dataclass(frozen=True)
class Readings:
    """What the networks read in T consecutive frames. Steps without two frames before them have NaN, but for the road."""

    numbers: Mapping[str, np.ndarray]
    """{yaw_rate_rps, speed_mps, lateral_offset_m, heading_error_rad: (T,) float32}, those that the training drives told."""
    looks: Mapping[str, np.ndarray]
    """{weather, time_of_day, ...: (T, L) float32 probabilities of the names in `Probes.look_names`}, those that the drives told."""
    features: np.ndarray
    """(T, F) float32."""
    road_score: np.ndarray
    """(T,) float32: log odds of a real frame against a broken one."""
    road_found: np.ndarray
    """(T,) bool: the score is above the threshold that at most 1 % of broken frames pass."""


@dataclass(frozen=True)
class ProbeSettings:
    """All that probes.json holds: what the networks are, what they read, and how well."""

    config: ProbeConfig
    frame_size: tuple[int, int]
    """(H, W) of the frames they were trained on, and the only size they read."""
    fps: float
    """Frames a second: at another rate the same motion reads otherwise."""
    means: dict[str, float]
    """{number: mean over the training steps}; 0 for those that mirroring turns round."""
    spreads: dict[str, float]
    """{number: standard deviation over the training steps}."""
    look_names: dict[str, list[str]]
    """{weather, time_of_day, ...: names}."""
    data_hash: str
    """Hash of the store they were trained on."""
    threshold: float = 0.0
    """A road is found where its score is above this."""
    floor: dict[str, Any] | None = None
    """What the networks reach on held-out real drives, as `probe_training.measure_floor` says."""


class Probes:
    """The motion probe and the road detector."""

    frames_a_reading = CLIP
    """Consecutive frames that a reading of motion needs."""

    def __init__(self, settings: ProbeSettings) -> None:
        self.settings = settings
        self.motion = MotionProbe(settings.config, len(settings.means), [len(names) for names in settings.look_names.values()])
        self.road = RoadDetector(settings.config)
        self.networks = nn.ModuleDict({"motion": self.motion, "road": self.road}).eval()

    @property
    def floor(self) -> dict[str, Any]:
        """How well held-out real drives are read: numbers, looks, road."""
        return self.settings.floor or {}

    @property
    def look_names(self) -> dict[str, list[str]]:
        """{weather, time_of_day, ...: the names behind the columns of `Readings.looks`}."""
        return self.settings.look_names

    @property
    def signs(self) -> Tensor:
        """(n,): what mirroring multiplies each number by."""
        return torch.tensor([MIRRORED[name] for name in self.settings.means], device=self.device)

    @property
    def device(self) -> torch.device:
        return next(self.networks.parameters()).device

    def to(self, device: str | torch.device) -> "Probes":
        self.networks.to(device)
        return self

    def read(self, frames: np.ndarray) -> Readings:
        """Read frames (T, H, W, 3) uint8, consecutive steps of one drive; UserError where they are of another size."""
        self._check(frames)
        scores = self.road_scores(frames)
        parts = [self.read_clips(window) for window in _windows(frames)]
        count = min(len(frames), CLIP - 1)

        def padded(rows: list[np.ndarray], *shape: int) -> np.ndarray:
            return np.concatenate([np.full((count, *shape), np.nan, np.float32), *rows])

        numbers = padded([part[0] for part in parts], len(self.settings.means))
        looks = {name: padded([part[1][k] for part in parts], len(names)) for k, (name, names) in enumerate(self.look_names.items())}
        return Readings(
            numbers={name: numbers[:, k] for k, name in enumerate(self.settings.means)},
            looks=looks,
            features=padded([part[2] for part in parts], self.settings.config.features),
            road_score=scores,
            road_found=scores > self.settings.threshold,
        )

    @torch.no_grad()
    def read_clips(self, clips: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Clips (B, 3, H, W, 3) uint8 -> numbers (B, n) in their units, probabilities of each look (B, L), features (B, F).

        Read as they are and mirrored, so that a mirrored drive has exactly the mirrored numbers; the features are of the clip as it is.
        """
        batch = torch.from_numpy(clips).to(self.device)
        numbers, logits, features = self.motion(batch)
        mirrored, mirrored_logits, _ = self.motion(batch.flip(3))
        both = (numbers + self.signs * mirrored) / 2
        orders = [mirrored_order(names) for names in self.look_names.values()]
        looks = [(a.softmax(-1) + b.softmax(-1)[:, order]) / 2 for a, b, order in zip(logits, mirrored_logits, orders, strict=True)]
        means, spreads = (np.array(list(table.values()), np.float32) for table in (self.settings.means, self.settings.spreads))
        return both.cpu().numpy() * spreads + means, [look.cpu().numpy() for look in looks], features.cpu().numpy()

    @torch.no_grad()
    def road_scores(self, frames: np.ndarray) -> np.ndarray:
        """(B,) float32 of frames (B, H, W, 3) uint8, in any order."""
        self._check(frames)
        chunks = (np.ascontiguousarray(frames[i : i + CHUNK]) for i in range(0, len(frames), CHUNK))
        found = [self.road(torch.from_numpy(chunk).to(self.device)).cpu().numpy() for chunk in chunks]
        return np.concatenate([np.zeros(0, np.float32), *found])

    @torch.no_grad()
    def frame_features(self, frames: np.ndarray) -> np.ndarray:
        """(B, F) float32: the road detector's features of single frames (B, H, W, 3) uint8, in any order."""
        self._check(frames)
        chunks = (np.ascontiguousarray(frames[i : i + CHUNK]) for i in range(0, len(frames), CHUNK))
        return np.concatenate([self.road.features(torch.from_numpy(chunk).to(self.device)).cpu().numpy() for chunk in chunks])

    def save(self, folder: Path) -> None:
        """Write probes.json and probes.safetensors; the folder must be new, empty or one of probes."""
        check_folder(folder)
        settings = {"format": FORMAT, "version": VERSION, **asdict(self.settings)}
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.networks.state_dict().items()}
        with atomic_folder(folder) as temp:
            (temp / MARKER).touch()
            write_json(temp / SETTINGS_FILE, settings)
            save_file(weights, temp / WEIGHTS_FILE)

    @staticmethod
    def load(folder: str | Path) -> "Probes":
        """UserError where the folder holds no probes, or broken ones."""
        folder = Path(folder)
        if not (folder / SETTINGS_FILE).is_file():
            raise UserError(f"{folder}: expected the measuring networks, found no {SETTINGS_FILE}; train them first")
        probes = Probes(_settings(folder / SETTINGS_FILE))
        try:
            probes.networks.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except Exception as error:  # torch and safetensors raise many kinds for a missing or broken file
            raise UserError(f"{folder / WEIGHTS_FILE}: could not be read as weights of probes: {str(error).splitlines()[0]}") from error
        return probes

    def _check(self, frames: np.ndarray) -> None:
        height, width = self.settings.frame_size
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (height, width, 3):
            raise UserError(f"probes: expected frames uint8 (T, {height}, {width}, 3) as trained, got {frames.dtype} {frames.shape}")


def mirrored_order(names: Sequence[str]) -> list[int]:
    """Where each name stands among `names` once left and right are exchanged: "cut_in_left" where "cut_in_right" was; else where it was."""
    sides = {"left": "right", "right": "left"}
    turned = ["_".join(sides.get(word, word) for word in name.split("_")) for name in names]
    return [names.index(other) if other in names else k for k, other in enumerate(turned)]


def check_folder(folder: Path) -> None:
    """UserError where writing probes into `folder` would replace anything else."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: expected a folder for the probes, got a file")
    foreign = sorted({entry.name for entry in folder.iterdir()} - {MARKER, SETTINGS_FILE, WEIGHTS_FILE}) if folder.exists() else []
    if foreign:
        raise UserError(f"{folder}: holds {foreign[0]!r}, which is none of the probes'; give another folder")


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance of two sets of features (N, F) and (M, F), each taken as a Gaussian: "probe_frechet".

    |mean_a - mean_b|^2 + trace(A + B - 2 (A^1/2 B A^1/2)^1/2) of the covariances A and B. On features of our own probe this is neither
    FID nor FVD, and only comparable between sets of about equal size: few rows make it larger. Rows with NaN (the first steps of a
    drive) are left out; UserError where fewer than two are left.
    """
    sets = [np.asarray(rows, np.float64)[np.isfinite(rows).all(1)] for rows in (a, b)]
    if min(len(rows) for rows in sets) < 2:
        raise UserError(f"probe_frechet: expected two sets of at least 2 features, got {len(sets[0])} and {len(sets[1])}")
    means = [rows.mean(0) for rows in sets]
    one, other = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in sets)
    root = _square_root(one)
    crossed = np.linalg.eigvalsh(root @ other @ root).clip(0)
    distance = np.square(means[0] - means[1]).sum() + np.trace(one) + np.trace(other) - 2 * np.sqrt(crossed).sum()
    return float(max(distance, 0.0))


def _square_root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def _windows(frames: np.ndarray) -> Iterator[np.ndarray]:
    """Clips (B, 3, H, W, 3) that end at each step from the third on, a chunk at a time."""
    for first in range(0, len(frames) - CLIP + 1, CHUNK):
        last = min(first + CHUNK, len(frames) - CLIP + 1)
        yield np.stack([frames[first + k : last + k] for k in range(CLIP)], axis=1)


def _settings(path: Path) -> ProbeSettings:
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT or values.get("version") != VERSION:
        raise UserError(f"{path}: expected the measuring networks in format {FORMAT!r} version {VERSION}; train them again")
    try:
        given = {field.name: values[field.name] for field in fields(ProbeSettings)}
        config = ProbeConfig(**{**given["config"], "left_out": tuple(given["config"]["left_out"])})
        return ProbeSettings(**{**given, "config": config, "frame_size": tuple(given["frame_size"])})
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: expected the settings of probes, {error} is missing or unknown; train them again") from error
