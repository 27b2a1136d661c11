"""What an episode store says of itself: its signals, its drives, and where they came from (`manifest.json`)."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from data.episode import Camera, Caption, ChannelSpec, Episode
from data.errors import UserError
from data.folder import read_json, write_json

FORMAT = "worldgpt-episodes"
VERSION = 1
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class Signals:
    """What every drive of one store has in common: cameras, sizes, channels."""

    fps: float
    cameras: Mapping[str, Camera]
    """Every camera of `frame_sizes` and `code_grids`, in the order of the streams."""
    frame_sizes: Mapping[str, tuple[int, int]]
    """{camera: (H, W)} in pixels, for cameras with frames."""
    code_grids: Mapping[str, tuple[int, int]]
    """{camera: (h, w)}, for cameras that came as codes."""
    codebook_size: int
    """Number of ids that codes are drawn from; 0 where there are none."""
    telemetry: tuple[ChannelSpec, ...]
    actions: tuple[ChannelSpec, ...]
    truth: tuple[str, ...]

    @staticmethod
    def of(episode: Episode) -> "Signals":
        names = (*episode.frames, *episode.codes)
        return Signals(
            fps=float(episode.fps),
            cameras={name: episode.cameras.get(name, Camera()) for name in names},
            frame_sizes={name: frames.shape[1:3] for name, frames in episode.frames.items()},
            code_grids={name: codes.shape[1:3] for name, codes in episode.codes.items()},
            codebook_size=episode.codebook_size,
            telemetry=episode.telemetry_channels,
            actions=episode.action_channels,
            truth=tuple(episode.truth),
        )

    def difference(self, other: "Signals") -> str | None:
        """The first field in which `other` differs, told as "expected ..., got ...", or None."""
        for name, mine in vars(self).items():
            theirs = getattr(other, name)
            if mine != theirs:
                return f"{name}: expected {_brief(mine)} as in most drives, got {_brief(theirs)}"
        return None


@dataclass(frozen=True)
class DriveRecord:
    """One drive of a store."""

    drive_id: str
    split: str
    steps: int
    captions: tuple[Caption, ...]
    """In steps of this drive."""
    labels: Mapping[str, str]
    content_hash: str
    """Over pixels, channels, captions and labels; the same whatever encodes or chunks them."""

    @property
    def file(self) -> str:
        """Where its shard lies, relative to the store's folder."""
        return f"{safe_name(self.split)}/{safe_name(self.drive_id)}.parquet"


@dataclass(frozen=True)
class Manifest:
    """Everything about a store but the frames and channels themselves."""

    source: str
    signals: Signals
    drives: tuple[DriveRecord, ...]
    license: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How the source was asked: JSON values."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """{drive_id: why it is not here}."""

    @property
    def fps(self) -> float:
        return self.signals.fps

    @property
    def cameras(self) -> Mapping[str, Camera]:
        return self.signals.cameras

    @property
    def telemetry(self) -> tuple[ChannelSpec, ...]:
        return self.signals.telemetry

    @property
    def actions(self) -> tuple[ChannelSpec, ...]:
        return self.signals.actions

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels of the frames; all cameras of a store share it."""
        if not self.signals.frame_sizes:
            raise UserError(f"{self.source}: this set holds codes, expected frames")
        return next(iter(self.signals.frame_sizes.values()))

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(drive.split for drive in self.drives))

    def summary(self) -> list[str]:
        """Lines for people: drives, steps and hours by split, channels, what was left out."""
        lines = []
        for split in self.splits:
            steps = [drive.steps for drive in self.drives if drive.split == split]
            lines.append(f"{split}: {len(steps)} drives, {sum(steps):,} steps, {_time_text(sum(steps) / self.fps)}")
        if "val" not in self.splits:
            lines.append("val: none, for the drives are too few or too short to hold a part out")
        names = [[channel.name for channel in channels] or ["none"] for channels in (self.telemetry, self.actions)]
        lines.append(f"telemetry: {', '.join(names[0])}; actions: {', '.join(names[1])}; {self.fps:g} steps a second")
        if self.skipped:
            lines.append(f"skipped: {len(self.skipped)} drives, listed in {MANIFEST_FILE}")
        return lines

    @cached_property
    def hash(self) -> str:
        """Fingerprint of the data: of every drive's content and split, and of the signals."""
        contents = sorted((drive.split, drive.drive_id, drive.content_hash) for drive in self.drives)
        text = json.dumps([signals_to_json(self.signals), contents], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def safe_name(name: str) -> str:
    """`name` as a file name; what had to be changed is told apart by a short hash of the whole."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100].lstrip(".")
    return safe if safe and safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def signals_to_json(signals: Signals) -> dict[str, Any]:
    """Plain JSON values of the signals."""
    return json.loads(json.dumps(asdict(signals)))


def signals_from_json(value: Mapping[str, Any]) -> Signals:
    return Signals(
        fps=float(value["fps"]),
        cameras={name: Camera(**camera) for name, camera in value["cameras"].items()},
        frame_sizes={name: (int(h), int(w)) for name, (h, w) in value["frame_sizes"].items()},
        code_grids={name: (int(h), int(w)) for name, (h, w) in value["code_grids"].items()},
        codebook_size=int(value.get("codebook_size", 0)),
        telemetry=tuple(ChannelSpec(**spec) for spec in value["telemetry"]),
        actions=tuple(ChannelSpec(**spec) for spec in value["actions"]),
        truth=tuple(value["truth"]),
    )


def record_from_json(value: Mapping[str, Any]) -> DriveRecord:
    return DriveRecord(
        drive_id=value["drive_id"],
        split=value["split"],
        steps=int(value["steps"]),
        captions=tuple(Caption(**caption) for caption in value["captions"]),
        labels=dict(value["labels"]),
        content_hash=value["content_hash"],
    )


def save_manifest(manifest: Manifest, folder: Path) -> None:
    value = {
        "format": FORMAT,
        "version": VERSION,
        "source": manifest.source,
        "license": manifest.license,
        "hash": manifest.hash,
        "signals": signals_to_json(manifest.signals),
        "settings": dict(manifest.settings),
        "skipped": dict(manifest.skipped),
        "drives": [asdict(drive) for drive in manifest.drives],
    }
    write_json(folder / MANIFEST_FILE, value)


def load_manifest(folder: Path) -> Manifest:
    """Read and check `folder`'s manifest; UserError where it is missing, of another format or version, or damaged."""
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        raise UserError(f"{folder}: no such data set; scripts/prepare_data.py makes one")
    if not path.is_file():
        raise UserError(f"{folder}: no {MANIFEST_FILE} inside, so not a (finished) data set; scripts/prepare_data.py makes one")
    value = read_json(path)
    found = value.get("format") if isinstance(value, dict) else type(value).__name__
    if found != FORMAT:
        raise UserError(f"{path}: expected format {FORMAT!r}, got {found!r}")
    if value.get("version") != VERSION:
        raise UserError(f"{path}: expected format version {VERSION}, got {value.get('version')}; prepare the data again")
    try:
        return Manifest(
            source=value["source"],
            signals=signals_from_json(value["signals"]),
            drives=tuple(record_from_json(drive) for drive in value["drives"]),
            license=value["license"],
            settings=value["settings"],
            skipped=value["skipped"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged manifest, field {error}") from error


def _time_text(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _brief(value: Any) -> str:
    """Names of channels or cameras, sizes as they are."""
    if isinstance(value, tuple):
        return str([item.name if isinstance(item, ChannelSpec) else item for item in value])
    return str(value)
