"""The whole line on a world small enough to be learned in seconds; and that a training is repeated, resumed and refused as promised."""

import dataclasses
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cli
import cv2
import numpy as np
import pytest
import torch
from world_samples import LOOP, MODEL, column_tokenizer, train_config

from data.errors import UserError
from data.store import EpisodeStore
from tokenizer.training_state import checkpoints
from worldgpt.config import WorldTrainConfig, presets
from worldgpt.mixture import Mixture
from worldgpt.pipeline import WorldGPTPipeline, load_world_model
from worldgpt.token_store import TokenStore
from worldgpt.train import WorldTask, build_model, check_tokenizer, comparison, train_worldgpt

ROOT = Path(__file__).parents[1]


def test_the_whole_line_learns_what_actions_do(trained: Path) -> None:
    """Below both baselines on all codes and on those that changed; and lost when the actions are shuffled."""
    report = json.loads((trained / "report.json").read_text())
    ours, copy, unigram = report["held_out"], report["baselines"]["copy_last"], report["baselines"]["unigram"]
    for name in ("frame_nats", "changed_code_nats"):
        assert ours[name] < 0.5 * min(copy[name], unigram[name])
    assert ours["frame_nats_shuffled_actions"] > 2 * ours["frame_nats"]
    assert ours["telemetry_nats"] < 0.5 * unigram["telemetry_nats"]  # constant over a drive
    assert ours["action_nats"] == pytest.approx(np.log(3), abs=0.15)  # drawn evenly from three
    for figures in (ours, copy, unigram):
        assert figures["bits_per_frame"] == pytest.approx(4 * figures["frame_nats"] / np.log(2))
    assert "with shuffled actions" in comparison(report)


def test_a_run_leaves_everything_that_it_promises(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer",
        "run.json",
        "log.jsonl",
        "samples",
    }
    sheet = cv2.imread(str(trained / "samples" / "rollout_0000400.png"))
    assert sheet is not None
    assert sheet.std() > 5
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert losses[-1] < 0.6 * losses[0]
    run = json.loads((trained / "run.json").read_text())
    assert run["tokenizer_hash"] == load_world_model(trained).config.tokenizer_hash
    assert run["config"]["model"] == dataclasses.asdict(MODEL)


@pytest.fixture
def train(column_store: EpisodeStore, column_tokens: TokenStore, tmp_path: Path):
    def run(name: str, **changes: object) -> Path:
        train_worldgpt(train_config(tmp_path / name, **changes), Mixture.of(column_tokens), column_tokenizer(column_store), tmp_path / name)
        return tmp_path / name

    return run


def log(output: Path) -> list[dict[str, float]]:
    clock = ("tokens_per_s", "tflops", "flops_utilisation")
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def test_resumed_equals_uninterrupted_to_the_bit(train) -> None:
    whole, cut = train("whole"), train("cut")
    shutil.rmtree(checkpoints(cut / "checkpoints")[-1])
    train("cut", resume=True)
    assert load_world_model(cut).content_hash() == load_world_model(whole).content_hash()
    assert log(cut) == log(whole)
    states = [(path / "checkpoints" / "step_0000006" / "optimizer.safetensors").read_bytes() for path in (cut, whole)]
    assert states[0] == states[1]


