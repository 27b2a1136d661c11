"""Laws of the prepared decoder: it says what the model says, whatever the dtype, the cameras, the order in which tokens come."""

import pytest
import torch
from world_samples import random_model, random_prompts, random_tokens

from worldgpt.decoder import StepDecoder
from worldgpt.kv_cache import RingCache
from worldgpt.layout import SEEN_STEPS, Layout
from worldgpt.model import WorldGPT, WorldGPTConfig

STEPS = 6
"""More than the window of 4."""


def split_model() -> WorldGPT:
    """A model whose codes are told in two halves."""
    model = random_model()
    layout = Layout.build({"front": (2, 3)}, 4**8, model.telemetry.specs, model.actions.specs, model.layout.prompt_tokens, (4,) * 8)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        split = WorldGPT(WorldGPTConfig(**{**model.config.to_dict(), "layout": layout.to_dict()}))
        for p in split.parameters():
            torch.nn.init.normal_(p, std=0.1)  # logits within 50, as trained models have them
    assert len(split.table(layout.streams[0]).sizes) == 2
    return split.double().eval()


MODELS = {
    "one": random_model,
    "two cameras": lambda: random_model(cameras={"front": (2, 2), "left": (1, 3)}),
    "no channels": lambda: random_model(telemetry=0, actions=0),
    "halves": split_model,
    "rows": lambda: random_model(together=3),
    "diagonals": lambda: random_model(slope=1, levels=(4,) * 8),
    "diagonals of two cameras": lambda: random_model(cameras={"front": (3, 3), "left": (2, 4)}, slope=2),
    "rows of two cameras": lambda: random_model(cameras={"front": (2, 2), "left": (1, 3)}, together=4, levels=(4,) * 8),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> WorldGPT:
    return MODELS[request.param]()


@torch.no_grad()
def plain_step(model: WorldGPT, seen: torch.Tensor, prompts: torch.Tensor, cache: RingCache) -> list[torch.Tensor]:
    """Hidden states (B, D) of all positions from the first that predicts on: pass by pass of the model's own."""
    by, (prompt, *passes) = cache.begin_step(), model.layout.schedule
    conditions = model.embedding.conditions(seen, prompts)
    hidden = [model.extend(model.embedding.prompt(prompts, seen, conditions), by[..., : prompt.last, :], cache)]
    for number, one in enumerate(passes, start=1):
        x = model.embedding.tokens(seen, number, number + 1, conditions)
        hidden.append(model.extend(x, by[..., one.first : one.last, :], cache))
    return list(torch.cat(hidden, dim=1)[:, prompt.at :].unbind(1))


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_decoder_equals_model(model: WorldGPT, chunk: int) -> None:
    """Hidden states and logits, past the end of the window, for tokens one by one and several at once."""
    layout, size, end = model.layout, model.layout.tokens_per_step, len(model.layout.schedule)
    tokens, prompts = random_tokens(layout, 2, STEPS), random_prompts(model, 2, STEPS)
    known = torch.cat([model.embedding.unseen(2)[:, 1:], tokens], dim=1)
    decoder, caches = StepDecoder(model), (model.new_cache(2), model.new_cache(2))
    for i in range(STEPS):
        seen = known[:, i : i + SEEN_STEPS]
        expected = plain_step(model, seen, prompts[:, i], caches[0])
        step = decoder.begin(caches[1].begin_step(), seen, prompts[:, i], caches[1])
        found = [step.prompt()]
        found += [step.read(tokens[:, i], a, min(a + chunk, end)) for a in range(1, end, chunk)]
        torch.testing.assert_close(torch.cat(found, dim=1), torch.stack(expected, dim=1), rtol=0, atol=1e-9)
        for token in range(size):
            told: list[torch.Tensor] = []
            telling = decoder.telling(expected[token], token)
            table = model.table(layout.pieces(token, token + 1)[0][0])
            for part in table.split(tokens[:, i, token]):
                torch.testing.assert_close(telling.logits(), model.logits(expected[token], token, told), rtol=0, atol=1e-9)
                telling.tell(part)
                told.append(part)
    for name in ("raw_keys", "keys", "values"):
        torch.testing.assert_close(getattr(caches[0], name), getattr(caches[1], name), rtol=0, atol=1e-9)


@torch.no_grad()
def test_logits_in_float32_are_those_of_the_model() -> None:
    model = split_model().float()
    prompts, seen = random_prompts(model, 2), model.embedding.unseen(2).clone()
    seen[:, -1] = random_tokens(model.layout, 2)
    expected, cache = plain_step(model, seen, prompts, model.new_cache(2)), model.new_cache(2)
    decoder = StepDecoder(model)
    step = decoder.begin(cache.begin_step(), seen, prompts, cache)
    hidden = [step.prompt()[:, 0]] + [step.read(seen[:, -1], j, j + 1)[:, 0] for j in range(1, model.layout.tokens_per_step)]
    for token, ours in enumerate(hidden):
        torch.testing.assert_close(decoder.telling(ours, token).logits(), model.logits(expected[token], token), rtol=0, atol=1e-4)
