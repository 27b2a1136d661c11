"""What benchmarks rest on: the shapes are those that are named, all ways do the same work, and ratios are of one round."""

import json
from pathlib import Path

import pytest
import torch

from worldgpt.benchmark.ceilings import Ceilings, measure_ceilings
from worldgpt.benchmark.contest import contest, standing_lines
from worldgpt.benchmark.decode import decoding_case, full_rollout, our_models
from worldgpt.benchmark.growth import measure_growth, plot
from worldgpt.benchmark.pixels import measure_imagination, measure_tokenizer
from worldgpt.benchmark.reference import Clock, generating, llama
from worldgpt.benchmark.shapes import Shape, random_world, shapes
from worldgpt.benchmark.training import measure_training
from worldgpt.config import ModelConfig
from worldgpt.model import WorldGPT

CPU = torch.device("cpu")
TINY = Shape(
    ModelConfig(32, 2, 2, code_width=8, mlp_width=64, context_steps=3), (2, 4), 1, 4**4, (4,) * 4, tokenizer=shapes()["demo"].tokenizer
)


def blocks(model: WorldGPT) -> int:
    return sum(p.numel() for p in model.blocks.parameters())


def test_shapes_are_those_that_are_named() -> None:
    known = shapes()
    assert {name: (s.model.layers, s.model.width, s.tokens) for name, s in known.items() if name not in ("demo", "small", "base")} == {
        "iris": (10, 256, 17),
        "wide": (12, 512, 130),
        "commavq": (24, 1024, 129),
        "mineworld": (20, 1024, 347),
    }
    assert known["iris"].context == 19 * 17 and known["small"].layout().codebooks[0].parts == (256,) * 6


def test_the_reference_has_the_same_blocks() -> None:
    world = random_world(TINY, CPU, torch.float32)
    layers = llama(TINY, torch.float32, CPU).model.layers
    gains = 2 * TINY.model.width * TINY.model.layers  # of its norms
    assert blocks(world) == TINY.block_weights == sum(p.numel() for p in layers.parameters()) - gains


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_the_reference_draws_as_many_tokens_as_it_is_asked(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(Clock, "end", lambda self: told.append(len(self.times)))
    run = generating(llama(TINY, torch.float32, CPU), TINY, 2, 5, cache)  # type: ignore[arg-type]
    assert run() > 0 and run() > 0
    assert told == [7, 7]  # the context, the token that comes of reading it, and five more


def test_all_of_our_ways_have_a_full_window_and_force_nothing() -> None:
    for model, weights in our_models(TINY, CPU).values():
        rollout, forced, prompts = full_rollout(model, 2, weights)
        assert rollout.held == TINY.model.context_steps - 1 and bool((forced == -1).all())
        assert rollout.step(prompts, prompts, forced).shape == (2, TINY.tokens)


def test_ratios_are_of_one_round() -> None:
    rates = iter([9.0, 9.0, 2.0, 1.0, 40.0, 10.0, 6.0, 3.0])  # the first two are not measured
    found = contest({"ours": lambda: next(rates), "theirs": lambda: next(rates)}, ("theirs", "absent"), 3)
    assert found["ours"].ratios["theirs"].median == 2 and found["ours"].ratios["theirs"].high == 4
    assert found["theirs"].ratios == {} and standing_lines(found, "tokens/s")[0].split("x theirs")[0].endswith("2.00 (2.00 to 4.00)")


def test_a_case_that_does_not_fit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldgpt.benchmark.decode.memory_bytes", lambda device: 0)
    case = decoding_case("base", shapes()["base"], 64, 1, 8, CPU, Ceilings(1e10, 1e11), no_cache=True)
    assert case.lines()[0].startswith("base, batch 64: not run: needs ") and case.lines()[0].endswith(" GiB")


def test_a_case_measures_all_ways() -> None:
    case = decoding_case("tiny", TINY, 1, 2, 4, CPU, Ceilings(1e10, 1e11), no_cache=True)
    ways = ["raster", "raster, int8", "rows", "diagonal:1", "diagonal:2", "generate, dynamic cache", "generate, static cache", "no cache"]
    assert list(case.standings) == ways and all(standing.rate.low > 0 for standing in case.standings.values())
    assert "of the speed of a copy" in case.lines()[0]


def test_training_tokenizer_and_imagination_are_measured() -> None:
    assert list(measure_training(TINY, 2, 1, CPU))[-2:] == ["Llama, bf16", "Llama, float32"]
    found = {**measure_tokenizer(TINY, 2, 1, CPU), **measure_imagination(TINY, 1, 1, CPU)}
    assert {"decode, channels_last, bf16", "encode, float32", "raster, int8", "rows"} < {*found}


def test_ceilings_are_those_of_a_machine() -> None:
    found = measure_ceilings(CPU, torch.float32)
    assert 1e8 < found.copy_bytes_per_s < 1e13 and 1e8 < found.flops < 1e15
    assert found.line().startswith("the machine copies ")


def test_growth_is_drawn(tmp_path: Path) -> None:
    curves = measure_growth(TINY, 1, 20, CPU)
    plot(curves, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 1000
    assert [curve.unit for curve in curves] == ["frames/s"] * 3 + ["MB"] and len(curves[-1].x) == 10


def test_the_script_keeps_figures(tmp_path: Path) -> None:
    import subprocess
    import sys

    script = str(Path(__file__).parents[1] / "scripts" / "benchmark.py")
    arguments = ["train", "--shape", "demo", "--rounds", "1", "--json", "figures.json"]
    done = subprocess.run([sys.executable, script, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("demo, 1 windows; medians") and " 1 thread" in done.stdout
    assert "Llama, bf16" in json.loads((tmp_path / "figures.json").read_text())["standings"]


def test_nats_through_the_decoder_are_the_models(column_store, column_tokens) -> None:
    from world_samples import MODEL, train_config

    from worldgpt.benchmark.trained import measure_trained
    from worldgpt.evaluate.teacher_forcing import window_nats
    from worldgpt.mixture import Mixture
    from worldgpt.train import build_model
    from worldgpt.windows import WindowReader

    mixture = Mixture.of(column_tokens)
    model = build_model(train_config(Path("nowhere")), mixture).eval()
    windows = WindowReader(mixture, "val", model.layout, MODEL.context_steps).spaced(4)
    found = measure_trained(model, windows, 1)
    with torch.no_grad():
        expected = window_nats(model, windows, windows.tokens, 4)[:, 1:]
    for name, span in model.layout.spans.items():
        assert found.nats[name]["float"] == pytest.approx(float(expected[..., span].mean()), abs=1e-4)
        assert 0 < abs(found.nats[name]["int8"] - found.nats[name]["float"]) < 0.05
    assert list(found.standings)[:2] == ["raster", "raster, int8"] and {*found.right} == {"draft:8", "draft:16", "draft:32"}
    assert "nats/token with int8" in found.lines()[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decode", "--rounds", "0"], "--rounds: expected 1 or more, got 0"),
        (["decode", "--batches", "1", "0"], "--batches: expected 1 or more, got 0"),
        (["decode", "--checkpoint", "nowhere"], "nowhere: "),
        (["growth", "--steps", "0"], "--steps: expected 1 or more, got 0"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    import subprocess
    import sys

    script = str(Path(__file__).parents[1] / "scripts" / "benchmark.py")
    done = subprocess.run([sys.executable, script, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
