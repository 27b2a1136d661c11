"""Low-poly bodies of road users, in units of length, width and height, drawn in list order."""

from dataclasses import dataclass

import numpy as np

BODY, GLASS, TYRE, TRIM, PLATE, TAIL, BRAKE, HEAD = range(8)
"""What a face is made of."""
_VERTICES = 8


@dataclass(frozen=True, eq=False)
class CarShape:
    """F convex faces; later ones are drawn over earlier ones."""

    points: np.ndarray
    """(F, 8, 3): x -0.5..0.5 of the length, y -0.5..0.5 of the width, z 0..1 of the height."""
    normals: np.ndarray
    """(F, 3) outward normals in the same units: a point p is in front of a face where (p - face) . normal > 0."""
    material: np.ndarray
    """(F,)."""


@dataclass(frozen=True)
class _Ring:
    """A rectangle at one height: x from rear to front, y to both sides."""

    rear: float
    front: float
    side: float
    z: float


def _sides(low: _Ring, high: _Ring) -> dict[str, np.ndarray]:
    """Faces between two rings, each (4, 3): bottom edge then top edge, counter-clockwise seen from outside."""

    def at(ring: _Ring, x: str, y: int) -> tuple[float, float, float]:
        return (getattr(ring, x), y * ring.side, ring.z)

    def face(x0: str, y0: int, x1: str, y1: int) -> np.ndarray:
        return np.array([at(low, x0, y0), at(low, x1, y1), at(high, x1, y1), at(high, x0, y0)])

    top = np.array([at(high, "rear", 1), at(high, "rear", -1), at(high, "front", -1), at(high, "front", 1)])
    return {
        "rear": face("rear", 1, "rear", -1),
        "front": face("front", -1, "front", 1),
        "left": face("front", 1, "rear", 1),
        "right": face("rear", -1, "front", -1),
        "top": top,
    }


def _inset(face: np.ndarray, u0: float, u1: float, v0: float, v1: float) -> np.ndarray:
    """A part of a face: u along its bottom edge, v upwards, both 0..1."""
    corners = []
    for u, v in ((u0, v0), (u1, v0), (u1, v1), (u0, v1)):
        low, high = face[0] + u * (face[1] - face[0]), face[3] + u * (face[2] - face[3])
        corners.append(low + v * (high - low))
    return np.array(corners)


def _wheels(at: tuple[float, float], radius_x: float, radius_z: float) -> list[tuple[np.ndarray, int]]:
    angle = np.arange(_VERTICES) * 2 * np.pi / _VERTICES + np.pi / _VERTICES
    faces = []
    for x in at:
        for side in (0.5, -0.5):
            turn = -np.sign(side)  # counter-clockwise seen from that side
            disc = np.stack([x + radius_x * np.cos(angle), np.full(_VERTICES, side), radius_z + radius_z * turn * np.sin(angle)], axis=-1)
            faces.append((disc, TYRE))
    return faces


def _ends(body: dict[str, np.ndarray], lamp_low: float, lamp_high: float, lamp_width: float) -> list[tuple[np.ndarray, int]]:
    """Lamps, plates and bumpers on the rear and the front of a body."""
    faces = []
    for end, lamp in (("rear", TAIL), ("front", HEAD)):
        face = body[end]
        faces.append((_inset(face, 0.0, 1.0, 0.0, 0.22), TRIM))
        faces.append((_inset(face, 0.03, 0.03 + lamp_width, lamp_low, lamp_high), lamp))
        faces.append((_inset(face, 0.97 - lamp_width, 0.97, lamp_low, lamp_high), lamp))
    faces.append((_inset(body["rear"], 0.38, 0.62, 0.3, 0.5), PLATE))
    faces.append((_inset(body["front"], 0.3, 0.7, 0.3, 0.6), TRIM))
    return faces


def _under(z: float) -> list[tuple[np.ndarray, int]]:
    """Tyres as seen from behind and from ahead, and the dark gap between them."""
    gap = _sides(_Ring(-0.46, 0.46, 0.46, 0.0), _Ring(-0.46, 0.46, 0.46, z))
    return [(_inset(gap[end], u0, u1, 0.0, 1.0), TYRE) for end in ("rear", "front") for u0, u1 in ((0.0, 0.2), (0.8, 1.0))] + [
        (_inset(gap[end], 0.2, 0.8, 0.45, 1.0), TYRE) for end in ("rear", "front")
    ]


def _car(waist: float, cabin_low: _Ring, cabin_high: _Ring) -> CarShape:
    floor = 0.17
    body = _sides(_Ring(-0.49, 0.5, 0.49, floor), _Ring(-0.5, 0.48, 0.46, waist))
    cabin = _sides(cabin_low, cabin_high)
    faces = _under(floor + 0.02)
    faces += [(face, BODY) for face in body.values()]
    faces += _wheels((-0.31, 0.31), 0.072, 0.215)
    faces += _ends(body, 0.55, 0.85, 0.22)
    faces += [(face, BODY) for face in cabin.values()]
    for name in ("rear", "front", "left", "right"):
        faces.append((_inset(cabin[name], 0.07, 0.93, 0.1, 0.86), GLASS))
    faces.append((_inset(cabin["rear"], 0.42, 0.58, 0.88, 0.97), BRAKE))
    return _shape(faces)


def _van() -> CarShape:
    floor = 0.12
    box = _sides(_Ring(-0.5, 0.5, 0.49, floor), _Ring(-0.5, 0.44, 0.46, 1.0))
    faces = _under(floor + 0.01) + [(face, BODY) for face in box.values()]
    faces += _wheels((-0.33, 0.33), 0.07, 0.14)
    faces += _ends(box, 0.2, 0.42, 0.13)
    faces.append((_inset(box["rear"], 0.12, 0.88, 0.62, 0.88), GLASS))
    faces.append((_inset(box["front"], 0.07, 0.93, 0.52, 0.9), GLASS))
    faces.append((_inset(box["left"], 0.06, 0.24, 0.54, 0.86), GLASS))
    faces.append((_inset(box["right"], 0.76, 0.94, 0.54, 0.86), GLASS))
    faces.append((_inset(box["rear"], 0.4, 0.6, 0.93, 0.97), BRAKE))
    return _shape(faces)


def _shape(faces: list[tuple[np.ndarray, int]]) -> CarShape:
    points = np.array([np.concatenate([face, np.repeat(face[-1:], _VERTICES - len(face), axis=0)]) for face, _ in faces])
    third = points[:, 2] - points[:, 1]
    normals = np.cross(points[:, 1] - points[:, 0], third)
    return CarShape(points, normals / np.linalg.norm(normals, axis=-1, keepdims=True), np.array([material for _, material in faces]))


SEDAN = _car(0.6, _Ring(-0.42, 0.24, 0.46, 0.6), _Ring(-0.28, 0.08, 0.38, 1.0))
HATCHBACK = _car(0.58, _Ring(-0.49, 0.26, 0.46, 0.58), _Ring(-0.4, 0.08, 0.39, 1.0))
SUV = _car(0.62, _Ring(-0.5, 0.28, 0.46, 0.62), _Ring(-0.45, 0.14, 0.41, 1.0))
VAN = _van()
