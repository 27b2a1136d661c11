"""Plots of the reports, drawn with OpenCV: clouds of points, lines with their intervals, and confusion matrices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

_INK, _FAINT = (40, 40, 40), (222, 222, 222)
_COLOURS = ((31, 104, 180), (220, 120, 20), (40, 140, 60), (150, 70, 170), (190, 40, 60), (0, 150, 160))
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SIDE, _LEFT, _TOP, _RIGHT, _BOTTOM = 260, 60, 34, 20, 44
_COLUMNS = 3
_CELL = 46


@dataclass(frozen=True)
class Points:
    """Places in a panel."""

    x: np.ndarray
    """(N,)."""
    y: np.ndarray
    """(N,), NaN left out."""
    low: np.ndarray | None = None
    """(N,): lower ends of the intervals; given with `high`."""
    high: np.ndarray | None = None
    joined: bool = False
    """Whether a line runs through them."""


def point_page(panels: Mapping[str, Mapping[str, Points]], *, diagonal: bool = False, from_zero: bool = False) -> np.ndarray:
    """uint8 (H, W, 3) page of {title: {series: points}}; with `diagonal` both axes share a range and the line y = x is drawn; with
    `from_zero` the vertical axes begin at 0 or below."""
    width, height = _LEFT + _SIDE + _RIGHT, _TOP + _SIDE + _BOTTOM
    columns = max(1, min(_COLUMNS, len(panels)))
    page = np.full((max(1, -(-len(panels) // columns)) * height, columns * width, 3), 255, np.uint8)
    for index, (title, series) in enumerate(panels.items()):
        row, column = divmod(index, columns)
        _draw_points(page[row * height : (row + 1) * height, column * width : (column + 1) * width], title, series, diagonal, from_zero)
    return page


def _draw_points(panel: np.ndarray, title: str, series: Mapping[str, Points], diagonal: bool, from_zero: bool) -> None:
    x_range, y_range = (_range([np.asarray(v) for p in series.values() for v in values(p)]) for values in (_xs, _ys))
    if from_zero:
        y_range = (min(y_range[0], 0.0), y_range[1])
    if diagonal:
        x_range = y_range = (min(x_range[0], y_range[0]), max(x_range[1], y_range[1]))

    def place(x: float, y: float) -> tuple[int, int]:
        across, up = (x - x_range[0]) / (x_range[1] - x_range[0]), (y - y_range[0]) / (y_range[1] - y_range[0])
        return round(_LEFT + across * _SIDE), round(_TOP + (1 - up) * _SIDE)

    _text(panel, title, (8, 16), 0.44)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = (low + share * (high - low) for low, high in (x_range, y_range))
        cv2.line(panel, place(x_range[0], y), place(x_range[1], y), _FAINT, 1)
        cv2.line(panel, place(x, y_range[0]), place(x, y_range[1]), _FAINT, 1)
        _text(panel, f"{y:.3g}", (4, place(x, y)[1] + 4), 0.34)
        _text(panel, f"{x:.3g}", (place(x, y)[0] - 12, _TOP + _SIDE + 16), 0.34)
    if diagonal:
        cv2.line(panel, place(*x_range[:1], *x_range[:1]), place(x_range[1], x_range[1]), (150, 150, 150), 1, cv2.LINE_AA)
    left = _LEFT
    for colour, (name, points) in zip(_COLOURS * (1 + len(series)), series.items(), strict=False):
        known = [k for k in range(len(points.x)) if np.isfinite(points.x[k]) and np.isfinite(points.y[k])]
        spots = [place(points.x[k], points.y[k]) for k in known]
        if points.joined and len(spots) > 1:
            cv2.polylines(panel, [np.array(spots, np.int32)], False, colour, 1, cv2.LINE_AA)
        for k, spot in zip(known, spots, strict=True):
            cv2.circle(panel, spot, 2 if points.joined else 1, colour, -1, cv2.LINE_AA)
            if points.low is not None and points.high is not None and np.isfinite(points.low[k]) and np.isfinite(points.high[k]):
                cv2.line(panel, place(points.x[k], points.low[k]), place(points.x[k], points.high[k]), colour, 1, cv2.LINE_AA)
        _text(panel, name, (left, _TOP + _SIDE + 36), 0.38, colour)
        left += 12 + cv2.getTextSize(name, _FONT, 0.38, 1)[0][0]


def _xs(points: Points) -> list[np.ndarray]:
    return [points.x]


def _ys(points: Points) -> list[np.ndarray]:
    return [points.y, *(end for end in (points.low, points.high) if end is not None)]


def _range(parts: Sequence[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate([np.zeros(0), *(np.ravel(part).astype(float) for part in parts)])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    room = 0.05 * (high - low) or 0.05
    return low - room, high + room


def matrix_page(matrices: Mapping[str, tuple[Sequence[str], np.ndarray]]) -> np.ndarray:
    """uint8 (H, W, 3) page of {title: (names, counts (L, L))}: rows told, columns read, shaded by share of the row."""
    parts = [_matrix(title, names, counts) for title, (names, counts) in matrices.items()]
    if not parts:
        return np.full((40, 200, 3), 255, np.uint8)
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255) for part in parts])


def _matrix(title: str, names: Sequence[str], counts: np.ndarray) -> np.ndarray:
    left = 20 + max(cv2.getTextSize(name, _FONT, 0.38, 1)[0][0] for name in names)
    panel = np.full((60 + len(names) * _CELL, left + len(names) * max(_CELL, 76) + 16, 3), 255, np.uint8)
    _text(panel, title, (8, 18), 0.44)
    for column, name in enumerate(names):
        _text(panel, name[:11], (left + column * 76 + 4, 44), 0.34)
    for row, name in enumerate(names):
        y = 52 + row * _CELL
        _text(panel, name, (8, y + _CELL // 2), 0.38)
        for column in range(len(names)):
            share = counts[row, column] / max(1, counts[row].sum())
            shade = tuple(int(255 - share * (255 - c)) for c in _COLOURS[0])
            x = left + column * 76
            cv2.rectangle(panel, (x, y), (x + 72, y + _CELL - 4), shade, -1)
            _text(panel, str(int(counts[row, column])), (x + 26, y + _CELL // 2), 0.4, (255, 255, 255) if share > 0.6 else _INK)
    return panel


def _text(panel: np.ndarray, text: str, place: tuple[int, int], size: float, colour: tuple[int, int, int] = _INK) -> None:
    cv2.putText(panel, text, place, _FONT, size, colour, 1, cv2.LINE_AA)
