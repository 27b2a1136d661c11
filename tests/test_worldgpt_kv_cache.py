"""Laws of the ring cache: it keeps the newest steps, times stay bounded, memory stays constant, and where a step lies does not matter."""

import pytest
import torch
from torch.nn import functional as F
from world_samples import random_model, random_prompts, random_tokens

from worldgpt.attention import SHARPNESS, norm
from worldgpt.kv_cache import REACH, RingCache
from worldgpt.layout import SEEN_STEPS
from worldgpt.model import WorldGPT
from worldgpt.rope import rotate


@pytest.fixture(scope="module")
def model() -> WorldGPT:
    return random_model()


def drive(model: WorldGPT, cache: RingCache, steps: int, seed: int = 0) -> list[torch.Tensor]:
    """Run `steps` random steps through the cache, token by token; returns the hidden states (B, S, D) of each."""
    layout, hidden = model.layout, []
    tokens, prompts = random_tokens(layout, 2, steps, seed=seed), random_prompts(model, 2, steps, seed=seed)
    known = torch.cat([model.embedding.unseen(2)[:, 1:], tokens], dim=1)
    with torch.no_grad():
        for step in range(steps):
            by, first = cache.begin_step(), layout.prompt_tokens
            seen = known[:, step : step + SEEN_STEPS]
            conditions = model.embedding.conditions(seen, prompts[:, step])
            parts = [model.extend(model.embedding.prompt(prompts[:, step], seen, conditions), by[..., :first, :], cache)]
            for token in range(layout.tokens_per_step):
                x = model.embedding.tokens(seen, token + 1, token + 2, conditions)  # in raster order each token is a pass
                parts.append(model.extend(x, by[..., first + token : first + token + 1, :], cache))
            hidden.append(torch.cat(parts, dim=1))
    return hidden


def test_keeps_the_newest_steps_and_lets_the_oldest_go(model: WorldGPT) -> None:
    cache = model.new_cache(2)
    for step in range(12):
        drive(model, cache, 1, seed=step)
        assert sorted(cache.steps) == list(range(max(0, step - 3), step + 1))
        assert cache.present == step
        assert cache.filled == len(cache.steps) * model.layout.positions_per_step


def anchored_cache(model: WorldGPT, away: list[list[int]], steps: int = 1) -> RingCache:
    """A cache of two worlds with anchors that lie `away` from the next step, and `steps` of context."""
    cache, anchors = model.new_cache(2), len(away[0])
    tokens, prompts = random_tokens(model.layout, 2, anchors + steps, seed=9), random_prompts(model, 2, anchors + steps, seed=9)
    with torch.no_grad():
        model.prefill(tokens, prompts, cache, anchor_times=torch.tensor(away))
    return cache


def test_anchors_stay_and_their_distance_grows(model: WorldGPT) -> None:
    cache = anchored_cache(model, [[-5], [30]])
    assert cache.times().tolist() == [[-3, 1], [32, 1]]
    kept = cache.raw_keys[:, :, :, : model.layout.positions_per_step].clone()
    for step in range(1, 9):
        drive(model, cache, 1, seed=step)
        assert sorted(cache.steps) == list(range(max(0, step - 2), step + 1))  # a window of 4, one place taken
        behind, ahead = cache.times()[:, 0].tolist()
        present = cache.times()[0, 1:].max().item()
        assert present - behind == 5 + step - 1
        assert ahead - present == 30 - step + 1
    assert torch.equal(cache.raw_keys[:, :, :, : model.layout.positions_per_step], kept)
    far = anchored_cache(model, [[-5000], [5000]])
    assert (far.times()[:, 0] - far.times()[:, 1]).tolist() == [-REACH, REACH]


def test_times_and_memory_do_not_grow(model: WorldGPT) -> None:
    cache = model.new_cache(2)
    stores = (cache.raw_keys, cache.keys, cache.values)
    before = [(store.data_ptr(), store.shape) for store in stores]
    for step in range(40):
        drive(model, cache, 1, seed=step)
        (times,) = cache.times()
        assert times.min() >= 0
        assert times.max() == min(step, 3)
        assert sorted(times.tolist()) == list(range(len(cache.steps)))
    assert [(store.data_ptr(), store.shape) for store in (cache.raw_keys, cache.keys, cache.values)] == before


def test_attention_does_not_depend_on_where_a_step_lies(model: WorldGPT) -> None:
    """The newest query's attention in every layer, compared with one over the stored raw keys put in order of time."""
    cache = anchored_cache(model, [[-7], [20]])
    drive(model, cache, 7, seed=1)
    assert cache.steps != sorted(cache.steps)
    size, head_dim = model.layout.positions_per_step, model.config.width // model.config.heads
    order = [0, *(1 + i for i in sorted(range(3), key=cache.steps.__getitem__))]
    places = torch.cat([torch.arange(place * size, (place + 1) * size) for place in order])
    times = torch.tensor([[-10, 1, 2, 3], [17, 1, 2, 3]])  # the anchors, then the three newest
    assert cache.times()[:, order].tolist() == times.tolist()
    by = model.rotation_at(times)
    query = torch.randn(2, model.config.heads, 1, head_dim, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for layer in range(model.config.layers):
        ordered = F.scaled_dot_product_attention(
            query, rotate(cache.raw_keys[layer][:, :, places], by), cache.values[layer][:, :, places], scale=SHARPNESS * head_dim**-0.5
        )
        filled = slice(0, cache.filled)
        as_stored = F.scaled_dot_product_attention(
            query, cache.keys[layer][:, :, filled], cache.values[layer][:, :, filled], scale=SHARPNESS * head_dim**-0.5
        )
        torch.testing.assert_close(as_stored, ordered, rtol=0, atol=1e-9)


def test_past_the_window_one_layer_equals_a_recomputed_window() -> None:
    """With one layer nothing older than the window is remembered, so the cache must equal a fresh pass over the window's inputs."""
    model = random_model()
    model.blocks = model.blocks[:1]
    steps, window = 9, 4
    cache = model.new_cache(2)
    hidden = drive(model, cache, steps)
    tokens, prompts = random_tokens(model.layout, 2, steps), random_prompts(model, 2, steps)
    x = model.embedding(tokens, prompts)[:, -window:].flatten(1, 2)
    by = model.rotation_at(torch.arange(window)[None])
    with torch.no_grad():
        fresh = norm(model.blocks[0](x, by))
    torch.testing.assert_close(hidden[-1], fresh[:, -model.layout.positions_per_step :], rtol=0, atol=1e-9)


def test_begin_asks_for_an_empty_cache_and_a_context_that_fits(model: WorldGPT) -> None:
    cache = model.new_cache(2)
    for steps in (0, 4):
        with pytest.raises(ValueError, match="1 to 3 steps"):
            cache.begin(steps)
    drive(model, cache, 1)
    with pytest.raises(ValueError, match="expected an empty cache"):
        cache.begin(1)
