"""What the channels of a prepared set hold: how much of its range each one uses."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.episode import ChannelSpec
from data.errors import UserError
from data.manifest import DriveRecord
from data.store import EpisodeStore

_EDGE_BINS = 0.25
"""A value so near to an end of its range, in bins, or beyond it, sits at the edge: choices, at the centres of their bins, never do."""


@dataclass(frozen=True)
class ChannelFigures:
    """One channel over all steps; values are in its unit, shares in 0..1."""

    name: str
    kind: Literal["telemetry", "action"]
    unit: str
    low: float
    high: float
    bins: int
    smallest: float
    largest: float
    mean: float
    deviation: float
    usual_low: float
    """1 % of the values lie below."""
    usual_high: float
    """1 % of the values lie above."""
    at_low: float
    """Share of values at the lower edge of the range, or below it."""
    at_high: float
    below: float
    """Share of values clearly below the range: they are cut to it when they become tokens."""
    above: float

    @property
    def usual_bins(self) -> float:
        """How many bins the middle 98 % of the values spread over."""
        return (self.usual_high - self.usual_low) / (self.high - self.low) * self.bins


@dataclass(frozen=True)
class DriveChannels:
    """All channels of a drive."""

    record: DriveRecord
    values: np.ndarray
    """(T, M + A) float32, telemetry first."""


def specs_of(store: EpisodeStore) -> tuple[ChannelSpec, ...]:
    """The channels in the order of `DriveChannels.values`."""
    return (*store.manifest.telemetry, *store.manifest.actions)


def read_channels(store: EpisodeStore) -> Iterator[DriveChannels]:
    """Every drive's channels; pictures are not read. UserError, naming the file, where a shard is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    widths = {"telemetry": len(store.manifest.telemetry), "actions": len(store.manifest.actions)}
    names = [name for name, width in widths.items() if width]
    for record in store.manifest.drives:
        path = store.path / record.file
        try:
            with pq.ParquetFile(path) as file:
                table = file.read(columns=names)
            parts = [table.column(name).combine_chunks().flatten().to_numpy().reshape(-1, widths[name]) for name in names]
        except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
            raise UserError(f"{path}: expected a shard of episodes, got a damaged file") from error
        yield DriveChannels(record, np.concatenate([np.zeros((record.steps, 0), np.float32), *parts], axis=1))


def channel_figures(spec: ChannelSpec, kind: Literal["telemetry", "action"], values: np.ndarray) -> ChannelFigures:
    """Figures of a channel's values (N,)."""
    edge = _EDGE_BINS * (spec.high - spec.low) / spec.bins
    usual_low, usual_high = np.quantile(values, (0.01, 0.99))
    return ChannelFigures(
        name=spec.name,
        kind=kind,
        unit=spec.unit,
        low=spec.low,
        high=spec.high,
        bins=spec.bins,
        smallest=float(values.min()),
        largest=float(values.max()),
        mean=float(values.mean(dtype=np.float64)),
        deviation=float(values.std(dtype=np.float64)),
        usual_low=float(usual_low),
        usual_high=float(usual_high),
        at_low=float(np.mean(values <= spec.low + edge)),
        at_high=float(np.mean(values >= spec.high - edge)),
        below=float(np.mean(values < spec.low - edge)),
        above=float(np.mean(values > spec.high + edge)),
    )
