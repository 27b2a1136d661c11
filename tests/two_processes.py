"""Trainings on several processes, started by torchrun: `two_processes.py JOBS.json`; every rank leaves hashes of what it holds.

JOBS.json: {"data": folder, "tokens": folder, "jobs": [{"kind": "world" or "vq", "output": folder, "fsdp", "resume": bool, "loop": {}}]}.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import world_samples
from torch import Tensor

from data.store import EpisodeStore
from tokenizer.config import TokenizerConfig, TokenizerTrainConfig
from tokenizer.loop import Loop
from tokenizer.loop_config import LoopConfig
from tokenizer.parallel import process_group_ended, whole
from tokenizer.train import TokenizerTask
from worldgpt.mixture import Mixture
from worldgpt.token_store import TokenStore
from worldgpt.train import WorldTask, build_model

LOOP = replace(world_samples.LOOP, steps=6, checkpoint_every=3, evaluate_every=3, log_every=1, learning_rate=2e-3, trackers=())
VQ = TokenizerConfig(encoder_width=8, decoder_width=8, decoder_depth=1, quantizer="vq", codebook_size=16, code_dim=4, codebook_decay=0.5)


def train(job: Mapping[str, Any], data: str, tokens: str) -> Loop:
    """One training to its end; FSDP is asked for as accelerate's configs ask."""
    os.environ["ACCELERATE_USE_FSDP"] = str(job["fsdp"]).lower()
    loop, output = LoopConfig(**{**vars(LOOP), **job["loop"]}), Path(job["output"])
    if job["kind"] == "vq":
        store = EpisodeStore.open(data)
        config = TokenizerTrainConfig(data=data, output=str(output), evaluation_frames=16, tokenizer=VQ, loop=loop)
        task: Any = TokenizerTask(config, store)
        task.evaluate = lambda: {"psnr_db": 0.0}  # its pictures are too small for SSIM
    else:
        store, mixture = EpisodeStore.open(data), Mixture.of(TokenStore.open(Path(tokens)))
        world = world_samples.train_config(output, loop=loop, evaluation_windows=4, sample_steps=2)
        task = WorldTask(world, build_model(world, mixture), mixture, world_samples.column_tokenizer(store))
    running = Loop(task, loop, output, job["resume"], {})
    running.run()
    return running


def digest(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + whole(tensors[name]).numpy().tobytes())
    return found.hexdigest()


def held(loop: Loop) -> dict[str, str]:
    """Hashes of weights, buffers (a codebook is one) and running mean."""
    assert loop.mean is not None
    values = {"weights": dict(loop.model.named_parameters()), "buffers": dict(loop.model.named_buffers()), "mean": loop.mean.values}
    return {name: digest(tensors) for name, tensors in values.items()}


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())
    with process_group_ended():
        for job in given["jobs"]:
            leave_hashes(job, train(job, given["data"], given["tokens"]))


def leave_hashes(job: Mapping[str, Any], loop: Loop) -> None:
    ranks, rank = loop.accelerator.num_processes, loop.accelerator.process_index
    (Path(job["output"]) / f"rank{rank}.json").write_text(json.dumps({"ranks": ranks, **held(loop)}))


if __name__ == "__main__":
    main()
