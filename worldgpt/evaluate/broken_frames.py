"""Real frames, broken in the ways in which a world model breaks: what a road detector must not take for a road.

Axes: N frames, H W pixels, h w code grid. Every draw comes from the generator that is handed in.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch

from data.errors import UserError
from tokenizer.model import FrameTokenizer

PATCH = 8
"""Pixels of a patch in each direction: those of a code."""
HORIZON = 0.45
"""Share of a frame's height that lies above the road."""

Breakage = Callable[[np.random.Generator, np.ndarray, Sequence[np.ndarray]], np.ndarray]
"""(generator, frame (H, W, 3) uint8, unrelated frames of that size) -> the frame, broken; the input is left as it is."""


def shuffled(rng: np.random.Generator, frame: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """All patches in a random order."""
    patches = _patches(frame)
    return _from_patches(patches[rng.permutation(len(patches))], frame.shape)


def partly_shuffled(rng: np.random.Generator, frame: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """A third to all of the patches below the horizon change places."""
    patches = _patches(frame)
    below = np.arange(_horizon(frame) // PATCH * (frame.shape[1] // PATCH), len(patches))
    chosen = rng.permutation(below)[: max(2, round(rng.uniform(0.35, 1.0) * len(below)))]
    patches[chosen] = patches[np.roll(chosen, 1)]
    return _from_patches(patches, frame.shape)


def melted(rng: np.random.Generator, frame: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Everything below the horizon flows: displaced by a smooth random field, and smeared."""
    height, width = frame.shape[:2]
    field = rng.normal(size=(int(rng.integers(3, 6)), int(rng.integers(5, 10)), 2)).astype(np.float32)
    below = np.clip((np.arange(height) - _horizon(frame)) / (0.1 * height), 0, 1)[:, None, None]  # (H, 1, 1)
    moved = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC) * below * rng.uniform(0.12, 0.3) * height
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1) + moved
    warped = cv2.remap(frame, grid.astype(np.float32), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)  # type: ignore[call-overload]
    soft = _blur(warped, rng.uniform(0.01, 0.04) * height)
    return np.where(below > 0, soft, warped).astype(np.uint8)


def blended(rng: np.random.Generator, frame: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of two to four unrelated frames, with about equal weights."""
    chosen = [frame, *(others[k] for k in rng.permutation(len(others))[: int(rng.integers(1, 4))])]
    weights = rng.uniform(0.7, 1.3, len(chosen))
    return np.einsum("n,nhwc->hwc", weights / weights.sum(), np.stack(chosen)).astype(np.uint8)


def no_road(rng: np.random.Generator, frame: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Below the horizon stands another texture: what is above it stretched, one patch repeated, a plain colour or stains."""
    broken, top = frame.copy(), _horizon(frame)
    rows, columns = len(frame) - top, frame.shape[1]
    choice = int(rng.integers(4))
    if choice == 0:
        fill = cv2.resize(frame[: top + 1], (columns, rows), interpolation=cv2.INTER_LINEAR)[:: int(rng.choice([-1, 1]))]
    elif choice == 1:
        patches = _patches(frame)
        tile = patches[int(rng.integers(len(patches)))]
        fill = np.tile(tile, (-(-rows // PATCH), -(-columns // PATCH), 1))[:rows, :columns]
    elif choice == 2:
        fill = np.broadcast_to(frame[top:].mean((0, 1)).astype(np.uint8), (rows, columns, 3))
    else:
        fill = _stains(rng, frame[top:])
    broken[top:] = fill
    return broken


def upside_down(rng: np.random.Generator, frame: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Sky below."""
    return np.ascontiguousarray(frame[::-1])


def noise(rng: np.random.Generator, frame: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """No picture at all: noise of one of several grain sizes about the frame's own colour, or nearly flat mush."""
    return _stains(rng, frame)


def blurred(rng: np.random.Generator, frame: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """So soft that no lane is left."""
    return _blur(frame, rng.uniform(0.08, 0.25) * len(frame))


def torn(rng: np.random.Generator, frame: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Bands of a few rows slid sideways, each by another distance."""
    broken, row = frame.copy(), 0
    while row < len(frame):
        end = row + max(1, round(len(frame) * rng.uniform(0.05, 0.12)))
        shift = round(frame.shape[1] * rng.uniform(0.15, 0.85))
        broken[row:end], row = np.roll(frame[row:end], shift, axis=1), end
    return broken


PICTURE_KINDS: dict[str, Breakage] = {
    f.__name__: f for f in (shuffled, partly_shuffled, melted, blended, no_road, upside_down, noise, blurred, torn)
}
CODE_KINDS: dict[str, tuple[float, float]] = {"random_codes": (1.0, 1.0), "half_random_codes": (0.3, 0.7)}
"""{kind: least and largest share of a frame's codes that are drawn at random before it is decoded}: these need a tokenizer."""
KINDS = (*PICTURE_KINDS, *CODE_KINDS)


def kinds_with(tokenizer: FrameTokenizer | None, left_out: Sequence[str] = ()) -> tuple[str, ...]:
    """The kinds that can be made, `left_out` taken away; UserError where one of these is not known or none is left."""
    unknown = sorted(set(left_out) - set(KINDS))
    if unknown:
        raise UserError(f"probes: left_out expected kinds among {', '.join(KINDS)}, got {unknown[0]!r}")
    found = tuple(kind for kind in KINDS if kind not in left_out and (kind in PICTURE_KINDS or tokenizer is not None))
    if not found:
        raise UserError("probes: left_out leaves no kind of broken frame to learn from")
    return found


def break_frames(
    frames: np.ndarray, others: np.ndarray, kinds: Sequence[str], rng: np.random.Generator, tokenizer: FrameTokenizer | None = None
) -> np.ndarray:
    """frames (N, H, W, 3) uint8, each broken in the way of its entry in `kinds` (N); `others` (M, H, W, 3) are unrelated to them."""
    broken = np.empty_like(frames)
    for k, kind in enumerate(kinds):
        if kind in PICTURE_KINDS:
            broken[k] = PICTURE_KINDS[kind](rng, frames[k], others)  # type: ignore[arg-type]
    coded = [k for k, kind in enumerate(kinds) if kind in CODE_KINDS]
    if coded:
        assert tokenizer is not None, "kinds_with() gives no kind of codes without a tokenizer"
        shares = np.array([rng.uniform(*CODE_KINDS[kinds[k]]) for k in coded])
        broken[coded] = _with_random_codes(rng, frames[coded], shares, tokenizer)
    return broken


def _with_random_codes(rng: np.random.Generator, frames: np.ndarray, shares: np.ndarray, tokenizer: FrameTokenizer) -> np.ndarray:
    """Decoded from the frames' own codes, of which `shares` (N) are exchanged for random ones."""
    codes = tokenizer.encode(torch.from_numpy(frames).to(tokenizer.device)).cpu().numpy()  # (N, h, w)
    random = rng.integers(tokenizer.codebook_size, size=codes.shape)
    mixed = np.where(rng.random(codes.shape) < shares[:, None, None], random, codes)
    return tokenizer.decode(torch.from_numpy(mixed).to(tokenizer.device)).cpu().numpy()


def _patches(frame: np.ndarray) -> np.ndarray:  # (H, W, 3) -> (h*w, 8, 8, 3), a copy
    height, width = frame.shape[0] // PATCH, frame.shape[1] // PATCH
    return frame.reshape(height, PATCH, width, PATCH, 3).swapaxes(1, 2).reshape(-1, PATCH, PATCH, 3).copy()


def _from_patches(patches: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return patches.reshape(shape[0] // PATCH, shape[1] // PATCH, PATCH, PATCH, 3).swapaxes(1, 2).reshape(shape)


def _horizon(frame: np.ndarray) -> int:
    return int(HORIZON * len(frame))


def _blur(frame: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(frame, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def _stains(rng: np.random.Generator, frame: np.ndarray) -> np.ndarray:
    """Random colour of a random grain about the mean of `frame`, of its own spread, or of a hundredth to all of it."""
    height, width = frame.shape[:2]
    grain = int(2 ** rng.uniform(0, np.log2(height)))
    spread = frame.std() * 10 ** rng.uniform(-2, 0.3)
    coarse = rng.normal(size=(-(-height // grain), -(-width // grain), 3)).astype(np.float32)
    fine = cv2.resize(coarse, (width, height), interpolation=int(rng.choice([cv2.INTER_NEAREST, cv2.INTER_LINEAR])))
    return np.clip(frame.mean((0, 1)) + spread * fine, 0, 255).astype(np.uint8)
