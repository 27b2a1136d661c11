"""Measure what the parts cost on this machine: `benchmark.py decode | train | tokenizer | growth | data`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cli

from data.errors import UserError

if TYPE_CHECKING:
    import torch

    from worldgpt.loading import Loading


def _check(config: object, **least: int) -> None:
    """UserError where a number, or one of several, is below its least."""
    for name, smallest in least.items():
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number < smallest:
                raise UserError(f"--{name}: expected {smallest} or more, got {number}")


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
        _check(self, rounds=1, hours=0, updates=0)

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


Shapes = Literal["iris", "wide", "commavq", "mineworld", "demo", "small", "base"]


def _device() -> "torch.device":
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(1)  # a token is too little work to share among threads, and figures of one core compare
    return torch.device("cpu")


@dataclass(frozen=True)
class DecodeBenchmark:
    """Tokens drawn a second, beside transformers' Llama of the same shape: `generate` with its two caches, and a loop without one."""

    shapes: tuple[Shapes, ...] = ("iris", "wide", "small")
    """Sizes of the model, with random weights."""
    batches: tuple[int, ...] = (1, 8)
    """Worlds at once."""
    rounds: int = 5
    """How often each way is measured, in turn; medians are told."""
    tokens: int = 32
    """Tokens that the references draw in a round; we draw a step."""
    skip_no_cache: bool = False
    """Leave out the loop without a cache, which is slow."""
    checkpoint: Path | None = None
    """A trained world model to measure in place of the shapes: its own orders, what int8 costs it in nats, how often drafts are right."""
    data: Path = Path("runs/data/dashsim")
    """Prepared data set whose held-out drives the checkpoint goes on from."""
    windows: int = 32
    """Held-out windows that nats are measured on."""
    json: Path | None = None
    """File for all figures."""

    def __post_init__(self) -> None:
        _check(self, batches=1, rounds=1, tokens=1, windows=1)

    def run(self) -> None:
        import torch

        from worldgpt.benchmark.ceilings import measure_ceilings
        from worldgpt.benchmark.decode import heading, measure_decoding
        from worldgpt.placement import numbers

        device, cases = _device(), []
        if self.checkpoint is not None:
            self._trained(self.checkpoint)
            return
        ceilings = measure_ceilings(device, numbers(None, device, torch.float32))
        print(heading(device, self.rounds, ceilings))
        no_cache = not self.skip_no_cache
        for case in measure_decoding(self.shapes, self.batches, self.rounds, self.tokens, device, ceilings, no_cache=no_cache):
            print("\n".join(case.lines()), flush=True)
            cases.append(asdict(case))
        _keep(self.json, device, {"ceilings": asdict(ceilings), "cases": cases})

    def _trained(self, checkpoint: Path) -> None:
        import torch

        from worldgpt.benchmark.contest import machine
        from worldgpt.benchmark.trained import measure_checkpoint

        cpu = torch.device("cpu")
        found = measure_checkpoint(checkpoint, self.data, self.windows, self.rounds)
        print(f"{checkpoint}; medians (lowest to highest) of {self.rounds} interleaved rounds; {machine(cpu)}")
        print("\n".join(found.lines()))
        _keep(self.json, cpu, asdict(found))


@dataclass(frozen=True)
class TrainBenchmark:
    """Tokens trained on a second, beside Llama of the same shape with the same optimizer, in bf16 and float32."""

    shape: Shapes = "wide"
    """Size of the model, with random weights."""
    windows: int = 1
    """Windows of a batch."""
    rounds: int = 5
    """How often each way is measured, in turn; medians are told."""
    json: Path | None = None
    """File for all figures."""

    def __post_init__(self) -> None:
        _check(self, windows=1, rounds=1)

    def run(self) -> None:
        from worldgpt.benchmark.contest import machine, standing_lines
        from worldgpt.benchmark.shapes import shapes
        from worldgpt.benchmark.training import measure_training

        device = _device()
        print(f"{self.shape}, {self.windows} windows; medians (lowest to highest) of {self.rounds} interleaved rounds; {machine(device)}")
        standings = measure_training(shapes()[self.shape], self.windows, self.rounds, device)
        print("\n".join(standing_lines(standings, "tokens/s")))
        _keep(self.json, device, {"standings": {name: asdict(standing) for name, standing in standings.items()}})


@dataclass(frozen=True)
class TokenizerBenchmark:
    """Frames a second of the tokenizer, and of imagination: tokens and pixels together, under given actions."""

    shape: Literal["iris", "demo", "small", "base"] = "iris"
    """Size of both models, with random weights."""
    batches: tuple[int, ...] = (1, 32)
    """Frames at once, and worlds at once."""
    rounds: int = 5
    """How often each way is measured, in turn; medians are told."""
    json: Path | None = None
    """File for all figures."""

    def __post_init__(self) -> None:
        _check(self, batches=1, rounds=1)

    def run(self) -> None:
        from worldgpt.benchmark.contest import machine, standing_lines
        from worldgpt.benchmark.pixels import measure_imagination, measure_tokenizer
        from worldgpt.benchmark.shapes import shapes

        device, kept = _device(), {}
        print(f"{self.shape}; medians (lowest to highest) of {self.rounds} interleaved rounds; {machine(device)}")
        for batch in self.batches:
            for name, measure in (("tokenizer", measure_tokenizer), ("imagination", measure_imagination)):
                standings = measure(shapes()[self.shape], batch, self.rounds, device)
                print("\n".join([f"{name}, batch {batch}", *standing_lines(standings, "frames/s")]), flush=True)
                kept[f"{name}, batch {batch}"] = {way: asdict(standing) for way, standing in standings.items()}
        _keep(self.json, device, kept)


@dataclass(frozen=True)
class GrowthBenchmark:
    """Frames drawn a second over context, worlds and width, and memory over the length of a rollout, as a plot."""

    shape: Shapes = "demo"
    """Size of the model, of which one thing is changed at a time."""
    rounds: int = 3
    """How often each size is measured."""
    steps: int = 1000
    """Length of the rollout whose memory is looked at."""
    output: Path = Path("growth.png")
    """Picture to write."""
    json: Path | None = None
    """File for all figures."""

    def __post_init__(self) -> None:
        _check(self, rounds=1, steps=1)

    def run(self) -> None:
        from worldgpt.benchmark.contest import machine
        from worldgpt.benchmark.growth import lines, measure_growth, plot
        from worldgpt.benchmark.shapes import shapes

        device = _device()
        curves = measure_growth(shapes()[self.shape], self.rounds, self.steps, device)
        print("\n".join([f"{self.shape}; medians of {self.rounds} rounds; {machine(device)}", *lines(curves)]))
        plot(curves, self.output)
        print(self.output)
        _keep(self.json, device, {"curves": [asdict(curve) for curve in curves]})


def _keep(path: Path | None, device: "torch.device", figures: dict) -> None:
    from data.folder import write_json
    from worldgpt.benchmark.contest import machine

    if path is not None:
        write_json(path, {"machine": machine(device), **figures})


COMMANDS = {
    "decode": DecodeBenchmark,
    "train": TrainBenchmark,
    "tokenizer": TokenizerBenchmark,
    "growth": GrowthBenchmark,
    "data": DataBenchmark,
}

if __name__ == "__main__":
    cli.main(lambda: cli.parse_command(COMMANDS, about="Measure what the parts cost on this machine.").run())
