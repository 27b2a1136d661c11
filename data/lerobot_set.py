"""A LeRobot data set on disk, v2 (a file an episode) or v3 (many episodes a file): what meta/ says of the rest.

v2: meta/{info.json, tasks.jsonl, episodes.jsonl}, data and videos by episode. v3: meta/{info.json, tasks.parquet, episodes/*/*.parquet},
data and videos by chunk and file; an episode is some rows of one and a span of the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.data_paths import fill_template, inside
from data.errors import UserError
from data.lerobot_files import column_names, numbers, read_lines, read_object, read_rows
from data.split import held_out_by_name

VAL_FRACTION = 0.15
"""Of sessions, where a set names them."""


@dataclass(frozen=True)
class Feature:
    """One column of the data, or one video."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None
    """One a value, or None where the set does not name them."""


@dataclass(frozen=True)
class VideoSpan:
    """Where an episode's pictures are."""

    path: Path
    start_s: float
    whole: bool
    """Whether the file holds nothing else."""


@dataclass(frozen=True)
class LerobotEpisode:
    """An episode and its files."""

    index: int
    rows: int
    data: Path
    videos: Mapping[str, VideoSpan]
    """{video key: span}."""
    split: str | None
    tasks: Mapping[int, str]
    """{task_index: what is to be done}, as far as this episode has to do with it."""


@dataclass(frozen=True)
class LerobotSet:
    """What meta/ says."""

    root: Path
    fps: float
    features: Mapping[str, Feature]
    episodes: tuple[LerobotEpisode, ...]

    @property
    def cameras(self) -> dict[str, str]:
        """{short name: key} of all videos."""
        return short_names([key for key, feature in self.features.items() if feature.dtype == "video"])


def short_names(keys: list[str]) -> dict[str, str]:
    """{'front_left': 'observation.images.front_left'}, those that look ahead first; names that two would share stay long."""
    lasts = [key.rsplit(".", 1)[-1] for key in keys]
    names = {(last if lasts.count(last) == 1 else key.replace(".", "_")): key for key, last in zip(keys, lasts, strict=True)}
    return dict(sorted(names.items(), key=lambda item: 0 if "front" in item[0] else 1 if "forward" in item[0] else 2))


def open_lerobot(root: Path) -> LerobotSet:
    """UserError, naming the file, where one of meta/ is missing, empty or not as the format has it."""
    if not root.is_dir():
        raise UserError(f"--input {root}: no such folder")
    path = root / "meta" / "info.json"
    info = read_object(path)
    try:
        return _parse(root, info)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: expected what a LeRobot set says of itself, field {error} is missing or of another kind") from error


