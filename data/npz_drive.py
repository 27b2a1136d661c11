"""A drive as an npz file: what its arrays are called, and what is read of them before the frames.

`observations` (T, H, W, C) or (T, C, H, W) with C of 1 or 3, uint8 or floats in 0..1; and, where there are some: `actions` (T, A) or (T,),
`rewards` and `dones` (T,), `names`, `units`, `low`, `high`, `bins` (A,) of the actions; `telemetry` (T, M) with `telemetry_names`, ...;
`timestamps_s` (T,), `truth_<name>` (T,), `fps` (), `captions` and `labels` (), which are JSON.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.channel_ranges import spec_of
from data.episode import Caption, ChannelSpec
from data.errors import UserError
from data.image import SIZE_STEP, fit
from data.known_channels import KNOWN_CHANNELS
from data.npz import Member, npz_members, read_member, stream_member

CHANNEL_FIELDS = {"names": "name", "units": "unit", "low": "low", "high": "high", "bins": "bins"}
"""{member: field of ChannelSpec}, for actions; those of telemetry begin with `telemetry_`."""
TRUTH = "truth_"
"""Begins the members of true state other than rewards and dones."""
_CHANNELS = (1, 3)
"""Gray and RGB."""
_PER_STEP = ("timestamps_s", "rewards", "dones")


@dataclass(frozen=True)
class NpzDrive:
    """A file whose arrays go together; frames are not read yet."""

    path: Path
    members: Mapping[str, Member]
    channels_first: bool
    telemetry_channels: tuple[ChannelSpec, ...]
    action_channels: tuple[ChannelSpec, ...]

    @property
    def steps(self) -> int:
        return self.members["observations"].shape[0]

    @property
    def layout(self) -> str:
        """How the observations are read, in words."""
        member = self.members["observations"]
        values = "0..255" if member.dtype == np.uint8 else "0..1"
        axes = "T, C, H, W" if self.channels_first else "T, H, W, C"
        return f"observations (T, {', '.join(map(str, member.shape[1:]))}) {member.dtype} are read as {axes} in {values}"

    def ends(self) -> list[int]:
        """Rows before which an episode is over, T included: each is one above the row of a done."""
        dones = self.rows("dones") != 0 if "dones" in self.members else np.zeros(self.steps, bool)
        return sorted({*(np.flatnonzero(dones) + 1).tolist(), self.steps})

    def rows(self, name: str) -> np.ndarray:
        """An array (T,) or, for actions and telemetry, (T, columns)."""
        values = read_member(self.path, name)
        return values[:, None] if name in ("actions", "telemetry") and values.ndim == 1 else values

    def truth(self) -> dict[str, np.ndarray]:
        """{name of our own: (T,)}; UserError for what is not finite."""
        names = {"rewards": "reward", "dones": "done"}
        names |= {name: name.removeprefix(TRUTH) for name in self.members if name.startswith(TRUTH)}
        found = {}
        for name, ours in names.items():
            if name in self.members:
                found[ours] = self.rows(name).astype(np.float64)
                bad = np.flatnonzero(~np.isfinite(found[ours]))
                if len(bad):
                    raise UserError(f"{self.path}: {name!r} expected a finite number, got {found[ours][bad[0]]} in row {bad[0] + 1}")
        return found

    def captions(self) -> tuple[Caption, ...] | None:
        """What the file says of its steps, or None where it says nothing."""
        try:
            return tuple(Caption(**item) for item in self._json("captions")) if "captions" in self.members else None
        except TypeError as error:
            raise UserError(f"{self.path}: 'captions' expected a JSON list of start, end, text ({error})") from error

    def labels(self) -> dict[str, str]:
        return {str(name): str(value) for name, value in self._json("labels").items()} if "labels" in self.members else {}

    def frames(self, first: int, last: int, size: tuple[int, int] | None) -> Iterator[np.ndarray]:
        """uint8 (H, W, 3) of rows first <= t < last, fitted to `size`."""
        for chunk in stream_member(self.path, "observations", first, last):
            images = np.moveaxis(chunk, 1, -1) if self.channels_first else chunk
            images = images if images.dtype == np.uint8 else self._bytes(images)
            for image in np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images:
                yield np.ascontiguousarray(image) if size is None else fit(np.ascontiguousarray(image), size)

    def _bytes(self, images: np.ndarray) -> np.ndarray:
        # NaN fails this comparison too.
        if not (images.min() >= 0 and images.max() <= 1):
            raise UserError(f"{self.path}: 'observations' of floats expected 0..1, got {images.min():g}..{images.max():g}")
        return np.round(images.astype(np.float32) * 255).astype(np.uint8)

    def _json(self, name: str) -> Any:
        try:
            return json.loads(str(read_member(self.path, name)))
        except json.JSONDecodeError as error:
            raise UserError(f"{self.path}: {name!r} expected JSON ({error})") from error


def read_npz_drive(path: Path) -> NpzDrive:
    """UserError, naming file and array, where one is missing, pickled, of another shape or length than `observations` asks for."""
    members = npz_members(path)
    if "observations" not in members:
        raise UserError(f"{path}: expected an array 'observations', got {', '.join(members) or 'none'}")
    channels_first = _channels_first(path, members["observations"])
    steps = members["observations"].shape[0]
    if steps == 0:
        raise UserError(f"{path}: 'observations' expected at least one row, got none")
    for name, member in members.items():
        if name in _PER_STEP or name.startswith(TRUTH):
            _check_shape(path, name, member, steps, (1,))
        if name in ("actions", "telemetry"):
            _check_shape(path, name, member, steps, (1, 2))
    drive = NpzDrive(path, members, channels_first, (), ())
    return NpzDrive(path, members, channels_first, _channels(drive, "telemetry"), _channels(drive, "actions"))


def _check_shape(path: Path, name: str, member: Member, steps: int, axes: tuple[int, ...]) -> None:
    if member.dtype.kind not in "fiub" or len(member.shape) not in axes:
        raise UserError(f"{path}: {name!r} expected numbers of {' or '.join(map(str, axes))} axes, got {member.dtype} {member.shape}")
    if member.shape[0] != steps:
        raise UserError(f"{path}: {name!r} expected {steps} rows as in 'observations', got {member.shape[0]}")


def _channels_first(path: Path, frames: Member) -> bool:
    """Whether frames are (T, C, H, W) rather than (T, H, W, C)."""
    if len(frames.shape) != 4 or not (frames.dtype == np.uint8 or frames.dtype.kind == "f"):
        raise UserError(f"{path}: 'observations' expected uint8 or floats of 4 axes, got {frames.dtype} {frames.shape}")
    first, last = frames.shape[1] in _CHANNELS, frames.shape[3] in _CHANNELS
    if first == last:
        raise UserError(f"{path}: 'observations' expected (T, H, W, C) or (T, C, H, W) with C of 1 or 3, got {frames.shape}")
    return first


def check_divides(drive: NpzDrive) -> None:
    """UserError where frames cannot stay as large as they are."""
    shape = drive.members["observations"].shape
    height, width = shape[2:] if drive.channels_first else shape[1:3]
    if height % SIZE_STEP or width % SIZE_STEP:
        raise UserError(f"{drive.path}: frames are {height}x{width}, which does not divide by {SIZE_STEP}; give --size")


def _channels(drive: NpzDrive, kind: str) -> tuple[ChannelSpec, ...]:
    """Channels of `actions` or `telemetry`."""
    if kind not in drive.members:
        return ()
    values = drive.rows(kind)
    prefix = "" if kind == "actions" else "telemetry_"
    said = {field: read_member(drive.path, prefix + field) for field in CHANNEL_FIELDS if prefix + field in drive.members}
    count = values.shape[1]
    for field, array in said.items():
        if array.shape != (count,):
            raise UserError(f"{drive.path}: {prefix + field!r} expected {count} values, one a column of {kind!r}, got shape {array.shape}")
    stem = "action" if kind == "actions" else "telemetry"
    names = [str(name) for name in said["names"]] if "names" in said else [stem if count == 1 else f"{stem}_{k}" for k in range(count)]
    if len(set(names)) < count:
        raise UserError(f"{drive.path}: {prefix + 'names'!r} expected every name once, got {', '.join(names)}")
    try:
        return tuple(_spec(name, values[:, k], {field: array[k] for field, array in said.items()}) for k, name in enumerate(names))
    except (UserError, ValueError) as error:
        raise UserError(f"{drive.path}: {error}") from error


def _spec(name: str, values: np.ndarray, said: Mapping[str, np.generic]) -> ChannelSpec:
    """What the file says of a channel, else what its name does, else the range of its values."""
    known = KNOWN_CHANNELS[name].spec if name in KNOWN_CHANNELS else None
    unit = str(said["units"]) if "units" in said else known.unit if known else "1"
    if "low" in said and "high" in said:
        return ChannelSpec(name, unit, float(said["low"]), float(said["high"]), int(said.get("bins", np.int64(128))))
    return known or spec_of(name, unit, values)
