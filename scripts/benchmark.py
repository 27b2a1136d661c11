"""Measure what the parts cost on this machine: `benchmark.py data`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cli

from data.errors import UserError

if TYPE_CHECKING:
    from worldgpt.loading import Loading


@dataclass(frozen=True)
class DataBenchmark:
    """Speed of preparing video against bare decoding, and memory against the length of a file."""

    input: Path | None = None
    """Video to measure with (default: one of 960x540 at 30 frames a second, written for the purpose)."""
    rounds: int = 7
    """How often each side is measured, in turn; medians are told."""
    hours: float = 0.1
    """Length of the file whose preparation must not take more memory than that of a shorter one; 0 leaves it out."""
    updates: int = 10
    """Updates of a world model in a round, fed by the loader and by batches in memory; 0 leaves them out."""
    preset: Literal["demo", "small", "base"] = "demo"
    """Size of that world model."""
    json: Path | None = None
    """File for all figures."""

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("hours", 0), ("updates", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name}: expected {least} or more, got {getattr(self, name)}")

    def run(self) -> None:
        import tempfile

        from data.benchmark_data import cores, measure_decoding, measure_memory, repeat_clip, write_clip
        from data.folder import write_json

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            clip = self.input or folder / "clip.mp4"
            if self.input is None:
                write_clip(folder / "second.mp4")
                repeat_clip(folder / "second.mp4", clip, 5)
            decoding = measure_decoding(clip, folder / "store", rounds=self.rounds)
            print(f"{self.input or 'a clip of 960x540'} to 64x128 at 10 Hz on {cores()} cores")
            print("\n".join(decoding.lines()))
            memory = measure_memory(clip, folder, hours=self.hours) if self.hours else None
            print("\n".join(memory.lines() if memory else []))
            loading = self._loading(folder) if self.updates else None
            print("\n".join([loading.line()] if loading else []))
        if self.json is not None:
            parts = {"decoding": decoding, "memory": memory, "loading": loading}
            measured = {name: asdict(part) if part else None for name, part in parts.items()}
            write_json(self.json, {"cores": cores(), **measured})

    def _loading(self, folder: Path) -> "Loading":
        from worldgpt.config import presets
        from worldgpt.loading import measure_loading

        return measure_loading(presets()[self.preset], folder, updates=self.updates, rounds=self.rounds)


COMMANDS = {"data": DataBenchmark}

if __name__ == "__main__":
    cli.main(lambda: cli.parse_command(COMMANDS, about=__doc__ or "").run())
