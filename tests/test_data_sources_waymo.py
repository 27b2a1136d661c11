import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from path_samples import SPEED, YAW_RATE, left_turn, store_of
from real_data import real_data

from data.chunks import join
from data.episode import Episode
from data.errors import UserError
from data.sources.waymo import CAMERAS, WaymoConfig, drives

FRAMES = 25
BEGIN_US = 1552440195362591
SEGMENT = "10023947602400723454_1120_000_1140_000"
TIME, CAMERA, IMAGE = "key.frame_timestamp_micros", "key.camera_name", "[CameraImageComponent].image"
POSE = "[VehiclePoseComponent].world_from_vehicle.transform"


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()


def picture(k: int, camera: int) -> bytes:
    return jpeg(np.full((16, 24, 3), 8 * k + camera, np.uint8))


def save(split: Path, component: str, columns: dict[str, Any], segment: str = SEGMENT) -> None:
    path = split / component / f"{segment}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = len(next(iter(columns.values())))
    pq.write_table(pa.table({"key.segment_context_name": [segment] * rows, **columns}), path, row_group_size=60)


def micros(frames: int = FRAMES) -> np.ndarray:
    return BEGIN_US + 100_000 * np.arange(frames) + np.tile([0, 22, -9, 17, -13], frames)[:frames]


def save_pictures(split: Path, cameras: tuple[int, ...] = (1, 2, 3, 4, 5), segment: str = SEGMENT, frames: int = FRAMES) -> None:
    rows = [(time, camera, picture(k, camera)) for k, time in enumerate(micros(frames).tolist()) for camera in cameras]
    times, numbers, images = zip(*rows, strict=True)
    save(split, "camera_image", {TIME: times, CAMERA: pa.array(numbers, pa.int8()), IMAGE: pa.array(images, pa.binary())}, segment)


def save_poses(split: Path, segment: str = SEGMENT, frames: int = FRAMES) -> None:
    x, y, yaw = left_turn((micros(frames) - BEGIN_US) / 1e6)
    matrices = np.tile(np.eye(4), (frames, 1, 1))
    matrices[:, :3, :3] = [cv2.Rodrigues(np.array([0, 0, angle]))[0] for angle in yaw]
    matrices[:, :2, 3] = np.stack([x, y], 1)
    flat = pa.array(matrices.reshape(frames, 16).tolist(), pa.list_(pa.float64(), 16))
    save(split, "vehicle_pose", {TIME: micros(frames), POSE: flat}, segment)


def make_segment(split: Path, segment: str = SEGMENT, time_of_day: str = "Night", weather: str = "Rain") -> Path:
    """2.5 s that turn left at 10 a second, with all five cameras."""
    save_pictures(split, segment=segment)
    save_poses(split, segment)
    stats = {f"[StatsComponent].{name}": [value] * FRAMES for name, value in (("time_of_day", time_of_day), ("weather", weather))}
    save(split, "stats", {TIME: micros(), **stats, "[StatsComponent].location": ["location_sf"] * FRAMES}, segment)
    part = "[CameraCalibrationComponent]"
    mounts = [np.eye(4) for _ in CAMERAS]
    for mount, yaw in zip(mounts, (0, 45, -45, 90, -90), strict=True):
        mount[:3, :3] = cv2.Rodrigues(np.array([0, 0, np.radians(yaw)]))[0]
        mount[:3, 3] = 1.5, 0.0, 2.1
    columns = {
        f"{part}.intrinsic.f_u": [20.0] * 5,
        f"{part}.intrinsic.c_u": [12.0] * 5,
        f"{part}.height": [16] * 5,
        f"{part}.width": [24] * 5,
    }
    transforms = pa.array([mount.ravel().tolist() for mount in mounts], pa.list_(pa.float64(), 16))
    numbers = pa.array(list(CAMERAS.values()), pa.int8())
    save(split, "camera_calibration", {CAMERA: numbers, **columns, f"{part}.extrinsic.transform": transforms}, segment)
    return split


def read_all(config: WaymoConfig) -> list[Episode]:
    return [join(list(drive.episodes())) for drive in drives(config)]


