"""Episode, the one record that crosses borders: a stretch of a drive with its pictures, channels and captions.

Axes: T steps, H W pixels, h w code grid, M telemetry channels, A action channels. World axes follow ISO 8855: x forward,
y left; yaw, curvature and steering are positive to the left. `actions[t]` acts between frame t and frame t + 1.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from data.errors import UserError


@dataclass(frozen=True)
class ChannelSpec:
    """One telemetry or action channel; its name ends in its unit (`speed_mps`, `steering_rad`, `throttle_norm`)."""

    name: str
    unit: str
    low: float
    """Smallest value that the channel's bins cover, in `unit`."""
    high: float
    """Largest value that the channel's bins cover, in `unit`."""
    bins: int = 128
    """Number of equal bins between low and high."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise UserError(f"channel {self.name!r}: expected low < high, got {self.low} and {self.high}")
        if self.bins < 2:
            raise UserError(f"channel {self.name!r}: expected at least 2 bins, got {self.bins}")


@dataclass(frozen=True)
class Caption:
    """What is said of the steps start <= t < end, counted from the first step of the drive."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Camera:
    """Field of view and mounting of a camera, as far as they are known (None: not known)."""

    horizontal_fov_deg: float | None = None
    height_m: float | None = None
    pitch_deg: float | None = None
    """Downward tilt of the optical axis."""
    yaw_deg: float | None = None
    """Turn of the optical axis to the left of straight ahead."""


@dataclass(frozen=True)
class Episode:
    """T consecutive steps of one drive. Long drives come as several episodes of one `drive_id`, told apart by `start`."""

    drive_id: str
    fps: float
    timestamps_s: np.ndarray
    """(T,) float64, seconds, rising."""
    frames: Mapping[str, np.ndarray] = field(default_factory=dict)
    """{camera: uint8 (T, H, W, 3) RGB}."""
    codes: Mapping[str, np.ndarray] = field(default_factory=dict)
    """{camera: int32 (T, h, w)}, where a source ships codes in place of frames."""
    codebook_size: int = 0
    """Number of ids that `codes` are drawn from; 0 where there are none."""
    telemetry: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """(T, M) float32, in the units of `telemetry_channels`."""
    telemetry_channels: tuple[ChannelSpec, ...] = ()
    actions: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """(T, A) float32, in the units of `action_channels`."""
    action_channels: tuple[ChannelSpec, ...] = ()
    captions: tuple[Caption, ...] = ()
    """In steps of the whole drive, not of this episode."""
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)
    """{name: float32 (T,)}: what only a simulator or a survey knows; never tokenised."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """{name: value}: weather, time_of_day, road, traffic, ..."""
    cameras: Mapping[str, Camera] = field(default_factory=dict)
    start: int = 0
    """Index in the drive of the first step held here."""

    @property
    def steps(self) -> int:
        return len(self.timestamps_s)

    def __post_init__(self) -> None:
        for name, array in {**self.frames, **self.codes, **self.truth}.items():
            if len(array) != self.steps:
                raise UserError(f"{self.drive_id}: field {name!r} has {len(array)} steps, expected {self.steps} as in timestamps_s")
        for name, codes in self.codes.items():
            if codes.size and not 0 <= codes.min() <= codes.max() < self.codebook_size:
                told = f"expected codes 0..{self.codebook_size - 1}, got {codes.min()}..{codes.max()}"
                raise UserError(f"{self.drive_id}: camera {name!r} {told}")
        for name, frames in self.frames.items():
            if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
                raise UserError(f"{self.drive_id}: camera {name!r} expected uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
        self._check_channels("telemetry", self.telemetry, self.telemetry_channels)
        self._check_channels("actions", self.actions, self.action_channels)

    def _check_channels(self, kind: str, values: np.ndarray, channels: tuple[ChannelSpec, ...]) -> None:
        if not channels:
            return
        if values.shape != (self.steps, len(channels)):
            raise UserError(f"{self.drive_id}: {kind} expected shape {(self.steps, len(channels))}, got {values.shape}")
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = bad[0]
            name, value, step = channels[column].name, values[row, column], self.start + row
            raise UserError(f"{self.drive_id}: {kind} {name!r} is {value} at step {step}, expected a finite number")


@dataclass(frozen=True)
class Drive:
    """A drive that a source can give, not yet read: `episodes()` streams it in chunks, so it never sits in memory whole."""

    drive_id: str
    episodes: Callable[[], Iterator[Episode]]
    """Called in another process: a module's function or a `functools.partial` of one, never a closure."""
    split: str | None = None
    """'train', 'val' or another name where the source decides; None: the store splits by drive."""
    steps: int | None = None
    """About how many steps it has, where that is known beforehand: for time estimates and for cutting long drives."""
