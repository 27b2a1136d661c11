"""What the README shows is true: its example of a source runs, its tree is the tree, its commands exist."""

import re
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from world_samples import MODEL, TEXT

from conditioning.text import fit_text_encoder
from data.episode import ChannelSpec
from data.sources import SOURCES
from data.store import EpisodeStore, write_store
from tokenizer.config import TokenizerConfig
from tokenizer.model import FrameTokenizer, FrameTokenizerConfig
from worldgpt.layout import Layout
from worldgpt.model import WorldGPT, WorldGPTConfig
from worldgpt.pipeline import WorldGPTPipeline

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_of_a_source_makes_a_store(tmp_path: Path) -> None:
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "SOURCE = " in code]
    found: dict = {"__name__": "data.sources.testcar"}
    exec(compile(code, "README.md", "exec"), found)
    rng, frames = np.random.default_rng(0), {}
    for name in ("monday", "tuesday"):
        frames[name] = rng.integers(0, 255, (150, 64, 128, 3), np.uint8)
        np.save(tmp_path / f"{name}.frames.npy", frames[name])
        np.save(tmp_path / f"{name}.speed.npy", np.linspace(0, 30, 150))
    source = found["SOURCE"]
    write_store(source.drives(source.config(tmp_path)), tmp_path / "store", source="testcar", fps=10.0, workers=1, progress=False)
    store = EpisodeStore.open(tmp_path / "store")
    part = next(drive for drive in store.drives("train") if drive.drive_id.startswith("tuesday"))
    episode = store.read(part.drive_id)
    assert (episode.frames["front"] == frames["tuesday"][: part.steps]).all()
    np.testing.assert_allclose(episode.telemetry[:, 0], np.linspace(0, 30, 150)[: part.steps], rtol=1e-6)


def test_the_example_of_a_planner_drives() -> None:
    """On a model of the usual frame size that has learned nothing."""
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "planner" in code]
    text, proto = fit_text_encoder(["sunny day"], TEXT)
    specs = (ChannelSpec("speed_mps", "m/s", 0.0, 9.0),), (ChannelSpec("steering_rad", "rad", -0.2, 0.2),)
    layout = Layout.build({"front": (8, 16)}, 256, specs[0], specs[1], text.prompt_tokens)
    channels = {"telemetry": [vars(c) for c in specs[0]], "actions": [vars(c) for c in specs[1]]}
    model = WorldGPT(WorldGPTConfig(model=vars(MODEL), layout=layout.to_dict(), text=dict(vars(text)), **channels))
    model.text.set_proto(proto)
    shape = {**vars(TokenizerConfig(encoder_width=8, decoder_width=8, decoder_depth=1, levels=(4, 4, 4, 4)))}
    pipeline = WorldGPTPipeline(model.eval(), FrameTokenizer(FrameTokenizerConfig(shape, 64, 128, ("front",), "")).eval())
    with patch.object(WorldGPTPipeline, "from_pretrained", lambda folder: pipeline):
        exec(compile(code.replace("frames=600", "frames=9"), "README.md", "exec"), {})


def test_the_quick_start_writes_a_video(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "VideoWriter" in code]
    monkeypatch.chdir(tmp_path)
    for shown, here in (('"runs/worldgpt"', repr(str(trained))), ("frames=50", "frames=2"), ("(256, 512)", "(32, 128)")):
        assert shown in code
        code = code.replace(shown, here)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "night.mp4").stat().st_size > 0


def test_every_source_and_script_that_it_names_is_there() -> None:
    assert set(re.findall(r"^\| `([a-z0-9]+)` \| (?!FSQ|\d)", README, re.MULTILINE)) >= set(SOURCES)
    for script in set(re.findall(r"scripts/(\w+\.(?:py|sh))", README)):
        assert (ROOT / "scripts" / script).is_file(), script


def test_every_file_of_its_tree_is_there() -> None:
    (tree,) = re.findall(r"```\n(data/ .*?)```", README, re.DOTALL)
    package, named = "", 0
    for line in tree.splitlines():
        if not line.startswith(" "):
            package = line.split()[0]
            assert (ROOT / package).is_dir(), package
            continue
        for name in line.split("   ")[0].split():
            assert (ROOT / package / name).exists(), f"{package}{name}"
            named += 1
    assert named > 20
