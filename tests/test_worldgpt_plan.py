"""The plan's formulas against models that are built and measured."""

import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from world_samples import TEXT

from conditioning.text import fit_text_encoder
from conditioning.text_config import TextConfig
from data.errors import UserError
from tokenizer.memory import saved_bytes
from worldgpt.config import ModelConfig, WorldTrainConfig, presets
from worldgpt.decoder import StepDecoder
from worldgpt.layout import Layout
from worldgpt.loss import token_nats, total_loss
from worldgpt.model import WorldGPT, WorldGPTConfig
from worldgpt.plan import (
    CHANNELS,
    GPUS,
    activation_bytes,
    advice,
    cache_bytes,
    count_parameters,
    decoder_bytes,
    largest_batch,
    plan,
    preset_layout,
    training_memory,
    window_flops,
)

TINY = ModelConfig(width=48, layers=2, heads=2, mlp_width=96, context_steps=4)
PRESETS = ["demo", "small", "base", "large", "gaia"]


def built(model: ModelConfig, layout: Layout, text: TextConfig) -> WorldGPT:
    channels = {"telemetry": [dataclasses.asdict(c) for c in CHANNELS[0]], "actions": [dataclasses.asdict(c) for c in CHANNELS[1]]}
    return WorldGPT(WorldGPTConfig(dataclasses.asdict(model), layout.to_dict(), dataclasses.asdict(text), **channels))


def two_cameras() -> Layout:
    return Layout.build({"front": (4, 6), "rear": (2, 3)}, 64, *CHANNELS, TEXT.prompt_tokens, (8, 8))


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_of_presets_are_exact(name: str) -> None:
    """Built on the meta device: no size is too large for that."""
    config, layout = presets()[name], preset_layout(name)
    with torch.device("meta"):
        model = built(config.model, layout, config.text)
    counted = count_parameters(config.model, layout, config.text)
    assert counted.total == sum(p.numel() for p in model.parameters())
    assert counted.blocks == sum(p.numel() for p in model.blocks.parameters())
    assert counted.text == sum(p.numel() for p in model.text.parameters())


@pytest.mark.parametrize("size", [64, 256])
def test_parameters_of_any_layout_are_exact(size: int) -> None:
    for layout in (two_cameras(), Layout.build({"front": (2, 3)}, size, (), (), 3, ())):
        text = replace(TEXT, prompt_tokens=layout.prompt_tokens)
        model = built(TINY, layout, text)
        assert count_parameters(TINY, layout, text).total == sum(p.numel() for p in model.parameters())


def measured(config: WorldTrainConfig, layout: Layout, windows: int, bf16: bool) -> tuple[int, int]:
    """Bytes that autograd keeps for a loss on `windows` windows, and those of the weights' casts among them; prompts as in training."""
    text, proto = fit_text_encoder(["rainy night", "sunny day, turning left"], config.text)
    model = built(config.model, layout, text)
    model.text.set_proto(proto)
    model.activation_checkpointing = config.activation_checkpointing
    tokens = torch.as_tensor(layout.null_tokens).expand(windows, config.model.context_steps, -1) - 1
    pieces = model.text.tokenize(["rainy night, sunny day"] * windows)

    def loss() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            prompts = model.text(pieces)[torch.arange(windows)[:, None].expand(-1, config.model.context_steps)]
            hidden = model.train()(tokens, prompts)
            total_loss(model, token_nats(model, hidden, tokens), tokens, 4.0)[0].backward()

    casts = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)) * 2 if bf16 else 0
    return saved_bytes(loss, model) - casts, pieces.shape[1]


CASES = {
    "demo": (presets()["demo"], preset_layout("demo"), 2),
    "small": (presets()["small"], preset_layout("small"), 1),
    "two cameras": (WorldTrainConfig(model=replace(TINY, width=128, mlp_width=512, context_steps=6), text=TEXT), two_cameras(), 4),
    "narrow": (WorldTrainConfig(model=replace(TINY, width=64, heads=4, mlp_width=64, layers=5), text=TEXT), two_cameras(), 3),
}


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_activations_are_within_a_tenth_of_what_is_kept(case: str, bf16: bool) -> None:
    config, layout, windows = CASES[case]
    kept, pieces = measured(config, layout, windows, bf16)
    assert activation_bytes(config, layout, windows, bf16, pieces) == pytest.approx(kept, rel=0.1)


def test_checkpointing_keeps_the_inputs_of_blocks() -> None:
    """The one block that is computed again during the backward pass is counted by the hooks of that pass, not here."""
    config, layout, windows = CASES["small"]
    config = replace(config, activation_checkpointing=True)
    kept, pieces = measured(config, layout, windows, False)
    block = activation_bytes(replace(config, activation_checkpointing=False), layout, windows, False, pieces)
    assert activation_bytes(config, layout, windows, False, pieces) < 0.6 * block
    assert kept < block


def test_the_cache_is_that_of_a_rollout() -> None:
    layout = two_cameras()
    cache = built(TINY, layout, TEXT).new_cache(3)
    held = sum(tensor.numel() * tensor.element_size() for tensor in (cache.raw_keys, cache.keys, cache.values))
    assert cache_bytes(TINY, layout, 3, bf16=False) == held


