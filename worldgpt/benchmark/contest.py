"""Some ways of doing the same, measured in turn, so that what else the machine does meets all alike."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from data.benchmark_data import Spread


@dataclass(frozen=True)
class Standing:
    """One way's rate, in units a second, and how many times the rate of each other way it is."""

    rate: Spread
    ratios: Mapping[str, Spread]
    """{other way: ratio within a round}."""


def contest(ways: Mapping[str, Callable[[], float]], references: tuple[str, ...], rounds: int) -> dict[str, Standing]:
    """Each way gives a rate when it is called; all are called once unmeasured, then in turn, `rounds` times. Ratios are to
    the references."""
    for way in ways.values():
        way()
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            gc.collect()
            rates[name].append(way())
    known = [name for name in references if name in rates]
    return {
        name: Standing(Spread.of(own), {other: Spread.of(_ratios(own, rates[other])) for other in known if other != name})
        for name, own in rates.items()
    }


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def machine(device: torch.device) -> str:
    """Its name and the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    threads = torch.get_num_threads()
    return f"{names[0] if names else 'CPU'}, {threads} thread{'s' if threads > 1 else ''}"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def memory_bytes(device: torch.device) -> int:
    """What is free on the device; a very large number where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 1 << 62)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def standing_lines(standings: Mapping[str, Standing], unit: str) -> list[str]:
    """Ratios first, rates after."""
    lines = []
    for name, standing in standings.items():
        against = ", ".join(f"{ratio.text()}x {other}" for other, ratio in standing.ratios.items())
        rate = standing.rate.median
        lines.append(f"  {name:<32}{against or 'the reference'}; {rate:,.{0 if rate > 100 else 1}f} {unit}")
    return lines
