"""Orders of decoding: their names, and that a model learns another one in a short fine-tune."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from world_samples import LOOP, SPEED, STEERING, column_episode, column_tokenizer, train_config

from conditioning.guidance import DropoutConfig
from conditioning.steering import Commands
from data.episode import Drive, Episode
from data.errors import UserError
from data.store import EpisodeStore, write_store
from worldgpt.config import HistoryConfig, WorldTrainConfig
from worldgpt.decoder import DecodingStep
from worldgpt.decoding import check_order, decoded, order_of
from worldgpt.draft import Draft
from worldgpt.generate import generate
from worldgpt.generate_config import GenerateConfig
from worldgpt.layout import Layout
from worldgpt.mixture import Mixture
from worldgpt.pipeline import WorldGPTPipeline, load_world_model
from worldgpt.rollout import FREE, Rollout, RolloutConfig
from worldgpt.sampling import SamplingConfig, SamplingPlan
from worldgpt.token_store import TokenStore, encode_store
from worldgpt.train import train_worldgpt
from worldgpt.windows import WindowReader

LAYOUT = Layout.build({"front": (8, 16)}, 256, (SPEED,), (STEERING,), 4)


@pytest.mark.parametrize(
    ("name", "passes"),
    [("raster", 130), ("rows", 9), ("rows:2", 17), ("rows:8", 65), ("diagonal:1", 25), ("diagonal:2", 32), ("diagonal:16", 130)],
)
def test_an_order_is_known_by_its_name(name: str, passes: int) -> None:
    layout = decoded(LAYOUT, name)
    assert (len(layout.schedule) - 1, order_of(layout)) == (passes, name)
    assert decoded(decoded(LAYOUT, "rows"), name) == decoded(decoded(LAYOUT, "diagonal:2"), name) == layout
    assert decoded(layout, "raster") == LAYOUT
    check_order(layout, name)


@pytest.mark.parametrize("name", ["", "diagonal:0", "diagonal:17", "diagonal:x", "rows:0", "rows:3", "rows:x", "rows:-1"])
def test_orders_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(
        UserError, match=r"^--decode: expected raster, rows, rows:k where k divides 16 columns, or diagonal:w with w up to 16, got "
    ):
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


def test_generate_draws_the_same_with_a_draft(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for or, on a CPU for few worlds, not."""
    checks: list[int] = []
    check = Draft.check
    monkeypatch.setattr(Draft, "check", lambda *args: checks.append(1) or check(*args))
    for name, decode in (("raster", "raster"), ("draft", "draft:4"), ("unasked", "")):
        generate(GenerateConfig(checkpoint=str(trained), decode=decode, frames=9, output=str(tmp_path / f"{name}.mp4")))
        assert bool(checks) == (name != "raster")
        checks.clear()
        assert (tmp_path / "raster.png").read_bytes() == (tmp_path / f"{name}.png").read_bytes()
    generate(GenerateConfig(checkpoint=str(trained), prompt=("a", "b", "c"), frames=2, output=str(tmp_path / "three.mp4")))
    assert not checks


def test_a_batch_of_rows_equals_its_singles(rows: Path) -> None:
    pipeline = WorldGPTPipeline.from_pretrained(rows, device="cpu")
    whole = pipeline(["sunny day", "night on a road"], 6, seed=1, worlds=[0, 1])
    for world, prompt in enumerate(("sunny day", "night on a road")):
        alone = pipeline(prompt, 6, seed=1, worlds=[world])
        for name, frames in alone.frames.items():
            assert torch.equal(torch.as_tensor(frames[0]), torch.as_tensor(whole.frames[name][world]))


GRID, IDS = (3, 6), 8


def striped(number: int) -> list[Episode]:
    """Codes of which a row's are all alike, and say nothing of another row or step."""
    rows = np.random.default_rng(number).integers(0, IDS, (40, GRID[0], 1), np.int32)
    return [Episode(f"drive{number}", 10.0, np.arange(40) / 10, codes={"front": rows.repeat(GRID[1], axis=2)}, codebook_size=IDS)]


@pytest.fixture(scope="module")
def diagonals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EpisodeStore, TokenStore]:
    """A model of striped codes, taught to draw them along diagonals, with its data."""
    folder = tmp_path_factory.mktemp("diagonals")
    drives = [Drive(f"drive{k}", partial(striped, k), split="val" if k > 55 else "train", steps=40) for k in range(60)]
    write_store(drives, folder / "data", source="codes", fps=10.0, workers=1, progress=False)
    store = EpisodeStore.open(folder / "data")
    tokens = encode_store(store, None, folder / "tokens", device=torch.device("cpu"))
    for name, changes in (("raster", {}), ("diagonal", {"finetune_decode": "diagonal:1", "init_from": str(folder / "raster")})):
        steps = 150 if changes else 6
        loop = replace(LOOP, steps=steps, batch_size=16, learning_rate=3e-3, warmup_steps=5, evaluate_every=steps, checkpoint_every=steps)
        config = train_config(folder / name, loop=loop, history=HistoryConfig(corruption=0.0), **changes)
        train_worldgpt(config, Mixture.of(tokens), None, folder / name)
    return folder / "diagonal", store, tokens


def test_a_code_on_a_diagonal_knows_its_left_neighbour(diagonals: tuple[Path, EpisodeStore, TokenStore]) -> None:
    """A row's first code is a guess among IDS, the others follow from it; drawn all at once, each would be a guess."""
    nats = json.loads((diagonals[0] / "report.json").read_text())["held_out"]["frame_nats"]
    assert np.log(IDS) / GRID[1] <= nats + 0.05 < 1.5 * np.log(IDS) / GRID[1]
    layout = load_world_model(diagonals[0]).layout
    assert order_of(layout) == "diagonal:1" and len(layout.schedule) - 1 == GRID[0] + GRID[1] - 1


def test_stripes_are_drawn_along_diagonals(diagonals: tuple[Path, EpisodeStore, TokenStore]) -> None:
    pipeline = WorldGPTPipeline.from_pretrained(diagonals[0], device="cpu")
    layout = pipeline.model.layout
    rollout = Rollout(pipeline.model, RolloutConfig(SamplingPlan()), seeds=[0] * 8, worlds=range(8))
    prompts, free = pipeline.embed_prompts([""] * 8), torch.full((8, layout.tokens_per_step), FREE)
    codes = layout.unpack(torch.stack([rollout.step(prompts, prompts, free) for _ in range(6)]), layout.streams[0])
    assert (codes == codes[..., :1]).float().mean() > 0.9
    assert len(codes[..., 0].unique()) > IDS // 2


def test_windows_of_any_order_hold_the_stored_codes(diagonals: tuple[Path, EpisodeStore, TokenStore]) -> None:
    tokens = diagonals[2]
    layout = Layout.build(tokens.info.grids, tokens.info.codebook_size, (), (), 2)
    for order in ("raster", "rows", "diagonal:2"):
        found = WindowReader(Mixture.of(tokens), "val", decoded(layout, order), 4).spaced(5)
        plain = WindowReader(Mixture.of(tokens), "val", layout, 4).spaced(5)
        assert np.array_equal(decoded(layout, order).unpack(found.tokens, layout.streams[0]).reshape(plain.tokens.shape), plain.tokens)
