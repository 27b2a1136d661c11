"""Charts of channels, drawn with OpenCV: a histogram and a time series each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from data.episode import ChannelSpec

_HISTOGRAM, _SERIES, _HEIGHT = 340, 900, 150
"""Widths of the two panels and their height, in pixels."""
_LEFT, _GAP, _TOP, _BOTTOM = 70, 80, 34, 40
_BARS = 85
_INK, _FAINT, _EDGE = (40, 40, 40), (215, 215, 215), (190, 60, 40)
_COLOURS = ((31, 104, 180), (220, 120, 20), (40, 140, 60), (150, 70, 170))
_FONT, _SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.42


@dataclass(frozen=True)
class ChannelChart:
    """What is drawn of a channel."""

    title: str
    spec: ChannelSpec
    values: np.ndarray
    """(N,): all of them, for the histogram."""
    series: Mapping[str, np.ndarray]
    """{drive: (T,)}: shown one after the other along time."""


def chart_page(charts: Sequence[ChannelChart], fps: float) -> np.ndarray:
    """uint8 (H, W, 3) RGB page, a row a channel; red lines are the ends of a channel's range."""
    row = _TOP + _HEIGHT + _BOTTOM
    page = np.full((row * len(charts) + 10, _LEFT + _HISTOGRAM + _GAP + _SERIES + 30, 3), 255, np.uint8)
    for index, chart in enumerate(charts):
        y = index * row + _TOP
        _text(page, chart.title, _LEFT, y - 16, size=0.5)
        low, high = _shown_range(chart)
        _draw_histogram(page, _LEFT, y, chart, low, high)
        _draw_series(page, _LEFT + _HISTOGRAM + _GAP, y, chart, low, high, fps)
    return page


def _shown_range(chart: ChannelChart) -> tuple[float, float]:
    """Values and the range of the channel, with some room."""
    low = min(chart.spec.low, float(chart.values.min()))
    high = max(chart.spec.high, float(chart.values.max()))
    room = 0.03 * (high - low)
    return low - room, high + room


def _draw_histogram(page: np.ndarray, x: int, y: int, chart: ChannelChart, low: float, high: float) -> None:
    """Heights are square roots of counts, so that rare values show beside frequent ones."""
    counts = np.histogram(chart.values, _BARS, (low, high))[0]
    heights = np.sqrt(counts / counts.max()) * (_HEIGHT - 4)
    width = _HISTOGRAM / _BARS
    for k, height in enumerate(heights):
        if height > 0:
            ends = (round(x + k * width), round(y + _HEIGHT - max(1, height))), (round(x + (k + 1) * width) - 1, y + _HEIGHT)
            cv2.rectangle(page, *ends, _COLOURS[0], cv2.FILLED)
    for edge in (chart.spec.low, chart.spec.high):
        place = round(x + (edge - low) / (high - low) * _HISTOGRAM)
        cv2.line(page, (place, y), (place, y + _HEIGHT), _EDGE, 1)
    _frame(page, x, y, _HISTOGRAM)
    for tick in _ticks(low, high, 5):
        place = round(x + (tick - low) / (high - low) * _HISTOGRAM)
        cv2.line(page, (place, y + _HEIGHT), (place, y + _HEIGHT + 4), _INK, 1)
        _text(page, f"{tick:g}", place, y + _HEIGHT + 17, centre=True)
    unit = "no unit" if chart.spec.unit == "1" else chart.spec.unit
    _text(page, f"{unit}; root of counts", x + _HISTOGRAM // 2, y + _HEIGHT + 33, centre=True)


def _draw_series(page: np.ndarray, x: int, y: int, chart: ChannelChart, low: float, high: float, fps: float) -> None:
    def height_of(value: float) -> int:
        return round(y + (high - value) / (high - low) * _HEIGHT)

    for tick in _ticks(low, high, 4):
        cv2.line(page, (x, height_of(tick)), (x + _SERIES, height_of(tick)), _FAINT, 1)
        _text(page, f"{tick:g}", x - 6, height_of(tick) + 4, right=True)
    for edge in (chart.spec.low, chart.spec.high):
        cv2.line(page, (x, height_of(edge)), (x + _SERIES, height_of(edge)), _EDGE, 1)
    steps = sum(len(values) for values in chart.series.values())
    start = 0
    for index, (name, values) in enumerate(chart.series.items()):
        first, last = (x + round(_SERIES * at / steps) for at in (start, start + len(values)))
        _draw_curve(page, first, last, values, height_of, _COLOURS[index % len(_COLOURS)])
        if index:
            cv2.line(page, (first, y), (first, y + _HEIGHT), _INK, 1)
        _text(page, _cut(f"{name}, {len(values) / fps:.0f} s", last - first - 8), (first + last) // 2, y + _HEIGHT + 17, centre=True)
        start += len(values)
    _frame(page, x, y, _SERIES)


def _draw_curve(
    page: np.ndarray, first: int, last: int, values: np.ndarray, height_of: Callable[[float], int], colour: tuple[int, int, int]
) -> None:
    """Where several values fall on a column of pixels, all between the smallest and the largest is painted."""
    columns = max(1, last - first)
    if len(values) <= 2 * columns:
        places = first + np.arange(len(values)) * (columns - 1) / max(1, len(values) - 1)
        points = np.array([[round(place), height_of(value)] for place, value in zip(places, values, strict=True)], np.int32)
        cv2.polylines(page, [points.reshape(-1, 1, 2)], False, colour, 1, cv2.LINE_AA)
        return
    before = values[0]
    for k, part in enumerate(np.array_split(values, columns)):
        ends = (height_of(max(part.max(), before)), height_of(min(part.min(), before)))
        cv2.line(page, (first + k, ends[0]), (first + k, ends[1]), colour, 1)
        before = part[-1]


def _ticks(low: float, high: float, count: int) -> Iterator[float]:
    """About `count` round numbers between low and high."""
    raw = (high - low) / count
    power = 10.0 ** np.floor(np.log10(raw))
    step = float(next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.7))
    for k in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1):
        yield round(k * step, 12)


def _frame(page: np.ndarray, x: int, y: int, width: int) -> None:
    cv2.rectangle(page, (x, y), (x + width, y + _HEIGHT), _INK, 1)


def _text(page: np.ndarray, text: str, x: int, y: int, *, size: float = _SIZE, centre: bool = False, right: bool = False) -> None:
    width = cv2.getTextSize(text, _FONT, size, 1)[0][0]
    cv2.putText(page, text, (x - width if right else x - width // 2 if centre else x, y), _FONT, size, _INK, 1, cv2.LINE_AA)


def _cut(text: str, width: int) -> str:
    """The text, or as much of its end as fits into `width` pixels: names of drives differ there."""
    while text and cv2.getTextSize(text, _FONT, _SIZE, 1)[0][0] > width:
        text = text[1:]
    return text
