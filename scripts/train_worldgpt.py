"""Train the world model: `python scripts/train_worldgpt.py`, after scripts/train_tokenizer.py."""

from pathlib import Path
from typing import Any, cast

import cli
from defaults import default_preset, ensure_data

from worldgpt.config import WorldTrainConfig, presets


def main() -> None:
    config = cli.parse(WorldTrainConfig, presets=presets(), default_preset=default_preset)
    from accelerate import PartialState

    from data.folder import prepare_output, remove_if_unused
    from data.store import EpisodeStore
    from tokenizer.model import load_tokenizer
    from worldgpt.token_store import encode_store
    from worldgpt.train import check_tokenizer, train_worldgpt

    ensure_data(config.data)
    store = EpisodeStore.open(config.data)
    tokenizer = None
    if store.manifest.signals.frame_sizes:
        tokenizer = load_tokenizer(config.tokenizer)
        check_tokenizer(tokenizer, store.manifest, config.tokenizer)
    processes = PartialState()
    with processes.main_process_first():
        output = prepare_output(config.output, resume=config.resume, overwrite=config.overwrite)
    try:
        with processes.main_process_first():
            cache = Path(config.data) / "cache" / f"tokens-{tokenizer.content_hash() if tokenizer else 'codes'}"
            tokens = encode_store(store, tokenizer, cache, device=cast(Any, processes.device))
        train_worldgpt(config, tokens, tokenizer, output)
    finally:
        remove_if_unused(output)
    processes.print(f"world model: {output}")


if __name__ == "__main__":
    cli.main(main)
