"""Laws of the rollout: batched equals single, forced equals teacher forcing, seeds decide, guidance 1 is none, NULL never comes out."""

from typing import Literal

import pytest
import torch
from roll_samples import STEPS, roll
from world_samples import random_model, random_prompts, random_tokens

from conditioning.guidance import GuidanceSchedule
from data.errors import UserError
from worldgpt.model import WorldGPT
from worldgpt.rollout import FREE, Rollout, RolloutConfig
from worldgpt.sampling import SamplingConfig, SamplingPlan

FALLING = GuidanceSchedule(2.5, "linear", 3, "cosine")


MODELS = {
    "whole": lambda: random_model(),
    "halves": lambda: random_model(levels=(4,) * 8),
    "rows": lambda: random_model(together=3),
    "diagonals": lambda: random_model(slope=1),
    "pairs": lambda: random_model(levels=(4,) * 8, together=2),
}
"""Codes told at once, in two halves, and several together."""


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> WorldGPT:
    return MODELS[request.param]()


@pytest.mark.parametrize(("guidance", "action_guidance"), [(1.0, 1.0), (2.5, 1.0), (FALLING, 2.5)])
@pytest.mark.parametrize("with_context", [False, True])
def test_a_batch_equals_its_singles(
    model: WorldGPT, guidance: float | GuidanceSchedule, action_guidance: float, with_context: bool
) -> None:
    context = random_tokens(model.layout, 3, 2) if with_context else None
    scales = {"guidance": guidance, "action_guidance": action_guidance}
    together = roll(model, range(3), context=context, **scales)  # type: ignore[arg-type]
    for world in range(3):
        own = None if context is None else context[world : world + 1]
        alone = roll(model, [world], context=own, **scales)  # type: ignore[arg-type]
        assert torch.equal(alone[0], together[world])
    assert not torch.equal(together[0], together[1])


def test_the_seed_decides(model: WorldGPT) -> None:
    first = roll(model, range(2), seed=5)
    assert torch.equal(first, roll(model, range(2), seed=5))
    assert (first != roll(model, range(2), seed=6)).float().mean() > 0.3
    cold = SamplingConfig(temperature=0)
    assert torch.equal(roll(model, range(2), seed=5, sampling=cold), roll(model, range(2), seed=6, sampling=cold))


def test_worlds_of_one_prompt_differ(model: WorldGPT) -> None:
    prompts = random_prompts(model, seed=1).expand(2, STEPS, -1, -1)
    worlds = roll(model, range(2), prompts=prompts)
    assert (worlds[0] != worlds[1]).float().mean() > 0.3


@torch.no_grad()
def test_within_the_window_a_greedy_rollout_is_what_the_whole_model_predicts(model: WorldGPT) -> None:
    context = random_tokens(model.layout, 2, 2)
    tokens = roll(model, range(2), context=context, sampling=SamplingConfig(temperature=0), steps=2)
    prompts = torch.stack([random_prompts(model, seed=100 + w) for w in range(2)])[:, None].expand(-1, 4, -1, -1)
    hidden = model.predicting(model(torch.cat([context, tokens], dim=1), prompts))[:, 2:]
    for step in range(2):
        assert torch.equal(greedy(model, hidden[:, step]), tokens[:, step])


def test_guidance_of_one_is_no_guidance(model: WorldGPT) -> None:
    """Whatever the negative prompt says; and a negative prompt equal to the prompt changes nothing at any scale."""
    plain = roll(model, range(2))
    assert torch.equal(roll(model, range(2), negative=random_prompts(model, 2, seed=55)), plain)
    prompts = random_prompts(model, 2, seed=7)
    same = prompts[:, None].expand(-1, STEPS, -1, -1)
    guided = roll(model, range(2), prompts=same, negative=prompts, guidance=3.0)
    assert torch.equal(guided, roll(model, range(2), prompts=same))
    assert not torch.equal(roll(model, range(2), guidance=3.0), plain)


def test_guidance_of_zero_follows_the_negative_prompt(model: WorldGPT) -> None:
    negative = random_prompts(model, 2, seed=8)
    followed = roll(model, range(2), prompts=negative[:, None].expand(-1, STEPS, -1, -1))
    assert torch.equal(roll(model, range(2), negative=negative, guidance=0.0), followed)


