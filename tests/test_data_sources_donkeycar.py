import json
import shutil
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from real_data import real_data

from data.chunks import join
from data.errors import UserError
from data.sources.donkeycar import DonkeycarConfig, drives


def raw_rows(tub: Path) -> list[dict]:
    return [json.loads(line) for line in (tub / "catalog_0.catalog").read_text().splitlines()]


@pytest.fixture()
def tub(tmp_path: Path) -> Path:
    """The first 60 rows of the genuine tub, to be damaged."""
    source = real_data("real/donkeycar_tub")
    target = tmp_path / "tub"
    (target / "images").mkdir(parents=True)
    shutil.copy(source / "manifest.json", target)
    rows = raw_rows(source)[:60]
    (target / "catalog_0.catalog").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        shutil.copy(source / "images" / row["cam/image_array"], target / "images")
    return target


def edit_manifest(tub: Path, **changes: object) -> None:
    lines = (tub / "manifest.json").read_text().splitlines()
    lines[-1] = json.dumps(json.loads(lines[-1]) | changes)
    (tub / "manifest.json").write_text("\n".join(lines) + "\n")


def test_the_real_tub(capsys: pytest.CaptureFixture[str]) -> None:
    path = real_data("real/donkeycar_tub")
    [drive] = drives(DonkeycarConfig(path, source_fps=20, caption="indoor track"))
    episode = join(list(drive.episodes()))
    rows = raw_rows(path)[::2]
    assert (drive.drive_id, drive.steps, episode.steps, episode.fps) == ("donkeycar_tub", 500, 500, 10.0)
    assert [channel.name for channel in episode.action_channels] == ["steering_norm", "throttle_norm"]
    np.testing.assert_allclose(episode.actions[:, 0], [-row["user/angle"] for row in rows], atol=1e-6)  # left is positive here
    np.testing.assert_allclose(episode.actions[:, 1], [row["user/throttle"] for row in rows], atol=1e-6)
    np.testing.assert_allclose(np.diff(episode.timestamps_s), 0.1)
    assert episode.frames["front"].shape == (500, 64, 128, 3)
    assert episode.telemetry_channels == () and episode.captions[0].text == "indoor track"
    assert "11 of 1000 pictures equal the one before; kept" in capsys.readouterr().err


def test_the_scene_moves_right_when_the_car_steers_left() -> None:
    """The sign, read from the pictures: the far part of the scene follows the steering after about 0.2 s."""
    [drive] = drives(DonkeycarConfig(real_data("real/donkeycar_tub"), source_fps=20, fps=20))
    episode = join(list(drive.episodes()))
    far = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[:24].astype(np.float32) for frame in episode.frames["front"]]
    window = cv2.createHanningWindow((128, 24), cv2.CV_32F)
    moved = np.array([cv2.phaseCorrelate(before, after, window)[0][0] for before, after in pairwise(far)])
    moved, steering = moved[4:], episode.actions[: len(moved) - 4, 0]
    assert np.corrcoef(moved, steering)[0, 1] > 0.85


def test_the_rate_must_be_told() -> None:
    with pytest.raises(UserError, match=r"--source-fps: .* timestamps in .* are not capture times"):
        list(drives(DonkeycarConfig(real_data("real/donkeycar_tub"))))
    with pytest.raises(UserError, match="--fps: expected at most the source's 20, got 30"):
        DonkeycarConfig(Path("tub"), source_fps=20, fps=30)


def test_deleted_rows_cut_the_drive(tub: Path) -> None:
    edit_manifest(tub, deleted_indexes=[20, 21, 22, 50])
    found = list(drives(DonkeycarConfig(tub, source_fps=20)))
    assert [drive.drive_id for drive in found] == ["tub-run000", "tub-run001"]
    first, second = (join(list(drive.episodes())) for drive in found)
    assert (first.steps, second.steps) == (10, 19)
    assert second.timestamps_s[0] == pytest.approx(23 / 20)
    np.testing.assert_allclose(second.actions[0, 0], -raw_rows(tub)[23]["user/angle"], atol=1e-6)


def test_broken_rows_are_reported_and_left_out(tub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tub / "images"
    (images / "7_cam_image_array_.jpg").unlink()
    cut = images / "31_cam_image_array_.jpg"
    cut.write_bytes(cut.read_bytes()[:900])
    lines = (tub / "catalog_0.catalog").read_text().splitlines()
    lines[44] = lines[44][:50]
    lines[55] = json.dumps(json.loads(lines[55]) | {"user/angle": float("nan")})
    (tub / "catalog_0.catalog").write_text("\n".join(lines))
    [drive] = drives(DonkeycarConfig(tub, source_fps=20))
    episode = join(list(drive.episodes()))
    assert episode.steps == 30
    said = capsys.readouterr().err
    for text in ("7_cam_image_array_.jpg: no such file", "31_cam_image_array_.jpg: expected a whole", "row 45", "row 56", "got nan"):
        assert text in said


@pytest.mark.parametrize("text", ["", '["a"]\n', '{"paths": 3}\n', "\n\n{", "\x00\x01"])
def test_a_damaged_manifest_is_named(tub: Path, text: str) -> None:
    (tub / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json: expected JSON lines"):
        list(drives(DonkeycarConfig(tub, source_fps=20)))


def test_files_outside_the_tub_are_not_read(tub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = raw_rows(tub)
    rows[3]["cam/image_array"] = "../../../secret.jpg"
    (tub / "catalog_0.catalog").write_text("".join(json.dumps(row) + "\n" for row in rows))
    list(drives(DonkeycarConfig(tub, source_fps=20)))
    assert "row 4: expected a file inside" in capsys.readouterr().err
    edit_manifest(tub, paths=["../../elsewhere.catalog"])
    with pytest.raises(UserError, match="expected a file inside"):
        list(drives(DonkeycarConfig(tub, source_fps=20)))


def test_what_is_no_tub_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="expected a donkeycar v2 tub"):
            list(drives(DonkeycarConfig(path, source_fps=20)))
