"""Channels that need no declaration: their name says what they are. Left is positive."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from data.episode import ChannelSpec
from data.errors import UserError

Kind = Literal["telemetry", "action"]


@dataclass(frozen=True)
class Channel:
    """A channel and whether it is measured (telemetry) or commanded (action)."""

    spec: ChannelSpec
    kind: Kind


def _known(name: str, unit: str, low: float, high: float, kind: Kind, bins: int = 128) -> tuple[str, Channel]:
    return name, Channel(ChannelSpec(name, unit, low, high, bins), kind)


KNOWN_CHANNELS: Mapping[str, Channel] = dict(
    [
        _known("speed_mps", "m/s", 0.0, 45.0, "telemetry"),
        _known("yaw_rate_rps", "rad/s", -1.5, 1.5, "telemetry"),
        _known("curvature_inv_m", "1/m", -0.2, 0.2, "telemetry"),
        _known("steering_rad", "rad", -0.8, 0.8, "action"),
        # The wheel in the driver's hands turns about 15 times as far as the road wheels: 1.8 degrees of it a bin.
        _known("steering_wheel_rad", "rad", -8.0, 8.0, "action", bins=512),
        _known("steering_norm", "1", -1.0, 1.0, "action"),
        _known("acceleration_mps2", "m/s^2", -10.0, 10.0, "action"),
        _known("throttle_norm", "1", -1.0, 1.0, "action"),
        _known("brake_norm", "1", 0.0, 1.0, "action"),
    ]
)


def parse_channel(text: str) -> Channel:
    """'gap_m:m:0:100:telemetry' -> a channel declared by the user as NAME:UNIT:LOW:HIGH:telemetry|action."""
    parts = text.split(":")
    try:
        name, unit, low, high, kind = parts
        if kind not in ("telemetry", "action") or not name:
            raise ValueError(kind)
        return Channel(ChannelSpec(name, unit, float(low), float(high)), kind)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--channel: expected NAME:UNIT:LOW:HIGH:telemetry or ...:action, got {text!r}") from error
