"""Frames of a video at given times, found by seeking: for files that hold many drives one after the other."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.errors import UserError
from data.frame_scaler import FrameScaler
from data.video import opened


def frames_at(path: Path, times_s: np.ndarray, *, tolerance_s: float, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """The frame nearest to each of the rising `times_s` (from the file's first frame on), uint8 (H, W, 3) fitted to `size`.

    Decoding starts at the key frame before the first one. UserError where the file is missing, no video, truncated, or has no frame
    within `tolerance_s` of a time.
    """
    with opened(path) as (container, stream):
        tick = float(stream.time_base or 0)
        origin = (stream.start_time or 0) * tick
        if tick and times_s[0] > 0:
            container.seek(max(0, int((times_s[0] + origin) / tick) - 1), stream=stream)
        frames, picture = container.decode(stream), FrameScaler(size)
        before, now = None, next(frames, None)
        for time in times_s + origin:
            while now is not None and now.time is not None and now.time < time:
                before, now = now, next(frames, None)
            near = [frame for frame in (before, now) if frame is not None and frame.time is not None]
            best = min(near, key=lambda frame: abs(frame.time - time), default=None)
            if best is None or abs(best.time - time) > tolerance_s:
                raise UserError(f"{path}: no frame at {time - origin:.2f} s, expected one a row of the log: truncated or too short")
            yield picture(best)
