"""Contact sheets: pictures side by side, for looking at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.folder import atomic_file
from data.shard import encode_png


def contact_sheet(rows: Sequence[np.ndarray], enlarge: int = 2, gap: int = 4) -> np.ndarray:
    """One uint8 picture of rows of frames, each (N, H, W, 3) uint8; rows of one sheet hold frames of one size."""
    columns, (height, width) = max(len(row) for row in rows), rows[0].shape[1:3]
    height, width = height * enlarge, width * enlarge
    sheet = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, frame in enumerate(row):
            top, left = r * (height + gap), c * (width + gap)
            sheet[top : top + height, left : left + width] = frame.repeat(enlarge, 0).repeat(enlarge, 1)
    return sheet


def write_png(path: Path, picture: np.ndarray) -> None:
    """Writes a uint8 (H, W, 3) picture in one piece."""
    with atomic_file(path) as temp:
        temp.write_bytes(encode_png(picture))


def comparison_rows(true: np.ndarray, made: np.ndarray, columns: int) -> list[np.ndarray]:
    """Rows that show `true` above `made`, both (N, H, W, 3), `columns` to a row."""
    return [part[start : start + columns] for start in range(0, len(true), columns) for part in (true, made)]