def test_a_left_turn_is_positive(tmp_path: Path) -> None:
    [episode] = read_all(WaymoConfig(make_segment(tmp_path)))
    assert episode.drive_id == SEGMENT and episode.steps == FRAMES and episode.action_channels == ()
    assert [channel.name for channel in episode.telemetry_channels] == ["speed_mps", "yaw_rate_rps"]
    np.testing.assert_allclose(episode.telemetry, np.broadcast_to([SPEED, YAW_RATE], (FRAMES, 2)), rtol=1e-3)
    np.testing.assert_allclose(episode.timestamps_s, (micros() - BEGIN_US) / 1e6, atol=1e-6)
    x, y, yaw = left_turn(episode.timestamps_s, heading=0.0, origin=(0.0, 0.0))
    np.testing.assert_allclose([episode.truth[name] for name in ("x_m", "y_m", "yaw_rad")], [x, y, yaw], atol=1e-4)
    np.testing.assert_allclose(episode.frames["front"][:, 0, 0, 0], 8 * np.arange(FRAMES) + 1, atol=1)
    assert episode.captions[0].text == "rainy night"
    assert episode.labels == {"weather": "rain", "time_of_day": "night", "location": "location_sf"}


@pytest.mark.parametrize(
    "time_of_day, weather, text", [("Day", "Sunny", "sunny day"), ("Dawn/Dusk", "Sunny", "sunny dawn or dusk"), ("Night", "", "night")]
)
def test_captions_say_what_the_labels_say(tmp_path: Path, time_of_day: str, weather: str, text: str) -> None:
    make_segment(tmp_path, time_of_day=time_of_day, weather=weather)
    assert read_all(WaymoConfig(tmp_path, fps=5))[0].captions[0].text == text
    assert read_all(WaymoConfig(tmp_path, fps=5, caption="town"))[0].captions[0].text == "town"


def test_labels_that_are_missing_are_absent(tmp_path: Path) -> None:
    make_segment(tmp_path, "bad")
    edited("stats", "[StatsComponent].weather", lambda values: values.__setitem__(slice(None), [None] * FRAMES))(tmp_path)
    without("stats", "[StatsComponent].location")(tmp_path)
    [episode] = read_all(WaymoConfig(tmp_path))
    assert episode.labels == {"time_of_day": "night"} and episode.captions[0].text == "night"


def test_five_cameras_and_half_the_rate(tmp_path: Path) -> None:
    [episode] = read_all(WaymoConfig(make_segment(tmp_path), fps=5, cameras=tuple(reversed(CAMERAS))))
    assert list(episode.frames) == ["side_right", "side_left", "front_right", "front_left", "front"] and episode.steps == 12
    for name, number in CAMERAS.items():
        np.testing.assert_allclose(episode.frames[name][:, 0, 0, 0], 16 * np.arange(12) + number, atol=1)
    assert [episode.cameras[name].yaw_deg for name in CAMERAS] == [0, 45, -45, 90, -90]
    assert episode.cameras["front"].height_m == 2.1
    assert episode.cameras["front"].horizontal_fov_deg == pytest.approx(2 * np.degrees(np.arctan(12 / 20)), abs=0.1)


def test_cameras_may_be_named_in_capitals_and_stand_one_after_the_other(tmp_path: Path) -> None:
    """As in the genuine fragment; the order of rows in a file is not promised."""
    make_segment(tmp_path)
    table = pq.read_table(tmp_path / f"camera_image/{SEGMENT}.parquet").sort_by([(CAMERA, "ascending"), (TIME, "ascending")])
    capitals = pa.array([list(CAMERAS)[number - 1].upper() for number in table[CAMERA].to_pylist()])
    save(tmp_path, "camera_image", {TIME: table[TIME], CAMERA: capitals, IMAGE: table[IMAGE]})
    [episode] = read_all(WaymoConfig(tmp_path, cameras=("front", "side_left")))
    for name in ("front", "side_left"):
        np.testing.assert_allclose(episode.frames[name][:, 0, 0, 0], 8 * np.arange(FRAMES) + CAMERAS[name], atol=1)


def test_waymos_splits_are_kept_where_both_are_there(tmp_path: Path) -> None:
    for split, segment in (("training", "a"), ("validation", "b"), ("testing", "c")):
        make_segment(tmp_path / split, segment)
    found = {drive.drive_id: (drive.split, drive.steps) for drive in drives(WaymoConfig(tmp_path))}
    assert found == {"a": ("train", FRAMES), "b": ("val", FRAMES), "c": ("test", FRAMES)}
    assert [drive.split for drive in drives(WaymoConfig(tmp_path / "training", fps=5))] == [None]


