"""Lines over a horizon, drawn with OpenCV: a panel a figure, a colour a series."""

from collections.abc import Mapping

import cv2
import numpy as np

_PANEL = (560, 190)
_LEFT, _TOP, _RIGHT, _BOTTOM = 60, 30, 16, 26
_COLUMNS = 2
_INK, _FAINT = (40, 40, 40), (222, 222, 222)
_COLOURS = ((31, 104, 180), (220, 120, 20), (40, 140, 60), (150, 70, 170), (190, 40, 60), (90, 90, 90), (0, 150, 160), (160, 120, 60))
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def curve_page(panels: Mapping[str, Mapping[str, np.ndarray]], seconds: float) -> np.ndarray:
    """uint8 (H, W, 3) page of {title: {series: (T,)}} over 0 .. `seconds`; a series has the same colour in all panels; NaN is a gap."""
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    width, height = _LEFT + _PANEL[0] + _RIGHT, _TOP + _PANEL[1] + _BOTTOM
    rows = -(-len(panels) // _COLUMNS)
    page = np.full((rows * height + 30, _COLUMNS * width, 3), 255, np.uint8)
    for index, (title, series) in enumerate(panels.items()):
        row, column = divmod(index, _COLUMNS)
        _draw_panel(page[row * height : (row + 1) * height, column * width : (column + 1) * width], title, series, seconds, colours)
    place = _LEFT
    for name, colour in colours.items():
        cv2.line(page, (place, page.shape[0] - 16), (place + 22, page.shape[0] - 16), colour, 2, cv2.LINE_AA)
        cv2.putText(page, name, (place + 28, page.shape[0] - 12), _FONT, 0.42, _INK, 1, cv2.LINE_AA)
        place += 50 + cv2.getTextSize(name, _FONT, 0.42, 1)[0][0]
    return page


def _draw_panel(
    panel: np.ndarray, title: str, series: Mapping[str, np.ndarray], seconds: float, colours: Mapping[str, tuple[int, int, int]]
) -> None:
    values = np.concatenate([np.asarray(v, float) for v in series.values()])
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    room = 0.05 * (high - low) or 0.05
    low, high = low - room, high + room
    cv2.putText(panel, title, (_LEFT, _TOP - 10), _FONT, 0.48, _INK, 1, cv2.LINE_AA)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = round(_LEFT + share * _PANEL[0]), round(_TOP + (1 - share) * _PANEL[1])
        cv2.line(panel, (_LEFT, y), (_LEFT + _PANEL[0], y), _FAINT, 1)
        cv2.putText(panel, f"{low + share * (high - low):.3g}", (8, y + 4), _FONT, 0.38, _INK, 1, cv2.LINE_AA)
        cv2.putText(panel, f"{share * seconds:.3g} s", (x - 14, _TOP + _PANEL[1] + 16), _FONT, 0.38, _INK, 1, cv2.LINE_AA)
    for name, line in series.items():
        line = np.asarray(line, float)
        x = _LEFT + np.linspace(0, 1, len(line)) * _PANEL[0]
        y = _TOP + (high - line) / (high - low) * _PANEL[1]
        for part in np.split(np.arange(len(line)), np.flatnonzero(~np.isfinite(line))):
            there = part[np.isfinite(line[part])]
            if len(there) > 1:
                points = np.stack([x[there], y[there]], axis=1).round().astype(np.int32)
                cv2.polylines(panel, [points], False, colours[name], 1, cv2.LINE_AA)
