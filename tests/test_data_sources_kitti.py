import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from path_samples import SPEED, YAW_RATE, left_turn, store_of
from real_data import real_data

from data.chunks import join
from data.episode import Episode
from data.errors import UserError
from data.motion import ecef_of, ground_axes
from data.sources.kitti import KittiConfig, drives

FRAMES = 40
DRIVE = "2011_09_26_drive_0001_sync"


def picture(k: int, camera: int = 2) -> np.ndarray:
    return np.full((24, 80, 3), 5 * k + camera, np.uint8)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def stamps(times_s: np.ndarray) -> str:
    """As KITTI writes them, in nanoseconds."""
    begin = np.datetime64("2011-09-26T13:02:25.961661696", "ns")
    return "".join(f"{begin + np.timedelta64(round(time * 1e9), 'ns')}\n".replace("T", " ") for time in times_s)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def oxts_row(lat: float, lon: float, yaw: float, vf: float, af: float, wz: float) -> str:
    row = np.arange(30.0)
    row[[0, 1, 2, 5, 8, 14, 19]] = lat, lon, 116.0, yaw, vf, af, wz
    return " ".join(repr(float(value)) for value in row) + "\n"


def make_raw(root: Path, drive: str = DRIVE, cameras: tuple[int, ...] = (2,), oxts: bool = True) -> Path:
    """A drive that turns left in Karlsruhe; oxts ticks 3 ms after the cameras, both every 103.1 ms."""
    folder = root / "2011_09_26" / drive
    times = np.arange(FRAMES) * 0.1031
    for camera in cameras:
        write(folder / f"image_{camera:02d}/timestamps.txt", stamps(times))
        for k in range(FRAMES):
            save(folder / f"image_{camera:02d}/data/{k:010d}.png", picture(k, camera))
    if oxts:
        write(folder / "oxts/timestamps.txt", stamps(times + 0.003))
        east, north, yaw = left_turn(times + 0.003)
        axes = ground_axes(ecef_of(np.array([49.0]), np.array([8.4]), np.array([116.0]))[0])
        east_step = axes[0] @ np.diff(ecef_of(np.full(2, 49.0), np.array([8.4, 8.4001]), np.full(2, 116.0)), axis=0)[0]
        north_step = axes[1] @ np.diff(ecef_of(np.array([49.0, 49.0001]), np.full(2, 8.4), np.full(2, 116.0)), axis=0)[0]
        for k in range(FRAMES):
            row = oxts_row(49 + 1e-4 * north[k] / north_step, 8.4 + 1e-4 * east[k] / east_step, yaw[k], SPEED, 0.01 * k, YAW_RATE)
            write(folder / f"oxts/data/{k:010d}.txt", row)
    return folder


def make_odometry(root: Path, name: str, frames: int = FRAMES, poses: bool = True) -> Path:
    """A sequence that turns left: z forward, x to the right, so the camera turns about its downward axis by less and less."""
    folder = root / "sequences" / name
    times = np.arange(frames) * 0.1037
    write(folder / "times.txt", "".join(f"{time:.6e}\n" for time in times))
    for k in range(frames):
        save(folder / f"image_2/{k:06d}.png", picture(k))
    if poses:
        forward, left, yaw = left_turn(times, heading=0.0, origin=(0.0, 0.0))
        rows = []
        for x, y, angle in zip(forward, left, yaw, strict=True):
            turn = cv2.Rodrigues(np.array([0.0, -angle, 0.0]))[0]  # y points down
            rows.append(" ".join(f"{value:.9e}" for value in np.column_stack([turn, [-y, 0.0, x]]).ravel()))
        write(root / "poses" / f"{name}.txt", "\n".join(rows) + "\n")
    return folder


def read_all(config: KittiConfig) -> list[Episode]:
    return [join(list(drive.episodes())) for drive in drives(config)]


def names(episode: Episode) -> list[str]:
    return [channel.name for channel in (*episode.telemetry_channels, *episode.action_channels)]


