"""The loss equals a plain loop over tokens, and a target that is missing costs nothing."""

import pytest
import torch
from world_samples import random_model, random_prompts, random_tokens

from worldgpt.loss import token_nats, total_loss
from worldgpt.model import WorldGPT


@pytest.fixture(scope="module")
def model() -> WorldGPT:
    return random_model(cameras={"front": (2, 2), "left": (1, 3)})


@torch.no_grad()
def test_equals_a_plain_loop(model: WorldGPT) -> None:
    layout, tokens = model.layout, random_tokens(model.layout, 2, 3)
    tokens[0, 1, layout.span_of_kind("action")] = torch.from_numpy(layout.null_tokens[layout.span_of_kind("action")])
    hidden = model(tokens, random_prompts(model, 2, 3))
    nats = token_nats(model, hidden, tokens)
    for b in range(2):
        for t in range(3):
            for stream in layout.streams:
                for n, token in enumerate(range(layout.spans[stream.name].start, layout.spans[stream.name].stop)):
                    log_p = model.logits(hidden[b, t, layout.prompt_tokens + token - 1], token).float().log_softmax(-1)
                    target = int(tokens[b, t, token])
                    expected = 0.0 if target == layout.codebook(stream).null_id else -float(log_p[target])
                    assert float(nats[stream.name][b, t, n]) == pytest.approx(expected, abs=1e-5)
    assert (nats[layout.of_kind("action")[0].name][0, 1] == 0).all()


@torch.no_grad()
def test_the_total_is_the_weighted_mean_over_a_step(model: WorldGPT) -> None:
    tokens = random_tokens(model.layout, 2, 3)
    nats = token_nats(model, model(tokens, random_prompts(model, 2, 3)), tokens)
    loss, parts = total_loss(model, nats, tokens, channel_weight=2.5)
    weighted = [(2.5 if s.kind != "frame" else 1.0, n) for s in model.layout.streams for n in nats[s.name].flatten(0, 1).mean(0)]
    assert float(loss) == pytest.approx(sum(w * float(n) for w, n in weighted) / sum(w for w, _ in weighted), rel=1e-5)
    for kind in ("frame", "telemetry", "action"):
        flat = torch.cat([nats[s.name].flatten() for s in model.layout.of_kind(kind)])  # type: ignore[arg-type]
        assert float(parts[f"{kind}_nats"]) == pytest.approx(float(flat.mean()), rel=1e-5)


@torch.no_grad()
def test_missing_targets_do_not_dilute_the_mean(model: WorldGPT) -> None:
    tokens, span = random_tokens(model.layout, 2, 3), model.layout.span_of_kind("telemetry")
    prompts, null = random_prompts(model, 2, 3), torch.from_numpy(model.layout.null_tokens)
    missing = tokens.clone()
    missing[1, :, span] = null[span]
    nats = token_nats(model, model(tokens, prompts), missing)
    _, parts = total_loss(model, nats, missing, channel_weight=1.0)
    assert float(parts["telemetry_nats"]) == pytest.approx(float(nats["telemetry/channel0_norm"][0].mean()), rel=1e-5)


def test_a_missing_target_sends_no_gradient(model: WorldGPT) -> None:
    tokens = torch.from_numpy(model.layout.null_tokens).expand(2, 3, -1)
    loss, _ = total_loss(model, token_nats(model, model(tokens, random_prompts(model, 2, 3)), tokens), tokens, channel_weight=1.0)
    assert float(loss.detach()) == 0
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    model.zero_grad()


@pytest.mark.parametrize("levels", [(), (4,) * 8])
def test_chunks_change_neither_nats_nor_gradients(levels: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(levels=levels)
    tokens, prompts, found = random_tokens(model.layout, 2, 3), random_prompts(model, 2, 3), []
    for chunk in (1 << 24, 40):
        monkeypatch.setattr("worldgpt.loss.CHUNK", chunk)
        model.zero_grad()
        nats = token_nats(model, model(tokens, prompts), tokens)
        total_loss(model, nats, tokens, 1.0)[0].backward()
        with torch.no_grad():
            unkept = token_nats(model, model(tokens, prompts), tokens)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append([*(n.detach() for n in nats.values()), *unkept.values(), *gradients])
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-6)