def test_the_real_poses(tmp_path: Path) -> None:
    """Genuine poses with made-up pictures: the speed against steps between places, the path against its ends."""
    source = real_data("layouts/waymo_v2") / f"dataset/vehicle_pose/{SEGMENT}.parquet"
    table = pq.read_table(source)
    times = table[TIME].to_numpy()
    images = pa.array([jpeg(np.full((16, 24, 3), k, np.uint8)) for k in range(len(times))], pa.binary())
    save(tmp_path, "camera_image", {TIME: times, CAMERA: ["FRONT"] * len(times), IMAGE: images})
    (tmp_path / "vehicle_pose").mkdir()
    shutil.copyfile(source, tmp_path / f"vehicle_pose/{SEGMENT}.parquet")
    [episode] = read_all(WaymoConfig(tmp_path))
    assert episode.steps == 199 and episode.captions == () and episode.labels == {}
    places = np.array(table[POSE].to_pylist())[:, [3, 7]]
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1) / np.diff(times) * 1e6
    speed, yaw_rate = episode.telemetry.T
    np.testing.assert_allclose(np.abs(speed[1:-1]), (steps[1:] + steps[:-1]) / 2, atol=0.03)
    assert speed.min() > -0.1 and 1.5 < speed.max() < 2.5 and np.abs(speed[70:]).max() < 0.05  # it rolls to a stop and stands
    assert np.abs(yaw_rate).max() < 0.1
    end = [episode.truth[name][-1] for name in ("x_m", "y_m")]
    assert np.hypot(*end) == pytest.approx(np.linalg.norm(places[-1] - places[0]), abs=0.01) and end[0] > 0


