"""Small made-up drives for tests of the store and of whatever reads it."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from data.episode import Camera, Caption, ChannelSpec, Drive, Episode
from data.errors import UserError

TELEMETRY = (ChannelSpec("speed_mps", "m/s", 0.0, 40.0),)
ACTIONS = (ChannelSpec("steering_rad", "rad", -0.5, 0.5), ChannelSpec("acceleration_mps2", "m/s^2", -5.0, 5.0))


def make_episode(number: int, steps: int, *, size: tuple[int, int] = (16, 24), fps: float = 10.0) -> Episode:
    """A whole drive of `steps` steps that depends on `number` alone."""
    rng = np.random.default_rng(number)
    half = steps // 2
    return Episode(
        drive_id=f"drive{number}",
        fps=fps,
        timestamps_s=np.arange(steps) / fps,
        frames={"front": rng.integers(0, 256, (steps, *size, 3), np.uint8)},
        telemetry=rng.uniform(0, 40, (steps, 1)).astype(np.float32),
        telemetry_channels=TELEMETRY,
        actions=rng.uniform(-0.5, 0.5, (steps, 2)).astype(np.float32),
        action_channels=ACTIONS,
        captions=(Caption(0, half, "rain"), Caption(half, steps, "sun")),
        truth={"x_m": np.arange(steps, dtype=np.float32)},
        labels={"weather": "mixed"},
        cameras={"front": Camera(horizontal_fov_deg=90.0)},
    )


def stream(number: int, steps: int, chunk: int = 50) -> Iterator[Episode]:
    from data.chunks import cut

    whole = make_episode(number, steps)
    for first in range(0, steps, chunk):
        yield cut(whole, first, min(first + chunk, steps))


def broken(number: int, steps: int) -> Iterator[Episode]:
    """Breaks after its first chunk."""
    yield next(stream(number, steps))
    raise UserError(f"drive{number}.mp4: truncated")


def make_drives(count: int, steps: int = 70, *, broken_ones: tuple[int, ...] = (), chunk: int = 50) -> list[Drive]:
    readers = [partial(broken, k, steps) if k in broken_ones else partial(stream, k, steps, chunk) for k in range(count)]
    return [Drive(f"drive{k}", reader, steps=steps) for k, reader in enumerate(readers)]
