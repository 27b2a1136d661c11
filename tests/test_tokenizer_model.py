"""Laws of the frame tokenizer: what is saved comes back whole, grids need not be square, mistakes are told in one line."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data.errors import UserError
from tokenizer.config import TokenizerConfig, presets
from tokenizer.model import FrameTokenizer, FrameTokenizerConfig, load_tokenizer, to_frames, to_signal

SMALL = TokenizerConfig(encoder_width=16, decoder_width=16, decoder_depth=1)
VQ = dataclasses.replace(SMALL, quantizer="vq", codebook_size=16, code_dim=4)


def build(config: TokenizerConfig, seed: int = 0) -> FrameTokenizer:
    torch.manual_seed(seed)
    model = FrameTokenizer(
        FrameTokenizerConfig(tokenizer=dataclasses.asdict(config), height=32, width=64, cameras=["front"], data_hash="abc")
    )
    model.train()(frames())  # VQ's k-means start
    return model.eval()


def frames(count: int = 4, height: int = 32, width: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("config", [SMALL, VQ], ids=["fsq", "vq"])
def test_save_and_load_keep_everything(config: TokenizerConfig, tmp_path: Path) -> None:
    model = build(config)
    codes = model.encode(frames())
    model.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    for name, buffer in model.named_buffers():
        assert torch.equal(loaded.get_buffer(name), buffer), name
    assert torch.equal(loaded.encode(frames()), codes)
    assert torch.equal(loaded.decode(codes), model.decode(codes))
    assert loaded.shape == model.shape
    assert loaded.content_hash() == model.content_hash()
    assert (loaded.config.height, loaded.config.width, loaded.config.cameras, loaded.config.data_hash) == (32, 64, ["front"], "abc")


def test_hash_changes_with_any_weight_and_with_the_codebook() -> None:
    model = build(SMALL)
    hashes = {model.content_hash(), build(SMALL, seed=1).content_hash()}
    hashes.add(build(dataclasses.replace(SMALL, levels=(5, 8, 5, 5))).content_hash())
    with torch.no_grad():
        next(model.decoder.parameters())[0, 0, 0, 0] += 1e-6
    hashes.add(model.content_hash())
    assert len(hashes) == 4


@pytest.mark.parametrize(("downsampling", "height", "width"), [(8, 32, 64), (8, 24, 8), (16, 64, 48), (4, 8, 20), (32, 32, 96)])
def test_any_size_that_divides(downsampling: int, height: int, width: int) -> None:
    model = build(dataclasses.replace(SMALL, downsampling=downsampling))
    codes = model.encode(frames(2, height, width))
    assert codes.shape == (2, height // downsampling, width // downsampling)
    assert codes.dtype == torch.int64
    made = model.decode(codes)
    assert made.shape == (2, height, width, 3)
    assert made.dtype == torch.uint8


def test_sizes_that_do_not_divide_are_refused_by_name() -> None:
    model = build(SMALL)
    with pytest.raises(UserError, match="frame height: expected a multiple of the tokenizer's downsampling 8, got 36"):
        model.encode(frames(1, 36, 64))
    with pytest.raises(UserError, match=r"frame width: .* got 60"):
        model.encode(frames(1, 32, 60))


def test_codes_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match=r"codes: expected 0\.\.1023, got 0\.\.1024"):
        build(SMALL).decode(torch.tensor([[[0, 1024]]]))


@pytest.mark.parametrize("config", [SMALL, VQ], ids=["fsq", "vq"])
def test_a_batch_equals_its_singles(config: TokenizerConfig) -> None:
    model = build(config)
    codes = model.encode(frames())
    assert torch.equal(codes, torch.cat([model.encode(frame[None]) for frame in frames()]))


def test_training_pass_agrees_with_encode_and_decode() -> None:
    model = build(SMALL)
    made = model(frames())
    assert torch.equal(made.codes, model.encode(frames()))
    assert torch.equal(to_frames(made.frames.detach()), model.decode(made.codes))


def test_signal_and_frames_are_inverse() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(1, 1, 1, 3)
    assert torch.equal(to_frames(to_signal(every)), every)
    assert float(to_signal(every).min()) == -1
    assert float(to_signal(every).max()) == 1


def test_broken_folders_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a tokenizer"):
        load_tokenizer(tmp_path)
    model = build(SMALL)
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="could not be read as weights") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match=r"expected a tokenizer, config\.json is one of 'gpt2'"):
        load_tokenizer(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    build(SMALL).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"decoder_depth": 1', '"decoder_depth": 2'))
    with pytest.raises(UserError, match=r"the weights do not fit config\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("change", [{"downsampling": 12}, {"downsampling": 2}, {"levels": (8, 2)}, {"levels": ()}, {"encoder_width": 0}])
def test_impossible_shapes_are_refused(change: dict) -> None:
    with pytest.raises(UserError, match=r"^tokenizer\."):
        dataclasses.replace(SMALL, **change)


def test_config_needs_no_torch() -> None:
    code = "import sys, tokenizer.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


def test_presets_grow() -> None:
    assert list(presets()) == ["demo", "small", "base", "large", "gaia"]
