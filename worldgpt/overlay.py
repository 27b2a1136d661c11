"""What a viewer needs beside a generated frame: the prompt, the telemetry and the action, drawn below the picture."""

from collections.abc import Sequence

import cv2
import numpy as np

from data.episode import ChannelSpec

STRIP_ROWS = 56
"""Height in pixels of the strip below the picture."""
_INK, _DIM, _ACCENT = (235, 235, 235), (120, 120, 120), (255, 180, 60)
_SMALL = 0.38


def enlarge(frame: np.ndarray, factor: int) -> np.ndarray:
    """(H, W, 3) -> (factor H, factor W, 3), smooth."""
    height, width = frame.shape[:2]
    return cv2.resize(frame, (width * factor, height * factor), interpolation=cv2.INTER_CUBIC)


def draw_overlay(
    frame: np.ndarray,
    prompt: str,
    telemetry: np.ndarray,
    telemetry_channels: Sequence[ChannelSpec],
    actions: np.ndarray,
    action_channels: Sequence[ChannelSpec],
) -> np.ndarray:
    """A picture (H, W, 3) with a strip of 56 rows below: prompt above, then name, value and gauge of each channel."""
    width = frame.shape[1]
    strip = np.full((STRIP_ROWS, width, 3), 24, np.uint8)
    cv2.putText(strip, _fitted(prompt or "(no prompt)", width - 16), (8, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _INK, 1, cv2.LINE_AA)
    shown = [*zip(telemetry_channels, telemetry, strict=True), *zip(action_channels, actions, strict=True)]
    for place, (spec, value) in enumerate(shown):
        left, right = 8 + place * width // len(shown), (place + 1) * width // len(shown) - 8
        _draw_channel(strip, spec, float(value), left, right)
    return np.concatenate([frame, strip])


def _draw_channel(strip: np.ndarray, spec: ChannelSpec, value: float, left: int, right: int) -> None:
    text = "-" if np.isnan(value) else f"{spec.name.rsplit('_', 1)[0]} {value:.2f} {spec.unit}"
    cv2.putText(strip, _fitted(text, right - left, _SMALL), (left, 36), cv2.FONT_HERSHEY_SIMPLEX, _SMALL, _INK, 1, cv2.LINE_AA)
    cv2.line(strip, (left, 46), (right, 46), _DIM, 1)
    if not np.isnan(value):
        zero, now = (round(left + (right - left) * _share(spec, v)) for v in (0.0, value))
        if spec.low < 0 < spec.high and any(word in spec.name for word in ("steering", "yaw", "curvature")):
            zero, now = left + right - zero, left + right - now  # positive is to the left
        cv2.line(strip, (zero, 46), (now, 46), _ACCENT, 4)


def _share(spec: ChannelSpec, value: float) -> float:
    return min(1.0, max(0.0, (value - spec.low) / (spec.high - spec.low)))


def _fitted(text: str, width: int, scale: float = 0.45) -> str:
    """`text`, cut so that it fits `width` pixels."""
    text = text[:width]  # no letter is narrower than a pixel, and measuring a very long text takes long
    while len(text) > 1 and cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] > width:
        text = text[:-2] + "~"
    return text
