"""From the decoder's frames to pictures of one size."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from data.image import centre_cut

if TYPE_CHECKING:
    from av import VideoFrame as Picture


class FrameScaler:
    """`FrameScaler((64, 128))(frame)`: upright, cut to the aspect about the centre and resized by area, uint8 (H, W, 3) RGB.

    As `fit` does it, but on the planes of luma and colour as they were decoded, before they become RGB: a sixth of the work for a frame of
    960x540, and rounded once only. Where a file changes its size or format on the way, so does this.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._kind: tuple[Any, ...] = ()
        self._graph: Any = None

    def __call__(self, frame: "Picture") -> np.ndarray:
        on_its_side = round(frame.rotation / 90) % 2 == 1
        kind = (frame.height, frame.width, frame.format.name, on_its_side)
        if kind != self._kind:
            height, width = self.size
            self._kind, self._graph = kind, _graph(frame, (width, height) if on_its_side else (height, width))
        self._graph.push(frame)
        return turned(self._graph.pull().to_ndarray(), frame.rotation)


def turned(image: np.ndarray, degrees: float) -> np.ndarray:
    """The picture turned to the left by the nearest quarter of a circle, as a display matrix asks (a camera mounted upside down)."""
    quarters = round(degrees / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image


def _graph(frame: "Picture", size: tuple[int, int]) -> Any:
    """FFmpeg's filters from frames like `frame` to RGB of `size`."""
    from av.filter import Graph

    top, left, rows, columns = centre_cut(frame.height, frame.width, size)
    method = "area" if rows >= size[0] else "bilinear"
    graph = Graph()
    filters = [
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base),
        graph.add("crop", f"{columns}:{rows}:{left}:{top}:exact=1"),
        # Without full_chroma_int colour is computed for every second column only.
        graph.add("scale", f"{size[1]}:{size[0]}:flags={method}+accurate_rnd+full_chroma_int:threads=1"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    for before, after in pairwise(filters):
        before.link_to(after)
    graph.configure()
    return graph