def test_a_left_turn_of_a_raw_drive_is_positive(tmp_path: Path) -> None:
    folder = make_raw(tmp_path)
    for path in (tmp_path, folder.parent, folder):
        [episode] = read_all(KittiConfig(path, caption="town"))
        assert episode.drive_id == DRIVE and episode.steps == FRAMES  # no frame is dropped or doubled at 9.7 frames a second
        assert names(episode) == ["speed_mps", "yaw_rate_rps", "acceleration_mps2"]
        np.testing.assert_array_equal(episode.frames["front"][:, 0, 0, 0], 5 * np.arange(FRAMES) + 2)
        np.testing.assert_allclose(episode.timestamps_s, np.arange(FRAMES) * 0.1031, atol=1e-6)
        np.testing.assert_allclose(episode.telemetry, np.broadcast_to([SPEED, YAW_RATE], (FRAMES, 2)), rtol=1e-6)
        later = 0.01 * (np.arange(FRAMES) - 0.003 / 0.1031)
        np.testing.assert_allclose(episode.actions[1:, 0], later[1:], atol=1e-5)  # interpolated to the pictures' times
        np.testing.assert_allclose(episode.truth["yaw_rad"][-1], YAW_RATE * (episode.timestamps_s[-1] - 0.003), atol=1e-5)
        x, y, _ = left_turn(episode.timestamps_s, heading=0.0, origin=(0.0, 0.0))
        np.testing.assert_allclose(episode.truth["x_m"], x, atol=0.03)
        np.testing.assert_allclose(episode.truth["y_m"], y, atol=0.03)


def test_a_left_turn_of_a_sequence_is_positive(tmp_path: Path) -> None:
    folder = make_odometry(tmp_path, "07")
    for path in (tmp_path, tmp_path / "sequences", folder):
        [episode] = read_all(KittiConfig(path))
        assert episode.drive_id == "sequence_07" and episode.steps == FRAMES
        assert names(episode) == ["speed_mps", "yaw_rate_rps", "acceleration_mps2"]
        np.testing.assert_allclose(episode.telemetry, np.broadcast_to([SPEED, YAW_RATE], (FRAMES, 2)), rtol=2e-3)
        np.testing.assert_allclose(episode.actions, 0, atol=0.1)
        x, y, yaw = left_turn(episode.timestamps_s, heading=0.0, origin=(0.0, 0.0))
        np.testing.assert_allclose([episode.truth[name] for name in ("x_m", "y_m", "yaw_rad")], [x, y, yaw], atol=1e-4)


def test_real_poses_give_the_speed_and_yaw_rate_that_came_with_them(tmp_path: Path) -> None:
    """Genuine poses of sequence 01, whose speeds and (right-positive) yaw rates were written beside them."""
    rows = np.genfromtxt(real_data("real/kitti_odom_gray_s1") / "telemetry.csv", delimiter=",", names=True)
    folder = make_odometry(tmp_path, "01", frames=len(rows))
    write(folder / "times.txt", "".join(f"{time}\n" for time in rows["t"]))
    poses = [np.column_stack([cv2.Rodrigues(np.array([0.0, row["yaw_right_rad"], 0.0]))[0], [row["x"], 0, row["z"]]]) for row in rows]
    write(tmp_path / "poses/01.txt", "\n".join(" ".join(map(str, pose.ravel())) for pose in poses))
    [episode] = read_all(KittiConfig(tmp_path))
    np.testing.assert_allclose(episode.telemetry[1:-1, 0], (rows["v_mps"][1:-1] + rows["v_mps"][2:]) / 2, atol=0.1)
    np.testing.assert_allclose(
        episode.telemetry[1:-1, 1], -(rows["yaw_rate_right_rps"][1:-1] + rows["yaw_rate_right_rps"][2:]) / 2, atol=5e-3
    )
    np.testing.assert_allclose(episode.truth["x_m"], rows["z"], atol=1e-3)


