"""run.json: what a training was, so that it can be told, gone on with and made again (`--from-run`)."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from data.errors import UserError
from data.folder import atomic_file, read_json
from tokenizer.loop_config import LoopConfig
from tokenizer.training_log import bf16_is_fast

RUN_FILE = "run.json"
IDENTITY = ("data_hash", "tokenizer_hash")
"""What a training cannot go on without: other data or other codes are another training."""
CIRCUMSTANCES = (*IDENTITY, "versions", "processes", "device", "threads", "machine", "precision")
"""What can make the numbers of a training that is made again differ."""
PACKAGES = ("torch", "transformers", "accelerate", "vector-quantize-pytorch", "numpy")


def describe_run(config: LoopConfig, description: Mapping[str, Any], accelerator: Any, parameters: int) -> dict[str, Any]:
    """What run.json holds: `description` (of the task), the loop's settings, and where it runs on what."""
    return {
        **description,
        "loop": asdict(config),
        "parameters": parameters,
        "versions": {name: version(name) for name in PACKAGES},
        "processes": accelerator.num_processes,
        "device": str(accelerator.device),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "precision": accelerator.mixed_precision,
    }


def write_run(output: Path, run: Mapping[str, Any]) -> None:
    with atomic_file(output / RUN_FILE) as temp:
        temp.write_text(json.dumps(run, indent=2, default=str) + "\n")


def check_identity(output: Path, description: Mapping[str, Any]) -> None:
    """UserError where the training in `output` had other data, or saw it through another tokenizer."""
    before = read_json(output / RUN_FILE) if (output / RUN_FILE).exists() else {}
    for name in IDENTITY:
        if name in before and before[name] != description.get(name):
            what, told = name.removesuffix("_hash"), f"{output}: was trained with {name} {before[name]}, the one given is"
            raise UserError(f"{told} {description.get(name)}; --resume needs the same {what} (--init-from starts from the weights alone)")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each circumstance in which a training that is made again differs from the first."""
    return [
        f"{name}: {before[name]} then, {now.get(name)} now; the numbers may differ"
        for name in CIRCUMSTANCES
        if name in before and before[name] != now.get(name)
    ]


def chosen_precision(config: LoopConfig, output: Path, device: torch.device, resume: bool) -> str:
    """'bf16' or 'fp32'. 'auto' is the faster one on this machine, but a training that goes on keeps the one that it began with."""
    if config.precision != "auto":
        return config.precision
    if resume and (output / RUN_FILE).exists():
        return "bf16" if read_json(output / RUN_FILE)["precision"] == "bf16" else "fp32"
    if config.deterministic:
        return "fp32"
    return "bf16" if bf16_is_fast(device) else "fp32"
