"""The measures against slow references written from their definitions."""

import math

import numpy as np
import pytest
import torch

from tokenizer.metrics import CodeUse, code_use, masked_quality, picture_quality, psnr_db, ssim_map


def pictures(seed: int, count: int = 2, height: int = 18, width: int = 21) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def slow_ssim_at(a: np.ndarray, b: np.ndarray, row: int, column: int) -> float:
    """SSIM of the 11x11 windows with their top left at (row, column), from Wang et al.'s formula, in float64; a, b (H, W)."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    x, y = (p[row : row + 11, column : column + 11].astype(np.float64) for p in (a, b))
    mean_x, mean_y = (window * x).sum(), (window * y).sum()
    variance_x, variance_y = (window * (x - mean_x) ** 2).sum(), (window * (y - mean_y) ** 2).sum()
    covariance = (window * (x - mean_x) * (y - mean_y)).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))


def test_ssim_equals_the_slow_reference() -> None:
    true = pictures(0)
    made = np.clip(true + np.random.default_rng(1).normal(0, 40, true.shape), 0, 255).astype(np.uint8)
    planes = [torch.from_numpy(p).permute(0, 3, 1, 2).float() for p in (true, made)]
    fast = ssim_map(*planes)
    assert fast.shape == (2, 8, 11)
    slow = [
        [[np.mean([slow_ssim_at(true[n, ..., c], made[n, ..., c], i, j) for c in range(3)]) for j in range(11)] for i in range(8)]
        for n in range(2)
    ]
    np.testing.assert_allclose(fast.numpy(), slow, atol=1e-4)
    assert picture_quality(true, made).ssim == pytest.approx(np.mean(slow), abs=1e-5)


def test_ssim_is_the_same_under_autocast() -> None:
    planes = [torch.from_numpy(pictures(seed)).permute(0, 3, 1, 2).float() for seed in (0, 1)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ssim_map(*planes)
    assert torch.equal(cast, ssim_map(*planes))


def test_psnr_of_a_constant_error() -> None:
    true = np.full((3, 16, 16, 3), 100, np.uint8)
    assert picture_quality(true, true + np.uint8(10)).psnr_db == pytest.approx(20 * math.log10(25.5))
    assert psnr_db(0.0) == math.inf
    assert picture_quality(true, true).ssim == pytest.approx(1)


def test_psnr_is_the_mean_over_frames_whatever_the_chunk() -> None:
    true, made = pictures(0, 5), pictures(1, 5)
    singles = [psnr_db(float(np.square(a.astype(float) - b).mean())) for a, b in zip(true, made, strict=True)]
    assert picture_quality(true, made, chunk=2).psnr_db == pytest.approx(np.mean(singles), abs=1e-4)
    assert picture_quality(true, made, chunk=2).ssim == pytest.approx(picture_quality(true, made).ssim, abs=1e-6)


def test_masks_measure_their_own_pixels_alone() -> None:
    true, mask = pictures(0), np.zeros((2, 18, 21), bool)
    mask[0, 6:9, 7:12] = True
    made = true.copy()
    made[~mask] = 255 - made[~mask]
    inside = masked_quality(true, made, {"it": mask})["it"]
    assert inside is not None
    assert inside.psnr_db == math.inf
    made = true.copy()
    made[mask] ^= 8  # an error of 8 everywhere inside
    inside = masked_quality(true, made, {"it": mask})["it"]
    assert inside is not None
    assert inside.psnr_db == pytest.approx(psnr_db(64.0))
    assert masked_quality(true, made, {"it": np.zeros_like(mask)})["it"] is None
    whole = masked_quality(true, pictures(1), {"it": np.ones_like(mask)})["it"]
    assert whole is not None
    assert whole.ssim == pytest.approx(picture_quality(true, pictures(1)).ssim, abs=1e-6)


def test_code_use_of_known_codes() -> None:
    codes = np.array([[[0, 1], [2, 3]], [[0, 1], [2, 2]], [[3, 3], [3, 3]]])  # (3, 2, 2)
    use = code_use(codes, np.array([False, True, False]))
    counts = np.array([2, 2, 3, 5]) / 12
    entropy = -(counts * np.log2(counts)).sum()
    assert use == CodeUse(used=4, perplexity=pytest.approx(2**entropy), bits_per_frame=pytest.approx(4 * entropy), unchanged_share=0.75)


def test_unchanged_share_is_unknown_without_neighbours() -> None:
    assert math.isnan(code_use(np.zeros((2, 2, 2), int), np.array([False, False])).unchanged_share)
