"""Draws flat faces and soft lights, far to near, onto a picture."""

from dataclasses import dataclass, field

import cv2
import numpy as np

SHIFT = 4
"""Fractional bits of the coordinates that OpenCV draws with."""
LIGHT, CARS, TREES, OTHER = -1, 0, 1, 2
"""Kinds of things in a Scenery: soft lights, and faces by the mask that they belong to."""


def to_fixed(pixels: np.ndarray) -> np.ndarray:
    """Continuous pixels (pixel centres at +0.5) to OpenCV's fixed point (pixel centres at whole numbers), int32."""
    return np.rint(np.clip((pixels - 0.5) * (1 << SHIFT), -(2**26), 2**26)).astype(np.int32)


@dataclass
class Scenery:
    """Everything that stands on the ground, as faces and lights; both are drawn in order of falling depth."""

    outlines: list[np.ndarray] = field(default_factory=list)
    """(V, 2) int32 convex outlines in fixed point; a light instead has (2, 2) float: centre and radii in pixels."""
    colours: list[np.ndarray] = field(default_factory=list)
    """(N, 3) RGB 0..255, an array for each group added."""
    depths: list[np.ndarray] = field(default_factory=list)
    """(N,) metres; faces of one thing share a depth and keep their order."""
    kinds: list[int] = field(default_factory=list)
    """Index of the mask a face belongs to; LIGHT for lights."""

    def add_faces(self, pixels: np.ndarray, colours: np.ndarray, depths: np.ndarray, kind: int, size: tuple[int, int]) -> None:
        """(N, V, 2) pixels, (N, 3) colours, (N,) depths; those outside a picture of size (height, width) are dropped."""
        low, high = pixels.min(axis=1), pixels.max(axis=1)
        seen = (high[:, 0] > 0) & (high[:, 1] > 0) & (low[:, 0] < size[1]) & (low[:, 1] < size[0])
        self.outlines.extend(to_fixed(pixels[seen]))
        self.colours.append(colours[seen])
        self.depths.append(depths[seen])
        self.kinds.extend([kind] * int(seen.sum()))

    def add_lights(self, pixels: np.ndarray, radii: np.ndarray, colours: np.ndarray, depths: np.ndarray) -> None:
        """(N, 2) centres and (N, 2) radii (x, y) in pixels, (N, 3) colours that are added at the centre."""
        self.outlines.extend(np.stack([pixels, radii], axis=1))
        self.colours.append(colours)
        self.depths.append(depths)
        self.kinds.extend([LIGHT] * len(pixels))

    def draw(self, picture: np.ndarray) -> None:
        """Draws onto (H, W, 3) uint8, far to near."""
        if not self.kinds:
            return
        colours = np.concatenate(self.colours).tolist()
        for i in self._order():
            if self.kinds[i] == LIGHT:
                add_light(picture, self.outlines[i][0], self.outlines[i][1], colours[i])
            else:
                cv2.fillConvexPoly(picture, self.outlines[i], colours[i], cv2.LINE_AA, SHIFT)

    def draw_kinds(self, masks: np.ndarray) -> None:
        """Draws onto (H, W, 4) uint8: each face fills its own kind's channel and clears the others."""
        for i in self._order() if self.kinds else ():
            if self.kinds[i] != LIGHT:
                colour = [255.0 * (self.kinds[i] == channel) for channel in range(4)]
                cv2.fillConvexPoly(masks, self.outlines[i], colour, cv2.LINE_AA, SHIFT)

    def _order(self) -> list[int]:
        return np.argsort(-np.concatenate(self.depths), kind="stable").tolist()


def add_light(picture: np.ndarray, centre: np.ndarray, radii: np.ndarray, colour: list[float]) -> None:
    """Adds a Gaussian spot to (H, W, 3) uint8."""
    (x, y), (rx, ry) = centre.tolist(), radii.tolist()
    top, left = max(int(y - 2.2 * ry), 0), max(int(x - 2.2 * rx), 0)
    bottom, right = min(int(y + 2.2 * ry) + 1, picture.shape[0]), min(int(x + 2.2 * rx) + 1, picture.shape[1])
    if top >= bottom or left >= right:
        return
    down = np.exp(-(((np.arange(top, bottom) + 0.5 - y) / ry) ** 2))
    across = np.exp(-(((np.arange(left, right) + 0.5 - x) / rx) ** 2))
    spot = (down[:, None] * across)[..., None] * colour
    patch = picture[top:bottom, left:right]
    np.minimum(patch + spot, 255.0, out=spot)
    patch[...] = spot
