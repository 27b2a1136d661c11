"""Balls in a box seen from above: exact flight, elastic bounces off walls and each other, one collision after the other.

x points right, y up; the box is `width` x `height` metres with a corner at the origin. Axes: N balls.
"""

from dataclasses import dataclass

import numpy as np

_MOST_EVENTS = 100_000
"""Collisions within one step; an end to a loop that only a mistake could keep running."""


@dataclass(frozen=True)
class Box:
    """What does not change while the balls move."""

    width: float
    height: float
    radii: np.ndarray
    """(N,) m."""
    masses: np.ndarray
    """(N,) kg."""


@dataclass(frozen=True)
class Balls:
    """Where the balls are and how they move."""

    positions: np.ndarray
    """(N, 2) m."""
    velocities: np.ndarray
    """(N, 2) m/s."""

    def energy(self, box: Box) -> float:
        """Kinetic energy in joules."""
        return float(0.5 * np.sum(box.masses * np.sum(self.velocities**2, axis=1)))

    def momentum(self, box: Box) -> np.ndarray:
        """(2,) kg m/s."""
        return box.masses @ self.velocities


@dataclass(frozen=True)
class Hits:
    """What happened during a step."""

    walls: tuple[bool, ...]
    """For each ball, whether it met a wall."""
    balls: bool
    """Whether two balls met."""


def advance(box: Box, balls: Balls, force: np.ndarray, seconds: float) -> tuple[Balls, Hits]:
    """The balls after `seconds` under a `force` (2,) in newtons on ball 0.

    The force works as two impulses, half of it at each end (leapfrog): in free flight that is the exact motion under a constant force,
    and in between the balls fly straight, so that collisions are solved exactly. Without force, energy is kept to rounding.
    """
    push = np.zeros_like(balls.velocities)
    push[0] = force / box.masses[0] * (0.5 * seconds)
    moved, hits = _fly(box, balls.positions.copy(), balls.velocities + push, seconds)
    return Balls(moved.positions, moved.velocities + push), hits


def _fly(box: Box, positions: np.ndarray, velocities: np.ndarray, seconds: float) -> tuple[Balls, Hits]:
    """Straight flight from collision to collision."""
    walls, met, left = [False] * len(positions), False, seconds
    for _ in range(_MOST_EVENTS):
        wall_times = _wall_times(box, positions, velocities)  # (N, 2)
        ball, axis = np.unravel_index(np.argmin(wall_times), wall_times.shape)
        pair_time = _pair_time(box, positions, velocities)
        step = min(left, float(wall_times[ball, axis]), pair_time)
        positions += velocities * step
        left -= step
        if left <= 0:
            return Balls(positions, velocities), Hits(tuple(walls), met)
        if pair_time <= wall_times[ball, axis]:
            velocities = _bounce(box, positions, velocities)
            met = True
        else:
            velocities[ball, axis] *= -1
            walls[ball] = True
    raise AssertionError(f"more than {_MOST_EVENTS} collisions within one step")


def _wall_times(box: Box, positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
    """(N, 2) seconds until each ball meets the wall that it flies towards; infinity where it flies towards none."""
    low = np.repeat(box.radii[:, None], 2, axis=1)
    high = np.array([box.width, box.height]) - low
    gap = np.where(velocities > 0, high - positions, positions - low)
    speed = np.abs(velocities)
    return np.where(speed > 0, np.maximum(gap, 0) / np.where(speed > 0, speed, 1), np.inf)


def _pair_time(box: Box, positions: np.ndarray, velocities: np.ndarray) -> float:
    """Seconds until the two balls touch while they approach; infinity where they do not, or there is one ball."""
    if len(positions) < 2:
        return np.inf
    offset, speed = positions[1] - positions[0], velocities[1] - velocities[0]
    approach, square = float(offset @ speed), float(speed @ speed)
    if approach >= 0:
        return np.inf
    gap = float(offset @ offset) - float(box.radii.sum()) ** 2
    root = approach**2 - square * gap
    if root < 0:
        return np.inf
    # The smaller root of |offset + speed t| = r0 + r1, in the form that does not cancel.
    return max(0.0, gap / (-approach + np.sqrt(root)))


def _bounce(box: Box, positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
    """Velocities after balls 0 and 1, which touch, have met elastically: equal and opposite impulses along the line of their centres."""
    normal = positions[1] - positions[0]
    normal = normal / np.sqrt(normal @ normal)
    reduced = box.masses[0] * box.masses[1] / box.masses.sum()
    impulse = 2 * reduced * ((velocities[1] - velocities[0]) @ normal) * normal
    return velocities + np.array([impulse / box.masses[0], -impulse / box.masses[1]])


def draw(box: Box, balls: Balls, colours: np.ndarray, background: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) picture with soft edges one pixel wide; colours (N, 3) and background (3,) are RGB in 0..255."""
    height, width = size
    scale = width / box.width  # pixels a metre
    rows, columns = np.mgrid[:height, :width] + 0.5
    image = np.broadcast_to(background, (height, width, 3)).astype(np.float64)
    for (x, y), radius, colour in zip(balls.positions, box.radii, colours, strict=True):
        distance = np.hypot(columns - x * scale, rows - (height - y * scale))
        cover = np.clip(radius * scale - distance + 0.5, 0, 1)[..., None]
        image = image * (1 - cover) + colour * cover
    return np.round(image).astype(np.uint8)
