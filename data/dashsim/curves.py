"""Plane curves sampled every metre or so: the centre lines that roads are made of."""

from dataclasses import dataclass

import numpy as np

STEP_M = 1.0
"""Wished distance between the vertices of a curve."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A smooth curve through N vertices at equal distances along it. ISO 8855: left is positive."""

    points_m: np.ndarray
    """(N, 2) float64."""
    headings_rad: np.ndarray
    """(N,) float64, continuous (never wrapped)."""
    curvatures_inv_m: np.ndarray
    """(N,) float64, positive to the left."""
    length_m: float

    @property
    def step_m(self) -> float:
        return self.length_m / (len(self.points_m) - 1)

    def offset(self, left_m: float) -> "Curve":
        """The parallel curve, `left_m` to the left; needs |left_m| below the smallest radius."""
        if left_m == 0:
            return self
        normals = np.stack([-np.sin(self.headings_rad), np.cos(self.headings_rad)], axis=1)
        return through(self.points_m + left_m * normals)

    def reversed(self) -> "Curve":
        return Curve(self.points_m[::-1], self.headings_rad[::-1] + np.pi, -self.curvatures_inv_m[::-1], self.length_m)

    def piece(self, start_m: float, end_m: float) -> "Curve":
        """The part between two distances along the curve, to the nearest vertex."""
        first, last = round(start_m / self.step_m), round(end_m / self.step_m)
        part = slice(first, last + 1)
        return Curve(self.points_m[part], self.headings_rad[part], self.curvatures_inv_m[part], (last - first) * self.step_m)

    def pose(self, distance_m: float) -> tuple[np.ndarray, float]:
        """Point (2,) and heading at the vertex nearest to `distance_m`."""
        index = round(distance_m / self.step_m)
        return self.points_m[index], float(self.headings_rad[index])


def through(points_m: np.ndarray) -> Curve:
    """Resample a polyline (N, 2) at equal steps near STEP_M and take heading and curvature from differences.

    The polyline should itself be smooth: heading and curvature at its ends are one-sided.
    """
    chords = np.hypot(*np.diff(points_m, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(chords)])
    stations = np.linspace(0.0, along[-1], max(3, round(along[-1] / STEP_M) + 1))
    slopes = np.gradient(points_m, along, axis=0, edge_order=2)
    headings = np.unwrap(np.arctan2(slopes[:, 1], slopes[:, 0]))
    bends = np.gradient(headings, along, edge_order=2)
    return Curve(
        points_m=np.stack([np.interp(stations, along, points_m[:, axis]) for axis in (0, 1)], axis=1),
        headings_rad=np.interp(stations, along, headings),
        curvatures_inv_m=np.interp(stations, along, bends),
        length_m=float(along[-1]),
    )


def bezier(start_m: np.ndarray, start_rad: float, end_m: np.ndarray, end_rad: float, stretch: float = 0.39) -> Curve:
    """A cubic from pose to pose. `stretch` is the handles' length over the chord: 0.39 is nearest to a quarter circle."""
    handle = stretch * float(np.hypot(*(end_m - start_m)))
    first = start_m + handle * np.array([np.cos(start_rad), np.sin(start_rad)])
    last = end_m - handle * np.array([np.cos(end_rad), np.sin(end_rad)])
    u = np.linspace(0.0, 1.0, 257)[:, None]
    return through((1 - u) ** 3 * start_m + 3 * u * (1 - u) ** 2 * first + 3 * u**2 * (1 - u) * last + u**3 * end_m)


def arc(centre_m: np.ndarray, radius_m: float, start_rad: float, end_rad: float) -> Curve:
    """A part of a circle, counterclockwise where end_rad > start_rad."""
    angles = np.linspace(start_rad, end_rad, max(33, int(radius_m * abs(end_rad - start_rad) * 4)))
    return through(centre_m + radius_m * np.stack([np.cos(angles), np.sin(angles)], axis=1))


