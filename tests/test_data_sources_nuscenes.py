import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from path_samples import SPEED, YAW_RATE, left_turn, quaternion, store_of
from real_data import real_data

from data.chunks import join
from data.episode import Episode
from data.errors import UserError
from data.sources.nuscenes import CAMERAS, NuscenesConfig, drives

PERIODS = np.tile([0.05, 0.1, 0.1, 0.1, 0.05, 0.1], 6)
"""Of a camera, in s: 12 pictures a second."""
BEGIN_S = 1532402927.612460
YAWS = {"front": 0, "front_left": 55, "front_right": -55, "back": 180, "back_left": 110, "back_right": -110}
"""Degrees, as nuScenes says that its cameras are mounted."""
WHEEL_RAD = 0.6


def save_rows(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


def mount(camera: str) -> list[float]:
    """A camera looks along its z, its x is to the right and its y down."""
    yaw = np.radians(YAWS[camera])
    right, forward = [np.sin(yaw), -np.cos(yaw), 0], [np.cos(yaw), np.sin(yaw), 0]
    return quaternion(np.column_stack([right, [0, 0, -1], forward])).tolist()


def make_root(
    root: Path, scenes: tuple[str, ...] = ("scene-0061",), cameras: tuple[str, ...] = ("front",), can: tuple[str, ...] = ()
) -> Path:
    """Scenes of 3 s that turn left; camera k of them looks 7 ms after camera k - 1."""
    tables = root / "v1.0-mini"
    rows: dict[str, list[Any]] = {name: [] for name in ("scene", "sample", "sample_data", "ego_pose", "log")}
    rows["sensor"] = [{"token": f"sensor-{name}", "channel": channel, "modality": "camera"} for name, channel in CAMERAS.items()]
    rows["calibrated_sensor"] = [
        {
            "token": f"mount-{name}",
            "sensor_token": f"sensor-{name}",
            "translation": [1.7, 0.0, 1.5],
            "rotation": mount(name),
            "camera_intrinsic": [[20.0, 0, 16.0], [0, 20.0, 9.0], [0, 0, 1]],
        }
        for name in CAMERAS
    ]
    for scene in scenes:
        rows["scene"].append({"token": scene, "log_token": "log", "name": scene, "description": "Turn left, rain"})
        rows["sample"].append({"token": f"sample-{scene}", "scene_token": scene, "timestamp": 0})
        for number, camera in enumerate(cameras):
            times = BEGIN_S + np.cumsum(PERIODS) - PERIODS[0] + 0.007 * number
            x, y, yaw = left_turn(times - 0.007 * number)
            x, y, yaw = x + 0.007 * number * SPEED * np.cos(yaw), y + 0.007 * number * SPEED * np.sin(yaw), yaw + YAW_RATE * 0.007 * number
            for k, time in enumerate(times):
                token, micros = f"{scene}-{camera}-{k}", round(time * 1e6)
                name = f"{'samples' if k % 6 == 0 else 'sweeps'}/{CAMERAS[camera]}/{token}.jpg"
                rows["sample_data"].append(
                    {
                        "token": token,
                        "sample_token": f"sample-{scene}",
                        "ego_pose_token": token,
                        "calibrated_sensor_token": f"mount-{camera}",
                        "timestamp": micros,
                        "height": 18,
                        "width": 32,
                        "filename": name,
                    }
                )
                turn = quaternion(cv2.Rodrigues(np.array([0, 0, yaw[k]]))[0]).tolist()
                rows["ego_pose"].append({"token": token, "timestamp": micros, "translation": [x[k], y[k], 0.0], "rotation": turn})
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / name), np.full((18, 32, 3), 6 * k + 2 * number + 10, np.uint8))
        make_can(root / "can_bus", scene, can)
    rows["log"].append({"token": "log", "location": "singapore-onenorth"})
    for name, table in rows.items():
        save_rows(tables / f"{name}.json", table)
    return root


def make_can(folder: Path, scene: str, messages: tuple[str, ...]) -> None:
    """The wheel is turned left at a steady rate, told in each message's own unit."""
    units = {"steeranglefeedback": ("value", 1.0, 0.01), "zoe_veh_info": ("steer_corrected", 180 / np.pi, 0.01)}
    units["vehicle_monitor"] = ("steering", 180 / np.pi, 0.5)
    for message in messages:
        key, unit, period = units[message]
        times = np.arange(-0.3, 3.6, period)
        rows = [{"utime": round((BEGIN_S + time) * 1e6), key: unit * WHEEL_RAD * time} for time in times]
        save_rows(folder / f"{scene}_{message}.json", rows)


