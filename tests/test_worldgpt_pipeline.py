"""The pipeline: prompts and commands to frames, contexts to tokens, and checkpoints that are refused by name when they do not fit."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from world_samples import SPEED, STEERING, column_episode, column_tokenizer, random_model

from conditioning.guidance import GuidanceSchedule, PromptSchedule
from conditioning.steering import Commands
from data.errors import UserError, UserNotice
from data.store import EpisodeStore
from worldgpt import pipeline as pipeline_module
from worldgpt.pipeline import Observation, WorldGPTPipeline, load_world_model
from worldgpt.rollout import Rollout, RolloutConfig
from worldgpt.sampling import SamplingConfig, SamplingPlan


@pytest.fixture(scope="module")
def pipeline(trained: Path) -> WorldGPTPipeline:
    return WorldGPTPipeline.from_pretrained(trained, device="cpu")


def test_a_chunk_holds_what_its_tokens_say(pipeline: WorldGPTPipeline) -> None:
    chunk = pipeline(["night on a road", "sunny day"], 11)
    layout = pipeline.model.layout
    assert chunk.frames["front"].shape == (2, 11, 8, 32, 3)
    assert chunk.frames["front"].dtype == np.uint8
    assert (chunk.frames["front"] == pipeline.decode(layout.unpack(chunk.tokens, layout.streams[0]))).all()
    speeds = SPEED.low + (chunk.tokens[..., layout.spans["telemetry/speed_mps"]] + 0.5) * 2
    np.testing.assert_allclose(chunk.telemetry, speeds)
    np.testing.assert_allclose(chunk.actions, chunk.tokens[..., layout.spans["action/steering_norm"]] - 1.0)


def test_a_draft_makes_the_same_drive(pipeline: WorldGPTPipeline) -> None:
    plain, drafted = (pipeline(["sunny day", "night on a road"], 9, seed=2, draft=draft) for draft in (0, 4))
    assert np.array_equal(plain.tokens, drafted.tokens)


def test_int8_weights_drive_on(pipeline: WorldGPTPipeline) -> None:
    assert pipeline("sunny day", 9, seed=2, weights="int8").frames["front"].shape == (1, 9, 8, 32, 3)


def test_streamed_equals_called(pipeline: WorldGPTPipeline) -> None:
    whole = pipeline("sunny day", 19, seed=3)
    chunks = list(pipeline.stream(["sunny day"], 19, seed=3))
    assert [c.tokens.shape[1] for c in chunks] == [8, 8, 3]
    assert (np.concatenate([c.tokens for c in chunks], axis=1) == whole.tokens).all()
    assert (np.concatenate([c.frames["front"] for c in chunks], axis=1) == whole.frames["front"]).all()


def test_a_batch_of_prompts_equals_each_alone(pipeline: WorldGPTPipeline) -> None:
    together = pipeline(["sunny day", "night on a road"], 6, worlds=[0, 0], guidance=1.5)
    for i, prompt in enumerate(("sunny day", "night on a road")):
        assert (pipeline(prompt, 6, guidance=1.5).tokens[0] == together.tokens[i]).all()


def lit_codes(pipeline: WorldGPTPipeline, number: int) -> set[int]:
    """Codes of the lit column in the true frames of an episode (even: night, odd: day); no other place has them."""
    frames = column_episode(number).frames
    codes, lit = pipeline.context(frames)[:, :4], frames["front"][:, 0, ::8, 0] == 255
    found = set(codes[lit].tolist())
    assert found.isdisjoint(codes[~lit].tolist())
    return found


def test_the_prompt_decides_day_or_night(pipeline: WorldGPTPipeline) -> None:
    lit = {"night on a road": lit_codes(pipeline, 0), "sunny day": lit_codes(pipeline, 1)}
    assert lit["night on a road"].isdisjoint(lit["sunny day"])
    for name, other in (("night on a road", "sunny day"), ("sunny day", "night on a road")):
        tokens = pipeline([name] * 16, 3).tokens[..., :4]
        assert np.isin(tokens, list(lit[name])).any(-1).mean() > 0.9
        assert np.isin(tokens, list(lit[other])).any(-1).mean() < 0.1


def test_a_prompt_schedule_is_followed_frame_by_frame(pipeline: WorldGPTPipeline) -> None:
    asked = []
    embed = pipeline.embed_prompts
    pipeline.embed_prompts = lambda prompts: asked.append(tuple(prompts)) or embed(prompts)  # type: ignore[method-assign]
    schedule = PromptSchedule([("night on a road", 0), ("sunny day", 3)])
    changed = pipeline([schedule, "fog"], 6).tokens
    pipeline.embed_prompts = embed  # type: ignore[method-assign]
    assert asked == [("", ""), ("night on a road", "fog"), ("sunny day", "fog")]
    plain = pipeline(["night on a road", "fog"], 6).tokens
    assert (changed[:, :3] == plain[:, :3]).all()
    assert (changed[1] == plain[1]).all()


def test_commands_stand_and_steer(pipeline: WorldGPTPipeline) -> None:
    """In this world an action of +1 moves the lit column to the left, and the world model has learned it."""
    context = pipeline.context(
        column_episode(1).frames, {"speed_mps": np.full(48, 3.0)}, {"steering_norm": column_episode(1).actions[:, 0]}
    )
    moved = {}
    for action in (-1.0, 1.0):
        commands = Commands(np.full((4, 1), action, np.float32), np.full((4, 1), np.nan, np.float32))
        chunk = pipeline(["sunny day"] * 16, 4, context=context[:1], commands=commands, sampling=SamplingConfig(top_p=0.8))
        assert (chunk.actions == action).all()
        column = np.isin(chunk.tokens[..., :4], list(lit_codes(pipeline, 1))).argmax(-1)
        moved[action] = np.mean((column[:, 1:] - column[:, :-1]) % 4 == (-action) % 4)
    assert min(moved.values()) > 0.9


def test_actions_by_name_are_commands(pipeline: WorldGPTPipeline) -> None:
    free = np.full((4, 1), np.nan, np.float32)
    table = Commands(np.array([[1.0], [-1.0], [np.nan], [np.nan]], np.float32), np.full((4, 1), 3.0, np.float32))
    named = pipeline("sunny day", 4, actions={"steering_norm": [1.0, -1.0], "speed_mps": 3.0})
    assert np.array_equal(named.tokens, pipeline("sunny day", 4, commands=table).tokens)
    assert named.actions[0, :2, 0].tolist() == [1.0, -1.0] and (named.telemetry == 3).all()
    for given, told in (
        ({"wings": 1.0}, "expected channels among steering_norm, speed_mps, got 'wings'"),
        ({"steering_norm": [0.0] * 5}, r"steering_norm expected one value or up to 4, one a generated frame; got shape \(5,\)"),
    ):
        with pytest.raises(UserError, match=told):
            pipeline("sunny day", 4, actions=given)
    with pytest.raises(UserError, match="actions, commands: expected one of them"):
        pipeline("sunny day", 4, actions={}, commands=Commands(free, free))


def moved_as_asked(pipeline: WorldGPTPipeline, action: float, **options: Any) -> float:
    """Share of steps on which the lit column moves as the action asks, drawn so warmly that many do not."""
    episode = column_episode(1)
    context = pipeline.context(episode.frames, {"speed_mps": np.full(48, 3.0)}, {"steering_norm": episode.actions[:, 0]})
    commands = Commands(np.full((4, 1), action, np.float32), np.full((4, 1), np.nan, np.float32))
    chunk = pipeline(["sunny day"] * 192, 4, context=context[:1], commands=commands, sampling=SamplingConfig(temperature=4.0), **options)
    lit = np.isin(chunk.tokens[..., :4], list(lit_codes(pipeline, 1)))
    column, known = lit.argmax(-1), lit.sum(-1) == 1
    return float((known[:, 1:] & known[:, :-1] & ((column[:, 1:] - column[:, :-1]) % 4 == (-action) % 4)).mean())


@pytest.mark.parametrize("action", [-1.0, 1.0])
def test_action_guidance_moves_the_world_towards_what_the_action_asks(pipeline: WorldGPTPipeline, action: float) -> None:
    plain, one, more = (moved_as_asked(pipeline, action, action_guidance=scale) for scale in (1.0, GuidanceSchedule(1.0), 2.0))
    assert plain == one < 0.7
    assert more > plain + 0.08  # 576 steps: four deviations of such a share


def test_prompt_guidance_moves_the_world_towards_what_the_prompt_asks(pipeline: WorldGPTPipeline) -> None:
    """And with the actions' it does so no less."""

    def nightly(**options: Any) -> float:
        tokens = pipeline(["night on a road"] * 64, 3, sampling=SamplingConfig(temperature=6.0), **options).tokens[..., :4]
        return float(np.isin(tokens, pipeline.context(column_episode(0).frames)[:, :4]).mean())

    plain, guided, both = nightly(), nightly(guidance=3.0), nightly(guidance=3.0, action_guidance=2.0)
    assert min(guided, both) > plain + 0.1
    schedule = GuidanceSchedule(3.0, "cosine", 2)
    assert plain < nightly(guidance=schedule) < guided


