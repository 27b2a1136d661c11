"""Exchange with the Hugging Face Hub: checkpoints with `hub.py push` and `hub.py pull`, data sets with `push-data` and `pull-data`."""

from dataclasses import dataclass
from pathlib import Path

import cli


@dataclass(frozen=True)
class Push:
    """Publish a trained world model with its tokenizer, a sample drive and a card. Who you are says HF_TOKEN, or `hf auth login` once."""

    repo: str
    """Repository on the Hub, user/name; made if it is not there."""
    checkpoint: Path = Path("runs/worldgpt")
    """Folder of the trained world model."""
    private: bool = False
    """Make it visible to you alone."""
    license: str | None = None
    """Licence of the weights, for the card."""

    def run(self) -> None:
        from worldgpt.hub import push_checkpoint

        print(f"pushed to {push_checkpoint(self.checkpoint, self.repo, private=self.private, license=self.license)}")


@dataclass(frozen=True)
class Pull:
    """Fetch a world model that was pushed; `generate.py --checkpoint user/name` does so by itself."""

    repo: str
    """Repository on the Hub, user/name."""
    output: Path
    """Folder for the checkpoint."""
    revision: str | None = None
    """Branch, tag or commit; the main branch by default."""
    overwrite: bool = False
    """Replace the checkpoint that is there, once the new one is complete."""

    def run(self) -> None:
        from worldgpt.hub import pull_checkpoint

        pull_checkpoint(self.repo, self.output, revision=self.revision, overwrite=self.overwrite)
        print(f"written to {self.output}")


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


COMMANDS = {"push": Push, "pull": Pull, "push-data": PushData, "pull-data": PullData}

if __name__ == "__main__":
    cli.main(lambda: cli.parse_command(COMMANDS, about=__doc__ or "").run())