def read_all(config: NuscenesConfig) -> list[Episode]:
    return [join(list(drive.episodes())) for drive in drives(config)]


def shown(frames: np.ndarray) -> np.ndarray:
    """The numbers in the pictures of the first camera."""
    return np.round((frames[:, 0, 0, 0].astype(float) - 10) / 6).astype(int)


def test_a_left_turn_is_positive(tmp_path: Path) -> None:
    [episode] = read_all(NuscenesConfig(make_root(tmp_path, can=("steeranglefeedback",))))
    assert episode.drive_id == "scene-0061" and episode.captions[0].text == "Turn left, rain"
    assert episode.labels == {"location": "singapore-onenorth"}
    assert [c.name for c in (*episode.telemetry_channels, *episode.action_channels)] == ["speed_mps", "yaw_rate_rps", "steering_wheel_rad"]
    np.testing.assert_allclose(episode.telemetry, np.broadcast_to([SPEED, YAW_RATE], (episode.steps, 2)), rtol=1e-3)
    np.testing.assert_allclose(episode.actions[:, 0], WHEEL_RAD * episode.timestamps_s, atol=1e-5)
    x, y, yaw = left_turn(episode.timestamps_s, heading=0.0, origin=(0.0, 0.0))
    np.testing.assert_allclose([episode.truth[name] for name in ("x_m", "y_m", "yaw_rad")], [x, y, yaw], atol=1e-4)


def test_twelve_pictures_a_second_become_ten(tmp_path: Path) -> None:
    """None twice, all in order, and times that are the pictures' own."""
    [episode] = read_all(NuscenesConfig(make_root(tmp_path)))
    times, numbers = np.cumsum(PERIODS) - PERIODS[0], shown(episode.frames["front"])
    assert episode.steps == 30 and (np.diff(numbers) > 0).all()
    np.testing.assert_allclose(episode.timestamps_s, times[numbers], atol=2e-6)
    assert np.abs(episode.timestamps_s - np.arange(30) / 10).max() < 0.055
    [episode] = read_all(NuscenesConfig(tmp_path, fps=2, caption="rain"))
    np.testing.assert_array_equal(shown(episode.frames["front"]), np.arange(0, 36, 6))
    assert episode.captions[0].text == "rain"


