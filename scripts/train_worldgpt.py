"""Train the world model: `python scripts/train_worldgpt.py`, after scripts/train_tokenizer.py."""

import cli
from defaults import default_preset, ensure_data

from worldgpt.config import WorldTrainConfig, presets


def main() -> None:
    config = cli.parse(WorldTrainConfig, presets=presets(), default_preset=default_preset)
    from tokenizer.parallel import process_group_ended

    with process_group_ended():
        run(config)


def run(config: WorldTrainConfig) -> None:
    """Encode what is not encoded yet, and train."""
    from data.folder import prepare_output, remove_if_unused
    from data.store import EpisodeStore
    from tokenizer.model import load_tokenizer
    from tokenizer.parallel import processes
    from worldgpt.mixture import Mixture, parse_data
    from worldgpt.token_store import encode_store
    from worldgpt.train import check_tokenizer, train_worldgpt

    folders = parse_data(config.data)
    for folder in folders:
        ensure_data(folder)
    sets = [EpisodeStore.open(folder) for folder in folders]
    tokenizer = load_tokenizer(config.tokenizer) if any(s.manifest.signals.frame_sizes for s in sets) else None
    if tokenizer is not None:
        for one in sets:
            check_tokenizer(tokenizer, one.manifest, config.tokenizer)
    state = processes()
    with state.main_process_first():
        output = prepare_output(config.output, resume=config.resume, overwrite=config.overwrite)
    try:
        with state.main_process_first():
            cache = f"tokens-{tokenizer.content_hash() if tokenizer else 'codes'}"
            device = state.device
            tokens = [encode_store(one, tokenizer, one.path / "cache" / cache, device=device) for one in sets]
        train_worldgpt(config, Mixture(tuple(tokens), tuple(folders.values())), tokenizer, output)
    finally:
        remove_if_unused(output)
    state.print(f"world model: {output}")


if __name__ == "__main__":
    cli.main(main)
