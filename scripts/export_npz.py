"""Write a prepared data set as npz files, one a drive, for other programs: `export_npz.py --data DIR --output DIR`."""

from dataclasses import dataclass
from pathlib import Path

import cli


@dataclass(frozen=True)
class Export:
    """Write a prepared data set as npz files, one a drive: observations, actions, rewards, dones. prepare_data.py npz reads them back."""

    data: Path
    """Folder of the prepared data set."""
    output: Path
    """Folder for <split>/<drive>.npz."""
    camera: str | None = None
    """Camera whose frames are the observations (default: the first)."""
    overwrite: bool = False
    """Remove the export that is there and start anew."""


def main() -> None:
    export = cli.parse(Export)
    from data.npz_export import export_store
    from data.store import EpisodeStore

    count = export_store(EpisodeStore.open(export.data), export.output, camera=export.camera, overwrite=export.overwrite)
    print(f"{count} drives written to {export.output}")


if __name__ == "__main__":
    cli.main(main)
