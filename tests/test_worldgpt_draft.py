"""Laws of the draft: it changes no token and saves passes where its guesses are right."""

import pytest
import torch
from roll_samples import STEPS, roll
from world_samples import random_model, random_prompts

from data.errors import UserError
from worldgpt.rollout import FREE, Rollout, RolloutConfig
from worldgpt.sampling import SamplingConfig, SamplingPlan
from worldgpt.token_table import TokenTable


@pytest.mark.parametrize("draft", [1, 3, 100])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_draft_changes_no_token(draft: int, guidance: float) -> None:
    """Past the window, for one world and several, with some codes forced, whatever is guessed how far ahead."""
    for model in (random_model(), random_model(levels=(4,) * 8), random_model(cameras={"front": (2, 3), "left": (1, 3)})):
        forced = torch.full((2, STEPS, model.layout.tokens_per_step), FREE)
        forced[0, :, 2], forced[:, 3, 1:4] = 3, 5
        for worlds in ([0], [0, 1]):
            plain = roll(model, worlds, guidance=guidance, forced=forced[worlds])
            drafted = roll(model, worlds, guidance=guidance, forced=forced[worlds], draft=draft)
            assert torch.equal(plain, drafted)


def test_right_guesses_save_passes() -> None:
    """Greedy draws of a world that stands still: all of a frame in one pass, once it is as the last one."""
    model = random_model(cameras={"front": (3, 4)})
    with torch.no_grad():
        for table in (module for module in model.modules() if isinstance(module, TokenTable)):
            table.out.weight.zero_()  # the same token everywhere: the likeliest of all
    rollout = Rollout(model, RolloutConfig(SamplingPlan(SamplingConfig(temperature=0)), draft=100), seeds=[0], worlds=[0])
    prompts, free = random_prompts(model, 1), torch.full((1, model.layout.tokens_per_step), FREE)
    for _ in range(4):
        rollout.step(prompts, prompts, free)
    assert rollout.draft is not None
    passes = rollout.draft.passes
    rollout.step(prompts, prompts, free)
    assert rollout.draft.passes == passes + 1


def test_a_draft_needs_raster_order() -> None:
    with pytest.raises(UserError, match="--decode draft: expected a checkpoint trained for raster"):
        Rollout(random_model(together=3), RolloutConfig(SamplingPlan(), draft=4), seeds=[0], worlds=[0])
