"""Telemetry and actions: physical units <-> tokens, with an exact inverse at bin centres.

A channel of n bins has the token ids 0..n - 1 and, one above them, NULL: "not known" or, in training, dropped for guidance.
NULL stands in inputs only; the world model never emits it. NaN is its physical value.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
import torch

from data.episode import ChannelSpec
from data.errors import UserError

Array = TypeVar("Array", np.ndarray, torch.Tensor)
logger = logging.getLogger(__name__)


class ChannelCodec:
    """Values of one channel <-> token ids. Arrays of any shape; a tensor in gives a tensor out, on its device.

    >>> codec = ChannelCodec(ChannelSpec("speed_mps", "m/s", 0.0, 40.0, bins=4))
    >>> codec.tokens(np.array([3.0, 12.0, 99.0, np.nan]))
    array([0, 1, 3, 4])
    >>> codec.values(np.array([0, 1]))
    array([ 5., 15.], dtype=float32)
    """

    def __init__(self, spec: ChannelSpec) -> None:
        self.spec = spec
        self.null_id = spec.bins
        self.vocab_size = spec.bins + 1
        centres = spec.low + (np.arange(spec.bins) + 0.5) * ((spec.high - spec.low) / spec.bins)
        self._table = np.append(centres, np.nan).astype(np.float32)  # (bins + 1,), NULL last
        if not np.array_equal(self._tokens(self._table), np.arange(self.vocab_size)):
            raise UserError(f"channel {spec.name!r}: {spec.bins} bins over {spec.low}..{spec.high} are finer than float32 can tell apart")

    def tokens(self, values: Array) -> Array:
        """int64 ids 0..bins - 1; values outside low..high fall into the outer bins, NaN becomes NULL."""
        if isinstance(values, torch.Tensor):
            return torch.from_numpy(self._tokens(_to_numpy(values))).to(values.device)
        return self._tokens(values)

    def values(self, tokens: Array) -> Array:
        """float32 bin centres in the channel's unit; NaN for NULL."""
        if isinstance(tokens, torch.Tensor):
            return torch.from_numpy(self._values(_to_numpy(tokens))).to(tokens.device)
        return self._values(tokens)

    def _tokens(self, values: np.ndarray) -> np.ndarray:
        position = (np.asarray(values, np.float64) - self.spec.low) * (self.spec.bins / (self.spec.high - self.spec.low))
        inside = np.clip(np.floor(position), 0, self.spec.bins - 1)
        return np.where(np.isnan(inside), self.null_id, inside).astype(np.int64)

    def _values(self, tokens: np.ndarray) -> np.ndarray:
        tokens = np.asarray(tokens)
        if tokens.size and not (tokens.min() >= 0 and tokens.max() <= self.null_id):
            raise ValueError(f"channel {self.spec.name!r}: token ids are 0..{self.null_id}, got {tokens.min()}..{tokens.max()}")
        return self._table[tokens]


class ChannelSet:
    """Several channels side by side: the last axis of every array is the channel."""

    def __init__(self, specs: Iterable[ChannelSpec]) -> None:
        self.specs = tuple(specs)
        self.names = tuple(spec.name for spec in self.specs)
        repeated = {name for name in self.names if self.names.count(name) > 1}
        if repeated:
            raise UserError(f"channels: each name may stand once, got {', '.join(sorted(repeated))} more than once")
        self.codecs = tuple(ChannelCodec(spec) for spec in self.specs)
        self.null_ids = tuple(codec.null_id for codec in self.codecs)
        self.vocab_sizes = tuple(codec.vocab_size for codec in self.codecs)

    def __len__(self) -> int:
        return len(self.specs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChannelSet) and self.specs == other.specs

    def __hash__(self) -> int:
        return hash(self.specs)

    def __repr__(self) -> str:
        return f"ChannelSet({', '.join(self.names)})"

    def index(self, name: str) -> int:
        """Column of a channel."""
        if name not in self.names:
            raise UserError(f"channel {name!r}: expected one of {', '.join(self.names) or 'none'}")
        return self.names.index(name)

    def tokens(self, values: Array) -> Array:
        """(..., M) in physical units -> int64 (..., M)."""
        if isinstance(values, torch.Tensor):
            return torch.from_numpy(self._tokens(_to_numpy(values))).to(values.device)
        return self._tokens(values)

    def values(self, tokens: Array) -> Array:
        """int64 (..., M) -> float32 (..., M) bin centres in physical units."""
        if isinstance(tokens, torch.Tensor):
            return torch.from_numpy(self._values(_to_numpy(tokens))).to(tokens.device)
        return self._values(tokens)

    def match(self, other: "ChannelSet") -> dict[str, int]:
        """{name: column in `other`} of our channels that `other` has just alike.

        A channel of the same name with other bins or range is left out, and a line says so: its tokens mean something else.
        Raises UserError where a name stands for another unit.
        """
        found = {}
        for spec in self.specs:
            if spec.name not in other.names:
                continue
            theirs = other.specs[other.index(spec.name)]
            if theirs.unit != spec.unit:
                raise UserError(f"channel {spec.name!r}: expected the unit {spec.unit!r}, got {theirs.unit!r}")
            if theirs == spec:
                found[spec.name] = other.index(spec.name)
            else:
                logger.warning("channel %r does not match: %s here, %s there", spec.name, _range(spec), _range(theirs))
        return found

    def clamp_report(self, values: np.ndarray) -> list[str]:
        """One line a channel whose values (..., M) leave its range; empty when none does."""
        table = self._checked(values).astype(np.float64)
        lines = []
        for index, spec in enumerate(self.specs):
            column = table[..., index].ravel()
            outside = (column < spec.low) | (column > spec.high)
            if not outside.any():
                continue
            beyond = np.maximum(spec.low - column, column - spec.high)
            first = np.flatnonzero(outside)[0]
            farthest = column[np.argmax(np.where(outside, beyond, -np.inf))]
            lines.append(
                f"{spec.name}: {farthest:g} is outside {spec.low:g}..{spec.high:g} {spec.unit} and is clamped"
                f" ({outside.sum()} of {len(column)} values, the first in row {first})"
            )
        return lines

    def to_dicts(self) -> list[dict[str, Any]]:
        """The channels as JSON takes them."""
        return [asdict(spec) for spec in self.specs]

    @classmethod
    def from_dicts(cls, dicts: Iterable[Mapping[str, Any]]) -> "ChannelSet":
        """Inverse of `to_dicts`."""
        return cls(ChannelSpec(**fields) for fields in dicts)

    def _tokens(self, values: np.ndarray) -> np.ndarray:
        values = self._checked(values)
        tokens = np.empty(values.shape, np.int64)
        for column, codec in enumerate(self.codecs):
            tokens[..., column] = codec.tokens(values[..., column])
        return tokens

    def _values(self, tokens: np.ndarray) -> np.ndarray:
        tokens = self._checked(tokens)
        values = np.empty(tokens.shape, np.float32)
        for column, codec in enumerate(self.codecs):
            values[..., column] = codec.values(tokens[..., column])
        return values

    def _checked(self, array: np.ndarray) -> np.ndarray:
        array = np.asarray(array)
        if array.ndim == 0 or array.shape[-1] != len(self):
            raise ValueError(f"channels: expected a last axis of {len(self)} ({', '.join(self.names)}), got shape {array.shape}")
        return array


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()


def _range(spec: ChannelSpec) -> str:
    return f"{spec.bins} bins over {spec.low:g}..{spec.high:g} {spec.unit}"
