"""What a training survives: kills, SIGTERM, full disks, damaged checkpoints, bad batches; and that it can be made again exactly."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from line_samples import CONFIG, LineTask, log, train, weights
from torch import Tensor

from data.errors import DiskFullError, UserError
from tokenizer import training_state
from tokenizer.guard import Guard
from tokenizer.loop import run_loop
from tokenizer.loop_config import LoopConfig
from tokenizer.memory import batch_advice
from tokenizer.run_record import differences
from tokenizer.training_state import checkpoints

TESTS = Path(__file__).parent
PLAIN = replace(CONFIG, evaluate_every=0)


def names(output: Path) -> list[str]:
    return [path.name for path in checkpoints(output / "checkpoints")]


# -- kills --------------------------------------------------------------------------------------------------------------------


def killed(folder: Path, kills: int, *data: Path) -> list[int]:
    """Train with that many SIGKILLs (tests/killed_training.py); the updates after which the trainings went on."""
    command = [sys.executable, str(TESTS / "killed_training.py"), *map(str, (folder, kills, 7, *data))]
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def trace(output: Path) -> list[dict[str, float]]:
    clock = ("points_per_s", "tokens_per_s", "tflops", "flops_utilisation")
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in clock} for line in lines]


def assert_killed_equals_whole(folder: Path, kills: int) -> None:
    whole, killed = trace(folder / "whole"), trace(folder / "killed")
    assert [line["step"] for line in whole if line["split"] == "train"] == list(range(1, 24 * kills + 1))
    assert killed == whole
    assert names(folder / "killed") == names(folder / "whole")
    for name in names(folder / "whole"):
        for file in sorted((folder / "whole" / "checkpoints" / name).glob("*.safetensors")):
            assert (folder / "killed" / "checkpoints" / name / file.name).read_bytes() == file.read_bytes(), (name, file.name)
    assert not list((folder / "killed").rglob(".tmp-*"))


def test_five_kills_change_nothing(tmp_path: Path) -> None:
    met = killed(tmp_path, 5)
    assert len(met) == 5
    assert met == sorted(met)
    assert met[-1] > 0  # it got on in between
    assert_killed_equals_whole(tmp_path, 5)


@pytest.mark.slow
def test_fifty_kills_of_a_world_model_change_nothing(column_store, column_tokens, tmp_path: Path) -> None:
    met = killed(tmp_path, 50, column_store.path, column_tokens.folder)
    assert len(met) == 50
    assert len(set(met)) > 10  # it got on in between
    assert_killed_equals_whole(tmp_path, 50)


# -- SIGTERM ------------------------------------------------------------------------------------------------------------------


class TerminatedTask(LineTask):
    """Meets SIGTERM while it works on its loss for the n-th time; three more times are the timed pass before the training."""

    def __init__(self, config: LoopConfig, at: int) -> None:
        super().__init__(config)
        self.left = at + 3

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        return super().loss(batch, generator)


@pytest.mark.parametrize("at", [1, 5])
def test_sigterm_saves_and_the_rest_is_as_if_nothing_had_been(tmp_path: Path, at: int, capsys: pytest.CaptureFixture[str]) -> None:
    whole, _ = train(tmp_path / "whole")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        run_loop(TerminatedTask(CONFIG, at), CONFIG, tmp_path / "cut", resume=False, description={})
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert names(tmp_path / "cut")[-1] == f"step_{at:07d}"
    assert f"SIGTERM: saved after update {at}; --resume goes on from there" in capsys.readouterr().out
    resumed, _ = train(tmp_path / "cut", resume=True)
    assert torch.equal(weights(resumed), weights(whole))
    assert log(tmp_path / "cut") == log(tmp_path / "whole")  # the sums of the line that it was in the middle of are kept too


# -- disks and damage ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 128 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(small_disk: Path) -> None:
    class FillingTask(LineTask):
        def batch(self, step: int, micro: int) -> Mapping[str, Tensor]:
            if step == 6:
                with (small_disk / "ballast").open("wb", buffering=0) as file:
                    try:
                        while file.write(b"0" * 4096):
                            pass
                    except OSError as error:
                        assert error.errno == errno.ENOSPC
            return super().batch(step, micro)

    run = small_disk / "run"
    with pytest.raises(DiskFullError, match=r"disk full: no room left to write .*step_0000008; .*the last whole checkpoint is still there"):
        run_loop(FillingTask(PLAIN), PLAIN, run, resume=False, description={})
    assert names(run) == ["step_0000004"]
    assert not list(run.rglob(".tmp-*"))
    (small_disk / "ballast").unlink()
    resumed, _ = train(run, PLAIN, resume=True)
    whole, _ = train(small_disk.parent / "whole", PLAIN)
    assert torch.equal(weights(resumed), weights(whole))


def test_a_write_that_fails_halfway_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = training_state.save_file, []

    def failing(tensors: dict[str, Tensor], path: Path) -> None:
        save(tensors, path)
        calls.append(path)
        if len(calls) == 5:  # the second checkpoint's optimizer
            path.write_bytes(path.read_bytes()[:50])
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(training_state, "save_file", failing)
    with pytest.raises(UserError, match=r"run: could not be written \(Input/output error\); the last whole checkpoint is still there"):
        train(tmp_path / "run", PLAIN)
    assert names(tmp_path / "run") == ["step_0000004"]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_0000004"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("in the way")
    with pytest.raises(UserError, match=r"step_0000004: cannot be written \(.+\); the last whole checkpoint is still there"):
        train(tmp_path / "run", PLAIN)


@pytest.mark.parametrize("damage", ["removed", "zeroed", "no state"])
def test_a_half_copied_checkpoint_is_set_aside(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Also one whose files have their size, but not yet their content; and with one kept, the good one is not taken for the older one."""
    config = replace(PLAIN, steps=9)
    whole, _ = train(tmp_path / "run", config)
    newest, file = tmp_path / "run" / "checkpoints" / "step_0000009", "model.safetensors"
    if damage == "zeroed":
        content = (newest / file).read_bytes()
        (newest / file).write_bytes(content[:-40] + bytes(40))
    else:
        (newest / (file if damage == "removed" else "state.json")).unlink()
    resumed, _ = train(tmp_path / "run", replace(config, keep_checkpoints=1), resume=True)
    assert torch.equal(weights(resumed), weights(whole))
    told = {
        "removed": "model.safetensors is missing",
        "zeroed": "model.safetensors is not what was written",
        "no state": "state.json is missing",
    }
    assert f"step_0000009: not a checkpoint of this training ({told[damage]}); going back" in capsys.readouterr().out
    assert (tmp_path / "run" / "checkpoints" / "damaged_step_0000009").is_dir()
    assert names(tmp_path / "run") == ["step_0000009"]


