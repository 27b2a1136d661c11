"""Generation: files that the seed decides, contexts of every kind, and mistakes that leave nothing behind."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from world_samples import column_episode

from data.errors import UserError
from data.store import EpisodeStore
from data.video import VideoWriter, decode, probe
from worldgpt.context import read_context, read_log
from worldgpt.generate import generate, output_paths
from worldgpt.generate_config import GenerateConfig
from worldgpt.overlay import STRIP_ROWS, draw_overlay
from worldgpt.pipeline import WorldGPTPipeline

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pipeline(trained: Path) -> WorldGPTPipeline:
    return WorldGPTPipeline.from_pretrained(trained, device="cpu")


@pytest.fixture
def make(trained: Path, tmp_path: Path):
    def run(**changes: object) -> list[Path]:
        values = {"checkpoint": str(trained), "frames": 5, "output": str(tmp_path / "new" / "out.mp4"), "prompt": ("sunny day",), **changes}
        return generate(GenerateConfig(**values))  # type: ignore[arg-type]

    return run


def frames(path: Path) -> np.ndarray:
    return np.stack([frame for _, frame in decode(path)])


def test_the_same_seed_makes_the_same_files(make) -> None:
    (path,) = make(seed=3)
    first = {suffix: path.with_suffix(suffix).read_bytes() for suffix in (".mp4", ".png", ".json")}
    assert sorted(p.name for p in path.parent.iterdir()) == ["out.json", "out.mp4", "out.png"]
    make(seed=3)
    assert {suffix: path.with_suffix(suffix).read_bytes() for suffix in first} == first
    make(seed=4)
    assert path.read_bytes() != first[".mp4"]


def test_the_video_has_the_datas_rate_and_a_strip_below(make) -> None:
    (path,) = make(frames=7, scale=4)
    info = probe(path)
    assert (info.height, info.width, info.fps, info.frames) == (8 * 4 + STRIP_ROWS, 32 * 4, 10.0, 7)
    (path,) = make(overlay=False, scale=2)
    assert (probe(path).height, probe(path).width) == (16, 64)


def test_the_record_is_enough_to_make_it_again(make, tmp_path: Path) -> None:
    (path,) = make(seed=9, steer="left:2,straight:1", speed=3.0, top_k=5, negative_prompt="night", guidance=1.5)
    record, before = json.loads(path.with_suffix(".json").read_text()), path.read_bytes()
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in record["settings"].items()}
    (again,) = generate(dataclasses.replace(GenerateConfig(**settings), output=str(tmp_path / "again.mp4")))
    assert again.read_bytes() == before
    assert record["model_hash"]
    assert record["versions"]["torch"]


def test_several_prompts_make_several_files_each_as_alone(make) -> None:
    paths = make(prompt=("sunny day", "Night, on a road!", ""))
    assert [path.name for path in paths] == ["out-sunny-day.mp4", "out-night-on-a-road.mp4", "out-unprompted.mp4"]
    together = [path.read_bytes() for path in paths]
    for prompt, expected in zip(("sunny day", "Night, on a road!", ""), together, strict=True):
        (alone,) = make(prompt=(prompt,))
        assert alone.read_bytes() == expected
        assert json.loads(alone.with_suffix(".json").read_text())["settings"]["prompt"] == [prompt]


def test_prompts_that_look_alike_get_names_of_their_own() -> None:
    paths = output_paths(GenerateConfig(prompt=("a" * 80, "a" * 90, "?"), output="x/v.mp4"))
    assert len({path.name for path in paths}) == 3
    assert all(len(path.name) < 80 for path in paths)


def test_samples_stand_in_a_grid_and_the_first_is_the_one_alone(make) -> None:
    (path,) = make(num_samples=3, overlay=False)
    grid = frames(path)
    assert grid.shape[1:] == (2 * 8 * 4, 2 * 32 * 4, 3)
    (path,) = make(overlay=False)
    alone = frames(path).astype(int)
    first, second = (np.abs(part - alone).mean() for part in (grid[:, :32, :128], grid[:, :32, 128:256]))
    assert first < second / 3  # both are compressed, apart; another sample is another drive
    assert np.abs(grid[:, :32, 128:].astype(int) - grid[:, :32, :128]).max() > 50
    assert grid[:, 40:, 136:].max() < 30  # the fourth place is black


def test_actions_from_a_file_stand(make, tmp_path: Path) -> None:
    table = tmp_path / "actions.csv"
    table.write_text("steering_norm\n" + "1\n0\n-1\n" * 2)
    make(frames=6, actions=str(table))
    with pytest.raises(UserError, match=r"actions\.csv: expected 5 rows, one a generated frame, got 6"):
        make(frames=5, actions=str(table), output=str(tmp_path / "wrong" / "out.mp4"))
    assert not (tmp_path / "wrong").exists()


def drive_file(store: EpisodeStore, drive_id: str) -> Path:
    return store.path / next(d.file for d in store.manifest.drives if d.drive_id == drive_id)


def test_a_drive_gives_frames_and_channels(
    pipeline: WorldGPTPipeline, column_store: EpisodeStore, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, episode = drive_file(column_store, "drive25"), column_episode(25)
    tokens = read_context(pipeline, path, 6)
    channels = {"speed_mps": episode.telemetry[:6, 0]}, {"steering_norm": episode.actions[:6, 0]}
    assert (tokens == pipeline.context({"front": episode.frames["front"][:6]}, *channels)).all()
    monkeypatch.chdir(path.parent)
    assert (read_context(pipeline, path.name, 6) == tokens).all()
    with pytest.raises(UserError, match="expected at least --context-frames 49 steps, the drive has 48"):
        read_context(pipeline, path, 49)
    (with_context,) = make(context=str(path), context_frames=3)
    before = with_context.read_bytes()
    assert make()[0].read_bytes() != before


def test_a_video_and_an_image_are_fitted_and_lack_channels(pipeline: WorldGPTPipeline, tmp_path: Path) -> None:
    large = column_episode(1).frames["front"][:8].repeat(6, axis=1).repeat(6, axis=2)  # 48x192
    with VideoWriter(tmp_path / "clip.mp4", fps=20, size=(48, 192), crf=1) as video:
        for frame in large.repeat(2, axis=0):
            video.write(frame)
    image = cv2.cvtColor(large[0], cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(tmp_path / "frame.png"), image)
    true = pipeline.context({"front": column_episode(1).frames["front"][:8]})
    from_video = read_context(pipeline, tmp_path / "clip.mp4", 8)  # read at 10 frames a second
    assert (from_video == true).mean() > 0.9
    assert (from_video[:, 4:] == pipeline.model.layout.null_tokens[4:]).all()
    assert (read_context(pipeline, tmp_path / "frame.png", 8) == true[:1]).all()
    with pytest.raises(UserError, match=r"clip\.mp4: expected at least --context-frames 9 frames at 10 a second, got 8"):
        read_context(pipeline, tmp_path / "clip.mp4", 9)


def test_a_context_that_does_not_fit_is_told(pipeline: WorldGPTPipeline, column_store: EpisodeStore, tmp_path: Path) -> None:
    path = drive_file(column_store, "drive25")
    with pytest.raises(UserError, match="found nothing there"):
        read_context(pipeline, tmp_path / "absent.mp4", 1)
    with pytest.raises(UserError, match="expected one drive, a folder was given"):
        read_context(pipeline, path.parent, 1)
    (tmp_path / "broken.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(UserError, match=r"broken\.mp4: expected a video"):
        read_context(pipeline, tmp_path / "broken.mp4", 1)
    copied = shutil.copytree(column_store.path, tmp_path / "data")
    foreign = copied / path.relative_to(column_store.path).with_name("mine.parquet")
    shutil.copy(path, foreign)
    with pytest.raises(UserError, match=r"mine\.parquet: is not a drive of the prepared set"):
        read_context(pipeline, foreign, 1)
    for change, message in (
        ({"fps": 20.0}, "expected 10 frames a second as the world model has, got 20"),
        ({"frame_sizes": {"rear": [8, 32]}, "cameras": {"rear": {}}}, r"expected one of the world model's cameras \(front\), got rear"),
    ):
        manifest = json.loads((column_store.path / "manifest.json").read_text())
        manifest["signals"].update(change)
        (copied / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(UserError, match=message):
            read_context(pipeline, copied / path.relative_to(column_store.path), 1)


def test_an_empty_and_a_very_long_prompt_work(make, caplog: pytest.LogCaptureFixture) -> None:
    make(prompt=("",), frames=1)
    assert not caplog.records
    make(prompt=("a very long story " * 2000,), frames=1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cut to text.max_pieces = 24" in caplog.records[0].message


def test_mistakes_leave_nothing_behind(make, trained: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(trained, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes()[:5000])
    for checkpoint, message in (
        (tmp_path / "absent", r"absent: expected a world model checkpoint, found no config\.json"),
        (broken, r"broken.model\.safetensors: could not be read as weights"),
        (trained / "tokenizer", "tokenizer: expected a world model checkpoint"),
    ):
        with pytest.raises(UserError, match=message):
            make(checkpoint=str(checkpoint))
    for change, message in (
        ({"steer": "up"}, "--steer: expected one of"),
        ({"speed": -1.0}, "--speed: expected"),
        ({"context": str(tmp_path / "no.mp4")}, "found nothing there"),
    ):
        with pytest.raises(UserError, match=message):
            make(**change)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 0}, "--frames: expected at least 1, got 0"),
        ({"num_samples": 0}, "--num-samples: expected at least 1"),
        ({"seed": -1}, "--seed: expected 0 or more, got -1"),
        ({"output": "out.avi"}, r"--output: expected a name that ends in \.mp4, got 'out\.avi'"),
        ({"prompt": ()}, "--prompt: expected at least one prompt"),
    ],
)
def test_settings_are_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GenerateConfig(**change)  # type: ignore[arg-type]


def test_the_strip_shows_left_on_the_left() -> None:
    from world_samples import SPEED, STEERING

    frame = np.zeros((40, 256, 3), np.uint8)
    gauges = {}
    for value in (-1.0, 1.0):
        drawn = draw_overlay(frame, "p", np.array([4.0]), (SPEED,), np.array([value]), (STEERING,))
        assert drawn.shape == (40 + STRIP_ROWS, 256, 3)
        gauges[value] = np.flatnonzero((drawn[40 + 46] == (255, 180, 60)).all(-1))
    steering = {value: gauge[gauge > 128].mean() for value, gauge in gauges.items()}
    assert steering[1.0] < steering[-1.0]  # positive is to the left
    assert (gauges[1.0] < 128).sum() == pytest.approx(56, abs=8)  # half of the speed's range
    missing = draw_overlay(frame, "p", np.array([np.nan]), (SPEED,), np.array([0.0]), (STEERING,))
    assert not (missing[40 + 46, :120] == (255, 180, 60)).all(-1).any()


def test_the_script_tells_a_mistake_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "generate.py"), "--checkpoint", "absent", "--output", "videos/out.mp4"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr == "error: absent: expected a world model checkpoint, found no config.json; train one with scripts/train_worldgpt.py\n"
    )
    assert not list(tmp_path.iterdir())


def test_the_prompt_may_change_on_the_way(make) -> None:
    (plain,) = make(frames=8)
    before = frames(plain)
    (changed,) = make(frames=8, prompt_at=((4, "night on a road"),))
    after = frames(changed)
    assert np.abs(after[:3].astype(int) - before[:3]).mean() < 3  # but for the codec
    strip = slice(-STRIP_ROWS, -STRIP_ROWS + 24)
    assert np.abs(after[5:, strip].astype(int) - before[5:, strip]).mean() > 2
    assert json.loads(changed.with_suffix(".json").read_text())["settings"]["prompt_at"] == [[4, "night on a road"]]


def test_a_log_is_replayed(make, pipeline: WorldGPTPipeline, column_store: EpisodeStore) -> None:
    drive = column_store.manifest.drives[0]
    path = str(column_store.path / drive.file)
    (video,) = make(context=path, context_frames=4, frames=9, actions="log", reanchor="real:4")
    assert probe(video).frames == 9
    truth = read_log(pipeline, path, 4, 9)
    whole = pipeline.context(column_episode(int(drive.drive_id.removeprefix("drive"))).frames)
    assert (truth[:, :4] == whole[4:13, :4]).all()
    for changes, message in (
        ({"frames": 45}, "expected at least 4 steps of context and 45 generated frames, the drive has 48"),
        ({"context": None, "actions": None}, "--reanchor real:4: needs the true steps of a log"),
        ({"reanchor": "every_n:x"}, "--reanchor every_n: expected a whole number"),
        ({"stream_sampling": ("sound:temperature=1",)}, "--stream-sampling: expected one of camera/front, "),
    ):
        with pytest.raises(UserError, match=message):
            make(**{"context": path, "context_frames": 4, "frames": 9, "actions": "log", "reanchor": "real:4", **changes})
