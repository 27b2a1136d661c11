"""Look at a prepared data set before training on it: `inspect_data.py DIR`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cli
import tyro


@dataclass(frozen=True)
class Inspect:
    """Show what a prepared data set holds, and what in it will hurt training; writes figures and pictures into DIR/inspection/."""

    data: Annotated[Path, tyro.conf.Positional]
    """Folder of the prepared data set."""


def main() -> None:
    folder = cli.parse(Inspect).data
    from data.inspection import FOLDER, inspect_store
    from data.store import EpisodeStore

    print("\n".join(inspect_store(EpisodeStore.open(folder)).lines()))
    written = ", ".join(sorted(file.name for file in (folder / FOLDER).iterdir()))
    print(f"written to {folder / FOLDER}: {written}")


if __name__ == "__main__":
    cli.main(main)
