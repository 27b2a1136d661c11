"""Frames of a store as a tokenizer meets them: drawn at random for training, in runs of consecutive ones for measuring.

Axes: N frames, H W pixels.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from data.errors import UserError
from data.store import EpisodeStore

RUN = 16
"""Consecutive held-out frames that are measured together."""


class FramePool:
    """All frames of one split, of all cameras."""

    def __init__(self, store: EpisodeStore, split: str) -> None:
        self.arrays = [store.frame_array(split, camera) for camera in store.manifest.signals.frame_sizes]
        self.ends = np.cumsum([len(array) for array in self.arrays])
        if not len(self):
            raise UserError(f"split {split!r}: expected frames, the data set has none")

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def draw(self, rng: np.random.Generator, count: int, flip: bool) -> np.ndarray:
        """`count` frames (count, H, W, 3), with replacement; `flip` mirrors each with probability 1/2."""
        rows = np.sort(rng.integers(len(self), size=count))
        camera = np.searchsorted(self.ends, rows, side="right")
        starts = np.concatenate([[0], self.ends[:-1]])
        frames = np.stack([self.arrays[c][r - starts[c]] for c, r in zip(camera, rows, strict=True)])
        if flip:
            mirrored = rng.random(count) < 0.5
            frames[mirrored] = frames[mirrored, :, ::-1]
        return frames


@dataclass(frozen=True)
class HeldOut:
    """Frames for measuring, in runs of consecutive ones."""

    frames: np.ndarray
    """(N, H, W, 3) uint8."""
    follows: np.ndarray
    """(N,) bool: the frame comes one step after the one before it in the array."""
    drive_ids: tuple[str, ...]
    """(N,)."""
    steps: np.ndarray
    """(N,) int: index in its drive."""
    cameras: tuple[str, ...]
    """(N,)."""


def held_out_frames(store: EpisodeStore, split: str, count: int) -> HeldOut:
    """About `count` frames of a split, or all it has: runs of up to 16 within a drive, spread evenly over it and the cameras."""
    cameras = list(store.manifest.signals.frame_sizes)
    blocks = [
        (drive_id, first, start, min(start + RUN, end))
        for drive_id, first, end in store.frame_index(split)
        for start in range(first, end, RUN)
    ]
    runs = min(len(blocks), max(1, count // (RUN * len(cameras))))
    chosen = [blocks[run * len(blocks) // runs] for run in range(runs)]
    places = [(camera, drive_id, first, row) for camera in cameras for drive_id, first, start, end in chosen for row in range(start, end)]
    arrays = {camera: store.frame_array(split, camera) for camera in cameras}
    same = [a[:3] == b[:3] and a[3] + 1 == b[3] for a, b in pairwise(places)]
    return HeldOut(
        frames=np.stack([arrays[camera][row] for camera, _, _, row in places]),
        follows=np.array([False, *same]),
        drive_ids=tuple(place[1] for place in places),
        steps=np.array([row - first for _, _, first, row in places]),
        cameras=tuple(place[0] for place in places),
    )