def test_the_seed_decides(train) -> None:
    first, again, other = train("first"), train("again"), train("other", loop=replace(LOOP, seed=1))
    hashes = [load_world_model(path).content_hash() for path in (first, again, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_checkpointed_activations_train_the_same(train) -> None:
    plain, checkpointed = (load_world_model(train(str(on), activation_checkpointing=on)).state_dict() for on in (False, True))
    for name, tensor in plain.items():
        torch.testing.assert_close(checkpointed[name], tensor, rtol=1e-5, atol=1e-6)


def test_batches_are_functions_of_seed_step_and_micro(column_store: EpisodeStore, column_tokens: TokenStore, tmp_path: Path) -> None:
    config = train_config(tmp_path)
    task = WorldTask(config, build_model(config, Mixture.of(column_tokens)), Mixture.of(column_tokens), column_tokenizer(column_store))
    first = task.batch(3, 1)
    task.batch(0, 0)
    assert all(torch.equal(value, first[name]) for name, value in task.batch(3, 1).items())
    for other in (task.batch(3, 0), task.batch(2, 1)):
        assert not torch.equal(other["targets"], first["targets"])
    evaluated = [task.evaluate() for _ in range(2)]
    assert evaluated[0] == evaluated[1]


def test_work_is_counted(column_store: EpisodeStore, column_tokens: TokenStore, tmp_path: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = train_config(tmp_path)
    task = WorldTask(config, build_model(config, Mixture.of(column_tokens)), Mixture.of(column_tokens), column_tokenizer(column_store))
    assert task.units() == ("tokens", 4 * 4 * 6)
    generator = torch.Generator()
    with FlopCounterMode(display=False) as counter:
        loss, _ = task.loss(task.batch(0, 0), generator)
        loss.backward()
    # The counter takes attention whole, the formula its causal half; the text encoder is left out of the formula.
    assert 0.7 < task.flops() / counter.get_total_flops() < 1.1


def test_another_tokenizer_cannot_go_on(train, column_tokens: TokenStore, column_store: EpisodeStore, tmp_path: Path) -> None:
    train("run")
    other = TokenStore(column_tokens.folder, replace(column_tokens.info, tokenizer_hash="other"))
    with pytest.raises(UserError, match=r"run: was trained with tokenizer_hash \w+, the one given is other; --resume needs the same"):
        train_worldgpt(train_config(tmp_path / "run", resume=True), Mixture.of(other), column_tokenizer(column_store), tmp_path / "run")


@pytest.mark.parametrize("own", [True, False])
def test_the_report_tells_its_own_tokenizers_floor(own: bool, train, column_tokens: TokenStore, tmp_path: Path) -> None:
    """Not that of another one, which may lie in the folder that is named."""
    floor = {"tokenizer_hash": column_tokens.info.tokenizer_hash if own else "another", "psnr_db": 30.0}
    (tmp_path / "report.json").write_text(json.dumps(floor))
    report = json.loads((train("run", tokenizer=str(tmp_path)) / "report.json").read_text())
    assert report.get("tokenizer") == (floor if own else None)


def test_a_training_is_made_again_from_its_own_record(train, column_store: EpisodeStore, column_tokens: TokenStore, tmp_path: Path) -> None:
    """`--from-run` alone gives the settings back, and they give the losses back; `--deterministic` is one of them."""
    first = train("first", loop=replace(LOOP, deterministic=True, precision="auto"))
    try:
        argv = ["--from-run", str(first), "--output", str(tmp_path / "again"), "--no-resume"]
        config = cli.parse(WorldTrainConfig, presets=presets(), default_preset="demo", argv=argv)
        assert config.loop.deterministic
        train_worldgpt(config, Mixture.of(column_tokens), column_tokenizer(column_store), tmp_path / "again")
    finally:
        torch.use_deterministic_algorithms(False)
    assert log(tmp_path / "again") == log(first)
    assert load_world_model(tmp_path / "again").content_hash() == load_world_model(first).content_hash()
    assert cli.parse(WorldTrainConfig, presets=presets(), default_preset="demo", argv=["--deterministic"]).loop.deterministic


def test_a_tokenizer_of_other_data_is_refused_by_name(column_store: EpisodeStore) -> None:
    tokenizer, manifest = column_tokenizer(column_store), column_store.manifest
    check_tokenizer(tokenizer, manifest, "runs/t")
    tokenizer.config.height = 64
    with pytest.raises(UserError, match="runs/t: the tokenizer was trained on frames of 64x32, the data has 8x32"):
        check_tokenizer(tokenizer, manifest, "runs/t")
    tokenizer.config.height, tokenizer.config.cameras = 8, ["rear"]
    with pytest.raises(UserError, match=r"runs/t: the tokenizer was not trained on camera 'front' \(only on rear\)"):
        check_tokenizer(tokenizer, manifest, "runs/t")


def test_drives_shorter_than_the_context_are_told(train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'train' has no drive of 60 steps \(the longest has 48\); lower model.context_steps"):
        train("long", model=replace(MODEL, context_steps=60))
    assert not (tmp_path / "long").exists()


def script(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "train_worldgpt.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


SMALL = [
    "--loop.steps",
    "3",
    "--loop.warmup-steps",
    "1",
    "--loop.batch-size",
    "2",
    "--evaluation-windows",
    "4",
    "--sample-steps",
    "2",
    "--model.width",
    "16",
    "--model.heads",
    "2",
    "--model.layers",
    "1",
    "--model.mlp-width",
    "16",
    "--model.context-steps",
    "3",
]


def test_the_script_trains_from_data_and_tokenizer(column_store: EpisodeStore, tmp_path: Path) -> None:
    column_tokenizer(column_store).save_pretrained(tmp_path / "tokenizer")
    data = shutil.copytree(column_store.path, tmp_path / "data")
    given = ("--data", data, "--tokenizer", tmp_path / "tokenizer", "--output", tmp_path / "out", *SMALL)
    done = script(*given, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"world model: {tmp_path / 'out'}"
    assert "parameters" in done.stdout
    assert WorldGPTPipeline.from_pretrained(tmp_path / "out").tokenizer is not None
    refused = script(*given, folder=tmp_path)
    assert refused.returncode == 2
    assert (
        refused.stderr
        == f"error: {given[5]}: already holds files; give --resume to go on, --overwrite to start anew, or another --output\n"
    )


@pytest.mark.parametrize("name", ["train_worldgpt.py", "generate.py"])
def test_help_explains_every_field_without_torch(name: str, tmp_path: Path) -> None:
    code = f"""
import runpy, sys
sys.argv = ["{name}", "--help"]
try:
    runpy.run_path({str(ROOT / "scripts" / name)!r}, run_name="__main__")
finally:
    print("loaded:", *sorted({{"torch", "transformers", "accelerate", "datasets", "pyarrow", "av", "cv2"}} & set(sys.modules)))
"""
    command = [sys.executable, "-W", "ignore::RuntimeWarning", "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT / "scripts"), "COLUMNS": "200"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"
    for word in {
        "train_worldgpt.py": ("--preset", "--loop.seed", "--history.corruption"),
        "generate.py": ("--prompt", "--top-p", "--steer"),
    }[name]:
        assert word in done.stdout
