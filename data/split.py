"""Who trains and who measures: whole drives where there are enough of them, blocks of each drive with a gap where there are few.

With 10 drives or more, a drive goes to `val` by a hash of its name: adding drives later moves none. With fewer, each drive is cut
into periods of about 5 minutes, and each period into train steps, a gap of 2 s that is thrown away (neighbouring frames are nearly
equal: without it, validation would measure memory), a held-out tail, and a gap again where another period follows. A drive too short
for that (8 s) trains whole.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from data.episode import Drive
from data.errors import UserError

FEW_DRIVES = 10
GAP_S = 2.0
PERIOD_S = 300.0
SHORTEST_VAL_S = 2.0


@dataclass(frozen=True)
class Part:
    """Steps first <= t < last of a drive (None: to its end), which become a drive of the store."""

    drive_id: str
    split: str
    first: int = 0
    last: int | None = None


@dataclass(frozen=True)
class Plan:
    """A drive of the source and what becomes of it."""

    drive: Drive
    parts: tuple[Part, ...]


def plan_splits(drives: Sequence[Drive], *, fps: float, val_fraction: float) -> list[Plan]:
    """A plan for every drive. A drive that names its own split keeps it whole.

    Where few drives come without a known length, each is read once beforehand to count its steps.
    """
    if not 0 <= val_fraction < 1:
        raise UserError(f"val_fraction: expected 0 <= val_fraction < 1, got {val_fraction}")
    open_drives = [drive for drive in drives if drive.split is None]
    few = len(open_drives) < FEW_DRIVES and val_fraction > 0
    held_out = set() if few else held_out_by_name([drive.drive_id for drive in open_drives], val_fraction)
    plans = []
    for drive in drives:
        if drive.split is None and few:
            parts = _blocks(drive.drive_id, _count(drive), fps, val_fraction)
        else:
            parts = (Part(drive.drive_id, drive.split or ("val" if drive.drive_id in held_out else "train")),)
        plans.append(Plan(drive, parts))
    return plans


def held_out_by_name(drive_ids: Sequence[str], val_fraction: float) -> set[str]:
    """Drives whose hash falls below the fraction; the lowest one where chance would leave none."""
    if not drive_ids or val_fraction == 0:
        return set()
    rank = {drive_id: int(hashlib.sha256(drive_id.encode()).hexdigest()[:12], 16) / 16**12 for drive_id in drive_ids}
    return {drive_id for drive_id in drive_ids if rank[drive_id] < val_fraction} or {min(drive_ids, key=lambda d: rank[d])}


def _blocks(drive_id: str, steps: int, fps: float, val_fraction: float) -> tuple[Part, ...]:
    """Alternating train and val parts, or the whole drive as train where it is too short."""
    gap, shortest = math.ceil(GAP_S * fps), math.ceil(SHORTEST_VAL_S * fps)
    if steps - gap < 3 * shortest:
        return (Part(drive_id, "train"),)
    periods = max(1, round(steps / fps / PERIOD_S))
    ends = [round(steps * (k + 1) / periods) for k in range(periods)]
    parts: list[Part] = []
    start = 0
    for index, end in enumerate(ends):
        last_one = index == periods - 1
        tail_end = end if last_one else end - gap
        val = max(shortest, round(val_fraction * (tail_end - gap - start)))
        parts.append(Part(f"{drive_id}-part{2 * index:03d}", "train", start, tail_end - val - gap))
        parts.append(Part(f"{drive_id}-part{2 * index + 1:03d}", "val", tail_end - val, None if last_one else tail_end))
        start = end
    return tuple(parts)


def _count(drive: Drive) -> int:
    if drive.steps is not None:
        return drive.steps
    try:
        return sum(episode.steps for episode in drive.episodes())
    except UserError:
        return 0  # a broken drive is not cut; writing it meets the same error and reports it
