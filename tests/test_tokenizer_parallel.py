"""Two processes on the CPU (gloo): the same training as one on the same batches, ranks in step, checkpoints for any number of them.

All trainings of two processes run in one launch, since a start takes seconds.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from two_processes import train

from data.errors import UserError
from tokenizer import parallel
from tokenizer.parallel import shards, spread
from tokenizer.training_state import checkpoints
from worldgpt.pipeline import WorldGPTPipeline

ROOT = Path(__file__).parents[1]
MUON, ADAMW = {"optimizer": "muon"}, {"optimizer": "adamw"}
ALONE = {"gradient_accumulation": 2}
"""One process with this sees the micro-batches of two processes without."""


def job(kind: str, output: Path, loop: Mapping[str, Any], *, fsdp: bool = False, resume: bool = False) -> dict[str, Any]:
    return {"kind": kind, "output": str(output), "fsdp": fsdp, "resume": resume, "loop": dict(loop)}


def cut(run: Path, to: Path) -> Path:
    """A copy of a run as it stood when it was stopped in the middle."""
    shutil.copytree(run, to)
    shutil.rmtree(checkpoints(to / "checkpoints")[-1])
    return to


def launch(folder: Path, data: Path, tokens: Path, jobs: list[dict[str, Any]]) -> None:
    (folder / "jobs.json").write_text(json.dumps({"data": str(data), "tokens": str(tokens), "jobs": jobs}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(
        [*command, str(ROOT / "tests" / "two_processes.py"), str(folder / "jobs.json")],
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )
    assert done.returncode == 0, "\n".join(line for line in done.stderr.splitlines() if "Error" in line) + done.stderr


@pytest.fixture(scope="module")
def runs(column_store, column_tokens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders: ddp, fsdp, vq on two processes; one_muon, one_adamw on one; and each kind gone on with by the other number."""
    folder = tmp_path_factory.mktemp("parallel")
    data, tokens = column_store.path, column_tokens.folder
    for name, optimizer in (("one_muon", MUON), ("one_adamw", ADAMW)):
        train(job("world", folder / name, {**optimizer, **ALONE}), str(data), str(tokens))
    cut(folder / "one_muon", folder / "one_then_ddp")
    cut(folder / "one_adamw", folder / "one_then_fsdp")
    jobs = [
        job("world", folder / "ddp", MUON),
        job("vq", folder / "vq", {"batch_size": 8, "gradient_accumulation": 2}),
        job("world", folder / "fsdp", ADAMW, fsdp=True),
        job("world", folder / "one_then_ddp", MUON, resume=True),
        job("world", folder / "one_then_fsdp", ADAMW, fsdp=True, resume=True),
    ]
    launch(folder, data, tokens, jobs)
    for name, optimizer in (("ddp", MUON), ("fsdp", ADAMW)):
        train(job("world", cut(folder / name, folder / f"{name}_then_one"), {**optimizer, **ALONE}, resume=True), str(data), str(tokens))
    return folder


def lines(run: Path, split: str, name: str) -> list[float]:
    found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in found if line["split"] == split]


def assert_same_training(run: Path, other: Path) -> None:
    for split, name in (("train", "loss"), ("train", "gradient_norm"), ("train", "frame_nats"), ("held_out", "frame_nats")):
        assert lines(run, split, name) == pytest.approx(lines(other, split, name), rel=2e-4), (split, name)
    for file in ("model.safetensors", "mean.safetensors"):
        ours, theirs = (load_file(checkpoints(path / "checkpoints")[-1] / file) for path in (run, other))
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-2, atol=1e-3, msg=f"{file}: {name}")


