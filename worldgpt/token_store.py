"""Encoded drives on disk: what the world model trains on, with no picture in sight.

A folder holds, a split: `<split>.codes.npy` (N, C) uint16, int32 or int64, all cameras' codes a step, and `<split>.channels.npy`
(N, M + A) float32 in physical units; and `tokens.json`, the sidecar: grids, codebook, hashes, channels, drives, captions.
Windows never cross drives.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange

from data.ahead import ahead
from data.episode import Caption, ChannelSpec, Episode
from data.errors import UserError
from data.folder import atomic_file, atomic_folder, read_json, write_json
from data.progress import Bar

SIDECAR = "tokens.json"
FORMAT = "worldgpt-tokens"
CHUNK_STEPS = 512
"""Steps whose frames are read at once."""


@dataclass(frozen=True)
class TokenDrive:
    """One drive: rows first .. last - 1 of its split's arrays."""

    drive_id: str
    split: str
    first: int
    last: int
    captions: tuple[Caption, ...]
    """In steps of the drive; several may cover a step, then any of them is true of it."""
    labels: Mapping[str, str]

    @property
    def steps(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class TokenStoreInfo:
    """The sidecar."""

    grids: Mapping[str, tuple[int, int]]
    """{camera: (h, w)} in the order in which their codes stand."""
    codebook_size: int
    codebook_levels: tuple[int, ...]
    """Levels of the codes' digits, the fastest first; () where codes have none."""
    tokenizer_hash: str
    data_hash: str
    frame_size: tuple[int, int]
    """(H, W) in pixels; (0, 0) where the source shipped codes."""
    fps: float
    telemetry: tuple[ChannelSpec, ...]
    actions: tuple[ChannelSpec, ...]
    drives: tuple[TokenDrive, ...]


class TokenStore:
    """Read access to an encoded set."""

    def __init__(self, folder: Path, info: TokenStoreInfo) -> None:
        self.folder, self.info = folder, info
        self._arrays: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @classmethod
    def open(cls, folder: str | Path) -> "TokenStore":
        """UserError where the sidecar is missing or of another format."""
        folder = Path(folder)
        if not (folder / SIDECAR).exists():
            raise UserError(f"{folder}: expected an encoded set, found no {SIDECAR}")
        values = read_json(folder / SIDECAR)
        if values.pop("format", None) != FORMAT:
            raise UserError(f"{folder / SIDECAR}: expected format {FORMAT!r}")
        try:
            return cls(folder, _info_from_dict(values))
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(f"{folder / SIDECAR}: damaged, field {error}; remove the folder, and it is made again") from error

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Memory maps of a split: codes (N, C) and channel values (N, M + A). UserError where there is no such split."""
        if split not in self._arrays:
            if not self.drives(split):
                raise UserError(
                    f"{self.folder}: expected a split {split!r}, got only {', '.join(dict.fromkeys(d.split for d in self.info.drives))}"
                )
            codes, channels = (_load(self.folder / f"{split}.{name}.npy") for name in ("codes", "channels"))
            self._arrays[split] = codes, channels
        return self._arrays[split]

    def drives(self, split: str) -> list[TokenDrive]:
        return [drive for drive in self.info.drives if drive.split == split]

    def window_starts(self, split: str, steps: int) -> tuple[np.ndarray, list[TokenDrive]]:
        """(n,) first rows of all windows of `steps` that lie in one drive, and the drives (for captions), in row order.

        Raises UserError where no drive is long enough.
        """
        drives = self.drives(split)
        starts = [np.arange(d.first, d.last - steps + 1) for d in drives if d.steps >= steps]
        if not starts:
            longest = max((d.steps for d in drives), default=0)
            raise UserError(
                f"{self.folder}: split {split!r} has no drive of {steps} steps (the longest has {longest}); lower model.context_steps"
            )
        return np.concatenate(starts), drives


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); remove the folder, and it is made again") from error


def drive_of(drives: list[TokenDrive], row: int) -> TokenDrive:
    """The drive that holds a row."""
    place = int(np.searchsorted([d.last for d in drives], row, side="right"))
    return drives[place]


def window_captions(drive: TokenDrive, start: int, steps: int, rng: np.random.Generator | None) -> list[str]:
    """Caption of each of `steps` steps from step `start` of a drive; "" where nothing is said.

    Of several captions that cover a step one is drawn with `rng` (None: the first), and stays as long as it is true.
    """
    texts: list[str] = []
    while len(texts) < steps:
        now = start + len(texts)
        true = [c for c in drive.captions if c.start <= now < c.end]
        if true:
            chosen = true[int(rng.integers(len(true)))] if rng is not None else true[0]
            length = chosen.end - now
            texts += [chosen.text] * length
        else:
            coming = [c.start for c in drive.captions if c.start > now]
            texts += [""] * (min(coming) - now if coming else steps)
    return texts[:steps]


def encode_store(store: Any, tokenizer: Any, folder: Path, *, device: torch.device, batch_size: int = 64) -> TokenStore:
    """Encode every split of a data.store.EpisodeStore into `folder`, or open what is there if data and tokenizer are the same.

    Codes are kept drive by drive in `<folder>/../drives-<tokenizer>/`, named by the drive's content: so an interrupted run goes on where it
    was, and of a set that has grown only the new drives are encoded. A store whose source shipped codes needs no tokenizer (None).
    """
    tokenizer_hash = tokenizer.content_hash() if tokenizer is not None else "codes"
    if (folder / SIDECAR).exists():
        found = TokenStore.open(folder)
        if (found.info.tokenizer_hash, found.info.data_hash) == (tokenizer_hash, store.hash):
            return found
    kept = folder.parent / f"drives-{tokenizer_hash}"
    with atomic_folder(folder) as part:
        info = _encode_splits(store, tokenizer, tokenizer_hash, part, _Encoder(store, tokenizer, kept, device, batch_size))
        write_json(part / SIDECAR, {"format": FORMAT, **asdict(info)})
    return TokenStore.open(folder)


class _Encoder:
    """Codes of drives, from what was kept or from their frames; the next frames are read and decoded while these are encoded."""

    def __init__(self, store: Any, tokenizer: Any, kept: Path, device: torch.device, batch_size: int) -> None:
        self.store, self.kept, self.device, self.batch_size = store, kept, device, batch_size
        self.tokenizer = tokenizer.to(device).eval() if tokenizer is not None else None

    def encode(self, records: Sequence[Any], bar: Bar) -> Iterator[np.ndarray]:
        """(T, C) int64 of each drive: all cameras' codes a step."""
        # Decided once: of two drives of equal content the second must not become a kept one on the way.
        kept = {record.drive_id for record in records if self.tokenizer is not None and self._path(record).exists()}
        missing = [record for record in records if record.drive_id not in kept]
        episodes = ahead(self._read, [(record, start) for record in missing for start in range(0, record.steps, CHUNK_STEPS)])
        for record in records:
            if record.drive_id in kept:
                bar.advance(record.steps)
                yield _load(self._path(record))
            else:
                yield self._drive(record, episodes, bar)

    def _drive(self, record: Any, episodes: Iterator[Episode], bar: Bar) -> np.ndarray:
        codes = []
        for episode in islice(episodes, len(range(0, record.steps, CHUNK_STEPS))):
            codes.append(_codes(episode, self.store.manifest.cameras, self.tokenizer, self.device, self.batch_size))
            bar.advance(episode.steps)
        whole = np.concatenate(codes)
        if self.tokenizer is not None:
            with atomic_file(self._path(record)) as temp, temp.open("wb") as file:
                np.save(file, whole)
        return whole

    def _read(self, chunk: tuple[Any, int]) -> Episode:
        record, start = chunk
        return self.store.read(record.drive_id, start, min(start + CHUNK_STEPS, record.steps))

    def _path(self, record: Any) -> Path:
        return self.kept / f"{record.content_hash}.npy"


def _encode_splits(store: Any, tokenizer: Any, tokenizer_hash: str, folder: Path, encoder: _Encoder) -> TokenStoreInfo:
    """Write the arrays of every split; a step's numbers sit in memory, its frames do not."""
    manifest = store.manifest
    grids: dict[str, tuple[int, int]] = dict(manifest.signals.code_grids)
    size, codebook_size, levels = (0, 0), manifest.signals.codebook_size, ()
    if tokenizer is not None:
        size, codebook_size, levels = manifest.size, tokenizer.codebook_size, tokenizer.levels
        grids = {camera: tokenizer.grid(*size) for camera in manifest.cameras}
    drives: list[TokenDrive] = []
    for split in manifest.splits:
        rows, codes, channels = 0, [], []
        records = store.drives(split)
        with Bar(f"encoding {split}", total=sum(record.steps for record in records), unit="frames") as bar:
            for record, drive_codes in zip(records, encoder.encode(records, bar), strict=True):
                drives.append(TokenDrive(record.drive_id, split, rows, rows + record.steps, record.captions, record.labels))
                rows += record.steps
                codes.append(drive_codes)
                channels.append(_channels(store.read(record.drive_id, frames=False)))
        whole = np.concatenate(codes)
        narrowest = next(kind for kind in (np.uint16, np.int32, np.int64) if whole.max() <= np.iinfo(kind).max)
        np.save(folder / f"{split}.codes.npy", whole.astype(narrowest))
        np.save(folder / f"{split}.channels.npy", np.concatenate(channels).astype(np.float32))
    return TokenStoreInfo(
        grids, codebook_size, levels, tokenizer_hash, store.hash, size, manifest.fps, manifest.telemetry, manifest.actions, tuple(drives)
    )


def _channels(episode: Episode) -> np.ndarray:
    """(T, M + A) float32 in physical units."""
    given = ((episode.telemetry, episode.telemetry_channels), (episode.actions, episode.action_channels))
    return np.concatenate([np.zeros((episode.steps, 0), np.float32), *(values for values, channels in given if channels)], axis=1)


def _codes(episode: Episode, cameras: Iterable[str], tokenizer: Any, device: torch.device, batch_size: int) -> np.ndarray:
    """(T, C) int64, all cameras' codes a step."""
    if tokenizer is None:
        codes = [episode.codes[camera] for camera in cameras]
    else:
        codes = [encode_frames(tokenizer, episode.frames[camera], device, batch_size) for camera in cameras]
    return np.concatenate([rearrange(c, "t h w -> t (h w)") for c in codes], axis=1)


@torch.no_grad()
def encode_frames(tokenizer: Any, frames: np.ndarray, device: torch.device, batch_size: int = 64) -> np.ndarray:
    """frames (T, H, W, 3) uint8 -> codes (T, h, w) int64, in float32 arithmetic, so that codes do not depend on the batch."""
    batches = (np.ascontiguousarray(frames[i : i + batch_size]) for i in range(0, len(frames), batch_size))
    return torch.cat([tokenizer.encode(torch.from_numpy(batch).to(device)) for batch in batches]).cpu().numpy().astype(np.int64)


def _info_from_dict(values: dict[str, Any]) -> TokenStoreInfo:
    drives = tuple(TokenDrive(**{**d, "captions": tuple(Caption(**c) for c in d["captions"])}) for d in values["drives"])
    channels = {kind: tuple(ChannelSpec(**c) for c in values[kind]) for kind in ("telemetry", "actions")}
    grids = {camera: (grid[0], grid[1]) for camera, grid in values["grids"].items()}
    tuples = {name: tuple(values[name]) for name in ("frame_size", "codebook_levels")}
    return TokenStoreInfo(**{**values, **channels, **tuples, "drives": drives, "grids": grids})
