"""Kills a training with SIGKILL at random moments and lets it go on, again and again: `killed_training.py FOLDER KILLS SEED [DATA TOKENS]`.

Everything is imported once and each training is a fork, so that a kill costs no start. Prints a line of JSON: after which update each
killed training was to go on. FOLDER/whole is a training of the same settings that nothing interrupts. Without DATA and TOKENS a line is
fitted (tests/line_samples.py); with them a world model is trained on an encoded set.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import accelerate  # noqa: F401 (imported here, before the forks)
import line_samples
import rich.progress  # noqa: F401
import world_samples

from tokenizer.loop import run_loop
from tokenizer.training_state import checkpoints
from worldgpt.mixture import Mixture
from worldgpt.token_store import TokenStore
from worldgpt.train import WorldTask, build_model

UPDATES_A_KILL = 24


def train(output: Path, kills: int, data: list[Path]) -> None:
    """A training from wherever `output` stands; the more kills it is to meet, the longer."""
    changes = {"steps": UPDATES_A_KILL * kills, "log_every": 1, "checkpoint_every": 2, "evaluate_every": 5, "keep_checkpoints": 2}
    if not data:
        line_samples.train(output, replace(line_samples.CONFIG, **changes), resume=True)  # type: ignore[arg-type]
        return
    loop = replace(world_samples.LOOP, trackers=(), **changes)  # type: ignore[arg-type]
    config, mixture = world_samples.train_config(output, loop=loop, evaluation_windows=4), Mixture.of(TokenStore.open(data[1]))
    run_loop(WorldTask(config, build_model(config, mixture), mixture, None), loop, output, resume=True, description={})


def started(output: Path, kills: int, data: list[Path]) -> int:
    """The process id of a training that has just begun."""
    child = os.fork()
    if child:
        return child
    try:
        with (output.parent / f"{output.name}.txt").open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            train(output, kills, data)
            sys.stdout.flush()
            os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
    os._exit(1)


def finished(output: Path, kills: int, data: list[Path]) -> float:
    """Seconds that a training took which nothing interrupted."""
    begin = time.monotonic()
    status = os.waitpid(started(output, kills, data), 0)[1]
    assert status == 0, (output.parent / f"{output.name}.txt").read_text()
    return time.monotonic() - begin


def main() -> None:
    folder, kills, seed, data = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), [Path(p) for p in sys.argv[4:]]
    seconds = finished(folder / "whole", kills, data)
    start = finished(folder / "whole", kills, data)  # nothing left to train: the time of a start
    moments, met = random.Random(seed), []
    while len(met) < kills:
        child = started(folder / "killed", kills, data)
        time.sleep(moments.uniform(start / 2, start + 1.2 * (seconds - start) / kills))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if status == 0:  # the machine has become so much faster that it came to its end: from the beginning, with less time
            shutil.rmtree(folder / "killed")
            seconds, met = start + (seconds - start) / 2, []
            continue
        assert status == signal.SIGKILL, (folder / "killed.txt").read_text()
        found = checkpoints(folder / "killed" / "checkpoints")
        met.append(int(found[-1].name[5:]) if found else 0)
    finished(folder / "killed", kills, data)
    print(json.dumps(met))


if __name__ == "__main__":
    main()
