"""What preparing data costs: its speed against bare decoding, and the memory that a long file takes."""

import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from data.sources.video import VideoConfig, drives
from data.store_writer import write_store
from data.video import VideoWriter, count_frames

SIZE, FPS, SECONDS = (540, 960), 30.0, 4.0
"""Of the clip that is written to measure with."""
SHORT = 4
"""The short file of the memory test is so many times shorter than the long one."""


@dataclass(frozen=True)
class Spread:
    """Median of some rounds, and the smallest and largest."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        return Spread(statistics.median(values), min(values), max(values))

    def text(self, form: str = ".2f") -> str:
        return f"{self.median:{form}} ({self.low:{form}} to {self.high:{form}})"


@dataclass(frozen=True)
class Decoding:
    """A file of `frames` frames, decoded bare and prepared to 64x128 at 10 Hz, in turn; rates are in frames of the file a second."""

    frames: int
    rounds: int
    ratio: Spread
    """Time of bare decoding over that of preparing, within a round: 1 would be preparing for nothing."""
    cpu_ratio: Spread
    """The same for the processor's time, which other programs disturb less."""
    bare_fps: Spread
    prepare_fps: Spread

    def lines(self) -> list[str]:
        return [
            f"preparing runs at {self.ratio.text()} of the speed of bare decoding; by processor time {self.cpu_ratio.text()}",
            f"frames/s: prepared {self.prepare_fps.text('.0f')}, decoded {self.bare_fps.text('.0f')}; {self.rounds} rounds",
        ]


@dataclass(frozen=True)
class Memory:
    """Peak memory of a process that prepares a file, and one `SHORT` times as short, in MB."""

    hours: float
    short_mb: float
    long_mb: float

    def lines(self) -> list[str]:
        return [
            f"memory: {self.long_mb - self.short_mb:+.1f} MB for {SHORT} times the length "
            f"({self.short_mb:.0f} MB at the peak for {self.hours / SHORT:.3g} h of video, {self.long_mb:.0f} MB for {self.hours:.3g} h)"
        ]


def measure_decoding(path: Path, folder: Path, *, rounds: int) -> Decoding:
    """Decode and prepare `path` in turn, `rounds` times each, with a store in `folder` that is overwritten every time."""
    frames = count_frames(path)
    prepare_clip(path, folder)  # loads code and the file
    bare, prepared = [], []
    for _ in range(rounds):
        bare.append(_timed(lambda: _decode(path)))
        prepared.append(_timed(lambda: prepare_clip(path, folder)))
    pairs = list(zip(bare, prepared, strict=True))
    return Decoding(
        frames,
        rounds,
        ratio=Spread.of([one[0] / other[0] for one, other in pairs]),
        cpu_ratio=Spread.of([one[1] / other[1] for one, other in pairs]),
        bare_fps=Spread.of([frames / wall for wall, _ in bare]),
        prepare_fps=Spread.of([frames / wall for wall, _ in prepared]),
    )


def measure_memory(clip: Path, folder: Path, *, hours: float) -> Memory:
    """Prepare `clip` repeated to `hours`, and a part of that, each in a process of its own."""
    from data.video import probe

    seconds = probe(clip).duration_s
    peaks = []
    for name, length in (("short", hours / SHORT), ("long", hours)):
        repeat_clip(clip, folder / f"{name}.mp4", max(1, round(length * 3600 / seconds)))
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            peaks.append(pool.submit(_peak_mb_of_preparing, folder / f"{name}.mp4", folder / name).result())
    return Memory(hours, *peaks)


def prepare_clip(path: Path, folder: Path) -> None:
    """What `prepare_data.py video --workers 1` does, without a word."""
    config = VideoConfig(path)
    write_store(drives(config), folder, source="video", fps=config.fps, workers=1, overwrite=True, progress=False)


def write_clip(path: Path) -> None:
    """A file like a dash camera's: texture of every scale, as pictures have it, that comes nearer and swings from side to side."""
    rng = np.random.default_rng(0)
    height, width = SIZE[0] * 2, SIZE[1] * 2
    distance = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    waves = np.fft.rfft2(rng.normal(size=(3, height, width))) / np.maximum(distance, 1 / width)
    texture = np.fft.irfft2(waves, s=(height, width)).transpose(1, 2, 0)
    picture = np.clip(128 + 50 * texture / texture.std(), 0, 255).astype(np.uint8)
    with VideoWriter(path, fps=FPS, size=SIZE, crf=23) as video:
        for frame in range(round(SECONDS * FPS)):
            phase = 2 * np.pi * frame / (SECONDS * FPS)
            scale, x, y = 0.75 + 0.1 * np.sin(phase), 60 * np.cos(phase), 10 * np.sin(3 * phase)
            move = np.array([[scale, 0, SIZE[1] / 2 - scale * width / 2 + x], [0, scale, SIZE[0] / 2 - scale * height / 2 + y]])
            video.write(cv2.warpAffine(picture, move, SIZE[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


def repeat_clip(clip: Path, path: Path, times: int) -> None:
    """A file with the packets of `clip` over and over: as long as one likes, without encoding anything."""
    import av

    with av.open(str(path), "w", format="mp4") as target, av.open(str(clip)) as source:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        period = stream.duration or 0
        for k in range(times):
            source.seek(0)
            for packet in source.demux(stream):
                if packet.dts is None or packet.pts is None:
                    continue
                packet.dts, packet.pts, packet.stream = packet.dts + k * period, packet.pts + k * period, copy
                target.mux(packet)


def _decode(path: Path) -> None:
    """Nothing but PyAV, on as many threads as it likes."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for _ in container.decode(stream):
            pass


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds of the clock, and of all processors."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def _peak_mb_of_preparing(path: Path, folder: Path) -> float:
    prepare_clip(path, folder)
    return process_mb("VmHWM")


def process_mb(kind: Literal["VmHWM", "VmRSS"]) -> float:
    """Memory of this process: the most so far (VmHWM), or what it has now (VmRSS); where the system does not tell them apart, the most."""
    if Path("/proc/self/status").exists():
        # getrusage would count the memory of the process that started this one, too.
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
