"""Reads the balls of the `physics` source off its pictures: where they are, and whether each is there, once and whole.

Axes: F frames, N balls, H W pixels. Metres as in data/balls.py: x to the right, y up, the box 1 m wide.
"""

from dataclasses import dataclass

import numpy as np

from data.sources.physics import BACKGROUND, BOX_WIDTH_M, COLOURS

WHOLE = (0.6, 1.4)
"""Area of a ball that is there, over what true frames show."""
COMPACT = 1.4
"""Largest mean square distance of its area from its middle, over what true frames show: one that is torn in two spreads further."""


@dataclass(frozen=True)
class BallReader:
    """Calibrated on true frames; `areas` (N,) and `spreads` (N,) are in square pixels."""

    areas: np.ndarray
    spreads: np.ndarray
    width: int
    """Pixels."""

    @classmethod
    def calibrated(cls, frames: np.ndarray, balls: int) -> "BallReader":
        """From true frames (F, H, W, 3) uint8 of so many balls."""
        areas, _, spreads = _moments(frames, balls)
        return cls(np.median(areas, 0), np.median(spreads, 0), frames.shape[2])

    @property
    def radii_m(self) -> np.ndarray:
        """(N,)."""
        return np.sqrt(self.areas / np.pi) * BOX_WIDTH_M / self.width

    @property
    def masses(self) -> np.ndarray:
        """(N,) in units of the first ball's: a ball's area goes with its mass."""
        return self.areas / self.areas[0]

    def read(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of frames (F, H, W, 3) uint8: positions (F, N, 2) in metres, NaN where nothing is seen of a ball, and present (F, N) bool."""
        areas, middles, spreads = _moments(frames, len(self.areas))
        share = areas / self.areas
        present = (share > WHOLE[0]) & (share < WHOLE[1]) & (spreads < COMPACT * self.spreads)
        scale = BOX_WIDTH_M / self.width
        return np.stack([middles[..., 0] * scale, (frames.shape[1] - middles[..., 1]) * scale], axis=-1), present


def _moments(frames: np.ndarray, balls: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each ball's share of every pixel: its sum (F, N), its middle (F, N, 2) as x and y in pixels, its mean square distance from it."""
    towards = np.linalg.pinv((COLOURS[:balls] - BACKGROUND).T)  # (N, 3): from a colour to how much of each ball is in it
    cover = ((frames.astype(np.float64) - BACKGROUND) @ towards.T).clip(0, 1)  # (F, H, W, N)
    cover[cover < 0.25] = 0  # shades of the background that add up over a picture
    areas = cover.sum((1, 2))
    rows, columns = np.mgrid[: frames.shape[1], : frames.shape[2]] + 0.5
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = (np.einsum("fhwn,hw->fn", cover, axis) / areas for axis in (columns, rows))
        squares = np.einsum("fhwn,hw->fn", cover, columns**2 + rows**2) / areas
    return areas, np.stack([x, y], axis=-1), np.where(areas > 0, squares - x**2 - y**2, np.inf)
