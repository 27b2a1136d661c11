"""Laws of conditioning dropout, guidance and prompt schedules."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from conditioning.guidance import DropoutConfig, GuidanceSchedule, PromptSchedule, guided_logits
from data.errors import UserError


def pair(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 5, 64, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_scale_one_is_no_guidance_bit_for_bit(dtype: torch.dtype) -> None:
    conditional, unconditional = pair(dtype)
    guided = guided_logits(conditional, (unconditional, 1.0))
    assert guided.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(guided, conditional.to(guided.dtype))


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, -1.0])
def test_guidance_is_the_formula(scale: float) -> None:
    conditional, unconditional = pair(torch.float64)
    torch.testing.assert_close(
        guided_logits(conditional, (unconditional, scale)), scale * conditional + (1 - scale) * unconditional, rtol=1e-12, atol=1e-12
    )


def test_low_precision_is_mixed_in_float32() -> None:
    conditional, unconditional = pair(torch.bfloat16)
    whole = guided_logits(conditional.float(), (unconditional.float(), 3.0))
    assert torch.equal(guided_logits(conditional, (unconditional, 3.0)), whole)


def test_equal_branches_are_left_alone_and_ruled_out_ids_stay_out() -> None:
    conditional, unconditional = pair()
    torch.testing.assert_close(guided_logits(conditional, (conditional, 7.0)), conditional, rtol=0, atol=0)
    conditional[..., 3] = -torch.inf
    unconditional[..., 3:5] = -torch.inf
    guided = guided_logits(conditional, (unconditional, 2.0))
    assert (guided[..., 3] == -torch.inf).all() and torch.equal(guided[..., 4], conditional[..., 4])


def test_two_conditions_push_each_by_itself() -> None:
    (conditional, one), (other, _) = pair(torch.float64), pair(torch.float64)
    other = other.roll(1, 0)
    pushes = [guided_logits(conditional, (part, scale)) - conditional for part, scale in ((one, 3.0), (other, 0.5))]
    torch.testing.assert_close(guided_logits(conditional, (one, 3.0), (other, 0.5)), conditional + sum(pushes))
    assert torch.equal(guided_logits(conditional, (one, 3.0), (other, 1.0)), guided_logits(conditional, (one, 3.0)))
    assert torch.equal(guided_logits(conditional), conditional)


@pytest.mark.parametrize("fall", ["linear", "cosine"])
def test_a_scale_falls_from_its_value_to_one(fall: str) -> None:
    schedule = GuidanceSchedule.parse(3.7, [f"frames={fall}:10", f"codes={fall}"])
    frames = [schedule.at(frame) for frame in range(12)]
    assert frames[0] == 3.7 and frames[10:] == [1.0, 1.0]
    assert all(a > b for a, b in pairwise(frames[:11])) and frames[5] == pytest.approx((3.7 + 1) / 2)
    places = [schedule.at(0, place / 8) for place in range(9)]
    assert places[0] == 3.7 and places[8] == 1 and all(a > b for a, b in pairwise(places))
    assert schedule.at(5, 0.5) == pytest.approx(1 + 2.7 / 4)  # the two falls multiply
    assert [schedule.over(frame) for frame in (0, 9, 10, 11)] == [False, False, True, True]
    assert GuidanceSchedule.parse(0.5, [f"frames={fall}:2"]).at(1) == pytest.approx(0.75)


def test_a_plain_scale_holds_everywhere() -> None:
    schedule = GuidanceSchedule.of(2.1)
    assert schedule == GuidanceSchedule(2.1) == GuidanceSchedule.parse(2.1, []) == GuidanceSchedule.of(schedule)
    assert {schedule.at(frame, place) for frame in (0, 9_999) for place in (0.0, 1.0)} == {2.1}
    assert not schedule.over(10**6) and GuidanceSchedule().over(0)


@pytest.mark.parametrize(
    "text", ["", "frames", "frames=linear", "frames=linear:0", "frames=linear:-3", "frames=square:5", "codes=linear:4", "rows=linear"]
)
def test_schedules_that_cannot_be_read_are_told(text: str) -> None:
    with pytest.raises(UserError, match=r"--guidance-schedule: expected frames=linear:50, .*got "):
        GuidanceSchedule.parse(2.0, [text])


def test_schedules_are_checked() -> None:
    with pytest.raises(UserError, match="guidance: expected a finite scale, got nan"):
        GuidanceSchedule(float("nan"))
    for over_frames, frames in (("constant", 3), ("linear", 0), ("cosine", -1)):
        with pytest.raises(UserError, match=f"got {over_frames}:{frames}"):
            GuidanceSchedule(2.0, over_frames, frames)  # type: ignore[arg-type]


def test_dropout_outside_zero_to_one_names_its_field() -> None:
    with pytest.raises(UserError, match=r"dropout.actions: expected a share from 0 to 1, got 1.5"):
        DropoutConfig(actions=1.5)


def test_a_prompt_holds_from_its_frame_to_the_next() -> None:
    schedule = PromptSchedule([("sunny day", 0), ("heavy rain at night", 60), ("", 61)])
    assert [schedule.at(frame) for frame in (0, 59, 60, 61, 10_000)] == ["sunny day"] * 2 + ["heavy rain at night", "", ""]
    assert PromptSchedule("fog") == PromptSchedule([("fog", 0)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "got none"),
        ([("a", 3)], r"\('a', 3\)"),
        ([("a", 0), ("b", 9), ("c", 9)], "got 9 after 9"),
        ([("a", 0), ("b", -1)], "got -1 after 0"),
    ],
)
def test_bad_schedules_are_told(changes: list[tuple[str, int]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PromptSchedule(changes)


def test_configs_import_without_torch() -> None:
    code = "import sys, conditioning.guidance, conditioning.text_config; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True)
