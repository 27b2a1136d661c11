"""What a tokenizer is measured by: the pictures (PSNR, SSIM; overall and inside masks) and the codes.

Axes: B frames, H W pixels, h w code grid, K = h*w, V codebook size. Pixel values are 0..255.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def psnr_db(squared_error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error of 8-bit values; infinite where the error is 0.

    >>> round(psnr_db(65.025), 1)
    30.0
    """
    return float("inf") if squared_error == 0 else float(10 * np.log10(255.0**2 / squared_error))


def ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of a and b (B, 3, H, W), float values 0..255, H and W at least 11.

    Gaussian window of 11 with sigma 1.5, population moments, channels apart and averaged; (B, H-10, W-10), where the window fits.
    """
    planes = torch.stack([a, b, a * a, b * b, a * b])
    with torch.autocast(a.device.type, enabled=False):  # the variances are small differences of large numbers
        mean_a, mean_b, square_a, square_b, product = _windows(a.shape[-2], a) @ planes @ _windows(a.shape[-1], a).T
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    variances = square_a - mean_a**2 + square_b - mean_b**2
    covariance = product - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))
    return similarity.mean(1)


def _windows(size: int, like: Tensor) -> Tensor:
    """(size - 10, size): the Gaussian window at every place of a line; products are several times faster than one-channel convolutions."""
    x = torch.arange(SSIM_WINDOW, dtype=like.dtype, device=like.device) - SSIM_WINDOW // 2
    line = torch.exp(-(x**2) / (2 * SSIM_SIGMA**2))
    places = range(size - SSIM_WINDOW + 1)
    return torch.stack([F.pad(line / line.sum(), (place, len(places) - 1 - place)) for place in places])


@dataclass(frozen=True)
class PictureQuality:
    """How close reconstructed frames come to the true ones."""

    psnr_db: float
    """Over whole frames: the mean of the frames' own PSNRs. Inside a mask: of the squared error pooled over its pixels in all frames."""
    ssim: float
    """Mean over frames; inside a mask, over its pixels that lie at least 5 from the border."""


def picture_quality(true: np.ndarray, made: np.ndarray, chunk: int = 64) -> PictureQuality:
    """Quality of frames `made` against `true`, both (B, H, W, 3) uint8."""
    psnrs, ssims = [], []
    for start in range(0, len(true), chunk):
        a, b = _planes(true[start : start + chunk]), _planes(made[start : start + chunk])
        psnrs += [psnr_db(float(error)) for error in ((a - b) ** 2).mean((1, 2, 3))]
        ssims.append(ssim_map(a, b).mean((1, 2)))
    return PictureQuality(float(np.mean(psnrs)), float(torch.cat(ssims).mean()))


def masked_quality(
    true: np.ndarray, made: np.ndarray, masks: Mapping[str, np.ndarray], chunk: int = 64
) -> dict[str, PictureQuality | None]:
    """Quality inside each of `masks` (B, H, W) bool, by name; None where a mask is empty."""
    margin = SSIM_WINDOW // 2
    inner = {name: mask[:, margin:-margin, margin:-margin] for name, mask in masks.items()}
    totals = dict.fromkeys(masks, 0.0)
    for start in range(0, len(true), chunk):
        similarity = ssim_map(_planes(true[start : start + chunk]), _planes(made[start : start + chunk])).numpy()
        for name in masks:
            totals[name] += float(similarity[inner[name][start : start + chunk]].sum())
    return {
        name: PictureQuality(
            psnr_db(float(np.square(true[mask].astype(np.float64) - made[mask]).mean())),
            totals[name] / inner[name].sum() if inner[name].any() else float("nan"),
        )
        if mask.any()
        else None
        for name, mask in masks.items()
    }


@dataclass(frozen=True)
class CodeUse:
    """How a codebook is used."""

    used: int
    """Codes seen at least once."""
    perplexity: float
    """2 to the entropy of the codes' frequencies: how many equally frequent codes would be as varied."""
    bits_per_frame: float
    """K times that entropy: what a frame costs a reader who knows the frequencies alone, the ceiling for a world model."""
    unchanged_share: float
    """Share of codes equal to those at the same place one frame earlier in the same drive; NaN without such a frame."""


def code_use(codes: np.ndarray, follows: np.ndarray) -> CodeUse:
    """Use of codes (B, h, w); `follows` (B,) bool: the frame comes one step after the one before it in the array.

    >>> code_use(np.array([[[0, 1]], [[0, 1]]]), np.array([False, True]))
    CodeUse(used=2, perplexity=2.0, bits_per_frame=2.0, unchanged_share=1.0)
    """
    _, counts = np.unique(codes, return_counts=True)
    shares = counts / codes.size
    entropy = float(-(shares * np.log2(shares)).sum())
    later = np.flatnonzero(follows[1:]) + 1
    unchanged = float((codes[later] == codes[later - 1]).mean()) if len(later) else float("nan")
    return CodeUse(len(counts), float(2**entropy), entropy * codes[0].size, unchanged)


def _planes(frames: np.ndarray) -> Tensor:  # (B, H, W, 3) uint8 -> (B, 3, H, W) float32
    return rearrange(torch.from_numpy(np.ascontiguousarray(frames)), "b h w c -> b c h w").float()
