"""Laws of re-anchoring: each policy acts when it says, on whom it says, and puts in what it says."""

import pytest
import torch
from world_samples import random_model, random_prompts, random_tokens

from data.errors import UserError
from worldgpt.anchors import POLICIES, EveryN, Future, Keyframe, OnDrift, Policy, Real, Scene, parse_policy
from worldgpt.model import WorldGPT
from worldgpt.rollout import FREE, Rollout, RolloutConfig
from worldgpt.sampling import SamplingPlan


@pytest.fixture(scope="module")
def model() -> WorldGPT:
    return random_model()


def drive(model: WorldGPT, policy: Policy, scene: Scene, steps: int, worlds: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B, T, J), and (B, T) which worlds were anchored before which step."""
    rollout = Rollout(model, RolloutConfig(SamplingPlan()), seeds=[0] * worlds, worlds=range(worlds))
    prompts, free = random_prompts(model, worlds, seed=1), torch.full((worlds, model.layout.tokens_per_step), FREE)
    tokens, anchored = [], []
    for _ in range(steps):
        anchored.append(policy.apply(rollout, scene))
        tokens.append(rollout.step(prompts, prompts, free))
    return torch.stack(tokens, dim=1), torch.stack(anchored, dim=1)


def test_every_n_puts_in_what_the_tokenizer_makes_of_the_steps_held(model: WorldGPT) -> None:
    asked: list[torch.Tensor] = []

    def retokenize(steps: torch.Tensor) -> torch.Tensor:
        asked.append(steps)
        return random_tokens(model.layout, *steps.shape[:2], seed=3)

    tokens, anchored = drive(model, EveryN(4), Scene(retokenize), 10)
    plain, _ = drive(model, parse_policy("none"), Scene(retokenize), 10)
    assert anchored.all(0).nonzero().flatten().tolist() == [4, 8]
    assert torch.equal(asked[0], plain[:, 1:4])
    assert torch.equal(asked[1], tokens[:, 5:8])
    assert torch.equal(tokens[:, :4], plain[:, :4])
    assert not torch.equal(tokens[:, 4], plain[:, 4])


def test_real_puts_in_the_true_steps(model: WorldGPT) -> None:
    """After an anchor the rollout goes on as one that had driven the log from there."""
    truth, free = random_tokens(model.layout, 2, 12, seed=5), torch.full((2, model.layout.tokens_per_step), FREE)
    scene = Scene(lambda steps: steps, truth)
    tokens, anchored = drive(model, Real(5), scene, 8)
    assert anchored.all(0).nonzero().flatten().tolist() == [5]
    rollout = Rollout(model, RolloutConfig(SamplingPlan()), seeds=[0, 0], worlds=range(2))
    prompts = random_prompts(model, 2, seed=1)
    rollout.steps = 5
    rollout.start(torch.cat([tokens[:, :2], truth[:, 2:5]], dim=1), prompts, prompts)
    assert torch.equal(torch.stack([rollout.step(prompts, prompts, free) for _ in range(3)], dim=1), tokens[:, 5:])


def test_keyframe_pins_the_first_frame_and_the_most_alike_of_those_that_left() -> None:
    model = random_model(context_steps=6)
    context, prompts = random_tokens(model.layout, 2, 5, seed=8), random_prompts(model, 2, seed=1)
    rollout = Rollout(model, RolloutConfig(SamplingPlan()), seeds=[0, 0], worlds=range(2))
    rollout.start(context, prompts, prompts)
    policy, free, pinned = Keyframe(3), torch.full((2, model.layout.tokens_per_step), FREE), {}
    made = []
    for step in range(14):
        if bool(policy.apply(rollout, Scene(lambda steps: steps)).all()):
            assert rollout._anchors is not None
            pinned[step] = rollout._anchors
        made.append(rollout.step(prompts, prompts, free))
    assert list(pinned) == [0, 3, 6, 9, 12]
    for step, anchors in pinned.items():
        assert torch.equal(anchors.tokens[:, 0], context[:, -1]) and (anchors.steps[:, 0] == -1).all()
        assert anchors.tokens.shape[1] == (1 if step < 9 else 2)  # the keyframe of step 2 is still in the window at step 6
        if step >= 9:
            assert set(anchors.steps[:, 1].tolist()) <= {2, 5, 8}
            for world in range(2):
                chosen = int(anchors.steps[world, 1])
                assert torch.equal(anchors.tokens[world, 1], made[chosen][world])
    policy.keep([1])
    assert policy.kept[0][1].shape[0] == 1


def test_keyframes_without_a_context_begin_with_the_third_dreamed_frame() -> None:
    model = random_model(context_steps=6)
    _, anchored = drive(model, Keyframe(4), Scene(lambda steps: steps), 9)
    assert anchored.all(0).nonzero().flatten().tolist() == [3, 4, 8]


def test_future_pins_the_true_step_ahead() -> None:
    model = random_model(context_steps=6)
    truth, prompts = random_tokens(model.layout, 2, 12, seed=5), random_prompts(model, 2, seed=1)
    rollout = Rollout(model, RolloutConfig(SamplingPlan()), seeds=[0, 0], worlds=range(2))
    rollout.start(random_tokens(model.layout, 2, 5, seed=8), prompts, prompts)
    policy, scene, goals = Future(5), Scene(lambda steps: steps, truth), []
    for _ in range(11):
        if bool(policy.apply(rollout, scene).all()):
            assert rollout._anchors is not None
            goals.append(int(rollout._anchors.steps[0, 0]))
            assert torch.equal(rollout._anchors.tokens[:, 0], truth[:, goals[-1]])
        rollout.step(prompts, prompts, torch.full((2, model.layout.tokens_per_step), FREE))
    assert goals == [5, 10, 11]


def test_on_drift_anchors_only_the_world_that_drifts(model: WorldGPT) -> None:
    def retokenize(steps: torch.Tensor) -> torch.Tensor:
        """World 1 agrees with itself at first, and no more later."""
        fresh = steps.clone()
        if retokenize.calls:  # type: ignore[attr-defined]
            fresh[1] = (fresh[1] + 1) % 2
        retokenize.calls += 1  # type: ignore[attr-defined]
        return fresh

    retokenize.calls = 0  # type: ignore[attr-defined]
    tokens, anchored = drive(model, OnDrift(4.0), Scene(retokenize), 24)
    plain, _ = drive(model, parse_policy("none"), Scene(retokenize), 24)
    assert anchored[1].nonzero().flatten().tolist() == [20]
    assert not anchored[0].any()
    assert torch.equal(tokens[0], plain[0])
    assert torch.equal(tokens[1, :20], plain[1, :20])
    assert not torch.equal(tokens[1, 20:], plain[1, 20:])


def test_policies_are_read_from_words() -> None:
    assert set(POLICIES) == {"none", "every_n", "keyframe", "on_drift", "future", "real"}
    assert parse_policy("every_n:7").every == 7  # type: ignore[attr-defined]
    assert parse_policy("on_drift:1.5").factor == 1.5  # type: ignore[attr-defined]
    assert parse_policy("real").needs_truth
    for wrong in ("sometimes", "none:3", "every_n:x", "every_n:1", "on_drift:1", "real:0", "every_n:", "future:91"):
        with pytest.raises(UserError, match="--reanchor"):
            parse_policy(wrong)


def test_a_window_too_short_to_keep_motion_is_refused() -> None:
    short = random_model(context_steps=3)
    rollout = Rollout(short, RolloutConfig(SamplingPlan()), seeds=[0], worlds=[0])
    parse_policy("none").check(rollout)
    with pytest.raises(UserError, match="window of more than 3 steps"):
        parse_policy("every_n").check(rollout)
    with pytest.raises(UserError, match="window of more than 5 steps"):
        parse_policy("keyframe").check(rollout)
