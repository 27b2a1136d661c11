"""Laws of the compiled blocks: they say what torch's operations say, a batch equals its singles, and doing without is told."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_worldgpt_decoder import MODELS, STEPS, plain_step, split_model
from world_samples import random_prompts, random_tokens

import worldgpt.decoder as decoder_module
from data.errors import UserNotice
from worldgpt import fused
from worldgpt.decoder import StepDecoder
from worldgpt.layout import SEEN_STEPS
from worldgpt.model import WorldGPT
from worldgpt.product import Weights
from worldgpt.rope import rotate

compiled = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler on this machine")


def skip_where_int8_is_missing(weights: Weights) -> None:
    library = fused.library()
    if weights == "int8" and not (library and library.worldgpt_int8()):
        pytest.skip("this processor has no product of int8 numbers")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@torch.no_grad()
def drive(model: WorldGPT, chunk: int, weights: Weights = "float", rows: slice = slice(0, 2), by_torch: bool = False) -> torch.Tensor:
    """(B, STEPS * positions, D): hidden states of some steps, past the end of the window, of which `chunk` passes are read at once."""
    layout, end = model.layout, len(model.layout.schedule)
    tokens, prompts = random_tokens(layout, 2, STEPS)[rows], random_prompts(model, 2, STEPS)[rows]
    known = torch.cat([model.embedding.unseen(len(tokens))[:, 1:], tokens], dim=1)
    decoder, cache, hidden = StepDecoder(model, weights), model.new_cache(len(tokens)), []
    assert decoder.fused is not None
    if by_torch:
        decoder.fused = None
    for i in range(STEPS):
        step = decoder.begin(cache.begin_step(), known[:, i : i + SEEN_STEPS], prompts[:, i], cache)
        hidden += [step.prompt(), *(step.read(tokens[:, i], a, min(a + chunk, end)) for a in range(1, end, chunk))]
    return torch.cat(hidden, dim=1)


@compiled
@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_compiled_blocks_equal_the_model(name: str) -> None:
    model = MODELS[name]().float()
    tokens, prompts = random_tokens(model.layout, 2, STEPS), random_prompts(model, 2, STEPS)
    known, cache = torch.cat([model.embedding.unseen(2)[:, 1:], tokens], dim=1), model.new_cache(2)
    expected = [torch.stack(plain_step(model, known[:, i : i + SEEN_STEPS], prompts[:, i], cache), dim=1) for i in range(STEPS)]
    torch.testing.assert_close(drive(model, 1), torch.cat(expected, dim=1), rtol=0, atol=5e-5)


@compiled
@torch.no_grad()
@pytest.mark.parametrize("weights", ["float", "int8"])
def test_positions_together_or_apart_are_the_same_to_the_bit(weights: Weights) -> None:
    skip_where_int8_is_missing(weights)
    model, worlds, new = split_model().float(), 3, 5
    decoder, x = StepDecoder(model, weights), torch.randn(worlds, new, model.config.width)

    def read(chunk: int, rows: slice) -> torch.Tensor:
        cache, found = model.new_cache(len(x[rows])), []
        by = cache.begin_step()
        for first in range(0, new, chunk):
            part = slice(first, min(first + chunk, new))
            found.append(decoder.extend(x[rows, part], by[..., part, :], cache))
            cache.advance(part.stop - part.start)
        return torch.cat(found, dim=1)

    whole = read(new, slice(0, worlds))
    for chunk in (1, 2, 3):
        assert torch.equal(read(chunk, slice(0, worlds)), whole)
    for row in range(worlds):
        assert torch.equal(read(1, slice(row, row + 1)), whole[row : row + 1])


@compiled
def test_rounded_weights_are_as_far_off_as_torch_makes_them() -> None:
    skip_where_int8_is_missing("int8")
    model = split_model().float()
    exact, ours, theirs = drive(model, 1), drive(model, 1, "int8"), drive(model, 1, "int8", by_torch=True)
    assert 0 < (ours - exact).square().mean() < 2 * (theirs - exact).square().mean()


@compiled
def test_large_passes_and_many_threads_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = split_model().float()
    calls = []
    monkeypatch.setattr(fused.FusedBlocks, "__call__", lambda self, x, *_: calls.append(x.shape[1]) or x)
    drive(model, 2)
    assert set(calls) >= {1, 2}
    calls.clear()
    monkeypatch.setattr(decoder_module, "FUSED_READS", 1)
    drive(model, 2)
    assert set(calls) <= {1}
    calls.clear()
    torch.set_num_threads(2)
    drive(model, 2)
    assert not calls


@compiled
@pytest.mark.parametrize("turns", [1, 3])
def test_keys_are_turned_as_torch_turns_them(turns: int) -> None:
    raw, keys = torch.randn(2, 3, 2, 7, 8), torch.randn(2, 3, 2, 7, 8)
    by, before = torch.polar(torch.ones(turns, 1, 5, 4), torch.randn(turns, 1, 5, 4)), keys.clone()
    assert fused.turn_keys(raw, keys, by, 5)
    torch.testing.assert_close(keys[:, :, :, :5], rotate(raw[:, :, :, :5], by))
    assert torch.equal(keys[:, :, :, 5:], before[:, :, :, 5:])
    assert not fused.turn_keys(raw.double(), keys.double(), by, 5)
    torch.set_num_threads(2)
    assert not fused.turn_keys(raw, keys, by, 5)


def test_doing_without_a_compiler_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] || { echo "broken: out of order" >&2; exit 1; }\n')
    broken.chmod(0o755)
    for name, reason in (
        ("no-such-compiler", "no C\\+\\+ compiler was found"),
        (str(broken), "could not compile fused.cpp: broken: out of order"),
    ):
        monkeypatch.setenv("CXX", name)
        fused.library.cache_clear()
        with pytest.warns(UserNotice, match=reason):
            assert fused.library() is None
    assert StepDecoder(split_model().float()).fused is None
    assert [path.name for path in (tmp_path / "worldgpt").iterdir()] == []  # nothing half-made is left
    fused.library.cache_clear()


@compiled
def test_the_library_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fused.library.cache_clear()
    assert fused.library() is not None
    (made,) = (tmp_path / "worldgpt").iterdir()
    written = made.stat().st_mtime_ns
    fused.library.cache_clear()
    assert fused.library() is not None and made.stat().st_mtime_ns == written
    fused.library.cache_clear()


@compiled
def test_the_source_has_no_warnings(tmp_path: Path) -> None:
    told = subprocess.run(["c++", *fused.FLAGS, "-Wall", "-Wextra", "-o", tmp_path / "x.so", fused.SOURCE], capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (0, "")
