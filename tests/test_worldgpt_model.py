"""Laws of the world model: no position sees its future, cached equals uncached, batched equals single, saved equals loaded."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel
from world_samples import random_model, random_prompts, random_tokens

from worldgpt.model import WorldGPT, WorldGPTConfig
from worldgpt.pipeline import load_world_model

MODELS = {
    "one camera": lambda: random_model(),
    "two cameras": lambda: random_model(cameras={"front": (2, 2), "left": (1, 3)}),
    "rows": lambda: random_model(together=3),
    "diagonals": lambda: random_model(cameras={"front": (3, 3), "left": (2, 4)}, slope=1),
    "pairs": lambda: random_model(cameras={"front": (2, 2), "left": (1, 3)}, together=2),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> WorldGPT:
    return MODELS[request.param]()


def window(model: WorldGPT, batch: int = 2, steps: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return random_tokens(model.layout, batch, steps), random_prompts(model, batch, steps)


@torch.no_grad()
def test_no_position_sees_its_future(model: WorldGPT) -> None:
    tokens, prompts = window(model)
    layout, base = model.layout, model(tokens, prompts).flatten(1, 2)
    sizes = [layout.codebook(s).size for s in layout.streams for _ in range(s.tokens)]
    for step in range(4):
        for token in range(layout.tokens_per_step):
            changed = tokens.clone()
            changed[:, step, token] = (changed[:, step, token] + 1) % sizes[token]
            hidden, first = model(changed, prompts).flatten(1, 2), step * layout.positions_per_step
            place = first + layout.positions[token]
            before = first + layout.schedule[layout.passes[layout.positions[token]]].first if not layout.causal else place
            assert torch.equal(hidden[:, :before], base[:, :before])
            assert (hidden[:, place] != base[:, place]).any()
            last_of_next = (step + 2) * layout.positions_per_step - 1
            if step < 3:
                assert not torch.equal(hidden[:, last_of_next], base[:, last_of_next])  # the past is seen


@torch.no_grad()
def test_a_prompt_acts_from_its_step_on(model: WorldGPT) -> None:
    tokens, prompts = window(model)
    base, changed = model(tokens, prompts), prompts.clone()
    changed[:, 2] = random_prompts(model, 2, seed=9)
    hidden = model(tokens, changed)
    assert torch.equal(hidden[:, :2], base[:, :2])
    assert (hidden[:, 2:] - base[:, 2:]).abs().amax(-1).min() > 1e-6


@torch.no_grad()
@pytest.mark.parametrize("context", [0, 1, 3])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_cached_equals_uncached(model: WorldGPT, context: int, chunk: int) -> None:
    """After a prefill of `context` steps, pass by pass or in chunks of several."""
    tokens, prompts = window(model)
    whole, layout = model(tokens, prompts), model.layout
    cache = model.new_cache(2)
    if context:
        model.prefill(tokens[:, :context], prompts[:, :context], cache)
    embedded = model.embedding(tokens, prompts)  # (B, T, S, D)
    for step in range(context, 4):
        by, parts = cache.begin_step(), []
        starts = [0, *(np.flatnonzero(np.diff(layout.passes)) + 1).tolist()][::chunk]
        for start, end in pairwise([*starts, layout.positions_per_step]):
            places = slice(start, end)
            parts.append(model.extend(embedded[:, step, places], by[..., places, :], cache))
        torch.testing.assert_close(torch.cat(parts, dim=1), whole[:, step], rtol=0, atol=1e-9)


@torch.no_grad()
def test_embedding_in_pieces_equals_embedding_whole(model: WorldGPT) -> None:
    tokens, prompts = window(model, steps=3)
    whole, passes = model.embedding(tokens, prompts)[:, 2], model.layout.schedule
    null = torch.as_tensor(model.layout.null_tokens)
    for first in range(1, len(passes)):
        start = passes[first - 1].start
        known = tokens.clone()
        known[:, 2, start:] = null[start:]  # what is not decided yet may not matter
        conditions = model.embedding.conditions(known, prompts[:, 2])
        torch.testing.assert_close(model.embedding.prompt(prompts[:, 2], known, conditions), whole[:, : passes[0].last], rtol=0, atol=1e-12)
        for last in range(first + 1, len(passes) + 1):
            stop = passes[last - 2].stop
            known[:, 2, :stop] = tokens[:, 2, :stop]
            part = model.embedding.tokens(known, first, last, conditions)
            torch.testing.assert_close(part, whole[:, passes[first].first : passes[last - 1].last], rtol=0, atol=1e-12)


@torch.no_grad()
def test_hints_are_what_stands_around_the_token_to_come(model: WorldGPT) -> None:
    layout, (tokens, prompts) = model.layout, window(model, batch=1, steps=3)
    base = model.embedding(tokens, prompts)[0, 2]
    places = [(s.name, s.kind, *divmod(i, s.columns)) for s in layout.streams for i in layout.orders[s.name].tolist()]
    predicts = {int(position): token for token, position in enumerate(layout.predictors)}
    for step in (0, 1):
        for token, (name, kind, row, column) in enumerate(places):
            changed = tokens.clone()
            changed[0, step, token] = layout.null_tokens[token]
            positions = (model.embedding(changed, prompts)[0, 2] != base).any(-1).nonzero().flatten().tolist()
            differs = sorted(predicts[position] for position in positions)
            if step == 0:
                expected = [token]
            elif kind != "frame":
                expected = list(range(len(places)))  # a channel of the step before acts everywhere
            else:
                near = [(n == name, abs(r - row) <= 1, abs(c - column) <= 1) for n, _, r, c in places]
                expected = [i for i, flags in enumerate(near) if all(flags)]
            assert differs == expected


@torch.no_grad()
def test_a_batch_equals_its_singles(model: WorldGPT) -> None:
    tokens, prompts = window(model, batch=3)
    together = model(tokens, prompts)
    for i in range(3):
        alone = model(tokens[i : i + 1], prompts[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-9)
        for token in range(model.layout.tokens_per_step):
            ours, theirs = (model.logits(h[:, token], token) for h in (model.predicting(alone[0]), model.predicting(together[i])))
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@torch.no_grad()
def test_null_is_never_among_the_logits(model: WorldGPT) -> None:
    hidden = torch.randn(3, model.config.width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for stream in model.layout.streams:
        assert model.logits(hidden, model.layout.spans[stream.name].start).shape == (3, model.layout.codebook(stream).null_id)


@torch.no_grad()
def test_only_differences_of_time_matter(model: WorldGPT) -> None:
    tokens, prompts = window(model)
    early, late = (model(tokens, prompts, times=torch.arange(4)[None] + offset) for offset in (0, 5))
    torch.testing.assert_close(early, late, rtol=0, atol=1e-4)  # angles are float32
    gap = model(tokens, prompts, times=torch.tensor([[0, 4, 5, 6]]))
    assert (gap - early).abs().max() > 1e-2


def test_checkpointed_activations_give_the_same_gradients(model: WorldGPT) -> None:
    tokens, prompts = window(model)
    gradients = []
    for checkpointed in (False, True):
        model.train()
        model.activation_checkpointing = checkpointed
        model.zero_grad()
        model(tokens, prompts).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    model.activation_checkpointing = False
    model.eval().zero_grad()
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_save_and_load_keep_every_weight_and_buffer(model: WorldGPT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    tokens, prompts = window(model)
    for loaded in (load_world_model(tmp_path).double(), AutoModel.from_pretrained(tmp_path, dtype=torch.float64).eval()):
        assert isinstance(loaded, WorldGPT)
        ours, theirs = model.state_dict(), loaded.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert torch.equal(loaded.text.proto, model.text.proto)
        assert not [name for name, _ in loaded.named_buffers() if name not in theirs]  # no buffer that only __init__ fills
        assert torch.equal(loaded.text.tokenize(["Rainy night!"]), model.text.tokenize(["rainy night"]))
        assert loaded.layout == model.layout
        assert (loaded.telemetry, loaded.actions) == (model.telemetry, model.actions)
        with torch.no_grad():
            assert torch.equal(loaded(tokens, prompts), model(tokens, prompts))
            assert torch.equal(loaded.text.encode(["fog"]), model.text.encode(["fog"]))
        assert loaded.content_hash() == model.content_hash()
    assert isinstance(AutoConfig.from_pretrained(tmp_path), WorldGPTConfig)


def test_the_hash_changes_with_any_weight() -> None:
    model = random_model()
    before = model.content_hash()
    with torch.no_grad():
        model.embedding.prompt_place[0, 0] += 1e-12
    assert model.content_hash() != before


def test_a_channel_may_be_missing_altogether() -> None:
    model = random_model(telemetry=0, actions=0)
    tokens, prompts = window(model)
    with torch.no_grad():
        assert model(tokens, prompts).shape == (2, 4, model.layout.positions_per_step, model.config.width)