def test_action_guidance_of_one_is_none_and_of_zero_drives_without_actions(model: WorldGPT) -> None:
    """At scale 0 frames are those of a world whose actions are all NULL, since neither hints nor attention show them."""
    span, frames = model.layout.span_of_kind("action"), model.layout.span_of_kind("frame")
    commands = torch.full((2, STEPS, model.layout.tokens_per_step), FREE)
    commands[..., span] = random_tokens(model.layout, 2, STEPS)[..., span]
    undriven = commands.clone()
    undriven[..., span] = torch.from_numpy(model.layout.null_tokens)[span]
    plain, without = roll(model, range(2), forced=commands), roll(model, range(2), forced=undriven)
    assert torch.equal(roll(model, range(2), forced=commands, action_guidance=1.0, guidance=GuidanceSchedule(1.0)), plain)
    assert torch.equal(roll(model, range(2), forced=commands, action_guidance=0.0)[..., frames], without[..., frames])
    assert not torch.equal(plain[..., frames], without[..., frames])
    guided = roll(model, range(2), forced=commands, action_guidance=3.0)
    assert torch.equal(guided[..., span], plain[..., span])  # commands stand
    assert torch.equal(guided[:, 0], plain[:, 0])  # nothing acts on the first frame
    assert not torch.equal(guided[:, 1:], plain[:, 1:])


