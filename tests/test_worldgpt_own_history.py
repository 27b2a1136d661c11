"""Laws of histories that the model draws itself: only where asked, from what it predicts, deeper with each pass."""

import torch
from world_samples import random_model, random_tokens

from worldgpt.model import WorldGPT
from worldgpt.own_history import draw_all, with_own_history


def batch_of(model: WorldGPT, windows: int, own_from: int) -> dict[str, torch.Tensor]:
    tokens = random_tokens(model.layout, windows, 4)
    own = torch.zeros_like(tokens, dtype=torch.bool)
    own[:, own_from:, model.layout.span_of_kind("frame")] = True
    return {
        "inputs": tokens,
        "targets": tokens,
        "before": model.embedding.unseen(windows)[:, :2],
        "pieces": model.text.tokenize(["fog"]),
        "prompt": torch.zeros(windows, 4, dtype=torch.long),
        "own": own,
    }


def test_only_the_places_asked_for_are_drawn_and_the_generator_decides() -> None:
    model = random_model(levels=(4,) * 8)
    batch = batch_of(model, 6, 1)
    first, again, other = (with_own_history(model, batch, 1, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first["inputs"], again["inputs"]) and not torch.equal(first["inputs"], other["inputs"])
    assert torch.equal(first["inputs"][~batch["own"]], batch["inputs"][~batch["own"]])
    assert (first["inputs"][batch["own"]] != batch["inputs"][batch["own"]]).float().mean() > 0.9
    assert torch.equal(first["targets"], batch["targets"])
    sizes = torch.as_tensor(model.layout.null_tokens)
    assert ((first["inputs"] >= 0) & (first["inputs"] < sizes)).all()


def test_a_second_pass_stands_on_the_first() -> None:
    """Step 1 follows the true step 0 in both passes; later steps follow drawn ones in the second."""
    model = random_model()
    batch = batch_of(model, 300, 1)

    def drawn(passes: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        for _ in range(passes - 1):  # the generator's state before the last pass
            with_own_history(model, batch, 1, generator)
        torch.manual_seed(0)
        return with_own_history(model, batch, passes, torch.Generator().manual_seed(3))["inputs"]

    once, twice = drawn(1), drawn(2)
    assert not torch.equal(once[:, 2:], twice[:, 2:])


@torch.no_grad()
def test_draws_follow_the_predicted_chances() -> None:
    model = random_model()
    hidden = torch.randn(1, 1, model.layout.positions_per_step, model.config.width, dtype=torch.float64).expand(20_000, -1, -1, -1)
    stream = model.layout.of_kind("frame")[0]
    drawn = draw_all(model, hidden, torch.Generator().manual_seed(0))[:, 0, 0]
    chances = model.table(stream).logits(model.predicting(hidden[:1])[0, 0, 0]).softmax(-1)
    seen = torch.bincount(drawn, minlength=11) / len(drawn)
    torch.testing.assert_close(seen.double(), chances, rtol=0, atol=0.015)
