"""Laws of the training loop on a task small enough to check by hand."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from line_samples import CONFIG, LineTask, log, train, weights
from torch import nn

from data.errors import UserError
from tokenizer import run_record, training_log
from tokenizer.keyed import keyed_rng, keyed_seed
from tokenizer.loop import run_loop
from tokenizer.loop_config import LoopConfig, learning_rate_factor
from tokenizer.training_state import RunningMean, checkpoints


@pytest.mark.parametrize("stop", [4, 8])
def test_resumed_equals_uninterrupted_to_the_bit(tmp_path: Path, stop: int) -> None:
    config = replace(CONFIG, keep_checkpoints=3)
    whole, figures = train(tmp_path / "whole", config)
    train(tmp_path / "cut", config)
    for checkpoint in checkpoints(tmp_path / "cut" / "checkpoints"):  # as if it had been killed some updates after `stop`
        if int(checkpoint.name[5:]) > stop:
            shutil.rmtree(checkpoint)
    with (tmp_path / "cut" / "log.jsonl").open("a") as file:
        file.write('{"step": 11, "sp')
    resumed, again = train(tmp_path / "cut", config, resume=True)
    assert again == figures
    assert torch.equal(weights(resumed), weights(whole))
    assert all(torch.equal(a, b) for a, b in zip(resumed.saved[-1].values(), whole.saved[-1].values(), strict=True))
    assert log(tmp_path / "cut") == log(tmp_path / "whole")


def test_the_saved_model_is_the_running_mean(tmp_path: Path) -> None:
    task, _ = train(tmp_path / "run")
    saved = torch.cat([p.flatten() for p in task.saved[-1].values()])
    assert not torch.equal(saved, weights(task))
    plain, _ = train(tmp_path / "plain", replace(CONFIG, ema_decay=0.0))
    assert torch.equal(torch.cat([p.flatten() for p in plain.saved[-1].values()]), weights(plain))
    assert torch.equal(weights(plain), weights(task))  # averaging does not touch the training


def test_swapping_twice_is_nothing_and_the_mean_is_the_mean() -> None:
    model = nn.Linear(3, 2)
    mean = RunningMean(model, 0.9)
    expected = model.weight.detach().clone()
    for step in range(30):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3, generator=torch.Generator().manual_seed(step)))
        mean.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(mean.values["weight"], expected)
    before, averaged = model.weight.detach().clone(), mean.values["weight"].clone()
    mean.swap(model)
    assert torch.equal(model.weight, averaged)
    mean.swap(model)
    assert torch.equal(model.weight, before)
    assert torch.equal(mean.values["weight"], averaged)


def test_two_micro_batches_equal_one_twice_as_large(tmp_path: Path) -> None:
    halves, _ = train(tmp_path / "halves", replace(CONFIG, gradient_accumulation=2), noise=0.0)
    whole, _ = train(tmp_path / "whole", replace(CONFIG, batch_size=8), noise=0.0)
    torch.testing.assert_close(weights(halves), weights(whole), rtol=1e-4, atol=1e-5)
    one, _ = train(tmp_path / "one", noise=0.0)
    assert (weights(one) - weights(whole)).abs().max() > 1e-3


def test_an_update_that_is_not_finite_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, _ = train(tmp_path / "bad", replace(CONFIG, steps=6), bad=(5,))
    until, _ = train(tmp_path / "good", replace(CONFIG, steps=6))
    stopped, _ = train(tmp_path / "five", replace(CONFIG, steps=6), bad=(5, 99))
    assert torch.equal(weights(task), weights(stopped))
    assert not torch.equal(weights(task), weights(until))
    assert torch.isfinite(weights(task)).all()
    assert "update 5: loss nan, gradient norm nan: not finite, no update made" in capsys.readouterr().out
    assert log(tmp_path / "bad")[-1]["split"] == "held_out"
    assert [line["loss"] for line in log(tmp_path / "bad") if line["split"] == "train"][-1] is None


def test_three_bad_updates_in_a_row_stop_the_training(tmp_path: Path) -> None:
    train(tmp_path / "scattered", bad=(1, 2, 4, 5, 7))
    with pytest.raises(UserError, match=r"stopped at update 6: 3 updates in a row were not finite or exploded; lower loop\.learning_rate"):
        train(tmp_path / "run", bad=(1, 4, 5, 6))
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == ["step_0000004", "step_0000005"]


def test_checkpoints_rotate(tmp_path: Path) -> None:
    train(tmp_path / "run", replace(CONFIG, checkpoint_every=2, evaluate_every=0))
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == ["step_0000008", "step_0000010"]
    train(tmp_path / "three", replace(CONFIG, checkpoint_every=3, keep_checkpoints=3, evaluate_every=0))
    assert [int(path.name[5:]) for path in checkpoints(tmp_path / "three" / "checkpoints")] == [6, 9, 10]
    assert not [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "mean.safetensors", "state.json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole, _ = train(tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step_0000010" / file
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    resumed, _ = train(tmp_path / "run", resume=True)
    assert torch.equal(weights(resumed), weights(whole))
    told = [line for line in capsys.readouterr().out.splitlines() if "going back to the checkpoint before" in line]
    assert len(told) == 1
    assert "step_0000010: not a checkpoint of this training" in told[0]


def test_where_no_checkpoint_can_be_read_the_training_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run")
    for checkpoint in checkpoints(tmp_path / "run" / "checkpoints"):
        (checkpoint / "model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="step_0000008: not a checkpoint of this training") as told:
        train(tmp_path / "run", resume=True)
    assert "\n" not in str(told.value)


def test_a_folder_without_checkpoint_starts_anew_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resumed, _ = train(tmp_path / "run", resume=True)
    assert f"{tmp_path / 'run'}: no checkpoint to resume from, starting anew" in capsys.readouterr().out
    assert torch.equal(weights(resumed), weights(train(tmp_path / "fresh")[0]))


def test_a_finished_training_resumed_only_evaluates(tmp_path: Path) -> None:
    whole, figures = train(tmp_path / "run")
    resumed, again = train(tmp_path / "run", resume=True)
    assert again == figures
    assert torch.equal(weights(resumed), weights(whole))


def test_a_run_says_what_it_was(tmp_path: Path) -> None:
    task = LineTask(CONFIG)
    run_loop(task, CONFIG, tmp_path, resume=False, description={"data_hash": "abc"})
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["data_hash"] == "abc"
    assert run["loop"]["seed"] == 0
    assert run["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert run["precision"] == "no"


def test_the_log_has_a_line_every_few_updates_and_at_checkpoints(tmp_path: Path) -> None:
    train(tmp_path)
    lines = log(tmp_path)
    assert [line["step"] for line in lines if line["split"] == "train"] == [3, 4, 6, 8, 9, 10]
    assert [line["step"] for line in lines if line["split"] == "held_out"] == [5, 10]
    assert lines[0]["half"] == pytest.approx(lines[0]["loss"] / 2)


def test_the_schedule() -> None:
    config = LoopConfig(steps=100, warmup_steps=10)
    assert [learning_rate_factor(config, step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert learning_rate_factor(config, 55) == pytest.approx(0.05 + 0.95 / 2)
    assert learning_rate_factor(config, 100) == pytest.approx(0.05)
    factors = [learning_rate_factor(config, step) for step in range(10, 100)]
    assert factors == sorted(factors, reverse=True)
    wsd = replace(config, schedule="wsd")
    assert [learning_rate_factor(wsd, step) for step in (0, 9, 10, 50, 81)] == pytest.approx([0.1, 1, 1, 1, 1])
    assert learning_rate_factor(wsd, 91) == pytest.approx(0.525)
    assert learning_rate_factor(wsd, 100) == pytest.approx(0.05)
    assert learning_rate_factor(LoopConfig(steps=5, warmup_steps=0), 0) == 1.0


def test_keys_are_well_mixed() -> None:
    seeds = {keyed_seed(a, b, c) for a in range(4) for b in range(8) for c in range(8)}
    assert len(seeds) == 4 * 8 * 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert keyed_rng(1, 2).random() == keyed_rng(1, 2).random() != keyed_rng(2, 1).random()


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"batch_size": 0}, {"seed": -1}, {"warmup_steps": -1}, {"ema_decay": 1.0}, {"keep_checkpoints": 0}]
)
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"loop.{next(iter(wrong))}: expected"):
        LoopConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("gain, fast", [(0.5, False), (1.1, False), (1.5, True)])
def test_bf16_is_taken_where_it_is_measured_to_be_faster(monkeypatch: pytest.MonkeyPatch, gain: float, fast: bool) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    rates = {torch.float32: 1e11, torch.bfloat16: gain * 1e11}
    monkeypatch.setattr(training_log, "measured_peak_flops", lambda device, dtype: rates[dtype])
    assert training_log.bf16_is_fast(torch.device("cpu")) == fast


def test_a_resumed_training_keeps_its_precision_whatever_is_measured_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for began, measured in (("no", True), ("bf16", False)):
        (tmp_path / "run.json").write_text(json.dumps({"precision": began}))
        monkeypatch.setattr(run_record, "bf16_is_fast", lambda device, measured=measured: measured)
        auto = LoopConfig(precision="auto")
        assert run_record.chosen_precision(auto, tmp_path, cpu, resume=True) == ("bf16" if began == "bf16" else "fp32")
        assert run_record.chosen_precision(auto, tmp_path, cpu, resume=False) == ("bf16" if measured else "fp32")
        assert run_record.chosen_precision(replace(auto, deterministic=True), tmp_path, cpu, resume=False) == "fp32"
