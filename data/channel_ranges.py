"""Ranges of channels that nobody declared, read from their values."""

import numpy as np

from data.episode import ChannelSpec

_MOST_CHOICES = 1024
"""Whole numbers with more values than this are taken for quantities."""


def quantity_spec(name: str, unit: str, low: float, high: float) -> ChannelSpec:
    """A channel of real numbers low..high; a value that never changes gets a range of 1 above it."""
    return ChannelSpec(name, unit, low, high if high > low else low + 1)


def choice_spec(name: str, unit: str, low: float, high: float) -> ChannelSpec:
    """A channel of whole numbers low..high, each at the centre of a bin of its own where they are not too many."""
    count = max(2, round(high - low) + 1)
    return quantity_spec(name, unit, low, high) if count > _MOST_CHOICES else ChannelSpec(name, unit, low - 0.5, low - 0.5 + count, count)


def spec_of(name: str, unit: str, values: np.ndarray) -> ChannelSpec:
    """A channel that covers the finite ones of `values` (N,); whole numbers are choices, counted from 0 where none is negative."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values.astype(np.int64)
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    return quantity_spec(name, unit, low, high) if values.dtype.kind == "f" else choice_spec(name, unit, min(low, 0.0), high)


def wider(one: ChannelSpec, other: ChannelSpec) -> ChannelSpec:
    """A channel that covers two ranges of it; choices stay choices."""
    low, high = min(one.low, other.low), max(one.high, other.high)
    choices = all(spec.high - spec.low == spec.bins for spec in (one, other))
    return ChannelSpec(one.name, one.unit, low, high, round(high - low) if choices else max(one.bins, other.bins))
