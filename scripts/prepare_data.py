"""Turn driving data into an episode store: `prepare_data.py {dashsim,video,donkeycar} [flags]`."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cli
import tyro

from data.dashsim.config import DashsimConfig
from data.episode import Drive
from data.folder import bytes_text, disk_free_check
from data.image import parse_size
from data.sources.donkeycar import DonkeycarConfig
from data.sources.video import VideoConfig


@dataclass(frozen=True)
class Target:
    """Where the episode store goes, and how it is written."""

    output: Path | None = None
    """Folder of the store (default: runs/data/<source>)."""
    val_fraction: float = 0.15
    """Share held out as `val` where the source does not split: whole drives if there are 10 or more, else the tail of each."""
    workers: int = os.cpu_count() or 1
    """Processes that prepare a drive each."""
    license: str | None = None
    """Licence of the data, noted in the manifest."""
    resume: bool = False
    """Go on with a store that was interrupted, keeping the drives that are complete."""
    overwrite: bool = False
    """Remove the store that is there and start anew."""


@dataclass(frozen=True)
class Dashsim:
    """The embedded driving world: simulates and renders drives with captions and true state."""

    world: Annotated[DashsimConfig, tyro.conf.arg(name="")] = field(default_factory=DashsimConfig)
    """The world and its drives."""
    target: Annotated[Target, tyro.conf.arg(name="")] = Target()
    """The store."""
    size: str | None = None
    """Height x width of the frames in pixels, such as 64x128: short for --height and --width."""


@dataclass(frozen=True)
class Video:
    """Video files (mp4, mkv, hevc, avi, ...) or folders of pictures, with or without per-frame channels from CSV."""

    source: Annotated[VideoConfig, tyro.conf.arg(name="")]
    """The files and how to read them."""
    target: Annotated[Target, tyro.conf.arg(name="")] = Target()
    """The store."""


@dataclass(frozen=True)
class Donkeycar:
    """A donkeycar v2 tub: camera pictures with steering and throttle as actions."""

    source: Annotated[DonkeycarConfig, tyro.conf.arg(name="")]
    """The tub and how to read it."""
    target: Annotated[Target, tyro.conf.arg(name="")] = Target()
    """The store."""


@dataclass(frozen=True)
class Job:
    """A source that is ready to be read."""

    name: str
    drives: Callable[[], Iterator[Drive]]
    size: tuple[int, int]
    """(H, W) of the frames."""
    fps: float
    settings: dict[str, Any]
    """What must stay the same for `--resume`."""
    frames_a_second: float
    """Rough rate of one core, at 64x128 where the size matters."""
    license: str | None = None


def main() -> None:
    command = cli.parse_command({"dashsim": Dashsim, "video": Video, "donkeycar": Donkeycar}, about=__doc__ or "")
    prepare(job(command), command.target)


def prepare(job: Job, target: Target) -> None:
    """Write the store and its contact sheet, telling the cost beforehand and the contents afterwards."""
    from data.contact_sheet import store_sheet
    from data.image import save_png
    from data.store import EpisodeStore, write_store

    output = target.output or Path("runs/data") / job.name
    drives = list(job.drives())
    _announce(job, drives, output, target.workers)
    manifest = write_store(
        drives,
        output,
        source=job.name,
        fps=job.fps,
        settings=job.settings,
        license=target.license or job.license,
        val_fraction=target.val_fraction,
        workers=target.workers,
        resume=target.resume,
        overwrite=target.overwrite,
    )
    sheet = output / "contact_sheet.png"
    save_png(store_sheet(EpisodeStore(output, manifest)), sheet)
    for line in manifest.summary():
        print(line)
    print(f"written to {output}; look at {sheet}")


def job(command: Any) -> Job:
    if isinstance(command, Dashsim):
        from data.sources.dashsim import drives

        world = command.world
        if command.size is not None:
            height, width = parse_size(command.size)
            world = dataclasses.replace(world, height=height, width=width)
        settings = _settings(world, without=("episodes", "val_episodes", "heldout_episodes"))
        return Job("dashsim", partial(drives, world), (world.height, world.width), world.fps, settings, 40, "Apache-2.0")
    if isinstance(command, Video):
        from data.sources.video import drives

        source = command.source
        return Job("video", partial(drives, source), parse_size(source.size), source.fps, _settings(source), 150)
    from data.sources.donkeycar import drives

    source = command.source
    return Job("donkeycar", partial(drives, source), parse_size(source.size), source.fps, _settings(source), 1000)


def _settings(config: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    values = {name: value for name, value in dataclasses.asdict(config).items() if name not in without}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _announce(job: Job, drives: list[Drive], output: Path, workers: int) -> None:
    """One line: how much there is, what it takes."""
    frames = sum(drive.steps or 0 for drive in drives)
    height, width = job.size
    disk = 2.3 * frames * height * width  # photographs at 64x128 take 2.2 bytes a pixel as PNG
    seconds = frames / job.frames_a_second / min(workers, len(drives)) * max(1.0, height * width / (64 * 128))
    print(
        f"{job.name}: {len(drives)} drives, about {frames:,} frames of {height}x{width}, up to {bytes_text(disk)} on disk, "
        f"about {seconds / 60:.1f} min on {min(workers, len(drives))} processes"
    )
    disk_free_check(output, disk)


if __name__ == "__main__":
    cli.main(main)