def test_the_best_is_kept_beside_the_newest(tmp_path: Path) -> None:
    """Lower is better; the best one stays whatever comes after it, also over an interruption."""
    scores, config = {3: 2.0, 6: 1.0, 9: 3.0, 12: 1.5}, replace(CONFIG, steps=12, evaluate_every=3, checkpoint_every=2, keep_checkpoints=1)

    class ScoredTask(LineTask):
        folders: list[str] = []  # noqa: RUF012

        def score(self, figures: Mapping[str, float]) -> float:
            return scores[int(figures["step"])]

        def sample(self, folder: Path, step: int) -> None:
            self.evaluated = step

        def evaluate(self) -> dict[str, float]:
            ScoredTask.evaluations += 3
            return {"step": ScoredTask.evaluations}

        def save(self, folder: Path) -> None:
            self.folders.append(folder.name)

        evaluations = 0

    run_loop(ScoredTask(config), config, tmp_path / "run", resume=False, description={})
    assert names(tmp_path / "run") == ["step_0000006", "step_0000012"]
    assert ScoredTask.folders.count("best") == 2
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_0000012")
    ScoredTask.evaluations = 6
    run_loop(ScoredTask(config), config, tmp_path / "run", resume=True, description={})
    assert names(tmp_path / "run") == ["step_0000006", "step_0000012"]
    assert ScoredTask.folders.count("best") == 2
    assert json.loads((tmp_path / "run" / "checkpoints" / "step_0000012" / "state.json").read_text())["best"] == {"step": 6, "score": 1.0}


def test_other_data_cannot_go_on(tmp_path: Path) -> None:
    run_loop(LineTask(CONFIG), CONFIG, tmp_path, resume=False, description={"data_hash": "abc"})
    with pytest.raises(UserError, match=r"was trained with data_hash abc, the one given is xyz; --resume needs the same data"):
        run_loop(LineTask(CONFIG), CONFIG, tmp_path, resume=True, description={"data_hash": "xyz"})


# -- bad batches --------------------------------------------------------------------------------------------------------------