def test_key_frames_alone_are_two_a_second(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_root(tmp_path)
    for path in (root / "sweeps").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(UserError, match=r"scene-0061, pictures of CAM_FRONT: --fps: expected at most the source's 2, got 10"):
        read_all(NuscenesConfig(root))
    assert "scene-0061: 30 of 36 pictures of CAM_FRONT are missing, " in capsys.readouterr().err
    [episode] = read_all(NuscenesConfig(root, fps=2))
    np.testing.assert_array_equal(shown(episode.frames["front"]), np.arange(0, 36, 6))
    np.testing.assert_allclose(episode.telemetry[:, 0], SPEED, rtol=1e-3)  # poses of the missing pictures count


def test_missing_pictures_cut_the_scene(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    for k in (20, 21):
        next(root.glob(f"s*/CAM_FRONT/scene-0061-front-{k}.jpg")).unlink()
    first, second = read_all(NuscenesConfig(root))
    assert (first.drive_id, second.drive_id) == ("scene-0061-run000", "scene-0061-run001")
    assert shown(first.frames["front"]).max() <= 19 and shown(second.frames["front"])[0] == 22
    assert second.truth["x_m"][0] == second.truth["yaw_rad"][0] == 0


def test_six_cameras_show_the_same_moments(tmp_path: Path) -> None:
    [episode] = read_all(NuscenesConfig(make_root(tmp_path, cameras=tuple(CAMERAS)), cameras=(",".join(CAMERAS),)))
    assert list(episode.frames) == list(CAMERAS) and episode.steps == 30
    for number, name in enumerate(CAMERAS):
        apart = episode.frames[name][:, 0, 0, 0].astype(int) - episode.frames["front"][:, 0, 0, 0] - 2 * number
        assert np.abs(apart).max() <= 7, name  # the same picture's number or the next one's
    assert {name: camera.yaw_deg for name, camera in episode.cameras.items()} == pytest.approx(YAWS, abs=0.1)
    assert episode.cameras["front"].horizontal_fov_deg == pytest.approx(2 * np.degrees(np.arctan(16 / 20)), abs=0.1)
    assert episode.cameras["back"].height_m == 1.5 and episode.cameras["back"].pitch_deg == pytest.approx(0, abs=0.1)
    assert len(pickle.dumps(next(drives(NuscenesConfig(tmp_path))))) < 50_000  # a drive carries its own part of the tables alone


@pytest.mark.parametrize(
    "messages, tolerance",
    [(("zoe_veh_info",), 1e-4), (("vehicle_monitor",), 1e-4), (("vehicle_monitor", "steeranglefeedback", "zoe_veh_info"), 1e-4)],
)
def test_every_kind_of_steering_message(tmp_path: Path, messages: tuple[str, ...], tolerance: float) -> None:
    root = make_root(tmp_path, can=messages)
    [episode] = read_all(NuscenesConfig(root, steering_ratio=15))
    assert episode.action_channels[0].name == "steering_rad"
    np.testing.assert_allclose(episode.actions[:, 0], WHEEL_RAD * episode.timestamps_s / 15, atol=tolerance)


def test_the_real_sample(capsys: pytest.CaptureFixture[str]) -> None:
    """Six genuine cameras of one moment; the speed is the way between the seven poses, added up here."""
    root = real_data("layouts/nuscenes")
    [episode] = read_all(NuscenesConfig(root, cameras=tuple(CAMERAS)))
    assert episode.drive_id == "scene-0061" and episode.steps == 1 and len(episode.frames) == 6
    assert episode.captions[0].text == "Parked truck, construction, intersection, turn left, following a van"
    poses = sorted(json.loads((root / "v1.0-test/ego_pose.json").read_text()), key=lambda pose: pose["timestamp"])
    places = np.array([pose["translation"] for pose in poses])
    way, duration = np.linalg.norm(np.diff(places, axis=0), axis=1).sum(), (poses[-1]["timestamp"] - poses[0]["timestamp"]) / 1e6
    assert episode.telemetry[0, 0] == pytest.approx(way / duration, abs=0.05) and abs(episode.telemetry[0, 1]) < 0.01
    assert {name: camera.yaw_deg for name, camera in episode.cameras.items()} == pytest.approx(YAWS, abs=3)
    assert all(1.4 < (camera.height_m or 0) < 1.7 for camera in episode.cameras.values())
    assert episode.cameras["front"].horizontal_fov_deg == pytest.approx(64.5, abs=0.5)
    means = {name: round(float(frames.mean())) for name, frames in episode.frames.items()}
    assert len(set(means.values())) > 3 and all(frames.std() > 20 for frames in episode.frames.values())
    assert capsys.readouterr().err == ""


def edited(table: str, edit: Callable[[list[Any]], object]) -> Callable[[Path], None]:
    """Changes rows of a table, or of a CAN message's file."""

    def change(root: Path) -> None:
        path = root / (f"v1.0-mini/{table}.json" if "/" not in table else table)
        rows = json.loads(path.read_text())
        edit(rows)
        path.write_text(json.dumps(rows))

    return change


CAN = "can_bus/scene-0002_steeranglefeedback.json"
AT = 36 + 5
"""A row of the second scene."""


def cut_picture(root: Path) -> None:
    path = next(root.glob("samples/CAM_FRONT/scene-0002-*.jpg"))
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    "damage, message",
    [
        (cut_picture, r"samples/CAM_FRONT/scene-0002-.*\.jpg: expected a whole picture, got a truncated file"),
        (
            edited("ego_pose", lambda rows: rows[AT].update(translation=[np.nan, 0, 0])),
            r"ego_pose\.json: 'translation' expected finite numbers",
        ),
        (
            edited("ego_pose", lambda rows: rows[AT].update(rotation=[0, 0, 0, 0])),
            r"ego_pose\.json, scene-0002: quaternion 5 expected the length 1",
        ),
        (
            edited("ego_pose", lambda rows: rows[AT].update(rotation=["x"])),
            r"ego_pose\.json: expected translations of 3 and rotations of 4",
        ),
        (
            edited("ego_pose", lambda rows: rows.__delitem__(slice(36, None))),
            r"ego_pose\.json, scene-0002: expected at least 2 poses, got 0",
        ),
        (edited("ego_pose", lambda rows: rows.__delitem__(slice(AT, AT + 9))), r"ego_pose\.json: .* expected within 0\.05 s of"),
        (
            edited("sample_data", lambda rows: rows[AT].update(timestamp=rows[AT - 1]["timestamp"])),
            r"scene-0002, pictures of CAM_FRONT: timestamps expected to rise",
        ),
        (
            edited("sample_data", lambda rows: rows[AT].update(filename="../../secret.jpg")),
            r"scene-0002: sample_data\.json, 'filename': expected a path inside .*, got '\.\./\.\./secret\.jpg'",
        ),
        (
            edited("sample_data", lambda rows: rows.__delitem__(slice(36, None))),
            r"scene-0002: expected pictures of CAM_FRONT in .*, got none",
        ),
        (
            edited(CAN, lambda rows: rows[7].update(value=np.nan)),
            r"scene-0002_steeranglefeedback\.json: 'value' expected a finite number, got nan",
        ),
        (edited(CAN, lambda rows: rows[7].update(utime=0)), r"scene-0002_steeranglefeedback\.json: 'time' expected to rise, got 0\.000 s"),
        (edited(CAN, lambda rows: rows[7].pop("value")), r"scene-0002_steeranglefeedback\.json: expected numbers 'utime' and 'value'"),
        (edited(CAN, lambda rows: rows.clear()), r"scene-0002_steeranglefeedback\.json: expected a list of rows, got an empty one"),
        (lambda root: (root / CAN).write_text(""), r"scene-0002_steeranglefeedback\.json: expected JSON, got an empty, truncated"),
        (edited(CAN, lambda rows: rows.__delitem__(slice(100, 200))), r"steeranglefeedback\.json: value expected within 0\.1 s of"),
    ],
)
def test_a_broken_scene_is_named_and_the_others_come_through(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    root = make_root(tmp_path / "in", scenes=("scene-0001", "scene-0002"), can=("steeranglefeedback",))
    damage(root)
    manifest = store_of(list(drives(NuscenesConfig(root))), tmp_path / "out")
    assert [drive.drive_id for drive in manifest.drives] == ["scene-0001"]
    [reason] = manifest.skipped.values()
    assert re.search(message, reason) and "\n" not in reason


def test_a_scene_whose_name_leads_out_of_the_can_bus_folder(tmp_path: Path) -> None:
    root = make_root(tmp_path, can=("steeranglefeedback",))
    edited("scene", lambda rows: rows[0].update(name="../../elsewhere/scene-0061"))(root)
    with pytest.raises(UserError, match=r"scene\.json, 'name': expected a path inside .*can_bus, got '\.\./\.\./elsewhere"):
        read_all(NuscenesConfig(root))


def test_steering_that_is_shorter_or_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_root(tmp_path, can=("steeranglefeedback",))
    path = root / "can_bus/scene-0061_steeranglefeedback.json"
    save_rows(path, json.loads(path.read_text())[:200])  # to 1.7 s
    [episode] = read_all(NuscenesConfig(root))
    assert episode.timestamps_s[-1] < 1.8 and "scene-0061: left out 12 of 30 frames, outside the time of" in capsys.readouterr().err
    path.unlink()
    [episode] = read_all(NuscenesConfig(root))
    assert episode.action_channels == () and "scene-0061: no steering in" in capsys.readouterr().err


@pytest.mark.parametrize("table", ["scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor"])
def test_a_damaged_table_is_named(tmp_path: Path, table: str) -> None:
    path = make_root(tmp_path) / f"v1.0-mini/{table}.json"
    whole = path.read_text()
    for text, message in (
        ("", "expected JSON, got an empty, truncated or foreign file"),
        (whole[: len(whole) // 2], "expected JSON, got an empty, truncated or foreign file"),
        ("[]", "expected a list of rows, got an empty one"),
        ("{}", "expected a list of rows, got dict"),
        ('[{"token": 3}]', "row 0 expected '.*' of the usual kind, got {'token': 3}"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=rf"{table}\.json: {message}"):
            list(drives(NuscenesConfig(tmp_path)))
    path.unlink()
    with pytest.raises(UserError, match=rf"{table}\.json"):
        list(drives(NuscenesConfig(tmp_path)))


def test_inputs_that_are_none_or_several(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--input .*none: no such folder"):
        list(drives(NuscenesConfig(tmp_path / "none")))
    root = make_root(tmp_path)
    save_rows(root / "v1.0-test/scene.json", [])
    with pytest.raises(UserError, match=r"expected one v1\.0-\*/scene\.json, got v1\.0-mini, v1\.0-test; --version names one"):
        list(drives(NuscenesConfig(root)))
    assert len(list(drives(NuscenesConfig(root, version="v1.0-mini")))) == 1
    with pytest.raises(UserError, match=r"--cameras: expected names out of front, .*, got 'CAM_FRONT'"):
        NuscenesConfig(root, cameras=("CAM_FRONT",))
