"""Orders of decoding: their names, and that a model learns another one in a short fine-tune."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from world_samples import LOOP, SPEED, STEERING, column_episode, column_tokenizer, train_config

from conditioning.guidance import DropoutConfig
from conditioning.steering import Commands
from data.errors import UserError
from data.store import EpisodeStore
from worldgpt.config import HistoryConfig, WorldTrainConfig
from worldgpt.decoder import DecodingStep
from worldgpt.decoding import check_order, decoded, order_of
from worldgpt.generate import generate
from worldgpt.generate_config import GenerateConfig
from worldgpt.layout import Layout
from worldgpt.mixture import Mixture
from worldgpt.pipeline import WorldGPTPipeline
from worldgpt.sampling import SamplingConfig
from worldgpt.token_store import TokenStore
from worldgpt.train import train_worldgpt

LAYOUT = Layout.build({"front": (8, 16)}, 256, (SPEED,), (STEERING,), 4)


@pytest.mark.parametrize(("name", "together"), [("raster", 1), ("rows", 16), ("rows:2", 8), ("rows:8", 2)])
def test_an_order_is_known_by_its_name(name: str, together: int) -> None:
    layout = decoded(LAYOUT, name)
    assert (layout.together, order_of(layout)) == (together, name)
    assert decoded(layout, "raster") == LAYOUT
    check_order(layout, name)


@pytest.mark.parametrize("name", ["", "diagonal", "rows:0", "rows:3", "rows:x", "rows:-1"])
def test_orders_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^--decode: expected raster, rows, or rows:k where k divides 16 columns, got "):
        decoded(LAYOUT, name)


def test_without_frames_there_are_no_rows() -> None:
    with pytest.raises(UserError, match="for want of frames"):
        decoded(Layout.build({}, 2, (SPEED,), (), 1), "rows")


def test_another_order_needs_a_checkpoint_to_start_from() -> None:
    with pytest.raises(UserError, match=r"--finetune-decode rows: expected --init-from"):
        WorldTrainConfig(finetune_decode="rows")


@pytest.fixture(scope="module")
def rows(trained: Path, column_store: EpisodeStore, column_tokens: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model, taught to draw the four codes of a frame in one pass."""
    output = tmp_path_factory.mktemp("rows") / "worldgpt"
    loop = replace(LOOP, steps=150, batch_size=16, learning_rate=2e-3, warmup_steps=10, log_every=50, checkpoint_every=150)
    config = train_config(
        output,
        init_from=str(trained),
        finetune_decode="rows",
        loop=loop,
        history=HistoryConfig(corruption=0.0),
        dropout=DropoutConfig(actions=0.0),
    )
    train_worldgpt(config, Mixture.of(column_tokens), column_tokenizer(column_store), output)
    return output


def test_a_short_fine_tune_learns_another_order(trained: Path, rows: Path) -> None:
    """In that world a frame follows from the one before, so that codes drawn together cost nothing."""
    before, after = (json.loads((folder / "report.json").read_text())["held_out"]["frame_nats"] for folder in (trained, rows))
    assert after < before + 0.05


def test_a_frame_comes_in_one_pass_and_follows_the_actions(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    run = DecodingStep._run
    monkeypatch.setattr(DecodingStep, "_run", lambda step, x, first: passes.append(x.shape[1]) or run(step, x, first))
    pipeline, episode = WorldGPTPipeline.from_pretrained(rows, device="cpu"), column_episode(1)
    context = pipeline.context(episode.frames, {"speed_mps": np.full(48, 3.0)}, {"steering_norm": episode.actions[:, 0]})
    frames = episode.frames["front"]
    codes, lit = context[:, :4], frames[:, 0, ::8, 0] == 255
    for action in (-1.0, 1.0):
        commands = Commands(np.full((4, 1), action, np.float32), np.full((4, 1), np.nan, np.float32))
        chunk = pipeline(["sunny day"] * 16, 4, context=context[:1], commands=commands, sampling=SamplingConfig(top_p=0.8))
        column = np.isin(chunk.tokens[..., :4], list(set(codes[lit].tolist()))).argmax(-1)
        assert np.mean((column[:, 1:] - column[:, :-1]) % 4 == (-action) % 4) > 0.9
    layout = pipeline.model.layout
    assert passes == 8 * [layout.lead, 4, layout.tokens_per_step - 4]


def test_generate_refuses_an_order_that_was_not_trained(rows: Path, trained: Path, tmp_path: Path) -> None:
    for folder, asked, known in ((rows, "raster", "rows"), (trained, "rows:2", "raster")):
        with pytest.raises(UserError, match=rf"^--decode {asked}: the checkpoint was trained for {known}; train_worldgpt.py --init-from"):
            generate(GenerateConfig(checkpoint=str(folder), decode=asked, frames=1, output=str(tmp_path / "out.mp4")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["draft:0", "draft:x", "draft:", "draft:257"])
def test_a_draft_of_no_number_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="--decode: expected draft, or draft:k with k from 1 to 256"):
        check_order(LAYOUT, name)


def test_a_draft_needs_no_training_but_raster(rows: Path, tmp_path: Path) -> None:
    check_order(LAYOUT, "draft:4")
    with pytest.raises(UserError, match=r"^--decode draft: expected a checkpoint trained for raster, got one trained for rows"):
        generate(GenerateConfig(checkpoint=str(rows), decode="draft", frames=1, output=str(tmp_path / "out.mp4")))


def test_generate_draws_the_same_with_a_draft(trained: Path, tmp_path: Path) -> None:
    for name, decode in (("raster", ""), ("draft", "draft:4")):
        generate(GenerateConfig(checkpoint=str(trained), decode=decode, frames=9, output=str(tmp_path / f"{name}.mp4")))
    assert (tmp_path / "raster.png").read_bytes() == (tmp_path / "draft.png").read_bytes()


def test_a_batch_of_rows_equals_its_singles(rows: Path) -> None:
    pipeline = WorldGPTPipeline.from_pretrained(rows, device="cpu")
    whole = pipeline(["sunny day", "night on a road"], 6, seed=1, worlds=[0, 1])
    for world, prompt in enumerate(("sunny day", "night on a road")):
        alone = pipeline(prompt, 6, seed=1, worlds=[world])
        for name, frames in alone.frames.items():
            assert torch.equal(torch.as_tensor(frames[0]), torch.as_tensor(whole.frames[name][world]))