def rounded(corners_m: np.ndarray, softness_m: float, closed: bool = False) -> Curve:
    """A polyline (N, 2) with its corners rounded by a Gaussian of standard deviation `softness_m` along the line.

    An open one keeps both ends, where its outer legs should be longer than 3 softness_m. A lone corner that turns by an angle a gets
    a smallest radius of 1.25 softness_m cos²(a/2) / sin(a/2): 2.8 softness_m at 45 degrees, 0.9 softness_m at 90.
    """
    if closed:
        corners_m = np.concatenate([corners_m, corners_m[:1]])
    chords = np.hypot(*np.diff(corners_m, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(chords)])
    stations = np.linspace(0.0, along[-1], round(along[-1] / STEP_M) + 1)
    dense = np.stack([np.interp(stations, along, corners_m[:, axis]) for axis in (0, 1)], axis=1)
    reach = int(4 * softness_m / STEP_M)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * STEP_M / softness_m) ** 2)
    kernel /= kernel.sum()
    if closed:
        padded = np.concatenate([np.resize(dense[:-1][::-1], (reach, 2))[::-1], dense, np.resize(dense[1:], (reach, 2))])
    else:
        padded = np.pad(dense, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    return through(np.stack([np.convolve(padded[:, axis], kernel, mode="valid") for axis in (0, 1)], axis=1))


def chamfered(corners_m: np.ndarray, cut_m: float) -> np.ndarray:
    """An open polyline (N, 2) with each inner corner cut off `cut_m` before and after it: (2 N - 2, 2), with corners half as sharp."""
    legs = np.diff(corners_m, axis=0)
    legs /= np.hypot(*legs.T)[:, None]
    before, after = corners_m[1:-1] - cut_m * legs[:-1], corners_m[1:-1] + cut_m * legs[1:]
    return np.concatenate([corners_m[:1], np.stack([before, after], axis=1).reshape(-1, 2), corners_m[-1:]])


def winding(
    rng: np.random.Generator,
    length_m: float,
    radius_m: tuple[float, float],
    turn_rad: tuple[float, float],
    straight_m: tuple[float, float],
    easing_m: float,
) -> Curve:
    """A road that bends left and right with straights between, eased like clothoids over `easing_m`.

    Its heading stays within about 75 degrees of the x axis, so that it never meets itself.
    """
    bends: list[np.ndarray] = []
    total, heading, side = 0, 0.0, rng.choice([-1.0, 1.0])
    while total < length_m + 2:
        turn, radius = rng.uniform(*turn_rad), rng.uniform(*radius_m)
        side = -side if rng.random() < 0.7 else side
        if abs(heading + side * turn) > 1.2:
            side = -np.sign(heading)
        straight = np.zeros(round(rng.uniform(*straight_m)))
        bend = np.full(round(turn * radius), side / radius)
        bends += [straight, bend]
        heading += side * turn
        total += len(straight) + len(bend)
    window = np.ones(max(2, round(easing_m))) / max(2, round(easing_m))
    return along(np.convolve(np.concatenate(bends), window, mode="same")[: round(length_m) + 1])


def along(curvatures_inv_m: np.ndarray, start_m: np.ndarray | None = None, start_rad: float = 0.0) -> Curve:
    """The curve with these curvatures (N,) at every metre, from a pose (default: from the origin along the x axis)."""
    headings = start_rad + np.concatenate([[0.0], np.cumsum((curvatures_inv_m[1:] + curvatures_inv_m[:-1]) / 2)])
    middles = (headings[1:] + headings[:-1]) / 2
    points = np.concatenate([np.zeros((1, 2)), np.cumsum(np.stack([np.cos(middles), np.sin(middles)], axis=1), axis=0)])
    return Curve(points if start_m is None else start_m + points, headings, curvatures_inv_m, float(len(points) - 1))


def circuit(rng: np.random.Generator, smallest_radius_m: float) -> Curve:
    """A closed track of 400 to 1000 m that never meets itself; its first and last vertices are one point.

    Every second one or so has bends both ways along a tenth of its length or more.
    """
    way, against = rng.choice([-1, 1]), rng.choice([0.0, 0.1])
    while True:
        count = int(rng.integers(6, 11))
        angles = way * (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count
        waves = rng.uniform(0.0, 0.4) * (-1.0) ** np.arange(count)
        radii = rng.uniform(90, 150) * (0.8 + waves + rng.uniform(-0.2, 0.2, count))
        corners = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform([0.9, 0.7], [1.4, 1.0])
        corners = chamfered(np.concatenate([corners[-1:], corners, corners[:1]]), cut_m=rng.uniform(12.0, 26.0))[1:-1]
        curve = rounded(corners, softness_m=rng.uniform(6.0, 12.0), closed=True)
        bends = np.abs(curve.curvatures_inv_m).max() * smallest_radius_m
        if bends <= 1 and (way * curve.curvatures_inv_m < -1 / 200).mean() >= against and _keeps_clear(curve, 24.0):
            return curve


def _keeps_clear(curve: Curve, clearance_m: float) -> bool:
    """Whether parts of a closed curve that are more than 60 m apart along it are at least `clearance_m` apart."""
    points = curve.points_m[::4]
    stations = np.arange(len(points)) * 4 * curve.step_m
    apart = np.abs(stations[:, None] - stations[None])
    apart = np.minimum(apart, curve.length_m - apart)
    gaps = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    return bool(gaps[apart > 60.0].min() >= clearance_m)