def test_the_real_drive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Genuine clocks and calibration, and the one oxts file that is there."""
    source = real_data("layouts/kitti_raw")
    shutil.copytree(source / DRIVE, tmp_path / DRIVE, copy_function=shutil.copyfile)
    date = tmp_path / DRIVE / "2011_09_26"
    for folder in (date, *date.rglob("*")):
        folder.chmod(0o755)
    shutil.copyfile(source / "2011_09_26_calib/2011_09_26/calib_cam_to_cam.txt", date / "calib_cam_to_cam.txt")
    for k in range(108):
        save(date / DRIVE / f"image_02/data/{k:010d}.png", np.full((75, 248, 3), 2 * k, np.uint8))
    [episode] = read_all(KittiConfig(tmp_path, size="32x64"))
    said = capsys.readouterr().err
    assert f"{DRIVE}: left out 107 of 108 frames, outside the time of" in said and "oxts" in said
    np.testing.assert_allclose(episode.telemetry[0], [13.172716663769, -0.018809330937153], rtol=0.1)
    assert episode.actions[0, 0] == pytest.approx(-0.34030092211055, rel=0.1)
    # P_rect_02 has f = 721.5 px, and 750 of 1242 columns stay at 1:2
    assert episode.cameras["front"].horizontal_fov_deg == pytest.approx(2 * np.degrees(np.arctan(375 / 721.5)), abs=0.2)
    shutil.rmtree(date / DRIVE / "oxts")
    [episode] = read_all(KittiConfig(tmp_path, size="32x64"))
    np.testing.assert_array_equal(episode.frames["front"][:, 0, 0, 0], 2 * np.arange(108))
    steps = np.diff(episode.timestamps_s)
    assert steps.min() > 0.1029 and steps.max() < 0.1034
    assert names(episode) == [] and episode.truth == {} and f"{DRIVE}: has no oxts, so frames only" in capsys.readouterr().err


def test_several_cameras(tmp_path: Path) -> None:
    make_raw(tmp_path, cameras=(0, 2, 3))
    [episode] = read_all(KittiConfig(tmp_path, cameras=("front,image_03", "image_00")))
    assert list(episode.frames) == ["front", "image_03", "image_00"]
    for camera, number in (("front", 2), ("image_03", 3), ("image_00", 0)):
        np.testing.assert_array_equal(episode.frames[camera][:, 0, 0, 0], 5 * np.arange(FRAMES) + number)
    for asked, message in ((("back",), "got 'back'"), (("front", "front"), "got 'front' twice")):
        with pytest.raises(UserError, match=f"--cameras: expected .*{message}"):
            KittiConfig(tmp_path, cameras=asked)


def test_missing_pictures_cut_the_drive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_raw(tmp_path)
    for k in (15, 16):
        (folder / f"image_02/data/{k:010d}.png").unlink()
    first, second = read_all(KittiConfig(tmp_path))
    assert (first.drive_id, first.steps, second.drive_id, second.steps) == (f"{DRIVE}-run000", 15, f"{DRIVE}-run001", 23)
    assert second.frames["front"][0, 0, 0, 0] == 5 * 17 + 2 and second.truth["x_m"][0] == second.truth["yaw_rad"][0] == 0
    assert "image_02 has 38 pictures, timestamps.txt 40 times; the 38 that have both are kept" in capsys.readouterr().err


def test_lengths_that_differ_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_raw(tmp_path)
    folder = tmp_path / "2011_09_26" / DRIVE
    for k in range(30, FRAMES):
        (folder / f"oxts/data/{k:010d}.txt").unlink()
    [episode] = read_all(KittiConfig(tmp_path))
    assert episode.steps == 30 and f"{DRIVE}: left out 10 of 40 frames, outside the time of" in capsys.readouterr().err
    write(folder / "image_02/timestamps.txt", stamps(np.arange(20) * 0.1031))
    [episode] = read_all(KittiConfig(tmp_path))
    assert episode.steps == 20 and "has 40 pictures, timestamps.txt 20 times; the 20 that have both" in capsys.readouterr().err


def test_a_sequence_without_poses_is_frames_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_odometry(tmp_path, "11", poses=False)
    [episode] = read_all(KittiConfig(tmp_path))
    assert names(episode) == [] and "sequence_11: has no poses, so frames only" in capsys.readouterr().err


def replace_line(name: str, number: int, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines()
        lines[number] = text
        (folder / name).write_text("\n".join(lines) + "\n")

    return change


def replace_number(place: int, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "oxts/data/0000000007.txt"
        row = path.read_text().split()
        row[place] = text
        path.write_text(" ".join(row))

    return change


def cut_picture(folder: Path) -> None:
    path = folder / "image_02/data/0000000009.png"
    path.write_bytes(path.read_bytes()[:40])


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (cut_picture, r"image_02/data/0000000009\.png: expected a whole picture, got a truncated file"),
    (lambda f: shutil.rmtree(f / "image_02/data"), r"image_02/data: no such folder"),
    (lambda f: (f / "image_02/timestamps.txt").unlink(), r"image_02/timestamps\.txt: no such file"),
    (lambda f: (f / "image_02/timestamps.txt").write_text(""), r"image_02/timestamps\.txt: expected a time a line, got an empty file"),
    (replace_line("image_02/timestamps.txt", 6, "nan"), r"image_02/timestamps\.txt: line 7 expected a time, got 'nan'"),
    (replace_line("image_02/timestamps.txt", 6, ""), r"image_02/timestamps\.txt: line 7 expected a time, got ''"),
    (replace_line("image_02/timestamps.txt", 6, stamps(np.zeros(1)).strip()), r"image_02/timestamps\.txt: timestamps expected to rise"),
    (replace_line("oxts/timestamps.txt", 6, stamps(np.zeros(1)).strip()), r"oxts/timestamps\.txt: 'time' expected to rise"),
    (lambda f: (f / "oxts/timestamps.txt").unlink(), r"oxts/timestamps\.txt: no such file"),
    (lambda f: shutil.rmtree(f / "oxts/data"), r"oxts/data: expected a file a time in timestamps\.txt, got none"),
    (replace_number(8, "nan"), r"oxts/data/0000000007\.txt: 'vf' expected a finite number, got nan"),
    (replace_number(19, "-inf"), r"oxts/data/0000000007\.txt: 'wz' expected a finite number, got -inf"),
    (replace_number(3, "roll"), r"oxts/data/0000000007\.txt: line 1 expected 30 numbers, got"),
    (lambda f: (f / "oxts/data/0000000007.txt").write_text(""), r"oxts/data/0000000007\.txt: line 1 expected 30 numbers, got ''"),
    (lambda f: (f / "oxts/data/0000000007.txt").write_bytes(b"\xff\x00"), r"0000000007\.txt: expected lines of text, got a foreign file"),
]


@pytest.mark.parametrize("damage, message", BROKEN)
def test_a_broken_drive_is_named_and_the_others_come_through(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    whole, broken = "2011_09_26_drive_0001_sync", "2011_09_26_drive_0002_sync"
    make_raw(tmp_path / "in", whole)
    damage(make_raw(tmp_path / "in", broken))
    manifest = store_of(list(drives(KittiConfig(tmp_path / "in"))), tmp_path / "out")
    assert [drive.drive_id for drive in manifest.drives] == [whole]
    assert re.search(message, manifest.skipped[broken]) and "\n" not in manifest.skipped[broken]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("poses/03.txt", "1 0 0 0 0 1 0 0 0 0 1\n", r"poses/03\.txt: line 1 expected 12 numbers"),
        ("poses/03.txt", "nan 0 0 0 0 1 0 0 0 0 1 0\n" * 2, r"poses/03\.txt: line 1 expected finite numbers, got a pose with nan or inf"),
        ("poses/03.txt", "", r"poses/03\.txt: expected at least 2 poses, got 0"),
        ("sequences/03/times.txt", "0.0\n0.1\n0.05\n", r"times\.txt: timestamps expected to rise, got 0\.050 s after 0\.100 s at frame 2"),
        ("sequences/03/times.txt", "one\n", r"times\.txt: line 1 expected a time, got 'one'"),
    ],
)
def test_a_broken_sequence_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    make_odometry(tmp_path, "03")
    write(tmp_path / name, text)
    with pytest.raises(UserError, match=message):
        read_all(KittiConfig(tmp_path))


def test_a_broken_calibration_is_told_and_the_view_stays_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_raw(tmp_path)
    write(folder.parent / "calib_cam_to_cam.txt", "P_rect_02: 7.2e2 zero\n")
    [episode] = read_all(KittiConfig(tmp_path))
    assert episode.cameras["front"].horizontal_fov_deg is None
    assert "calib_cam_to_cam.txt: expected the projection of camera 2, got another text" in capsys.readouterr().err


def test_inputs_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--input .*none: no such folder"):
        list(drives(KittiConfig(tmp_path / "none")))
    with pytest.raises(UserError, match=r"expected KITTI raw drives .* got none"):
        list(drives(KittiConfig(tmp_path)))
    make_raw(tmp_path)
    with pytest.raises(UserError, match=r"timestamps\.txt: --fps: expected at most the source's 9\.7, got 20"):
        read_all(KittiConfig(tmp_path, fps=20))