def assert_in_step(run: Path) -> None:
    first, second = (json.loads((run / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["ranks"] == 2
    assert first == second


@pytest.mark.parametrize("run, alone", [("ddp", "one_muon"), ("fsdp", "one_adamw")])
def test_two_processes_train_as_one_on_the_same_batches(runs: Path, run: str, alone: str) -> None:
    assert_same_training(runs / run, runs / alone)
    assert_in_step(runs / run)
    assert json.loads((runs / run / "run.json").read_text())["processes"] == 2


def test_codebooks_and_means_are_equal_over_ranks(runs: Path) -> None:
    """k-means start, moving averages and revived codes alike."""
    assert_in_step(runs / "vq")
    codebook = load_file(checkpoints(runs / "vq" / "checkpoints")[-1] / "model.safetensors")
    (name,) = [name for name in codebook if name.endswith("_codebook.embed")]
    assert len(torch.unique(codebook[name][0], dim=0)) > 8


@pytest.mark.parametrize(
    "run, whole", [("ddp_then_one", "ddp"), ("fsdp_then_one", "fsdp"), ("one_then_ddp", "one_muon"), ("one_then_fsdp", "one_adamw")]
)
def test_a_checkpoint_goes_on_with_any_number_of_processes(runs: Path, run: str, whole: str) -> None:
    assert_same_training(runs / run, runs / whole)
    assert len(lines(runs / run, "train", "loss")) == 6


def test_what_sharded_processes_save_is_whole(runs: Path) -> None:
    pipeline = WorldGPTPipeline.from_pretrained(runs / "fsdp", device="cpu")
    alone = WorldGPTPipeline.from_pretrained(runs / "one_adamw", device="cpu")
    for (name, ours), theirs in zip(pipeline.model.state_dict().items(), alone.model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3, msg=name)


def test_sharding_is_refused_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shards() == 1
    monkeypatch.setattr(parallel, "shards", lambda: 2)
    with pytest.raises(UserError, match=r"FSDP: a Linear is not sharded; train it with DDP \(configs/accelerate/gpus_ddp.yaml\)"):
        spread(torch.nn.Linear(2, 2), None, "adamw")
    model = torch.nn.Linear(2, 2)
    model._no_split_modules = ["Linear"]
    with pytest.raises(UserError, match=r"loop.optimizer: 'muon' needs whole matrices, .* take --loop.optimizer adamw"):
        spread(model, None, "muon")


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_every_config(path: Path) -> None:
    from accelerate.commands.config.config_args import ClusterConfig

    config = ClusterConfig.from_yaml_file(str(path))
    values = yaml.safe_load(path.read_text())
    assert config.num_processes == values["num_processes"]
    if str(values["distributed_type"]) == "FSDP":
        assert values["fsdp_config"]["fsdp_version"] == 2
    assert (config.num_machines > 1) == ("nodes" in path.stem)


def test_there_is_a_config_for_each_kind_of_machine() -> None:
    stems = {path.stem for path in (ROOT / "configs" / "accelerate").glob("*.yaml")}
    assert stems == {"one_gpu", "gpus_ddp", "gpus_fsdp", "nodes_ddp", "nodes_fsdp"}


STUBS = {
    "srun": """for rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NTASKS=2 "$@" || status=$?; done; exit ${status:-0}""",
    "scontrol": """echo "scontrol $*" >> calls.txt; [ "$1" = show ] && printf 'first\\nsecond\\n'; exit 0""",
    "python": """echo "$RANK/$WORLD_SIZE local $LOCAL_RANK at $MASTER_ADDR:$MASTER_PORT fsdp $ACCELERATE_USE_FSDP: $*" >> calls.txt
exit $ENDS""",
}


@pytest.mark.parametrize("ends, again", [(0, False), (1, False), (143, True)])
def test_the_slurm_script_starts_a_process_a_gpu_and_queues_itself_again(tmp_path: Path, ends: int, again: bool) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    for name, body in STUBS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "first,second", "SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "4", "ENDS": str(ends)}
    command = ["bash", str(ROOT / "scripts" / "slurm.sh"), "scripts/train_worldgpt.py", "--preset", "gaia"]
    env = {**os.environ, **slurm, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == ends, done.stderr
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    started = [f"{k}/2 local {k} at first:29500 fsdp true: scripts/train_worldgpt.py --preset gaia --resume" for k in (0, 1)]
    assert calls == ["scontrol show hostnames first,second", *started, *(["scontrol requeue 77"] if again else [])]