@pytest.mark.parametrize("levels", [(), (4,) * 15])
def test_a_rollout_keeps_what_is_planned(levels: tuple[int, ...]) -> None:
    layout = Layout.build({"front": (4, 4)}, 4**15 if levels else 300, *CHANNELS, TEXT.prompt_tokens, levels)
    model, found = built(TINY, layout, TEXT), {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def walk(value: object) -> None:
        if isinstance(value, torch.Tensor):
            if not value.is_mkldnn and value.is_floating_point() and value.untyped_storage().data_ptr() not in own:
                found[value.data_ptr()] = value.numel() * value.element_size()
        elif isinstance(value, dict):
            walk(list(value.values()))
        elif isinstance(value, (list, tuple)):
            for part in value:
                walk(part)
        elif type(value).__module__ in ("worldgpt.decoder", "worldgpt.product"):
            walk(list(vars(value).values()))

    walk(StepDecoder(model))
    assert decoder_bytes(TINY, layout, bf16=False) == pytest.approx(sum(found.values()), rel=0.05)


def test_work_is_counted_as_in_training(column_store, column_tokens, tmp_path: Path) -> None:
    from world_samples import column_tokenizer, train_config

    from worldgpt.mixture import Mixture
    from worldgpt.train import WorldTask, build_model

    config, mixture = train_config(tmp_path), Mixture.of(column_tokens)
    task = WorldTask(config, build_model(config, mixture), mixture, column_tokenizer(column_store))
    assert window_flops(config.model, task.model.layout) * config.loop.batch_size == pytest.approx(task.flops())


def test_sharding_divides_what_can_be_divided() -> None:
    config, layout = presets()["gaia"], preset_layout("gaia")
    alone, sharded = (training_memory(config, layout, shards=n, bf16=True) for n in (1, 64))
    for part in ("weights", "gradients", "optimizer", "running_mean"):
        assert getattr(sharded, part) == getattr(alone, part) // 64
    assert sharded.activations == alone.activations
    assert alone.total > 100 * 2**30 > sharded.weights + sharded.gradients + sharded.optimizer + sharded.running_mean


def test_time_falls_with_gpus_and_rises_with_updates() -> None:
    config, layout, card = presets()["base"], preset_layout("base"), GPUS["h100"]
    one = plan(config, layout, card, gpus=1, shards=1, bf16=True, utilisation=0.4)
    assert one.tokens_per_s == pytest.approx(one.tokens / (one.days * 86400))
    assert one.days * 86400 == pytest.approx(
        config.loop.steps * config.loop.batch_size * window_flops(config.model, layout) / (0.4 * 989e12)
    )
    eight = plan(config, layout, card, gpus=8, shards=1, bf16=True, utilisation=0.4)  # as many windows a GPU: eight times the tokens
    assert eight.days == pytest.approx(one.days)
    assert eight.tokens == pytest.approx(8 * one.tokens)
    longer = replace(config, loop=replace(config.loop, steps=2 * config.loop.steps), activation_checkpointing=True)
    assert plan(longer, layout, card, gpus=1, shards=1, bf16=True, utilisation=0.4).days == pytest.approx(one.days * 2 * 4 / 3)


def test_advice_fits() -> None:
    config, layout = presets()["base"], preset_layout("base")
    whole = training_memory(config, layout, shards=1, bf16=True).total
    assert largest_batch(config, layout, int(whole / 0.9) + 1) == config.loop.batch_size
    some = int(0.7 * whole)
    batch = largest_batch(config, layout, some)
    assert 0 < batch < config.loop.batch_size
    needs = [
        training_memory(replace(config, loop=replace(config.loop, batch_size=n)), layout, shards=1, bf16=True) for n in (batch, batch + 1)
    ]
    assert needs[0].total <= 0.9 * some < needs[1].total
    assert "--loop.gradient-accumulation" in advice(config, layout, some)
    assert advice(config, layout, 4 * 2**30).startswith("--preset small --loop.batch-size")
    assert advice(config, layout, 2**20).startswith("no preset fits")
    large = replace(presets()["large"], loop=replace(presets()["large"].loop, batch_size=1))
    least = training_memory(replace(large, activation_checkpointing=True), preset_layout("large"), shards=1, bf16=True).total
    assert advice(large, preset_layout("large"), int(least / 0.9) + 2**20).startswith("--activation-checkpointing and --loop.batch-size 1")


def test_a_run_out_of_memory_names_what_fits(column_store, column_tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from world_samples import column_tokenizer, train_config

    from worldgpt import train
    from worldgpt.mixture import Mixture

    def exhausted(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(train, "total_loss", exhausted)
    monkeypatch.setattr("tokenizer.memory.device_memory", lambda device: 2_000_000)
    with pytest.raises(UserError, match=r"^out of memory: --loop.batch-size 4 does not fit into the 2.0 MB of cpu; .+") as told:
        train.train_worldgpt(train_config(tmp_path), Mixture.of(column_tokens), column_tokenizer(column_store), tmp_path)
    assert "\n" not in str(told.value)


def test_the_script_prints_the_plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import plan as script

    def printed(*flags: str) -> str:
        monkeypatch.setattr("sys.argv", ["plan.py", *flags])
        script.main()
        return capsys.readouterr().out

    gaia = printed("--preset", "gaia", "--gpus", "64")
    assert f"{count_parameters(presets()['gaia'].model, preset_layout('gaia'), presets()['gaia'].text).total:,} parameters" in gaia
    for part in ("weights", "gradients", "optimizer", "running mean", "activations", "together", "cache", "tokens/s", "days"):
        assert part in gaia
    assert "sharded over 64 (FSDP2)" in gaia
    assert "at 35% of the peak" in gaia
    assert "does not fit" not in gaia
    assert "does not fit: --activation-checkpointing" in printed("--gpus", "64", "--activation-checkpointing", "off")
    assert "a copy on each (DDP)" in printed("--preset", "base", "--gpus", "8")
    for flag, value in (("--gpus", "0"), ("--utilisation", "1.5")):
        with pytest.raises(UserError, match=rf"^{flag}: expected"):
            printed(flag, value)
