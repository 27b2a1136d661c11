"""Laws of the tokenizer's training: batches are keyed, resumed equals uninterrupted, what is written can be read and looked at."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.episode import Drive, Episode
from data.errors import UserError
from data.store import EpisodeStore, write_store
from tokenizer.config import LossConfig, TokenizerConfig, TokenizerTrainConfig
from tokenizer.frames import FramePool, held_out_frames
from tokenizer.loop_config import LoopConfig
from tokenizer.model import load_tokenizer
from tokenizer.train import TokenizerTask, train_tokenizer

STEPS = 40
SHAPE = TokenizerConfig(encoder_width=8, decoder_width=8, decoder_depth=1, levels=(5, 5, 5))
LOOP = LoopConfig(steps=6, batch_size=8, learning_rate=3e-3, warmup_steps=2, log_every=3, checkpoint_every=3, precision="fp32")


def episode(drive: int) -> Episode:
    """A bright stripe that wanders over a slope of grey; drives differ in speed. Cameras differ in colour."""
    t, row, column = np.ogrid[:STEPS, :16, :32]
    stripe = 155 * (np.abs(column - (8 + (drive + 1) * t / 4) % 32) < 3)
    picture = np.clip(row * 6 + stripe, 0, 255).astype(np.uint8)
    frames = {name: np.stack([picture, picture, np.full_like(picture, tint)], -1) for name, tint in (("front", 20), ("left", 200))}
    return Episode(f"drive{drive}", 10.0, np.arange(STEPS) / 10, frames=frames)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "data"
    splits = ("train", "train", "val", "val")
    drives = [Drive(f"drive{k}", lambda k=k: iter([episode(k)]), split=split, steps=STEPS) for k, split in enumerate(splits)]
    write_store(drives, path, source="stripes", fps=10.0, workers=1, progress=False)
    return path


def config(folder: Path, output: Path, **changes: object) -> TokenizerTrainConfig:
    base = TokenizerTrainConfig(data=str(folder), output=str(output), evaluation_frames=64, tokenizer=SHAPE, loop=LOOP)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_batches_are_functions_of_seed_step_and_micro(folder: Path, tmp_path: Path) -> None:
    store = EpisodeStore.open(folder)
    task, again = (TokenizerTask(config(folder, tmp_path), store) for _ in range(2))
    first = task.batch(3, 1)["frames"]
    assert first.shape == (8, 16, 32, 3)
    assert first.dtype == torch.uint8
    again.batch(0, 0)
    assert torch.equal(again.batch(3, 1)["frames"], first)
    other_seed = config(folder, tmp_path, loop=dataclasses.replace(LOOP, seed=1))
    for other in (task.batch(3, 0), task.batch(2, 1), TokenizerTask(other_seed, store).batch(3, 1)):
        assert not torch.equal(other["frames"], first)


def test_the_pool_draws_from_every_camera_and_mirrors_half(folder: Path) -> None:
    pool = FramePool(EpisodeStore.open(folder), "train")
    assert len(pool) == 2 * 2 * STEPS
    plain = pool.draw(np.random.default_rng(0), 400, flip=False)
    mixed = pool.draw(np.random.default_rng(0), 400, flip=True)
    assert 0.4 < (plain[:, 0, 0, 2] == 200).mean() < 0.6
    mirrored = (mixed == plain[:, :, ::-1]).all((1, 2, 3)) & ~(mixed == plain).all((1, 2, 3))
    kept = (mixed == plain).all((1, 2, 3))
    assert (mirrored | kept).all()
    assert 0.35 < mirrored.mean() < 0.6


def test_held_out_runs_stay_within_their_drives(folder: Path) -> None:
    store = EpisodeStore.open(folder)
    held_out = held_out_frames(store, "val", 64)
    assert 48 <= len(held_out.frames) <= 64  # runs of 16, or of the 8 that a drive of 40 ends in
    assert set(held_out.drive_ids) == {"drive2", "drive3"}
    assert set(held_out.cameras) == {"front", "left"}
    for k in range(len(held_out.frames)):
        drive = store.read(held_out.drive_ids[k])
        assert (held_out.frames[k] == drive.frames[held_out.cameras[k]][held_out.steps[k]]).all()
        if held_out.follows[k]:
            same_place = [(held_out.drive_ids[j], held_out.cameras[j]) for j in (k - 1, k)]
            assert same_place[0] == same_place[1]
            assert held_out.steps[k] == held_out.steps[k - 1] + 1
    assert held_out.follows.mean() > 0.8


def test_more_held_out_frames_than_there_are_gives_all_of_them_once(folder: Path) -> None:
    held_out = held_out_frames(EpisodeStore.open(folder), "val", 10_000)
    places = set(zip(held_out.drive_ids, held_out.cameras, held_out.steps.tolist(), strict=True))
    assert len(places) == len(held_out.frames) == 2 * 2 * STEPS


def test_training_learns_and_writes_what_it_promises(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "tokenizer"
    long = dataclasses.replace(LOOP, steps=150, checkpoint_every=150, ema_decay=0.9)
    report = train_tokenizer(config(folder, output, loop=long))
    untrained = train_tokenizer(config(folder, tmp_path / "untrained", loop=dataclasses.replace(LOOP, steps=1)))
    assert report["psnr_db"] > untrained["psnr_db"] + 5
    assert json.loads((output / "report.json").read_text()) == report
    assert report["masks"] is None  # this store's source knows no masks
    assert report["code_grid"] == [2, 4]
    tokenizer = load_tokenizer(output)
    assert tokenizer.content_hash() == report["tokenizer_hash"]
    assert (tokenizer.config.height, tokenizer.config.width) == (16, 32)
    assert tokenizer.config.cameras == ["front", "left"]
    assert tokenizer.config.data_hash == EpisodeStore.open(folder).hash == report["data_hash"]
    sheet = cv2.imread(str(output / "reconstruction.png"))
    assert sheet is not None
    assert sheet.shape[1] > sheet.shape[0] > 16


@pytest.mark.parametrize("quantizer", ["fsq", "vq"])
def test_resumed_equals_uninterrupted(folder: Path, tmp_path: Path, quantizer: str) -> None:
    shape = dataclasses.replace(SHAPE, quantizer=quantizer, codebook_size=16, code_dim=4)
    changes = {"tokenizer": shape, "losses": LossConfig(adversarial=0.1, adversarial_start=2)}
    train_tokenizer(config(folder, tmp_path / "whole", **changes))
    output = tmp_path / "resumed"
    train_tokenizer(config(folder, output, **changes))
    for checkpoint in (output / "checkpoints").iterdir():  # as if it had been stopped after 3 of its 6 updates
        if checkpoint.name != "step_0000003":
            for file in checkpoint.iterdir():
                file.unlink()
            checkpoint.rmdir()
    train_tokenizer(config(folder, output, resume=True, **changes))
    assert load_tokenizer(output).content_hash() == load_tokenizer(tmp_path / "whole").content_hash()


def test_mistakes_are_told_and_leave_nothing_behind(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "new"
    with pytest.raises(UserError, match="frame height: expected a multiple of the tokenizer's downsampling 32, got 16"):
        train_tokenizer(config(folder, output, tokenizer=dataclasses.replace(SHAPE, downsampling=32)))
    with pytest.raises(UserError, match="no such data set"):
        train_tokenizer(config(tmp_path / "absent", output))
    with pytest.raises(UserError, match=r"loop.batch_size: the codebook of 4096 .* which has 64"):
        train_tokenizer(config(folder, output, tokenizer=dataclasses.replace(SHAPE, quantizer="vq", codebook_size=4096)))
    assert not output.exists()
    output.mkdir()
    (output / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="already holds files"):
        train_tokenizer(config(folder, output))
    with pytest.raises(UserError, match="give another --output"):
        train_tokenizer(config(folder, output, overwrite=True))
    assert (output / "thesis.txt").read_text() == "mine"


def test_fine_tuning_starts_from_the_weights_it_is_given(folder: Path, tmp_path: Path) -> None:
    source = TokenizerTask(config(folder, tmp_path / "source", loop=dataclasses.replace(LOOP, seed=5)), EpisodeStore.open(folder))
    source.save(tmp_path / "source")
    tuned = config(folder, tmp_path / "tuned", init_from=str(tmp_path / "source"))
    assert TokenizerTask(tuned, EpisodeStore.open(folder)).tokenizer.content_hash() == source.tokenizer.content_hash()
    other = dataclasses.replace(tuned, tokenizer=dataclasses.replace(SHAPE, decoder_depth=2))
    with pytest.raises(UserError, match=r"--init-from expected tokenizer.decoder_depth = 2, got 1"):
        TokenizerTask(other, EpisodeStore.open(folder))
