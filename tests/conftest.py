"""Costly things that several test files share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def column_store(tmp_path_factory: pytest.TempPathFactory):
    """A prepared set of tests/world_samples.py's drives."""
    from world_samples import write_columns

    return write_columns(tmp_path_factory.mktemp("columns") / "data")


@pytest.fixture(scope="session")
def column_tokens(column_store, tmp_path_factory: pytest.TempPathFactory):
    """The set, encoded with its tokenizer."""
    import torch
    from world_samples import column_tokenizer

    from worldgpt.token_store import encode_store

    folder = tmp_path_factory.mktemp("tokens") / "tokens"
    return encode_store(column_store, column_tokenizer(column_store), folder, device=torch.device("cpu"))


@pytest.fixture(scope="session")
def trained(column_store, column_tokens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a world model trained until it knows that world; report.json, log and checkpoints lie in it."""
    from dataclasses import replace

    from world_samples import LOOP, column_tokenizer, train_config

    from conditioning.guidance import DropoutConfig
    from worldgpt.config import HistoryConfig
    from worldgpt.mixture import Mixture
    from worldgpt.train import train_worldgpt

    output = tmp_path_factory.mktemp("trained") / "worldgpt"
    loop = replace(LOOP, steps=400, batch_size=16, learning_rate=4e-3, beta2=0.95, warmup_steps=20, log_every=50, checkpoint_every=200)
    config = train_config(
        output, loop=loop, sample_steps=3, history=HistoryConfig(corruption=0.0), beginnings=0.05, dropout=DropoutConfig(actions=0.1)
    )
    train_worldgpt(config, Mixture.of(column_tokens), column_tokenizer(column_store), output)
    return output


@pytest.fixture(scope="session")
def column_probes(column_store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of measuring networks that have hardly learned that world."""
    from worldgpt.evaluate.probe_training import train_probes
    from worldgpt.evaluate.probes import ProbeConfig

    folder = tmp_path_factory.mktemp("measuring") / "probes"
    quick = ProbeConfig(steps=20, road_steps=10, batch_size=8, road_batch_size=8, width=8, road_width=8, floor_steps=64, floor_frames=64)
    train_probes(quick, column_store, folder)
    return folder
