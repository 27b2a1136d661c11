"""Writing an episode store: many drives at once, each whole or not at all."""

import itertools
import json
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.chunks import overlap
from data.episode import Drive, Episode
from data.errors import DiskFullError, UserError
from data.folder import prepare_output, remove_if_unused, remove_leftovers
from data.manifest import MANIFEST_FILE, Manifest, Signals, safe_name, save_manifest, signals_to_json
from data.progress import Bar
from data.shard import ShardInfo, read_shard_info, write_shard
from data.split import Part, Plan, plan_splits


@dataclass(frozen=True)
class _Outcome:
    """What became of one drive: its shards, or why it is broken."""

    shards: tuple[ShardInfo, ...] = ()
    reason: str | None = None


def write_store(
    drives: Iterable[Drive],
    path: str | Path,
    *,
    source: str,
    fps: float,
    settings: Mapping[str, Any] | None = None,
    license: str | None = None,
    val_fraction: float = 0.15,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Manifest:
    """Write all `drives` (at `fps` steps a second) into the folder `path` and return its manifest, which is written last.

    Runs on `workers` processes (default: all cores; 1: in this one). A drive that raises UserError is reported, left out and listed in
    the manifest; a full disk ends the run. `resume` keeps the drives that are complete, provided that `settings` (JSON values) are the
    same. Drives without a split of their own are split as `data.split` says.
    """
    found = _unique(drives)
    asked: dict[str, Any] = json.loads(json.dumps(dict(settings or {})))
    folder = prepare_output(path, resume=resume, overwrite=overwrite)
    try:
        plans = plan_splits(found, fps=fps, val_fraction=val_fraction)
        outcomes = _keep_finished(plans, folder, asked)
        open_plans = [plan for plan in plans if plan.drive.drive_id not in outcomes]
        # An interrupted run must not leave the old manifest beside new shards.
        if open_plans:
            (folder / MANIFEST_FILE).unlink(missing_ok=True)
        steps = [plan.drive.steps for plan in open_plans]
        total = None if None in steps else sum(step or 0 for step in steps)
        with Bar("writing drives", total=total, unit="frames", enabled=progress and bool(open_plans)) as bar:
            for plan, outcome in _write_all(open_plans, folder, asked, workers or os.cpu_count() or 1, bar):
                outcomes[plan.drive.drive_id] = outcome
        manifest = _gather(plans, outcomes, folder, source=source, fps=fps, settings=asked, license=license)
        save_manifest(manifest, folder)
    finally:
        remove_leftovers(folder)
        remove_if_unused(folder)
    return manifest


def _unique(drives: Iterable[Drive]) -> list[Drive]:
    found: dict[str, Drive] = {}
    for drive in drives:
        if drive.drive_id in found:
            raise UserError(f"{drive.drive_id}: expected every drive to have a name of its own, got this one twice")
        found[drive.drive_id] = drive
    if not found:
        raise UserError("expected at least one drive, got none")
    return list(found.values())


def _shard_path(folder: Path, part: Part) -> Path:
    return folder / safe_name(part.split) / f"{safe_name(part.drive_id)}.parquet"


def _keep_finished(plans: Sequence[Plan], folder: Path, settings: Mapping[str, Any]) -> dict[str, _Outcome]:
    """{drive_id: outcome} of the drives whose shards are all there already; shards that no plan asks for are removed."""
    wanted = {_shard_path(folder, part) for plan in plans for part in plan.parts}
    for path in folder.glob("*/*.parquet"):
        if path not in wanted:
            path.unlink()
    outcomes = {}
    for plan in plans:
        paths = [_shard_path(folder, part) for part in plan.parts]
        if not all(path.is_file() for path in paths):
            continue
        shards = tuple(read_shard_info(path) for path in paths)
        _same_settings(folder, shards[0].settings, settings)
        outcomes[plan.drive.drive_id] = _Outcome(shards)
    return outcomes


def _same_settings(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            raise UserError(
                f"{folder}: was begun with {name} = {before.get(name)}, got {now.get(name)}; give the same to --resume, or --overwrite"
            )


def _gather(
    plans: Sequence[Plan], outcomes: Mapping[str, _Outcome], folder: Path, *, source: str, fps: float, settings: Any, license: str | None
) -> Manifest:
    """The manifest of all that was written; drives whose signals are not those that most of them have are left out."""
    shards: list[ShardInfo] = []
    skipped: dict[str, str] = {}
    reasons = {drive_id: outcome.reason or _misfit(outcome.shards[0].signals, fps) for drive_id, outcome in outcomes.items()}
    common = _commonest([outcomes[plan.drive.drive_id].shards[0].signals for plan in plans if reasons[plan.drive.drive_id] is None])
    for plan in plans:
        outcome, reason = outcomes[plan.drive.drive_id], reasons[plan.drive.drive_id]
        if reason is None and common is not None:
            reason = common.difference(outcome.shards[0].signals)
        if reason is None:
            shards += outcome.shards
            continue
        for part in plan.parts:
            _shard_path(folder, part).unlink(missing_ok=True)
        skipped[plan.drive.drive_id] = reason
    if not shards:
        raise UserError(f"no usable drive among {len(plans)}: {next(iter(skipped.values()))}")
    for drive_id, reason in skipped.items():
        print(f"skipped {drive_id}: {reason}", file=sys.stderr)
    records = tuple(shard.record for shard in shards)
    return Manifest(source, shards[0].signals, records, license, settings, skipped)


def _commonest(signals: Sequence[Signals]) -> Signals | None:
    """The signals that most drives have, of as common ones those that come first; None where there is no drive."""
    kinds: dict[str, list[Signals]] = {}
    for one in signals:
        kinds.setdefault(json.dumps(signals_to_json(one)), []).append(one)
    return max(kinds.values(), key=len)[0] if kinds else None


def _misfit(signals: Signals, fps: float) -> str | None:
    """Why a drive can go into no store of this rate."""
    if abs(signals.fps - fps) > 1e-6 * fps:
        return f"fps: expected {fps}, got {signals.fps}"
    if len(set(signals.frame_sizes.values())) > 1:
        return f"frame_sizes: expected one size for all cameras, got {dict(signals.frame_sizes)}"
    return None


def _write_all(plans: Sequence[Plan], folder: Path, settings: Mapping[str, Any], workers: int, bar: Bar) -> Iterator[tuple[Plan, _Outcome]]:
    """Write every plan and give its outcome, in order of completion."""
    workers = min(workers, len(plans))
    if workers <= 1:
        for plan in plans:
            yield plan, _write_drive(plan, folder, settings, bar.advance)
        return
    _check_picklable(plans[0])
    # Fresh interpreters: forking a process that has run OpenCV's or FFmpeg's threads can hang.
    context = multiprocessing.get_context("spawn")
    counter, stop = context.Value("q", 0), context.Event()
    with _one_thread_each(), ProcessPoolExecutor(workers, context, _start_worker, (counter, stop)) as pool:
        futures = {pool.submit(_work, plan, folder, settings): plan for plan in plans}
        try:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                bar.move_to(counter.value)
                for future in done:
                    yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise UserError("a worker process died, most likely for want of memory: lower --workers, then give --resume") from error
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _check_picklable(plan: Plan) -> None:
    try:
        pickle.dumps(plan)
    except Exception as error:
        raise TypeError(f"{plan.drive.drive_id}: Drive.episodes must be a function of a module or a partial of one: {error}") from error


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside use one thread each for linear algebra: the processes are the parallelism."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


_advance_in_worker: Callable[[int], None]


def _start_worker(counter: Any, stop: Any) -> None:
    """Runs first in every worker process: shares the count of steps, and listens for the word to stop."""
    import cv2

    cv2.setNumThreads(0)

    def advance(steps: int) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        with counter.get_lock():
            counter.value += steps

    global _advance_in_worker
    _advance_in_worker = advance


def _work(plan: Plan, folder: Path, settings: Mapping[str, Any]) -> _Outcome:
    return _write_drive(plan, folder, settings, _advance_in_worker)


def _write_drive(plan: Plan, folder: Path, settings: Mapping[str, Any], advance: Callable[[int], None]) -> _Outcome:
    """Read a drive once and write all its parts; a broken one leaves none of them."""

    def pieces() -> Iterator[tuple[Part, Episode]]:
        for episode in plan.drive.episodes():
            for part in plan.parts:
                piece = overlap(episode, part.first, part.last)
                if piece is not None:
                    yield part, piece

    shards = []
    try:
        for part, group in itertools.groupby(pieces(), key=lambda pair: pair[0]):
            episodes = (piece for _, piece in group)
            shards.append(write_shard(_shard_path(folder, part), episodes, part.drive_id, part.split, settings, advance))
        if not shards:
            raise UserError(f"{plan.drive.drive_id}: expected at least one step, got none")
    except DiskFullError:
        raise
    except UserError as error:
        for part in plan.parts:
            _shard_path(folder, part).unlink(missing_ok=True)
        return _Outcome(reason=str(error))
    return _Outcome(tuple(shards))