def test_an_exploding_loss_makes_no_update_and_its_batch_can_be_had_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(PLAIN, steps=36, checkpoint_every=30)
    task, _ = train(tmp_path / "burst", config, factors={31: 1e4})
    nothing, _ = train(tmp_path / "nan", config, bad=(31,))
    plain, _ = train(tmp_path / "plain", config)
    assert torch.equal(weights(task), weights(nothing))
    assert not torch.equal(weights(task), weights(plain))
    assert "exploded (more than 3 times the largest of the last 31), no update made" in capsys.readouterr().out
    (line,) = [json.loads(line) for line in (tmp_path / "burst" / "bad_updates.jsonl").read_text().splitlines()]
    assert (line["step"], line["micro_batches"], line["seed"]) == (31, [0], 0)
    assert float(task.batch(line["step"], 0)["factor"]) == 1e4
    assert log(tmp_path / "burst")[-2]["skipped_updates"] == 1
    shutil.rmtree(tmp_path / "burst" / "checkpoints" / "step_0000036")
    resumed, _ = train(tmp_path / "burst", config, resume=True, factors={31: 1e4})  # what it is measured against is kept too
    assert torch.equal(weights(resumed), weights(task))
    assert len((tmp_path / "burst" / "bad_updates.jsonl").read_text().splitlines()) == 1


def test_what_counts_as_exploded() -> None:
    guard = Guard(3.0)
    assert all(guard.objection(1.0 + k / 100, 1.0) is None for k in range(19))
    assert Guard(3.0).objection(1e9, 1.0) is None  # nothing to compare with yet
    assert guard.objection(50.0, 1.0) is None
    assert guard.objection(149.0, 1.0) is None
    assert "exploded" in (guard.objection(448.0, 1.0) or "")
    assert guard.objection(float("inf"), 1.0) == guard.objection(1.0, float("nan")) == "not finite"
    with pytest.raises(UserError, match="3 updates in a row"):
        guard.check(0)
    assert guard.skipped == 3
    never = Guard(0.0)
    assert all(never.objection(loss, 1.0) is None for loss in [1.0] * 30 + [1e30])
    with pytest.raises(UserError, match=r"loop.explosion: expected more than 1, or 0 for never, got 0.5"):
        LoopConfig(explosion=0.5)


def test_a_bad_batch_leaves_no_trace_in_a_codebook(tmp_path: Path) -> None:
    class CountingTask(LineTask):
        """Like a codebook, it learns in the forward pass."""

        def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
            loss, parts = super().loss(batch, generator)
            if self.model.training:
                self.model.get_buffer("seen").add_(loss.detach())
            return loss, parts

    task = CountingTask(PLAIN, bad=(2, 7))
    task.model.register_buffer("seen", torch.zeros(()))
    run_loop(task, PLAIN, tmp_path, resume=False, description={})
    assert bool(torch.isfinite(task.model.get_buffer("seen")))


# -- memory, determinism, repetition ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_says_what_fits(tmp_path: Path, error: Exception) -> None:
    class LargeTask(LineTask):
        def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
            raise error

    with pytest.raises(UserError, match=r"^out of memory: --loop.batch-size 4 does not fit into the [\d.]+ GB of cpu; take less$"):
        run_loop(LargeTask(CONFIG), CONFIG, tmp_path, resume=False, description={})


def test_another_error_is_not_taken_for_a_lack_of_memory(tmp_path: Path) -> None:
    class BrokenTask(LineTask):
        def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        run_loop(BrokenTask(CONFIG), CONFIG, tmp_path, resume=False, description={})


def test_advice_makes_the_same_updates() -> None:
    config = LoopConfig(batch_size=32, gradient_accumulation=2)
    assert "--loop.batch-size 16 --loop.gradient-accumulation 4 " in batch_advice(config, 20)
    assert "smaller --preset" in batch_advice(config, 0)
    assert "something else" in batch_advice(config, 100)


def test_deterministic_trainings_are_the_same(tmp_path: Path) -> None:
    config = replace(CONFIG, deterministic=True, precision="auto")
    try:
        first, _ = train(tmp_path / "first", config)
        assert torch.are_deterministic_algorithms_enabled()
        second, _ = train(tmp_path / "second", config)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(weights(first), weights(second))
    assert log(tmp_path / "first") == log(tmp_path / "second")
    assert json.loads((tmp_path / "first" / "run.json").read_text())["precision"] == "no"


def test_a_repetition_elsewhere_says_in_what_it_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "first")
    run = json.loads((tmp_path / "first" / "run.json").read_text())
    assert differences(run, run) == []
    (tmp_path / "first" / "run.json").write_text(json.dumps({**run, "threads": 99}))
    run_loop(LineTask(CONFIG), CONFIG, tmp_path / "again", resume=False, description={"config": {"from_run": str(tmp_path / "first")}})
    assert f"threads: 99 then, {run['threads']} now; the numbers may differ" in capsys.readouterr().out
