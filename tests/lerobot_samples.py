"""LeRobot sets for tests: the genuine fragment with videos that it lacks, the same in the layout of v2.1, and a drive in that of L2D."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from real_data import real_data

from data.video import VideoWriter

SIZE = (32, 96)
_BITS = 12
V2_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
V2_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


def numbered_frame(number: int) -> np.ndarray:
    """A picture that tells its number: bits as black and white squares of 16 pixels."""
    bits = np.array([(number >> bit) & 1 for bit in range(_BITS)], np.uint8).reshape(2, _BITS // 2) * 220 + 16
    return np.repeat(bits.repeat(16, axis=0).repeat(16, axis=1)[..., None], 3, axis=-1)


def read_numbers(frames: np.ndarray) -> np.ndarray:
    """Numbers of frames (T, H, W, 3) of `numbered_frame` at half or full size."""
    height, width = frames.shape[1:3]
    middle = frames[:, height // 4 :: height // 2, width // 12 :: width // 6, 0].reshape(len(frames), _BITS)
    return ((middle > 126).astype(int) << np.arange(_BITS)).sum(axis=1)


def write_video(path: Path, numbers: range, fps: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, fps=fps, size=SIZE) as video:
        for number in numbers:
            video.write(numbered_frame(number))


def make_v3(root: Path) -> Path:
    """The genuine set; frame n of its videos shows the number n, one camera's plus 2048."""
    source = real_data("layouts/lerobot_v3")
    for path in source.rglob("*"):
        if path.is_file():
            (root / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, root / path.relative_to(source))
    write_video(root / "videos/observation.images.front/chunk-000/file-000.mp4", range(1492), 30)
    write_video(root / "videos/observation.images.top/chunk-000/file-000.mp4", range(2048, 2048 + 1492), 30)
    return root


def make_v2(root: Path) -> Path:
    """The genuine rows in the layout of v2.1, the first 150 of each episode; frame n of an episode shows its global number."""
    source = real_data("layouts/lerobot_v3")
    info = json.loads((source / "meta/info.json").read_text())
    info |= {"codebase_version": "v2.1", "data_path": V2_DATA, "video_path": V2_VIDEO}
    del info["features"]["observation.images.top"]
    table = pq.read_table(source / "data/chunk-000/file-000.parquet")
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    write_lines(root / "meta/tasks.jsonl", [{"task_index": 0, "task": "Pick the orange cube"}])
    episodes, stats = [], []
    for row in pq.read_table(source / "meta/episodes/chunk-000/file-000.parquet").to_pylist():
        index, first = row["episode_index"], row["dataset_from_index"]
        write_table(root / V2_DATA.format(episode_chunk=0, episode_index=index), table.slice(first, 150))
        write_video(root / v2_video(index), range(first, first + 150), 30)
        episodes.append({"episode_index": index, "tasks": ["Pick the orange cube"], "length": 150})
        kept = {key: {end: row[f"stats/{key}/{end}"] for end in ("min", "max")} for key in ("action", "observation.state")}
        stats.append({"episode_index": index, "stats": kept})
    write_lines(root / "meta/episodes.jsonl", episodes)
    write_lines(root / "meta/episodes_stats.jsonl", stats)
    return root


def v2_video(index: int) -> str:
    return V2_VIDEO.format(episode_chunk=0, episode_index=index, video_key="observation.images.front")


def v2_data(index: int) -> str:
    return V2_DATA.format(episode_chunk=0, episode_index=index)


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_table(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def edit_column(path: Path, name: str, row: int, value: object) -> None:
    """Put a value into a Parquet file."""
    table = pq.read_table(path)
    values = table[name].to_pylist()
    values[row] = value
    place = table.schema.get_field_index(name)
    pq.write_table(table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type)), path)


STEPS = 120
SPEED, RADIUS, CENTRE = 12.0, 60.0, (52.5, 13.4)
"""m/s, m, degrees: a circle driven to the left, north at first."""