@torch.no_grad()
def test_prompt_and_action_guidance_add_up(model: WorldGPT) -> None:
    """The next step's first code, against the formula on three plain passes of the whole model."""
    context, span = random_tokens(model.layout, 2, 3), model.layout.span_of_kind("action")
    prompts, negative = random_prompts(model, 2, seed=1), random_prompts(model, 2, seed=2)
    undriven = context.clone()
    undriven[..., span] = torch.from_numpy(model.layout.null_tokens)[span]

    def logits(tokens: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        padded = torch.cat([tokens, torch.zeros_like(tokens[:, :1])], dim=1)
        return model.logits(model.predicting(model(padded, prompt[:, None].expand(-1, 4, -1, -1)))[:, -1, 0], 0)

    told, other, free = logits(context, prompts), logits(context, negative), logits(undriven, prompts)
    wanted = told + 1.5 * (told - other) + 0.8 * (told - free)
    config = RolloutConfig(SamplingPlan(SamplingConfig(temperature=0)), guidance=2.5, action_guidance=1.8)
    rollout = Rollout(model, config, seeds=[0, 0], worlds=[0, 1])
    assert rollout.branches == ("told", "negative", "undriven")
    rollout.start(context, prompts, negative)
    drawn = rollout.step(prompts, negative, torch.full((2, model.layout.tokens_per_step), FREE))
    assert torch.equal(model.table(model.layout.streams[0]).split(drawn[:, 0])[0], wanted.argmax(-1))


def test_a_schedule_guides_as_long_as_it_says_and_then_costs_nothing(model: WorldGPT) -> None:
    over_frames = GuidanceSchedule(3.0, "linear", 3)
    plain, guided, falling = (roll(model, range(2), guidance=guidance, steps=4) for guidance in (1.0, 3.0, over_frames))
    assert torch.equal(falling[:, 0], guided[:, 0])
    assert not torch.equal(falling, guided) and not torch.equal(falling, plain)
    prompts = torch.stack([random_prompts(model, seed=100 + w) for w in range(2)])
    negative, free = random_prompts(model, seed=99).expand(2, -1, -1), torch.full((2, model.layout.tokens_per_step), FREE)
    rollout = Rollout(model, RolloutConfig(SamplingPlan(), over_frames, 2.0), seeds=[0, 0], worlds=range(2))
    branches = []
    for _ in range(5):
        rollout.step(prompts, negative, free)
        branches.append((rollout.branches, rollout.cache.keys.shape[1]))
    assert branches == [(("told", "negative", "undriven"), 6)] * 3 + [(("told", "undriven"), 4)] * 2
    # Told to forget the guided frames, the world goes on as one that never was guided.
    rollout = Rollout(model, RolloutConfig(SamplingPlan(), over_frames), seeds=[0, 0], worlds=range(2))
    plain_rollout = Rollout(model, RolloutConfig(SamplingPlan()), seeds=[0, 0], worlds=range(2))
    made = torch.stack([rollout.step(prompts, negative, free) for _ in range(6)], dim=1)
    again = torch.stack([plain_rollout.step(prompts, negative, made[:, t] if t < 3 else free) for t in range(6)], dim=1)
    assert rollout.branches == plain_rollout.branches == ("told",)
    assert torch.equal(again, made)


def test_within_a_frame_the_last_code_is_not_guided(model: WorldGPT) -> None:
    context, count = random_tokens(model.layout, 8, 2), model.layout.of_kind("frame")[0].tokens
    forced = random_tokens(model.layout, 8, 1)
    for place, same in ((0, False), (count - 1, True)):
        free = forced.clone()
        free[..., place] = FREE
        plain, guided = (
            roll(model, range(8), context=context, forced=free, guidance=guidance, steps=1)
            for guidance in (1.0, GuidanceSchedule(8.0, over_codes="linear"))
        )
        assert torch.equal(plain, guided) == same


def test_action_guidance_needs_actions() -> None:
    with pytest.raises(UserError, match="--action-guidance: the world model has no action channels"):
        Rollout(random_model(actions=0), RolloutConfig(SamplingPlan(), action_guidance=2.0), seeds=[0], worlds=[0])


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_step_forced_whole_equals_teacher_forcing(model: WorldGPT, guidance: float) -> None:
    """Steps forced from the start leave the world where a context of the same steps leaves it."""
    context = random_tokens(model.layout, 2, 3)
    free = torch.full((2, 3, model.layout.tokens_per_step), FREE)
    cold = SamplingConfig(temperature=0)
    forced = roll(model, range(2), forced=torch.cat([context, free], dim=1), guidance=guidance, sampling=cold, steps=6)
    assert torch.equal(forced[:, :3], context)
    assert torch.equal(forced[:, 3:], roll(model, range(2), context=context, guidance=guidance, sampling=cold, steps=3))


@pytest.mark.parametrize("kind", ["frame", "telemetry", "action"])
def test_forced_tokens_stand_and_are_seen(model: WorldGPT, kind: str) -> None:
    span = model.layout.span_of_kind(kind)  # type: ignore[arg-type]
    commands = random_tokens(model.layout, 2, STEPS)
    forced = torch.full_like(commands, FREE)
    forced[..., span] = commands[..., span]
    tokens = roll(model, range(2), forced=forced)
    assert torch.equal(tokens[..., span], commands[..., span])
    free = roll(model, range(2))
    assert not torch.equal(tokens, free)
    # Forcing what would have been drawn anyway changes nothing, in one world or in all.
    forced[..., span] = free[..., span]
    assert torch.equal(roll(model, range(2), forced=forced), free)
    forced[1] = FREE
    assert torch.equal(roll(model, range(2), forced=forced), free)


def test_null_never_comes_out(model: WorldGPT) -> None:
    for sampling in (SamplingConfig(), SamplingConfig(temperature=5.0), SamplingConfig(temperature=0)):
        tokens = roll(model, range(4), sampling=sampling)
        assert tokens.min() >= 0
        assert (tokens < torch.from_numpy(model.layout.null_tokens)).all()


def test_a_prompt_change_acts_from_its_step_on(model: WorldGPT) -> None:
    before, after = random_prompts(model, 32, seed=1), random_prompts(model, 32, seed=2)
    constant = before[:, None].expand(-1, STEPS, -1, -1)
    changing = torch.cat([constant[:, :3], after[:, None].expand(-1, STEPS - 3, -1, -1)], dim=1)
    plain, changed = roll(model, range(32), prompts=constant), roll(model, range(32), prompts=changing)
    assert torch.equal(changed[:, :3], plain[:, :3])
    assert not torch.equal(changed[:, 3], plain[:, 3])


def test_of_a_long_context_the_newest_steps_count(model: WorldGPT) -> None:
    context = random_tokens(model.layout, 2, 9)
    assert torch.equal(
        roll(model, range(2), context=context), roll(model, range(2), context=context[:, -5:])
    )  # three steps, and the hints of the first
    changed = context.clone()
    changed[:, -1] = random_tokens(model.layout, 2, seed=4)
    assert not torch.equal(roll(model, range(2), context=changed), roll(model, range(2), context=context))


def test_a_longer_rollout_begins_like_a_shorter_one(model: WorldGPT) -> None:
    assert torch.equal(roll(model, range(2), steps=12)[:, :5], roll(model, range(2), steps=5))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_within_the_window_the_ring_equals_reading_anew(model: WorldGPT, guidance: float) -> None:
    """Past it, the ring's deeper layers know more than the window holds, so that the two may part."""
    context = random_tokens(model.layout, 2, 1)
    ring = roll(model, range(2), context=context, guidance=guidance, steps=4 * STEPS)
    anew = roll(model, range(2), context=context, guidance=guidance, steps=4 * STEPS, window="recompute")
    assert torch.equal(ring[:, :3], anew[:, :3])  # four steps with the context
    assert not torch.equal(ring, anew)


def test_worlds_of_their_own_seeds_are_what_they_are_alone(model: WorldGPT) -> None:
    prompts = random_prompts(model, seed=1)[None]
    free = torch.full((2, model.layout.tokens_per_step), FREE)
    config = RolloutConfig(SamplingPlan())
    together = Rollout(model, config, seeds=[5, 6], worlds=[0, 0])
    tokens = torch.stack([together.step(prompts.expand(2, -1, -1), prompts.expand(2, -1, -1), free) for _ in range(3)], dim=1)
    for row, seed in enumerate([5, 6]):
        alone = Rollout(model, config, seeds=[seed], worlds=[0])
        assert torch.equal(torch.stack([alone.step(prompts, prompts, free[:1]) for _ in range(3)], dim=1)[0], tokens[row])


def start(
    model: WorldGPT, worlds: range, guidance: float = 1.0, action_guidance: float = 1.0
) -> tuple[Rollout, torch.Tensor, torch.Tensor]:
    """A rollout of `worlds` after 6 steps, its prompts and its negative prompts."""
    prompts = torch.stack([random_prompts(model, seed=100 + w) for w in worlds])
    negative = random_prompts(model, seed=99).expand(len(worlds), -1, -1)
    rollout = Rollout(model, RolloutConfig(SamplingPlan(), guidance, action_guidance), seeds=[0] * len(worlds), worlds=worlds)
    free = torch.full((len(worlds), model.layout.tokens_per_step), FREE)
    for _ in range(6):
        rollout.step(prompts, negative, free)
    return rollout, prompts, negative


@pytest.mark.parametrize("guidance", [(1.0, 1.0), (2.0, 1.0), (2.0, 3.0)])
def test_some_worlds_can_be_replaced_and_the_others_do_not_notice(model: WorldGPT, guidance: tuple[float, float]) -> None:
    free = torch.full((3, model.layout.tokens_per_step), FREE)
    new = random_tokens(model.layout, 3, 3, seed=9)
    outcomes = []
    for rows in (None, torch.tensor([True, True, True]), torch.tensor([False, True, False])):
        rollout, prompts, negative = start(model, range(3), *guidance)
        rollout.replace(new) if rows is None else rollout.replace(new, rows)
        outcomes.append(torch.stack([rollout.step(prompts, negative, free) for _ in range(5)], dim=1))
    rollout, prompts, negative = start(model, range(3), *guidance)
    untouched = torch.stack([rollout.step(prompts, negative, free) for _ in range(5)], dim=1)
    whole, every, middle = outcomes
    assert torch.equal(whole, every)
    assert torch.equal(middle[1], whole[1])
    assert torch.equal(middle[[0, 2]], untouched[[0, 2]])
    assert not torch.equal(whole[1], untouched[1])


def test_replacing_forgets_all_that_came_before(model: WorldGPT) -> None:
    """Two worlds with other pasts, and the same steps put in: the first of them still hints at the past, no more."""
    new, free = random_tokens(model.layout, 1, 3, seed=9), torch.full((1, model.layout.tokens_per_step), FREE)
    rollout, prompts, negative = start(model, range(1))
    rollout.replace(new)
    fresh = Rollout(model, RolloutConfig(SamplingPlan()), seeds=[0], worlds=[0])
    fresh.steps = rollout.steps  # the same draws
    fresh.start(torch.cat([rollout._tokens[:, :2], new], dim=1), prompts, negative)
    for _ in range(5):
        assert torch.equal(rollout.step(prompts, negative, free), fresh.step(prompts, negative, free))


@pytest.mark.parametrize("guidance", [(1.0, 1.0), (2.0, 1.0), (2.0, 3.0)])
def test_a_world_that_ends_leaves_the_others_as_they_are(model: WorldGPT, guidance: tuple[float, float]) -> None:
    free = torch.full((3, model.layout.tokens_per_step), FREE)
    rollout, prompts, negative = start(model, range(3), *guidance)
    untouched = torch.stack([rollout.step(prompts, negative, free) for _ in range(4)], dim=1)
    rollout, prompts, negative = start(model, range(3), *guidance)
    rollout.keep([0, 2])
    left = torch.stack([rollout.step(prompts[[0, 2]], negative[[0, 2]], free[:2]) for _ in range(4)], dim=1)
    assert torch.equal(left, untouched[[0, 2]])


def test_a_planner_sees_the_frame_and_decides_the_actions(model: WorldGPT) -> None:
    span, seen = model.layout.span_of_kind("action"), []

    def decide(tokens: torch.Tensor) -> torch.Tensor:
        seen.append(tokens)
        return torch.stack([tokens[:, 0] % 3, torch.full_like(tokens[:, 0], FREE)], dim=1)

    prompts = random_prompts(model, 2, seed=3)
    free = torch.full((2, model.layout.tokens_per_step), FREE)
    rollout = Rollout(model, RolloutConfig(SamplingPlan()), seeds=[0, 0], worlds=[0, 1])
    plain = Rollout(model, RolloutConfig(SamplingPlan()), seeds=[0, 0], worlds=[0, 1])
    for _ in range(4):
        tokens = rollout.step(prompts, prompts, free, decide)
        assert torch.equal(tokens[:, : span.start], seen[-1][:, : span.start])
        assert bool((seen[-1][:, : span.start] != FREE).all() and (seen[-1][:, span] == FREE).all())
        assert torch.equal(tokens[:, span.start], tokens[:, 0] % 3)
        assert bool((tokens[:, span.start + 1] != FREE).all())  # left to the model
        forced = free.clone()
        forced[:, span.start] = tokens[:, span.start]
        assert torch.equal(plain.step(prompts, prompts, forced), tokens)


def test_each_stream_is_drawn_by_its_own_settings(model: WorldGPT) -> None:
    cold = SamplingPlan(SamplingConfig(), {"frame": SamplingConfig(temperature=0)})
    prompts, free = random_prompts(model, 64, seed=3), torch.full((64, model.layout.tokens_per_step), FREE)
    first, other = (Rollout(model, RolloutConfig(cold), seeds=[seed] * 64, worlds=range(64)) for seed in (1, 2))
    a, b = first.step(prompts, prompts, free), other.step(prompts, prompts, free)
    span = model.layout.span_of_kind("frame")
    assert torch.equal(a[:, span], b[:, span])
    assert not torch.equal(a, b)
    assert bool(first.surprise.isfinite().all() and (first.surprise > 0).all())


@torch.no_grad()
@pytest.mark.parametrize("window", ["ring", "recompute"])
def test_anchors_are_seen_at_their_distance(model: WorldGPT, window: Literal["ring", "recompute"]) -> None:
    """A greedy rollout with anchors behind and ahead is what the whole model predicts from a window with those in front."""
    context, anchors = random_tokens(model.layout, 2, 2), random_tokens(model.layout, 2, 1, seed=4)
    away, prompts = torch.tensor([[-9], [20]]), random_prompts(model, 2, seed=7)
    config = RolloutConfig(SamplingPlan(SamplingConfig(temperature=0)), window=window)
    rollout = Rollout(model, config, seeds=[0, 0], worlds=range(2))
    rollout.start(context, prompts, prompts)
    rollout.anchor(anchors, away)
    assert rollout.held == rollout.room == 2
    free = torch.full((2, model.layout.tokens_per_step), FREE)
    known, before = context, model.embedding.unseen(2)[:, :2]
    for step in range(3):
        made = rollout.step(prompts, prompts, free)
        window_tokens = torch.cat([anchors, known, made[:, None]], dim=1)
        times = torch.cat([away - step + 3, torch.arange(1, 4).expand(2, -1)], dim=1)
        told = prompts[:, None].expand(-1, 4, -1, -1)
        hidden = model.predicting(model(window_tokens, told, before, times, anchors=1))[:, -1]
        expected = greedy(model, hidden)
        if step == 0 or window == "recompute":  # once the window moves, deep layers of the ring remember more
            assert torch.equal(made, expected)
        known, before = torch.cat([known, made[:, None]], dim=1)[:, 1:], torch.cat([before, known[:, :1]], dim=1)[:, 1:]


def greedy(model: WorldGPT, hidden: torch.Tensor) -> torch.Tensor:
    """(B, J) likeliest tokens from hidden states (B, J, D) at the positions that predict them."""
    tokens = []
    for token in range(model.layout.tokens_per_step):
        table, told = model.table(model.layout.pieces(token, token + 1)[0][0]), []
        for _ in table.sizes:
            told.append(model.logits(hidden[:, token], token, told).argmax(-1))
        tokens.append(table.join(told))
    return torch.stack(tokens, dim=1)
