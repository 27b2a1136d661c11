"""Laws of recorded steps: a replay equals the step itself, and what changes on the way is never replayed."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from world_samples import random_model, random_prompts, random_tokens

from conditioning.guidance import GuidanceSchedule
from worldgpt import rollout as rollouts
from worldgpt.recording import Recording
from worldgpt.rollout import FREE, Rollout, RolloutConfig
from worldgpt.sampling import SamplingConfig, SamplingPlan

STEPS = 18
"""Longer than the window of 4."""
GUIDANCE = {"none": 1.0, "constant": 2.0, "ending": GuidanceSchedule(2.5, "linear", 6, "cosine")}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


class Emulated:
    """A recording without a GPU: the host's work is done once, the rest on copies of the inputs, as a replay finds them."""

    made = replayed = 0

    def __init__(self, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> None:
        self.function, self.inputs = function, [part.clone() for part in inputs]
        Emulated.made += 1

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        for kept, part in zip(self.inputs, inputs, strict=True):
            kept.copy_(part)
        Emulated.replayed += 1
        return [part.clone() for part in self.function(*self.inputs)]


def roll(device: str, records: bool, together: int, keep: int | None, **scales: Any) -> Tensor:
    """(T, B, J) tokens of three worlds under prompts that change every third step, forced now and then; from `keep` on only two."""
    model = random_model(levels=(4,) * 8, together=together).to(device)  # type: ignore[arg-type]
    rollout = Rollout(model, RolloutConfig(SamplingPlan(SamplingConfig(top_p=0.9)), **scales), seeds=[1, 2, 3], worlds=range(3))
    rollout.records = records
    negative = random_prompts(model, seed=99).expand(3, -1, -1).to(device)
    rollout.start(random_tokens(model.layout, 3, 2), negative, negative)
    steps = []
    for step in range(STEPS):
        if step == keep:
            rollout.keep([0, 2])
        count = len(rollout.worlds)
        prompts = random_prompts(model, seed=step // 3).expand(count, -1, -1).to(device)
        forced = torch.full((count, model.layout.tokens_per_step), FREE)
        if step in (7, 8, 9):
            forced[:, model.layout.span_of_kind("action")] = 1
        tokens = rollout.step(prompts, negative[:count], forced).cpu()
        steps.append(tokens if count == 3 else torch.cat([tokens, tokens[:1]]))
    return torch.stack(steps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("scale", GUIDANCE)
@pytest.mark.parametrize("keep", [None, 8])
def test_a_replayed_step_equals_the_step_itself(
    monkeypatch: pytest.MonkeyPatch, device: str, together: int, scale: str, keep: int | None
) -> None:
    Emulated.made = Emulated.replayed = 0
    if device == "cpu":
        monkeypatch.setattr(rollouts, "Recording", Emulated)
    else:
        assert rollouts.Recording is Recording
    scales = {"guidance": GUIDANCE[scale], "action_guidance": 1.5}
    assert torch.equal(roll(device, True, together, keep, **scales), roll(device, False, together, keep, **scales))
    if device == "cpu":
        assert Emulated.made >= 2  # what is forced has changed
        assert Emulated.replayed > Emulated.made


def test_nothing_is_recorded_on_a_cpu() -> None:
    rollout = Rollout(random_model(), RolloutConfig(SamplingPlan()), seeds=[0], worlds=[0])
    assert not rollout.records