def make_l2d(root: Path) -> Path:
    """Two episodes in the layout of L2D (v3): names of its features, rows of 10 a second, weather that changes on the way."""
    places = ["hp_loc_latitude", "hp_loc_longitude", "hp_loc_altitude"]
    vehicle = ["speed", "heading", "heading_error", *places, "acceleration_x", "acceleration_y"]
    controls = ["gas_pedal_normalized", "brake_pedal_normalized", "steering_angle_normalized"]
    number = {"dtype": "float32", "names": None}
    features = {
        "observation.state.vehicle": {"dtype": "float32", "shape": [8], "names": {"axes": vehicle}},
        "observation.state.waypoints": {"dtype": "float32", "shape": [10, 2], "names": ["way", "points"]},
        "observation.state.timestamp": {"dtype": "int64", "shape": [1], "names": None},
        "action.continuous": {"dtype": "float32", "shape": [3], "names": {"axes": controls}},
        "action.discrete": {"dtype": "int32", "shape": [2], "names": {"axes": ["gear", "turn_signal"]}},
        "next.reward": number | {"shape": [1]},
        **{key: {"dtype": "string", "shape": [1], "names": None} for key in _l2d_texts(0)},
        **{f"observation.images.{name}": {"dtype": "video", "shape": [3, *SIZE], "names": None} for name in ("left_forward", "front_left")},
        **{key: number | {"shape": [1]} for key in ("timestamp", "frame_index", "episode_index", "index", "task_index")},
    }
    info = {"codebase_version": "v3.0", "fps": 10, "splits": {"train": "0:2"}, "features": features}
    info |= {"data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"}
    info |= {"video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"}
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    write_table(root / "meta/tasks.parquet", pa.table({"task_index": [0], "task": ["Follow the waypoints"]}))
    write_table(root / "data/chunk-000/file-000.parquet", pa.concat_tables([_l2d_rows(0), _l2d_rows(1)]))
    rows: dict[str, list] = {"episode_index": [0, 1], "length": [STEPS, STEPS], "tasks": [["Follow the waypoints"]] * 2}
    rows |= {"data/chunk_index": [0, 0], "data/file_index": [0, 0]}
    for key in ("observation.images.left_forward", "observation.images.front_left"):
        rows |= {f"videos/{key}/chunk_index": [0, 0], f"videos/{key}/file_index": [0, 0]}
        rows |= {f"videos/{key}/from_timestamp": [0.0, STEPS / 10], f"videos/{key}/to_timestamp": [STEPS / 10, STEPS / 5]}
        write_video(root / f"videos/{key}/chunk-000/file-000.mp4", range(2 * STEPS), 10)
    write_table(root / "meta/episodes/chunk-000/file-000.parquet", pa.table(rows))
    return root


def _l2d_texts(episode: int) -> dict[str, list[str]]:
    half = STEPS // 2
    return {
        "observation.state.conditions": ["Rain"] * half + ["Clear"] * half,
        "observation.state.lighting": ["Night"] * STEPS,
        "observation.state.road": ["residential"] * STEPS,
        "observation.state.max_speed": ["50.0"] * STEPS,
        "observation.state.precipitation": ["NA"] * STEPS,
        "task.instructions": [f"Turn left {episode}"] * STEPS,
    }


def _l2d_rows(episode: int) -> pa.Table:
    """Degrees of latitude and longitude by WGS84's radii of curvature at the centre."""
    times = np.arange(STEPS) / 10
    angle = SPEED / RADIUS * times
    east, north = -RADIUS * (1 - np.cos(angle)), RADIUS * np.sin(angle)
    sine2 = np.sin(np.radians(CENTRE[0])) ** 2
    meridian = 6378137.0 * (1 - 6.69437999014e-3) / (1 - 6.69437999014e-3 * sine2) ** 1.5
    normal = 6378137.0 / np.sqrt(1 - 6.69437999014e-3 * sine2)
    latitude = CENTRE[0] + np.degrees(north / meridian)
    longitude = CENTRE[1] + np.degrees(east / (normal * np.cos(np.radians(CENTRE[0]))))
    heading = (-np.degrees(angle)) % 360  # clockwise from north
    ones = np.ones(STEPS)
    state = np.stack([3.6 * SPEED * ones, heading, 0.3 * ones, latitude, longitude, latitude, 0.1 * ones, 2.4 * ones], axis=1)
    controls = np.stack([0.2 * ones, 0 * ones, -0.25 * ones], axis=1)  # positive to the right: this steers left
    columns: dict[str, pa.Array] = {
        "observation.state.vehicle": pa.array(state.tolist(), pa.list_(pa.float64())),
        "observation.state.waypoints": pa.array([[[1.0, 2.0]] * 10] * STEPS),
        "observation.state.timestamp": pa.array((1.7e18 + times * 1e9).astype(np.int64)),
        "action.continuous": pa.array(controls.tolist(), pa.list_(pa.float32())),
        "action.discrete": pa.array([[3, step % 3] for step in range(STEPS)], pa.list_(pa.int32())),
        "next.reward": pa.array(np.linspace(0, 1, STEPS), pa.float32()),
        **{key: pa.array(words) for key, words in _l2d_texts(episode).items()},
        "timestamp": pa.array(times, pa.float32()),
        "frame_index": pa.array(range(STEPS)),
        "episode_index": pa.array([episode] * STEPS),
        "index": pa.array(range(episode * STEPS, (episode + 1) * STEPS)),
        "task_index": pa.array([0] * STEPS),
    }
    return pa.table(columns)
