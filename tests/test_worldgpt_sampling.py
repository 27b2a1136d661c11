"""Filters against a slow plain reference; draws against their probabilities; keys against repetition."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data.errors import UserError
from worldgpt.layout import Stream
from worldgpt.sampling import SamplingConfig, SamplingPlan, draw, draw_keys, draw_with_nats, exponentials, probabilities

CONFIGS = [
    SamplingConfig(),
    SamplingConfig(temperature=0.3),
    SamplingConfig(top_k=3),
    SamplingConfig(top_k=100),
    SamplingConfig(top_p=0.6),
    SamplingConfig(top_p=0.01),
    SamplingConfig(min_p=0.25),
    SamplingConfig(temperature=1.7, top_k=6, top_p=0.8, min_p=0.1),
]


def reference(logits: list[float], config: SamplingConfig) -> list[float]:
    """Temperature, top-k, top-p, min-p, written out with plain lists."""
    weights = [math.exp((x - max(logits)) / config.temperature) for x in logits]
    p = [w / sum(weights) for w in weights]
    order = sorted(range(len(p)), key=lambda i: -p[i])
    kept = set(order[: config.top_k or len(p)])
    p = [x if i in kept else 0.0 for i, x in enumerate(p)]
    p = [x / sum(p) for x in p]
    if config.top_p < 1:
        reached, kept = 0.0, set()
        for i in order:
            if reached < config.top_p:
                kept.add(i)
            reached += p[i]
        p = [x if i in kept else 0.0 for i, x in enumerate(p)]
    p = [x if x >= config.min_p * max(p) else 0.0 for x in p]
    return [x / sum(p) for x in p]


def some_logits(*leading: int, size: int = 9) -> torch.Tensor:
    return torch.randn(*leading, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_filters_equal_the_plain_reference(config: SamplingConfig) -> None:
    logits = some_logits(4, 5)
    p = probabilities(logits, config)
    for i in range(4):
        for j in range(5):
            assert p[i, j].tolist() == pytest.approx(reference(logits[i, j].tolist(), config), abs=1e-12)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_draws_come_as_often_as_they_should(config: SamplingConfig) -> None:
    logits, count = some_logits(), 20_000
    tokens = draw(logits.expand(count, -1), exponentials(draw_keys([0], [0], 0, count)[0], 9), config)
    seen, p = torch.bincount(tokens, minlength=9), probabilities(logits, config)
    assert (seen[p == 0] == 0).all()
    expected = p[p > 0] * count
    chi_square = float(((seen[p > 0] - expected) ** 2 / expected).sum())
    assert chi_square < 30  # at most 8 degrees of freedom: passed by all but 1 in 5,000


def test_impossible_tokens_are_never_drawn() -> None:
    logits = torch.tensor([-math.inf, 0.0, -math.inf, 9.0, -math.inf])
    drawn = draw(logits.expand(20_000, -1), exponentials(draw_keys([0], [0], 0, 20_000)[0], 5), SamplingConfig())
    assert drawn.unique().tolist() == [1, 3]


def test_what_is_no_number_is_not_asked_for_ever() -> None:
    logits = torch.full((3, 5), math.nan)
    assert draw(logits, exponentials(draw_keys([0], [0], 0, 3)[0], 5), SamplingConfig(top_p=0.9, min_p=0.1)).shape == (3,)


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.3])
def test_what_changes_a_little_changes_few_draws(shift: float) -> None:
    """Under the same keys no more draws differ than twice the total variation, among many ids and with a filter too."""
    logits = torch.randn(4000, 512, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = logits + shift * torch.randn(512, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    waits = exponentials(draw_keys([0], [0], 0, 4000)[0], 512)
    for config in (SamplingConfig(), SamplingConfig(temperature=0.8, top_p=0.9)):
        distance = (probabilities(logits, config) - probabilities(other, config)).abs().sum(-1).mean() / 2
        differ = (draw(logits, waits, config) != draw(other, waits, config)).double().mean()
        assert differ <= 2 * distance
        assert (differ > 0) == (shift > 0)


def test_temperature_zero_takes_the_likeliest_whatever_the_seed() -> None:
    logits = some_logits(6)
    for seed in range(3):
        waits = exponentials(draw_keys([seed] * 6, range(6), 0, 1)[:, 0], 9)
        assert torch.equal(draw(logits, waits, SamplingConfig(temperature=0)), logits.argmax(-1))
    cold = draw(logits, exponentials(draw_keys([0] * 6, range(6), 0, 1)[:, 0], 9), SamplingConfig(temperature=1e-4))
    assert torch.equal(cold, logits.argmax(-1))


def test_keys_belong_to_seed_world_step_and_place() -> None:
    base = draw_keys([1, 1], [4, 7], 3, 20)
    assert torch.equal(base, draw_keys([1, 1], [4, 7], 3, 20))
    assert torch.equal(base[1:], draw_keys([1], [7], 3, 20))  # a batch equals its singles
    assert torch.equal(base[:, :5], draw_keys([1, 1], [4, 7], 3, 5))
    others = [((2, 2), (4, 7), 3), ((1, 1), (5, 8), 3), ((1, 1), (4, 7), 4)]
    for other in (*(draw_keys(*key, 20) for key in others), base.flip(0)):
        assert not (other == base).any()


def test_numbers_are_even_and_unrelated_from_step_to_step_and_from_id_to_id() -> None:
    keys = torch.stack([draw_keys([0] * 4, range(4), step, 64) for step in range(100)])
    table = torch.exp(-exponentials(keys, 5)).numpy()
    assert table.min() > 0 and table.max() < 1
    counts = np.histogram(table, bins=16, range=(0, 1))[0]
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 45
    for axis, limit in ((0, 0.03), (1, 0.03), (2, 0.03), (3, 0.03)):
        before, after = (np.take(table, range(*ends), axis).ravel() for ends in ((0, table.shape[axis] - 1), (1, table.shape[axis])))
        assert abs(np.corrcoef(before, after)[0, 1]) < limit


def test_numbers_are_those_of_splitmix64() -> None:
    """The first outputs of that generator at state 0, as its authors' code gives them."""
    outputs = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    wanted = [-math.log(((n >> 12) + 0.5) / 2**52) for n in outputs]
    assert exponentials(torch.zeros((), dtype=torch.long), 3).tolist() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [("temperature", (0, 2.0), (-0.1,)), ("top_k", (0, 5), (-1,)), ("top_p", (0.01, 1.0), (0, 1.01)), ("min_p", (0, 0.99), (-0.1, 1.0))],
)
def test_settings_are_checked(field: str, good: tuple[float, ...], bad: tuple[float, ...]) -> None:
    for value in good:
        SamplingConfig(**{field: value})
    for value in bad:
        with pytest.raises(UserError, match=field.replace("_", "-")):
            SamplingConfig(**{field: value})


