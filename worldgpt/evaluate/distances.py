"""Distances between sets of drives in the features of fixed networks.

`probe_frechet_frames` and `probe_frechet_clips` are measured with the project's own networks: neither is FID or FVD. Those, and LPIPS, are
given only where their networks' weights are.
Axes: B drives, F frames, H W pixels, N pictures or videos.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from data.errors import UserError
from tokenizer.model import to_signal
from tokenizer.perceptual import PerceptualDistance, read_perceptual
from worldgpt.evaluate.inception import I3D, InceptionV3
from worldgpt.evaluate.probes import Probes, frechet_distance

VIDEO_FRAMES = 16
"""Frames of a video as FVD takes them (Unterthiner et al. 2018, arXiv:1812.01717)."""
NAMES = ("probe_frechet_frames", "probe_frechet_clips", "fid", "fvd", "lpips")
CHUNK = 32


@dataclass(frozen=True)
class Networks:
    """What distances are measured with; None where no weights were given."""

    probes: Probes | None
    inception: InceptionV3 | None
    i3d: I3D | None
    lpips: PerceptualDistance | None

    @classmethod
    def load(cls, inception: str, i3d: str, lpips: str) -> "Networks":
        """From safetensors files, "" for none, and without probes; UserError where one is not usable."""
        return cls(
            None,
            InceptionV3.load(inception) if inception else None,
            I3D.load(i3d) if i3d else None,
            _lpips_network(lpips) if lpips else None,
        )

    def distances(self, made: np.ndarray, true: np.ndarray, paired: bool) -> dict[str, float | None]:
        """{name: value} of NAMES between drives (B, F, H, W, 3) uint8; lpips only where frame by frame they are `paired`."""
        found: dict[str, float | None] = dict.fromkeys(NAMES)
        if (probes := self.probes) is not None:
            found["probe_frechet_frames"] = frechet_distance(*(probes.frame_features(_flat(drives)) for drives in (made, true)))
            found["probe_frechet_clips"] = frechet_distance(*(_clip_features(probes, drives) for drives in (made, true)))
        if self.inception is not None:
            found["fid"] = frechet_distance(*(self.inception.features(_flat(drives)) for drives in (made, true)))
        if self.i3d is not None:
            found["fvd"] = frechet_distance(*(self.i3d.features(videos(drives)) for drives in (made, true)))
        if self.lpips is not None and paired:
            found["lpips"] = self._lpips(_flat(made), _flat(true))
        return found

    def _lpips(self, made: np.ndarray, true: np.ndarray) -> float:
        assert self.lpips is not None
        total = 0.0
        with torch.no_grad():
            for i in range(0, len(made), CHUNK):
                a, b = (to_signal(torch.from_numpy(np.ascontiguousarray(part[i : i + CHUNK]))) for part in (made, true))
                total += float(self.lpips(a, b)) * len(a)
        return total / len(made)


def _clip_features(probes: Probes, drives: np.ndarray) -> np.ndarray:
    return np.concatenate([probes.read(drive).features for drive in drives])


def _lpips_network(path: str) -> PerceptualDistance:
    """UserError where the heads are missing, without which it is another distance than LPIPS."""
    network = read_perceptual(path, "--lpips")
    if not network.trained:
        raise UserError(f"--lpips: expected LPIPS's heads (lin0.model.1.weight, ...) beside VGG-16 in {path}, found none")
    return network


def videos(drives: np.ndarray) -> np.ndarray:
    """(N, 16, H, W, 3): drives (B, F, H, W, 3) cut into videos one after the other; UserError where they are shorter."""
    count = drives.shape[1] // VIDEO_FRAMES
    if not count:
        raise UserError(f"--i3d: FVD needs rollouts of at least {VIDEO_FRAMES} frames, got {drives.shape[1]}; raise --horizon")
    cut = drives[:, : count * VIDEO_FRAMES]
    return cut.reshape(-1, VIDEO_FRAMES, *drives.shape[2:])


def _flat(drives: np.ndarray) -> np.ndarray:
    return drives.reshape(-1, *drives.shape[2:])


def table_of(distances: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Markdown rows, a row a way of driving."""
    lines = ["| distance to true drives | " + " | ".join(NAMES) + " |", "| --- |" + " --- |" * len(NAMES)]
    for way, values in distances.items():
        cells = ["null" if values[name] is None else f"{values[name]:.3g}" for name in NAMES]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return lines
