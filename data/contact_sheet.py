"""Many frames on one page, to look at."""

from collections.abc import Sequence

import cv2
import numpy as np

from data.store import EpisodeStore

_LABEL_HEIGHT = 14
_GAP = 2
_BACKGROUND = 255


def contact_sheet(frames: Sequence[np.ndarray] | np.ndarray, *, columns: int, scale: int = 1, labels: Sequence[str] = ()) -> np.ndarray:
    """uint8 (H', W', 3) page of N frames uint8 (H, W, 3) of one size, row by row, each `scale` times as large.

    `labels`, one a frame where given, stand above the frames and are cut to their width.
    """
    height, width = frames[0].shape[0] * scale, frames[0].shape[1] * scale
    top = _LABEL_HEIGHT if labels else 0
    rows = -(-len(frames) // columns)
    page = np.full((rows * (height + top + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), _BACKGROUND, np.uint8)
    for index, frame in enumerate(frames):
        y = _GAP + index // columns * (height + top + _GAP)
        x = _GAP + index % columns * (width + _GAP)
        page[y + top : y + top + height, x : x + width] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_NEAREST)
        if labels:
            strip = np.ascontiguousarray(page[y : y + top, x : x + width])
            cv2.putText(strip, labels[index], (1, top - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (0, 0, 0), 1, cv2.LINE_AA)
            page[y : y + top, x : x + width] = strip
    return page


def store_sheet(store: EpisodeStore, *, drives: int = 12, frames_a_drive: int = 6) -> np.ndarray:
    """A page of a data set: a row a drive, drives spread over all splits, frames spread over each drive."""
    records = store.manifest.drives
    chosen = [records[round(k)] for k in np.linspace(0, len(records) - 1, min(drives, len(records)))]
    camera = next(iter(store.manifest.signals.frame_sizes))
    frames, labels = [], []
    for record in chosen:
        steps = [round(t) for t in np.linspace(0, record.steps - 1, frames_a_drive)]
        for position, step in enumerate(steps):
            frames.append(store.read(record.drive_id, step, step + 1).frames[camera][0])
            said = next((c.text for c in record.captions if c.start <= step < c.end), "")
            names = (f"{record.split} {record.drive_id}", f"{step / store.manifest.fps:.1f} s {said}")
            labels.append(names[1] if position else names[0])
    scale = max(1, 192 // frames[0].shape[1])
    return contact_sheet(frames, columns=frames_a_drive, scale=scale, labels=labels)
