"""List trainings with their key figures: `python scripts/runs.py runs`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cli
import tyro


@dataclass(frozen=True)
class RunsConfig:
    """Which trainings to list."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("runs")
    """Folder whose trainings are listed, however deep they lie."""
    json: bool = False
    """Print JSON instead of a table."""


def main() -> None:
    config = cli.parse(RunsConfig)
    from tokenizer.run_table import as_json, find_runs, table

    runs, broken = find_runs(config.folder)
    if config.json:
        print(json.dumps(as_json(runs), indent=2))
    else:
        print(table(runs) if runs else f"{config.folder}: no trainings")
        print("\n".join(broken), end="\n" if broken else "")


if __name__ == "__main__":
    cli.main(main)
