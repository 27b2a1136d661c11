"""Several encoded sets that one model is trained on together: what they have in common, and how often each is drawn from."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.episode import ChannelSpec
from data.errors import UserError
from worldgpt.token_store import TokenStore


@dataclass(frozen=True)
class Mixture:
    """Encoded sets and their weights. Each has cameras and channels of its own; what one lacks is NULL in its windows."""

    stores: tuple[TokenStore, ...]
    weights: tuple[float, ...]
    """Share of the training windows that come from each, not normalised."""

    def __post_init__(self) -> None:
        first = self.stores[0]
        for store in self.stores[1:]:
            for name in ("tokenizer_hash", "codebook_size", "fps", "frame_size"):
                ours, theirs = getattr(first.info, name), getattr(store.info, name)
                if ours != theirs:
                    raise UserError(f"{store.folder}: {name} expected {ours} as in {first.folder}, got {theirs}")
        for store, weight in zip(self.stores, self.weights, strict=True):
            if not weight > 0:
                raise UserError(f"--data: {store.folder}: expected a weight above 0, got {weight}")

    @classmethod
    def of(cls, *stores: TokenStore) -> "Mixture":
        """Equal weights."""
        return cls(stores, (1.0,) * len(stores))

    @property
    def codebook_size(self) -> int:
        return self.stores[0].info.codebook_size

    @property
    def codebook_levels(self) -> tuple[int, ...]:
        return self.stores[0].info.codebook_levels

    @property
    def tokenizer_hash(self) -> str:
        return self.stores[0].info.tokenizer_hash

    @property
    def fps(self) -> float:
        return self.stores[0].info.fps

    @property
    def frame_size(self) -> tuple[int, int]:
        return self.stores[0].info.frame_size

    @property
    def data_hash(self) -> str:
        """The set's own hash, or one over those of all."""
        hashes = [store.info.data_hash for store in self.stores]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()

    @property
    def grids(self) -> dict[str, tuple[int, int]]:
        """{camera: (h, w)} of all sets; UserError where a camera has two."""
        found: dict[str, tuple[int, int]] = {}
        for store in self.stores:
            for camera, grid in store.info.grids.items():
                if found.setdefault(camera, grid) != grid:
                    raise UserError(f"{store.folder}: camera {camera!r} expected a grid of {found[camera]}, got {grid}")
        return found

    @property
    def telemetry(self) -> tuple[ChannelSpec, ...]:
        return self._channels([store.info.telemetry for store in self.stores])

    @property
    def actions(self) -> tuple[ChannelSpec, ...]:
        return self._channels([store.info.actions for store in self.stores])

    def _channels(self, sets: Sequence[tuple[ChannelSpec, ...]]) -> tuple[ChannelSpec, ...]:
        """Every channel once, over the widest of its ranges and with the most bins; UserError where units differ."""
        found: dict[str, ChannelSpec] = {}
        for store, channels in zip(self.stores, sets, strict=True):
            for spec in channels:
                known = found.setdefault(spec.name, spec)
                if known.unit != spec.unit:
                    raise UserError(f"{store.folder}: channel {spec.name!r} expected the unit {known.unit!r}, got {spec.unit!r}")
                low, high, bins = min(known.low, spec.low), max(known.high, spec.high), max(known.bins, spec.bins)
                found[spec.name] = ChannelSpec(spec.name, spec.unit, low, high, bins)
        return tuple(found.values())


def parse_data(texts: Sequence[str]) -> Mapping[str, float]:
    """{folder: weight} from 'folder' (weight 1) or 'folder:weight'; UserError where one is named twice or a weight is no number above 0.

    >>> parse_data(["runs/data/mine:2", "runs/data/tub"])
    {'runs/data/mine': 2.0, 'runs/data/tub': 1.0}
    """
    found: dict[str, float] = {}
    for text in texts:
        folder, colon, number = text.rpartition(":")
        folder, weight = (folder, number) if colon else (text, "1")
        try:
            value = float(weight)
        except ValueError:
            value = 0.0
        if not value > 0 or not folder:
            raise UserError(f"--data: expected FOLDER or FOLDER:WEIGHT with a weight above 0, got {text!r}")
        if folder in found:
            raise UserError(f"--data: {folder} is named twice")
        found[folder] = value
    if not found:
        raise UserError("--data: expected at least one folder")
    return found
