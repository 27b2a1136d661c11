"""Turn driving data into an episode store, which is all that training reads: `prepare_data.py SOURCE [flags]`."""

import dataclasses
import hashlib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cli
import tyro

from data.episode import Drive
from data.folder import bytes_text, disk_free_check
from data.image import parse_size
from data.source import Source
from data.sources import SOURCES, source


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


def command(config: type) -> type:
    """The flags of a source: the fields of its config and those of Target."""
    needed = any(item.default is item.default_factory is dataclasses.MISSING for item in dataclasses.fields(config))
    flags = Annotated[config, tyro.conf.arg(name="")]
    read = ("source", flags) if needed else ("source", flags, field(default_factory=config))
    written = ("target", Annotated[Target, tyro.conf.arg(name="")], field(default=Target()))
    made = dataclasses.make_dataclass("Command", [read, written], frozen=True)
    made.__doc__ = config.__doc__
    return made


def main() -> None:
    named = sys.argv[1:2]
    wanted = named if named and named[0] in SOURCES else SOURCES  # all of them only to tell what there is
    asked = cli.parse_command({name: command(source(name).config) for name in wanted}, about=__doc__ or "")
    prepare(named[0], source(named[0]), asked.source, asked.target)


def prepare(name: str, source: Source, config: Any, target: Target) -> None:
    """Write the store and its contact sheet, telling the cost beforehand and the contents afterwards."""
    from data.contact_sheet import store_sheet
    from data.image import save_png
    from data.store import EpisodeStore, write_store

    output = target.output or Path("runs/data") / name
    drives = list(source.drives(config))
    _announce(name, source, config, drives, output, target.workers)
    manifest = write_store(
        drives,
        output,
        source=name,
        fps=config.fps,
        settings=_settings(config, source.counts),
        license=target.license or source.license,
        val_fraction=target.val_fraction,
        workers=target.workers,
        resume=target.resume,
        overwrite=target.overwrite,
    )
    for line in manifest.summary():
        print(line)
    if not manifest.signals.frame_sizes:
        print(f"written to {output}")
        return
    sheet = output / "contact_sheet.png"
    save_png(store_sheet(EpisodeStore(output, manifest)), sheet)
    print(f"written to {output}; look at {sheet}")


def _settings(config: Any, without: tuple[str, ...]) -> dict[str, Any]:
    """What must stay the same for `--resume`."""
    values = {name: value for name, value in dataclasses.asdict(config).items() if name not in without}
    return {name: _told_apart(value) if isinstance(value, Path) else value for name, value in values.items()}


def _told_apart(path: Path) -> str:
    """The last part of a path and a mark of the whole: a set that is shared says nothing of the machine it was made on."""
    return f"{path.name} ({hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]})"


def _announce(name: str, source: Source, config: Any, drives: list[Drive], output: Path, workers: int) -> None:
    """One line: how much there is, what it takes."""
    frames = sum(drive.steps or 0 for drive in drives)
    processes = min(workers, len(drives))
    size = getattr(config, "size", None)  # codes have none, and arrays may stay as they are
    if size is None:
        print(f"{name}: {len(drives)} drives, about {frames:,} steps")
        return
    height, width = parse_size(size)
    disk = 2.3 * frames * height * width  # photographs at 64x128 take 2.2 bytes a pixel as PNG
    seconds = frames / source.frames_a_second / processes * max(1.0, height * width / (64 * 128))
    print(
        f"{name}: {len(drives)} drives, about {frames:,} frames of {height}x{width}, up to {bytes_text(disk)} on disk, "
        f"about {seconds / 60:.1f} min on {processes} processes"
    )
    disk_free_check(output, disk)


if __name__ == "__main__":
    cli.main(main)
