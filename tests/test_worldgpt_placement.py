"""Where a loaded model stands: device, device_map, dtype and subfolder as in transformers and diffusers, or one line on what is off."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import UserError
from tokenizer.model import FrameTokenizer
from worldgpt.model import WorldGPT
from worldgpt.pipeline import WorldGPTPipeline


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}, torch.device("cpu")])
@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", torch.bfloat16), (torch.float64, torch.float64), ("auto", torch.float32)])
def test_a_pipeline_stands_where_it_is_told(trained: Path, device_map: Any, dtype: Any, expected: torch.dtype) -> None:
    pipeline = WorldGPTPipeline.from_pretrained(trained, device_map=device_map, dtype=dtype)
    on = "cuda" if device_map == "auto" and torch.cuda.is_available() else "cpu"
    assert (pipeline.model.device.type, pipeline.model.dtype) == (on, expected)
    assert pipeline.tokenizer is not None and pipeline.tokenizer.device.type == on


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}])
def test_parts_take_a_device_map_too(trained: Path, device_map: Any) -> None:
    model = WorldGPT.from_pretrained(trained, device_map=device_map, dtype="float64")
    assert (model.device.type, model.dtype) == ("cpu", torch.float64)
    plain = WorldGPT.from_pretrained(trained)
    assert all(torch.equal(a, b.to(a.dtype)) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))
    assert FrameTokenizer.from_pretrained(trained, subfolder="tokenizer", device_map=device_map).device.type == "cpu"


def test_a_checkpoint_may_lie_in_a_subfolder(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(trained / name, tmp_path / "inner")
    shutil.copytree(trained / "tokenizer", tmp_path / "inner" / "tokenizer")
    pipeline = WorldGPTPipeline.from_pretrained(tmp_path, subfolder="inner")
    assert pipeline.tokenizer is not None
    with pytest.raises(UserError, match="leads out of the checkpoint"):
        WorldGPTPipeline.from_pretrained(tmp_path / "inner", subfolder="../..")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"device": "cpu", "device_map": "auto"}, "device, device_map: expected one of them"),
        ({"device_map": {"blocks": "cpu", "embedding": "meta"}}, "a world model stays on one device, expected one, got cpu, meta"),
        ({"device": "toaster"}, "device: expected cpu, cuda"),
        ({"device": "cuda:99"}, "device: expected one of"),
        ({"dtype": "int8"}, "dtype: expected one of float32"),
        ({"revision": "v2"}, "is a folder, which has none; got 'v2'"),
    ],
)
def test_what_cannot_be_is_one_line(trained: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        WorldGPTPipeline.from_pretrained(trained, **options)