def test_entropy_sharpens_where_the_model_is_sure() -> None:
    sure, unsure = torch.tensor([4.0, 0.0, 0.0, 0.0]), torch.tensor([0.4, 0.0, 0.0, 0.0])
    plain, adaptive = SamplingConfig(), SamplingConfig(entropy=0.5)
    gains = [float(probabilities(x, adaptive)[0] / probabilities(x, plain)[0] - 1) for x in (unsure, sure)]
    drops = [float(1 - probabilities(x, adaptive)[1:].sum() / probabilities(x, plain)[1:].sum()) for x in (unsure, sure)]
    assert gains[0] > 0
    assert drops[1] > 3 * drops[0] > 0
    nats = float(-(probabilities(sure, plain) * probabilities(sure, plain).log()).sum())
    scaled = SamplingConfig(temperature=0.8 ** (0.5 / nats))
    assert torch.allclose(probabilities(sure, adaptive), probabilities(sure, scaled))


def test_a_plan_is_read_from_words() -> None:
    plan = SamplingPlan.parse(SamplingConfig(top_p=0.9), ["telemetry:temperature=0.7", "action/a_norm:temperature=0,top-k=4"])
    streams = [
        Stream(name, kind, name) for name, kind in (("camera/front", "frame"), ("telemetry/x", "telemetry"), ("action/a_norm", "action"))
    ]
    found = [plan.of(stream) for stream in streams]
    assert found == [SamplingConfig(top_p=0.9), SamplingConfig(0.7, top_p=0.9), SamplingConfig(0, 4, 0.9)]
    for wrong in ("telemetry", "telemetry:warmth=2", "telemetry:top_k=many", "telemetry:temperature=-1"):
        with pytest.raises(UserError, match=r"stream-sampling|temperature"):
            SamplingPlan.parse(SamplingConfig(), [wrong])


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.9, 0.999, 1.0])
def test_the_nucleus_is_found_without_sorting_all(top_p: float) -> None:
    """Whether few tokens reach it or many, and where several are equally likely."""
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 3.0, 30.0):
        logits = (torch.randn(5, 320, generator=generator) * scale).round(decimals=0 if scale > 1 else 3)
        p = torch.softmax(logits.double(), dim=-1)
        ordered, order = p.sort(dim=-1, descending=True, stable=True)
        kept = torch.zeros_like(p, dtype=torch.bool).scatter(-1, order, ordered.cumsum(-1) - ordered < top_p)
        found = probabilities(logits, SamplingConfig(top_p=top_p))
        assert torch.equal(found > 0, kept if top_p < 1 else p > 0)
        torch.testing.assert_close(found.sum(-1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("config", [SamplingConfig(), SamplingConfig(temperature=0.7, top_p=0.8), SamplingConfig(temperature=0)])
def test_a_draw_with_its_nats_is_a_draw_and_its_nats(config: SamplingConfig) -> None:
    logits = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    waits = exponentials(draw_keys([0], [0], 0, 200)[0], 64)
    tokens, nats = draw_with_nats(logits, waits, config)
    assert torch.equal(tokens, draw(logits, waits, config))
    torch.testing.assert_close(nats, F.cross_entropy(logits.double(), tokens, reduction="none"))
