"""Fine-tuning takes over what matches by name and means the same, and says what starts fresh."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from world_samples import LOOP, TEXT, column_tokenizer, random_model, train_config

from data.episode import ChannelSpec
from data.errors import UserError
from worldgpt.mixture import Mixture
from worldgpt.model import WorldGPT
from worldgpt.token_store import TokenStore
from worldgpt.train import build_model, train_worldgpt
from worldgpt.transfer import load_matching, text_of


def with_channels(store: TokenStore, **changes: tuple[ChannelSpec, ...]) -> TokenStore:
    return TokenStore(store.folder, replace(store.info, **changes))


@pytest.fixture(scope="module")
def source(trained: Path) -> WorldGPT:
    from worldgpt.pipeline import load_world_model

    return load_world_model(trained)


def channel_weights(channel: str) -> list[str]:
    """Names of the weights that belong to a channel."""
    table = [f"embedding.tables.{channel}.{part}" for part in ("rows.weight", "shared", "out.weight", "bias")]
    return [*table, *(f"embedding.{name}.{channel}.weight" for name in ("token_in", "hint_in", "motion_in"))]


def fine_tuned(store: TokenStore, source: WorldGPT) -> tuple[WorldGPT, str]:
    model = build_model(train_config(Path("unused"), loop=replace(LOOP, seed=1)), Mixture.of(store), source)
    return model, load_matching(model, source)


def test_the_same_shape_takes_everything(column_tokens: TokenStore, source: WorldGPT) -> None:
    model, line = fine_tuned(column_tokens, source)
    assert line == "100% of the weights loaded; fresh: nothing"
    assert model.content_hash() == source.content_hash()


def test_other_channels_start_fresh_and_the_rest_comes_over(column_tokens: TokenStore, source: WorldGPT) -> None:
    other = (*column_tokens.info.actions, ChannelSpec("brake_norm", "norm", 0.0, 1.0, bins=5))
    model, line = fine_tuned(with_channels(column_tokens, actions=other, telemetry=()), source)
    fresh = ["embedding.place_in.action/brake_norm", *channel_weights("brake_norm")]
    assert sorted(line.split("fresh: ")[1].split(", ")) == sorted(fresh)
    theirs = source.state_dict()
    for name, tensor in model.state_dict().items():
        assert name in fresh or torch.equal(tensor, theirs[name]), name


def test_a_channel_that_means_something_else_starts_fresh(column_tokens: TokenStore, source: WorldGPT) -> None:
    (speed,) = column_tokens.info.telemetry
    model, line = fine_tuned(with_channels(column_tokens, telemetry=(replace(speed, high=80.0),)), source)
    assert sorted(line.split("fresh: ")[1].split(", ")) == sorted(channel_weights("speed_mps"))
    assert not torch.equal(model.embedding.token_in["speed_mps"].weight, source.embedding.token_in["speed_mps"].weight)


def test_the_text_comes_with_its_pieces_or_not_at_all(column_tokens: TokenStore, source: WorldGPT) -> None:
    model, _ = fine_tuned(column_tokens, source)
    assert torch.equal(model.text.proto, source.text.proto)
    assert text_of(source, replace(TEXT, width=32)) is None
    theirs = random_model().float()  # its pieces were learned from other captions
    mine = build_model(train_config(Path("unused")), Mixture.of(column_tokens))
    pieces = mine.text.tokenize(["night on a road"])
    line = load_matching(mine, theirs)
    assert "text.piece_table.weight" in line
    assert torch.equal(mine.text.tokenize(["night on a road"]), pieces)


def test_another_tokenizer_is_told(column_tokens: TokenStore, source: WorldGPT) -> None:
    other = TokenStore(column_tokens.folder, replace(column_tokens.info, tokenizer_hash="other"))
    assert fine_tuned(other, source)[1].endswith("the tokenizer is another one, so the codes may mean something else")


def test_fine_tuning_starts_from_what_was_known(
    column_store, column_tokens: TokenStore, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = replace(LOOP, steps=1, learning_rate=1e-6)
    config = train_config(tmp_path / "tuned", loop=loop, init_from=str(trained))
    report = train_worldgpt(config, Mixture.of(column_tokens), column_tokenizer(column_store), tmp_path / "tuned")
    assert f"{trained}: 100% of the weights loaded; fresh: nothing" in capsys.readouterr().out
    before = json.loads((trained / "report.json").read_text())["held_out"]["frame_nats"]
    assert report["held_out"]["frame_nats"] == pytest.approx(before, rel=0.05)
    assert np.isfinite(report["held_out"]["changed_code_nats"])


def test_a_missing_checkpoint_is_told(column_store, column_tokens: TokenStore, tmp_path: Path) -> None:
    config = train_config(tmp_path / "new", init_from=str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"absent: expected a world model checkpoint, found no config\.json"):
        train_worldgpt(config, Mixture.of(column_tokens), column_tokenizer(column_store), tmp_path / "new")
    assert not (tmp_path / "new").exists()
