"""The trainings below a folder with their key figures, from what each has written: run.json, log.jsonl, report.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.folder import read_json

RUN_FILE, LOG_FILE, REPORT_FILE = "run.json", "log.jsonl", "report.json"
HELD_OUT = {"world model": "frame_nats", "tokenizer": "psnr_db"}
"""The figure that each kind is judged by."""
UNITS = ("tokens_per_s", "frames_per_s")


@dataclass(frozen=True)
class Run:
    """One training."""

    folder: str
    kind: str
    """'world model' or 'tokenizer'."""
    state: str
    """'finished' where its report is written, else 'unfinished'."""
    updates: int
    """Made, as the log knows."""
    of: int
    """Asked for."""
    parameters: int | None
    loss: float | None
    """Mean over the updates of the last line of the log."""
    held_out: float | None
    """The last evaluation's: nats a frame code of a world model, PSNR in dB of a tokenizer."""
    speed: str
    """Of the last line of the log."""
    skipped: int
    """Updates that were not made, since their loss was not finite or exploded."""
    seed: int


def find_runs(folder: Path) -> tuple[list[Run], list[str]]:
    """All trainings in and below `folder`, by their path; and a line for each whose record cannot be read.

    UserError where there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder of trainings, found none")
    runs, broken = [], []
    for path in sorted(folder.rglob(RUN_FILE)):
        try:
            runs.append(read_run(path.parent))
        except (UserError, KeyError, TypeError) as error:
            broken.append(f"{path.parent}: left out, its record is broken ({' '.join(str(error).split())})")
    return runs, broken


def read_run(folder: Path) -> Run:
    """The key figures of the training in `folder`."""
    record, lines = read_json(folder / RUN_FILE), _log(folder / LOG_FILE)
    kind = "world model" if "model" in record.get("config", {}) else "tokenizer"
    trained = [line for line in lines if line["split"] == "train"]
    evaluated = [line for line in lines if line["split"] == "held_out"]
    last: Mapping[str, Any] = trained[-1] if trained else {}
    rates = [f"{last[unit]:,.0f} {unit.replace('_per_', '/')}" for unit in UNITS if last.get(unit)]
    return Run(
        folder=str(folder),
        kind=kind,
        state="finished" if (folder / REPORT_FILE).exists() else "unfinished",
        updates=last.get("step", 0),
        of=record["loop"]["steps"],
        parameters=record.get("parameters"),
        loss=last.get("loss"),
        held_out=evaluated[-1].get(HELD_OUT[kind]) if evaluated else None,
        speed=rates[0] if rates else "",
        skipped=int(last.get("skipped_updates", 0)),
        seed=record["loop"]["seed"],
    )


def table(runs: Sequence[Run]) -> str:
    """The runs as text, a line each below a head; columns as wide as they need to be."""
    head = ("folder", "kind", "state", "updates", "parameters", "loss", "held out", "speed", "skipped", "seed")
    rows = [head, *(_row(run) for run in runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def as_json(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [asdict(run) for run in runs]


def _row(run: Run) -> tuple[str, ...]:
    unit = "nats/code" if run.kind == "world model" else "dB"
    held_out = "" if run.held_out is None else f"{run.held_out:.3f} {unit}"
    parameters = "" if run.parameters is None else f"{run.parameters / 1e6:.1f} M"
    loss = "" if run.loss is None else f"{run.loss:.4f}"
    return (
        run.folder,
        run.kind,
        run.state,
        f"{run.updates}/{run.of}",
        parameters,
        loss,
        held_out,
        run.speed,
        str(run.skipped),
        str(run.seed),
    )


def _log(path: Path) -> list[dict[str, Any]]:
    """Lines of a log; one that a kill has cut short is left out."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
