"""Exchange with the Hugging Face Hub: `hub.py push-data --data DIR --repo user/name`, `hub.py pull-data --repo user/name --output DIR`."""

from dataclasses import dataclass
from pathlib import Path

import cli


@dataclass(frozen=True)
class PushData:
    """Publish a prepared data set. Who you are says HF_TOKEN, or `hf auth login` once."""

    data: Path
    """Folder of the prepared data set."""
    repo: str
    """Repository on the Hub, user/name; made if it is not there."""
    private: bool = False
    """Make it visible to you alone."""

    def run(self) -> None:
        from data.hub_data import push_data

        print(f"pushed to {push_data(self.data, self.repo, private=self.private)}")


@dataclass(frozen=True)
class PullData:
    """Fetch a data set that was pushed."""

    repo: str
    """Repository on the Hub, user/name."""
    output: Path
    """Folder for the data set."""
    overwrite: bool = False
    """Replace the data set that is there, once the new one is complete."""

    def run(self) -> None:
        from data.hub_data import pull_data

        store = pull_data(self.repo, self.output, overwrite=self.overwrite)
        for line in store.manifest.summary():
            print(line)
        print(f"written to {self.output}")


COMMANDS = {"push-data": PushData, "pull-data": PullData}

if __name__ == "__main__":
    cli.main(lambda: cli.parse_command(COMMANDS, about=__doc__ or "").run())