def test_a_segment_never_sits_in_memory_whole(tmp_path: Path) -> None:
    """20 MB of two cameras in row groups of 2 MB, as Waymo writes them: at no chunk are more than two groups held."""
    rng = np.random.default_rng(0)
    noise = [jpeg(rng.integers(0, 256, (240, 320, 3), np.uint8)) for _ in range(20)]
    count = 20_000_000 // len(noise[0])
    path = tmp_path / "camera_image" / f"{SEGMENT}.parquet"
    path.parent.mkdir()
    images = pa.array([noise[k % 20] + b"\0" for k in range(count)], pa.binary())
    columns = {
        TIME: np.repeat(micros(count // 2 + 1), 2)[:count],
        CAMERA: pa.array([1 + k % 2 for k in range(count)], pa.int8()),
        IMAGE: images,
    }
    pq.write_table(pa.table(columns), path, row_group_size=20, use_dictionary=False)
    assert path.stat().st_size > 15e6
    del columns, images
    before, held = pa.total_allocated_bytes(), []
    [drive] = drives(WaymoConfig(tmp_path, size="8x16", cameras=("front", "front_left")))
    for _ in drive.episodes():
        held.append(pa.total_allocated_bytes() - before)
    assert len(held) >= 2 and max(held) < 5e6


def path_of(component: str) -> str:
    return f"{component}/bad.parquet"


def cut(component: str, share: float) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / path_of(component)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return change


def edited(component: str, column: str, edit: Callable[[list[Any]], object]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        table = pq.read_table(root / path_of(component))
        values = table[column].to_pylist()
        edit(values)
        index = table.column_names.index(column)
        pq.write_table(table.set_column(index, column, pa.array(values, table.schema.field(column).type)), root / path_of(component))

    return change


def without(component: str, column: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        table = pq.read_table(root / path_of(component))
        pq.write_table(table.drop_columns([column]), root / path_of(component))

    return change


@pytest.mark.parametrize(
    "damage, message",
    [
        (cut("camera_image", 0.0), r"camera_image/bad\.parquet: expected a Parquet file, got an empty, truncated or foreign one"),
        (cut("camera_image", 0.5), r"camera_image/bad\.parquet: expected a Parquet file, got an empty, truncated or foreign one"),
        (cut("vehicle_pose", 0.5), r"vehicle_pose/bad\.parquet: expected a Parquet file"),
        (cut("stats", 0.0), r"stats/bad\.parquet: expected a Parquet file"),
        (without("camera_image", IMAGE), r"camera_image/bad\.parquet: expected a column '\[CameraImageComponent\]\.image'"),
        (without("vehicle_pose", POSE), r"vehicle_pose/bad\.parquet: expected a column '\[VehiclePoseComponent\]"),
        (
            edited("camera_image", IMAGE, lambda v: v.__setitem__(50, v[50][:-9])),
            r"image' in row 50: expected a whole JPEG picture, got a truncated",
        ),
        (edited("camera_image", IMAGE, lambda v: v.__setitem__(50, None)), r"image' in row 50: expected a whole JPEG picture"),
        (edited("camera_image", IMAGE, lambda v: v.__setitem__(50, b"GIF89a")), r"image' in row 50: expected a whole JPEG picture"),
        (
            edited("camera_image", TIME, lambda v: v.__setitem__(50, v[0])),
            r"bad\.parquet: 'key\.frame_timestamp_micros' expected to rise, got",
        ),
        (edited("camera_image", TIME, lambda v: v.__setitem__(50, None)), r"'key\.frame_timestamp_micros' expected a value in every row"),
        (edited("camera_image", CAMERA, lambda v: v.__setitem__(slice(None), [2] * len(v))), r"expected pictures of front, got none"),
        (
            edited("vehicle_pose", POSE, lambda v: v[3].__setitem__(7, np.nan)),
            r"transform' expected 16 finite numbers a row, got nan or inf in row 3",
        ),
        (
            edited("vehicle_pose", TIME, lambda v: v.__setitem__(slice(9, 24), [v[8]] * 15)),
            r"vehicle_pose/bad\.parquet: .* expected within",
        ),
    ],
)
def test_a_broken_segment_is_named_and_the_others_come_through(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    root = tmp_path / "in"
    for segment in ("good", "bad"):
        make_segment(root, segment)
    damage(root)
    manifest = store_of(list(drives(WaymoConfig(root))), tmp_path / "out")
    assert [drive.drive_id for drive in manifest.drives] == ["good"]
    assert re.search(message, manifest.skipped["bad"]) and "\n" not in manifest.skipped["bad"]


def test_moments_without_all_cameras_and_poses_that_end_early_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_segment(tmp_path)
    save_poses(tmp_path, frames=20)
    [episode] = read_all(WaymoConfig(tmp_path))
    assert episode.steps == 20 and f"{SEGMENT}: left out 5 of 25 frames, outside the time of" in capsys.readouterr().err
    table = pq.read_table(tmp_path / f"camera_image/{SEGMENT}.parquet").slice(0, 5 * FRAMES - 3)  # the last moment has two cameras
    save(tmp_path, "camera_image", {name: table[name] for name in (TIME, CAMERA, IMAGE)})
    save_poses(tmp_path)
    [episode] = read_all(WaymoConfig(tmp_path, cameras=("front", "side_right")))
    assert episode.steps == 24 and f"{SEGMENT}: 24 of 25 moments have a picture of every camera" in capsys.readouterr().err


def test_a_segment_without_poses_is_frames_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_pictures(tmp_path)
    [episode] = read_all(WaymoConfig(tmp_path))
    assert episode.telemetry_channels == () and episode.truth == {} and episode.steps == FRAMES
    assert f"{SEGMENT}: no " in (said := capsys.readouterr().err) and "so frames only" in said


def test_a_broken_calibration_is_told_and_the_view_stays_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_segment(tmp_path, "bad")
    cut("camera_calibration", 0.4)(tmp_path)
    [episode] = read_all(WaymoConfig(tmp_path))
    assert episode.cameras["front"].horizontal_fov_deg is None
    assert "camera_calibration/bad.parquet: expected a Parquet file" in capsys.readouterr().err


def test_inputs_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--input .*none: no such folder"):
        list(drives(WaymoConfig(tmp_path / "none")))
    with pytest.raises(UserError, match=r"expected Waymo v2 segments .*, got none"):
        list(drives(WaymoConfig(tmp_path)))
    with pytest.raises(UserError, match="--fps: expected at most the source's 10"):
        WaymoConfig(tmp_path, fps=20)
    with pytest.raises(UserError, match=r"--cameras: expected names out of front, .*, got 'rear'"):
        WaymoConfig(tmp_path, cameras=("rear",))