def value_range(found: LerobotSet, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest values (N,) of a column of N over the whole set: as meta/ says, or from the data where it says nothing."""
    size = found.features[key].shape[0]
    said = _stated_range(found.root, key)
    if said is not None and said[0].shape == said[1].shape == (size,) and np.isfinite(said).all():
        return said
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    for episode in found.episodes:
        try:
            values = numbers(read_rows(episode.data, [key], episode.index), key, size, episode.data)
        except UserError:
            continue  # met again when the episode is read, and reported then
        values = values[np.isfinite(values).all(axis=1)]
        low, high = np.minimum(low, values.min(axis=0, initial=np.inf)), np.maximum(high, values.max(axis=0, initial=-np.inf))
    if not np.isfinite([low, high]).all():
        raise UserError(f"{found.root}: {key!r} expected finite values in at least one episode, got none")
    return low, high


def _parse(root: Path, info: dict[str, Any]) -> LerobotSet:
    path = root / "meta" / "info.json"
    version = str(info["codebase_version"])
    if not version.startswith(("v2.", "v3.")) or not float(info["fps"]) > 0:
        raise UserError(f"{path}: expected codebase_version v2.x or v3.x and fps above 0, got {version} and {info['fps']}")
    features = {key: _feature(key, value) for key, value in info["features"].items()}
    found = LerobotSet(root, float(info["fps"]), features, ())
    shared = version.startswith("v3.")
    tasks = _tasks(root, shared)
    rows = _rows_shared(root) if shared else read_lines(root / "meta" / "episodes.jsonl")
    if not rows:
        raise UserError(f"{root / 'meta'}: expected at least one episode, got none")
    splits = _splits(info, rows)
    return replace(found, episodes=tuple(_episode(found, info, row, tasks, splits, shared) for row in rows))


def _feature(key: str, value: Mapping[str, Any]) -> Feature:
    shape = tuple(int(size) for size in value["shape"])
    names = _flat_names(value.get("names"))
    usable = len(shape) == 1 and len(names) == len(set(names)) == shape[0]
    return Feature(key, str(value["dtype"]), shape, names if usable else None)


def _flat_names(names: Any) -> tuple[str, ...]:
    """Names come as a list, as a list in a list, or as {"motors": list}."""
    if isinstance(names, Mapping):
        names = next(iter(names.values()), None)
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], list):
        names = names[0]
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _rows_shared(root: Path) -> list[dict[str, Any]]:
    """Rows of v3's tables of episodes, without the statistics that fill most of them."""
    files = sorted((root / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    if not files:
        raise UserError(f"{root / 'meta' / 'episodes'}: expected chunk-*/file-*.parquet, got none")
    rows = []
    for file in files:
        columns = [name for name in column_names(file) if not name.startswith("stats/")]
        rows += read_rows(file, columns).to_pylist()
    return rows


def _tasks(root: Path, shared: bool) -> dict[int, str]:
    if not shared:
        return {int(row["task_index"]): str(row["task"]) for row in read_lines(root / "meta" / "tasks.jsonl")}
    path = root / "meta" / "tasks.parquet"
    held = column_names(path)
    texts = [name for name in held if name != "task_index"]  # the text is the table's index, whose name differs
    if len(texts) != 1:
        raise UserError(f"{path}: expected task_index and a column of texts, got {', '.join(held)}")
    table = read_rows(path, ["task_index", *texts])
    return dict(zip(table["task_index"].to_pylist(), map(str, table[texts[0]].to_pylist()), strict=True))


def _episode(
    found: LerobotSet, info: dict[str, Any], row: dict[str, Any], tasks: Mapping[int, str], splits: Mapping[int, str], shared: bool
) -> LerobotEpisode:
    source, index = found.root / "meta" / "info.json", int(row["episode_index"])

    def place(field: str, where: str, **more: str) -> Path:
        """The path that the template in `field` gives; `where` begins the row's columns for it."""
        if shared:
            values = {name: int(row[f"{where}/{name}"]) for name in ("chunk_index", "file_index")}
        else:
            values = {"episode_chunk": index // int(info["chunks_size"]), "episode_index": index}
        return inside(found.root, fill_template(info[field], {**values, **more}, source=str(source)), source=str(source))

    videos = {}
    for key in found.cameras.values():
        start = float(row[f"videos/{key}/from_timestamp"]) if shared else 0.0
        videos[key] = VideoSpan(place("video_path", f"videos/{key}", video_key=key), start, whole=not shared)
    mine = set(row.get("tasks") or tasks.values())
    doing = {number: text for number, text in tasks.items() if text in mine}
    return LerobotEpisode(index, int(row["length"]), place("data_path", "data"), videos, splits.get(index), doing)


def _splits(info: Mapping[str, Any], rows: list[dict[str, Any]]) -> dict[int, str]:
    """{episode: split} where the set has several splits (most put all into `train`, which splits nothing), or where it names the session
    that an episode was cut from, as L2D does: episodes of one session overlap, so one that is trained on must not be measured on."""
    spans = {name: [int(end) for end in str(span).split(":")] for name, span in info.get("splits", {}).items()}
    if len(spans) > 1:
        return {int(row["episode_index"]): name for row in rows for name, (a, b) in spans.items() if a <= int(row["episode_index"]) < b}
    sessions = {int(row["episode_index"]): str(row["session_id"]) for row in rows if row.get("session_id")}
    held = held_out_by_name(sorted(set(sessions.values())), VAL_FRACTION) if len(set(sessions.values())) > 1 else set()
    return {index: "val" if session in held else "train" for index, session in sessions.items()} if held else {}


def _stated_range(root: Path, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """From meta/stats.json (v2.0, v3), else over the lines of meta/episodes_stats.jsonl (v2.1)."""
    whole, lines = root / "meta" / "stats.json", root / "meta" / "episodes_stats.jsonl"
    stats = [read_object(whole)] if whole.is_file() else [row.get("stats", {}) for row in read_lines(lines)] if lines.is_file() else []
    try:
        limits = [[np.atleast_1d(np.array(row[key][end], float)) for row in stats] for end in ("min", "max")]
        return (np.min(limits[0], axis=0), np.max(limits[1], axis=0)) if stats else None
    except (KeyError, TypeError, ValueError):
        return None
