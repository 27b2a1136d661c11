"""The loader's benchmark: what it trains on is of the usual shape, and its ratio is that of two rates measured in turn."""

from pathlib import Path

from world_samples import train_config

from worldgpt.loading import DRIVES, STEPS, measure_loading, write_random_tokens


def test_random_drives_are_of_the_usual_shape(tmp_path: Path) -> None:
    store = write_random_tokens(tmp_path / "tokens")
    codes, channels = store.arrays("train")
    assert codes.shape == (DRIVES * STEPS, 128) and channels.shape == (DRIVES * STEPS, 4)
    assert len(store.drives("train")) == DRIVES and store.info.grids == {"front": (8, 16)}


def test_the_ratio_lies_between_the_rounds(tmp_path: Path) -> None:
    found = measure_loading(train_config(tmp_path / "run"), tmp_path, updates=2, rounds=3)
    assert 0 < found.lowest <= found.ratio <= found.highest
    assert found.tokens_per_s > 0
    assert found.line().startswith(f"training on the loader runs at {found.ratio:.3f} ")