def test_commands_beyond_the_range_are_clamped_and_told_in_one_line(pipeline: WorldGPTPipeline) -> None:
    nan = np.float32(np.nan)
    wild = Commands(np.array([[0.0], [2.0], [-9.0]], np.float32), np.array([[nan], [3.0], [99.0]], np.float32))
    tame = Commands(np.array([[0.0], [1.5], [-1.5]], np.float32), np.array([[nan], [3.0], [8.0]], np.float32))
    with pytest.warns(UserNotice) as told:
        clamped = pipeline(["sunny day"] * 2, 3, commands=[tame, wild])
    assert [str(notice.message) for notice in told] == [
        "steering_norm: 2 in row 1 is outside -1.5..1.5 norm and is clamped (2 of 3 values are)",
        "speed_mps: 99 in row 2 is outside 0..8 m/s and is clamped (1 of 3 values are)",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (pipeline(["sunny day"] * 2, 3, commands=tame).tokens == clamped.tokens).all()
    with pytest.warns(UserNotice) as told:
        driven = pipeline("sunny day", 5, planner=lambda seen: {"steering_norm": 4.0 if seen.frame > 1 else 1.0})
    assert [str(notice.message) for notice in told] == [
        "planner, frame 2: steering_norm: 4 in row 0 is outside -1.5..1.5 norm and is clamped (1 of 1 values are); told once"
    ]
    assert (driven.actions == 1.0).all()


def test_prompts_of_what_training_never_showed_are_told(pipeline: WorldGPTPipeline, trained: Path, tmp_path: Path) -> None:
    for prompt in ("sunny day", "Late, on a NIGHT road", ""):
        found = pipeline.familiarity(prompt)
        assert found is not None and found.score == 1.0
    found = pipeline.familiarity("sunny nihgt on mars")
    assert found is not None and found.unknown == ("mars",) and found.typos == (("nihgt", "night"),)
    changing = PromptSchedule([("sunny day", 0), ("a volcano erupts", 1)])
    with pytest.warns(UserNotice, match=r"prompt 'a volcano erupts': familiarity 0\.\d\d; never seen in training: volcano, erupts") as told:
        pipeline([changing, changing], 2)
    assert len(told) == 1 and told[0].filename == str(Path(pipeline_module.__file__))
    with pytest.warns(UserNotice, match="prompt 'volcano'"):
        next(pipeline.stream(["sunny day"], 1, negative_prompt="volcano"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline(["sunny day", ""], 1)
    old = shutil.copytree(trained, tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    del config["caption_words"]
    (old / "config.json").write_text(json.dumps(config))
    before = WorldGPTPipeline.from_pretrained(old, device="cpu")
    assert before.familiarity("sunny day") is None
    with pytest.warns(UserNotice, match="familiarity of the prompts is unknown: ") as told:
        before(["sunny day", "volcano"], 1)
    assert len(told) == 1


def test_commands_may_differ_from_world_to_world_and_end_early(pipeline: WorldGPTPipeline) -> None:
    nan = np.float32(np.nan)
    one = Commands(np.array([[1.0], [nan]], np.float32), np.array([[nan], [3.0]], np.float32))
    forced = [pipeline.forced_tokens(one, frame, 2) for frame in range(3)]
    place = pipeline.model.layout.spans["action/steering_norm"].start, pipeline.model.layout.spans["telemetry/speed_mps"].start
    assert [(f[0, place[0]].item(), f[0, place[1]].item()) for f in forced] == [(2, -1), (-1, 1), (-1, -1)]
    chunk = pipeline(["sunny day"] * 3, 2, commands=[None, one, None])
    free = pipeline(["sunny day"] * 3, 2)
    assert (chunk.tokens[[0, 2]] == free.tokens[[0, 2]]).all()
    assert chunk.actions[1, 0, 0] == 1.0
    assert chunk.telemetry[1, 1, 0] == 3.0


def test_what_a_context_lacks_is_null(pipeline: WorldGPTPipeline) -> None:
    layout, episode = pipeline.model.layout, column_episode(3)
    tokens = pipeline.context(episode.frames, {"speed_mps": np.array([1.0, np.nan] * 24)})
    assert tokens[:2, 4].tolist() == [0, 4]
    assert (tokens[:, 5] == layout.null_tokens[5]).all()
    with pytest.raises(UserError, match="context: expected frames of 8x32, got 16x32"):
        pipeline.context({"front": np.zeros((1, 16, 32, 3), np.uint8)})


def test_save_and_load_give_the_same_drive(pipeline: WorldGPTPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "again")
    again = WorldGPTPipeline.from_pretrained(tmp_path / "again", device="cpu")
    assert (again("night on a road", 5).frames["front"] == pipeline("night on a road", 5).frames["front"]).all()
    assert not [path.name for path in (tmp_path / "again").iterdir() if path.name.startswith(".")]


def test_a_foreign_tokenizer_is_refused(trained: Path, column_store: EpisodeStore, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "mixed", ignore=shutil.ignore_patterns("tokenizer", "checkpoints"))
    other = column_tokenizer(column_store)
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    other.save_pretrained(tmp_path / "mixed" / "tokenizer")
    with pytest.raises(UserError, match="mixed: the tokenizer in it is not the one that the world model was trained with"):
        WorldGPTPipeline.from_pretrained(tmp_path / "mixed")


def test_without_a_tokenizer_frames_cannot_be_drawn() -> None:
    with pytest.raises(UserError, match="came without a tokenizer"):
        WorldGPTPipeline(random_model().float(), None)("fog", 1)


def broken_copies(trained: Path, folder: Path) -> dict[str, Path]:
    """Checkpoints that cannot be read, by what must be said of them."""
    cases = {"found no config.json": folder / "absent", "config.json is one of 'worldgpt_tokenizer'": trained / "tokenizer"}
    for name, message in (
        ("truncated", "could not be read"),
        ("garbage", "expected JSON"),
        ("unfit", "do not fit"),
        ("wide", "do not fit"),
    ):
        copy = folder / name
        copy.mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            shutil.copy(trained / file, copy / file)
        cases[f"{name}(?s:.*){message}"] = copy
    weights = folder / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (folder / "garbage" / "config.json").write_text('{"model_type": "worldgpt", ')
    for name, change in (("unfit", {"layers": 3}), ("wide", {"mlp_width": 64})):
        config = json.loads((trained / "config.json").read_text())
        config["model"] = {**config["model"], **change}
        (folder / name / "config.json").write_text(json.dumps(config))
    return cases


@pytest.mark.parametrize("case", range(6))
def test_a_checkpoint_that_cannot_be_read_is_told_in_one_line(trained: Path, tmp_path: Path, case: int) -> None:
    message, path = list(broken_copies(trained, tmp_path).items())[case]
    with pytest.raises(UserError, match=message) as told:
        load_world_model(path)
    assert "\n" not in str(told.value)
    assert str(path) in str(told.value)


def test_the_channels_are_the_datas(pipeline: WorldGPTPipeline) -> None:
    assert pipeline.model.telemetry.specs == (SPEED,)
    assert pipeline.model.actions.specs == (STEERING,)


def test_worlds_may_have_seeds_and_lengths_of_their_own(pipeline: WorldGPTPipeline) -> None:
    together: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    for chunk in pipeline.stream(
        ["sunny day", "fog", "night on a road"], [11, 3, 5], seed=[4, 5, 6], worlds=[0, 0, 0], reanchor="every_n:4"
    ):
        for row, world in enumerate(chunk.worlds):
            together[world].append(chunk.tokens[row])
    for world, (prompt, frames, seed) in enumerate([("sunny day", 11, 4), ("fog", 3, 5), ("night on a road", 5, 6)]):
        alone = pipeline(prompt, frames, seed=seed, reanchor="every_n:4").tokens[0]
        assert np.array_equal(np.concatenate(together[world]), alone)
    with pytest.raises(UserError, match="frames: expected one number, or 2, one a world; got 3"):
        next(pipeline.stream(["fog", "fog"], [1, 2, 3]))


def test_a_planner_in_the_loop_steers(pipeline: WorldGPTPipeline) -> None:
    seen: list[Observation] = []

    def planner(observation: Observation) -> dict[str, np.ndarray]:
        seen.append(observation)
        return {"steering_norm": np.where(observation.frames["front"].sum((1, 2, 3)) % 2, 1.0, -1.0)}

    chunk = pipeline(["sunny day", "night on a road"] * 2, 5, planner=planner)
    assert [o.frame for o in seen] == [0, 1, 2, 3, 4]
    assert np.array_equal(np.stack([o.frames["front"] for o in seen], axis=1), chunk.frames["front"])
    assert np.array_equal(np.stack([o.telemetry for o in seen], axis=1), chunk.telemetry)
    assert np.array_equal(chunk.actions[..., 0], np.where(chunk.frames["front"].sum((2, 3, 4)) % 2, 1.0, -1.0))
    assert len(np.unique(chunk.actions)) == 2
    free = pipeline(["sunny day", "night on a road"] * 2, 5, planner=lambda _: {})
    assert np.array_equal(free.tokens, pipeline(["sunny day", "night on a road"] * 2, 5).tokens)


def test_encoding_again_keeps_channels_and_what_the_tokenizer_agrees_with(pipeline: WorldGPTPipeline) -> None:
    steps = torch.from_numpy(pipeline.context(column_episode(1).frames, {"speed_mps": np.full(48, 3.0)}))[None, :6]
    layout = pipeline.model.layout
    steps[:, 2] = torch.from_numpy(layout.null_tokens)
    fresh = pipeline.retokenize(steps)
    span = layout.span_of_kind("frame")
    assert torch.equal(fresh[..., span.stop :], steps[..., span.stop :])
    assert torch.equal(fresh[:, 2], steps[:, 2])
    made = pipeline.decode(layout.unpack(steps[:, :2].numpy(), layout.streams[0]))
    assert np.array_equal(fresh[0, :2].numpy()[:, span], pipeline.context({"front": made[0]})[:, span])


def test_a_log_replay_needs_its_log(pipeline: WorldGPTPipeline) -> None:
    with pytest.raises(UserError, match="--reanchor real: needs the true steps of a log"):
        next(pipeline.stream(["fog"], 8, reanchor="real:4"))
    truth = pipeline.context(column_episode(1).frames)
    with pytest.raises(UserError, match="--reanchor real: expected true steps for 60 frames, the log has 48"):
        next(pipeline.stream(["fog"], 60, reanchor="real:4", truth=truth))
    chunk = pipeline("sunny day", 9, reanchor="real:4", truth=truth)
    assert chunk.anchored[0].nonzero()[0].tolist() == [4, 8]


def test_a_long_rollout_uses_the_memory_of_a_short_one(pipeline: WorldGPTPipeline) -> None:
    """Counted in the tensors that a rollout holds on to: the ring is preallocated, and nothing else grows."""

    def held(steps: int) -> int:
        rollout = Rollout(pipeline.model, RolloutConfig(SamplingPlan(SamplingConfig(temperature=0))), seeds=[0], worlds=[0])
        prompt, forced = pipeline.embed_prompts(["fog"]), torch.from_numpy(pipeline.context(column_episode(1).frames)[:1])
        for _ in range(steps):
            rollout.step(prompt, prompt, forced)
        tensors = [*vars(rollout).values(), *rollout._prompts, *vars(rollout.cache).values()]
        return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))

    assert held(3_000) == held(100)
