"""What is measured of a drive's frames and codes step by step, with or without the true frames beside them.

Axes: B drives, T steps, H W pixels, N codes, V codebook size.
"""

import cv2
import numpy as np
import torch

from tokenizer.metrics import SSIM_WINDOW, ssim_map

LEAST_ERROR = 255.0**2 / 10**10
"""Mean squared error that counts as none: 100 dB."""
PER_FRAME = ("psnr_db", "ssim", "sharpness", "brightness", "flicker")


def frame_statistics(made: np.ndarray, true: np.ndarray, before: np.ndarray) -> dict[str, np.ndarray]:
    """{name: (B, T)} of frames `made` against `true`, both (B, T, H, W, 3) uint8; `before` (B, H, W, 3) is the frame before the first.

    psnr_db and ssim against the true frame (ssim NaN for frames smaller than its window); sharpness (`sharpness`); brightness, the mean
    of 0..255; flicker, the mean absolute difference from the frame before, of 0..255: 0 where the drive stands still or is frozen.
    """
    squared = np.stack([((a.astype(np.float32) - b) ** 2).mean((1, 2, 3)) for a, b in zip(made, true, strict=True)])
    earlier = np.concatenate([before[:, None], made[:, :-1]], axis=1)
    return {
        "psnr_db": 10 * np.log10(255.0**2 / np.maximum(squared, LEAST_ERROR)),
        "ssim": np.stack([_similarity(a, b) for a, b in zip(made, true, strict=True)]),
        "sharpness": np.array([[sharpness(frame) for frame in row] for row in made]),
        "brightness": made.mean((2, 3, 4)),
        "flicker": np.abs(made.astype(np.int16) - earlier).mean((2, 3, 4)),
    }


def _similarity(made: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(T,) SSIM of frames (T, H, W, 3)."""
    if min(made.shape[1:3]) < SSIM_WINDOW:
        return np.full(len(made), np.nan)
    signals = (torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() for frames in (made, true))
    return ssim_map(*signals).mean((1, 2)).numpy()


def sharpness(frame: np.ndarray) -> float:
    """Mean absolute Laplacian of the grey picture (H, W, 3) uint8: 0 for a flat one, less for a blurred one."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean())


def code_divergence(made: np.ndarray, true: np.ndarray, size: int) -> float:
    """Jensen-Shannon divergence in nats, 0 to ln 2, between the histograms of two sets of codes, integers (N,) each.

    Of codes told in parts the first part of `size` ids counts: whole ones are too many for a histogram.
    """
    p, q = (np.bincount(codes.ravel() % size, minlength=size) / codes.size for codes in (made, true))
    middle = (p + q) / 2
    return float(sum(_relative_entropy(part, middle) for part in (p, q)) / 2)


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> float:
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())
