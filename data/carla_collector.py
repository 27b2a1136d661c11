"""Recording drives of a simulator one after the other: a server holds one world, so this comes before the store's parallel writing."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from data.carla_recording import DrivePlan, Reading, plan_file, read_recording, write_recording
from data.errors import DiskFullError, UserError
from data.folder import disk_free_check
from data.progress import Bar

_GIVE_UP = 3
"""Drives that fail one after the other before the rest is not tried."""


class Simulator(Protocol):
    """What a recording needs of a simulator; each method raises UserError where it does not do its part."""

    def begin(self, plan: DrivePlan) -> None:
        """Set the world up as planned, the car on its way, the clock stopped between steps."""
        ...

    def step(self) -> Reading:
        """Let 1 / fps seconds pass."""
        ...

    def end(self) -> None:
        """Remove what `begin` made, and let the clock run again; also after a `begin` that failed half-way."""
        ...

    def facts(self) -> Mapping[str, str]:
        """What is true of the drive that is under way and not in its plan, such as the map's name."""
        ...


def collect(connect: Callable[[], Simulator], plans: Sequence[DrivePlan], folder: Path, *, progress: bool = True) -> None:
    """Record the drives that `folder` does not hold yet.

    `connect` is called only where one is missing. A drive that fails is reported and left out, and made by the next call. UserError
    where a drive that is there was planned otherwise, and where several fail one after the other.
    """
    # Town by town, since loading one takes long.
    missing = sorted((plan for plan in plans if not _is_recorded(folder, plan)), key=lambda plan: plan.town or "")
    if not missing:
        return
    disk_free_check(folder, sum(plan.steps * plan.size[0] * plan.size[1] * 3 for plan in missing))
    simulator, failed = connect(), 0
    with Bar("driving", total=sum(plan.steps for plan in missing), unit="frames", enabled=progress) as bar:
        for plan in missing:
            try:
                _record(simulator, plan, folder, bar)
                failed = 0
            except DiskFullError:
                raise
            except UserError as error:
                failed += 1
                if failed == _GIVE_UP:
                    raise UserError(f"{failed} drives failed one after the other, the last one ({plan.drive_id}): {error}") from error
                print(f"skipped {plan.drive_id}: {error}", file=sys.stderr)


def _is_recorded(folder: Path, plan: DrivePlan) -> bool:
    path = plan_file(folder, plan.drive_id)
    if not path.is_file():
        return False
    there, _ = read_recording(path)
    for name, wanted in vars(plan).items():
        if getattr(there, name) != wanted:
            raise UserError(f"{path}: was recorded with {name} = {getattr(there, name)}, got {wanted}; give the same, or another --input")
    return True


def _record(simulator: Simulator, plan: DrivePlan, folder: Path, bar: Bar) -> None:
    def readings() -> Iterator[Reading]:
        for _ in range(plan.steps + 1):
            yield simulator.step()
            bar.advance(1)

    try:
        simulator.begin(plan)
        write_recording(folder, plan, readings(), simulator.facts())
    finally:
        simulator.end()
