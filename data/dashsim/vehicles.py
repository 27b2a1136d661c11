"""Other road users: faces, lights, shadows and the light that they cast."""

import zlib

import numpy as np

from data.dashsim.camera import NEAR_M, Camera, Pose, clip_near
from data.dashsim.car_shapes import BODY, BRAKE, GLASS, HATCHBACK, HEAD, PLATE, SEDAN, SUV, TAIL, TRIM, TYRE, VAN, CarShape
from data.dashsim.lighting import Lighting
from data.dashsim.painter import CARS, Scenery
from data.dashsim.scene import CarState

_FAR_M = 220.0
_TALL_M = 2.1
"""Road users at least this high are vans."""
_PAINTS = np.array([
    [222, 222, 220], [168, 172, 178], [52, 54, 60], [150, 34, 36], [40, 74, 134],
    [96, 100, 106], [60, 98, 84], [196, 158, 70], [236, 236, 234], [112, 60, 48],
], dtype=np.float64)  # fmt: skip
_ALBEDO = np.zeros((8, 3))
_ALBEDO[[GLASS, TYRE, TRIM, PLATE]] = [38, 46, 56], [26, 26, 28], [44, 45, 48], [206, 204, 190]
_ALBEDO[[TAIL, BRAKE, HEAD]] = [128, 18, 20], [70, 14, 16], [206, 210, 214]
_TAIL_RGB, _BRAKE_RGB, _HEAD_RGB = np.array([255.0, 34.0, 26.0]), np.array([255.0, 70.0, 52.0]), np.array([255.0, 248.0, 224.0])


class CarTable:
    """The cars of one step that may be seen or cast light, as arrays; N of them, in the rig frame."""

    def __init__(self, cars: tuple[CarState, ...], pose: Pose) -> None:
        rows = [(car.x_m, car.y_m, car.yaw_rad, car.length_m, car.width_m, car.height_m, car.braking) for car in cars]
        facts = np.array(rows, dtype=np.float64).reshape(-1, 7)
        self.centre = pose.to_rig(facts[:, :2])
        near = (self.centre[:, 0] > -25.0) & (self.centre[:, 0] < _FAR_M)
        self.centre, facts = self.centre[near], facts[near]
        self.ids = [car.car_id for car, kept in zip(cars, near.tolist(), strict=True) if kept]
        self.yaw = facts[:, 2] - pose.yaw_rad
        self.size = facts[:, 3:6]
        self.braking = facts[:, 6] > 0
        self.ahead = np.stack([np.cos(self.yaw), np.sin(self.yaw)], axis=-1)

    def to_rig(self, local: np.ndarray, which: np.ndarray) -> np.ndarray:
        """(M, ..., 3) metres in the frames of cars `which` (M,) to the rig frame."""
        shape = (len(which), *[1] * (local.ndim - 2))
        cos, sin = self.ahead[which, 0].reshape(shape), self.ahead[which, 1].reshape(shape)
        rig = local.copy()
        rig[..., 0] = self.centre[which, 0].reshape(shape) + cos * local[..., 0] - sin * local[..., 1]
        rig[..., 1] = self.centre[which, 1].reshape(shape) + sin * local[..., 0] + cos * local[..., 1]
        return rig


class Vehicles:
    """Draws the cars of any step; holds nothing of earlier ones."""

    def __init__(self, lighting: Lighting, camera: Camera) -> None:
        self._light, self._camera = lighting, camera
        self._size = (camera.config.height, camera.config.width)

    def gather(self, cars: tuple[CarState, ...], pose: Pose) -> CarTable:
        """The cars as arrays, for the other methods."""
        return CarTable(cars, pose)

    def add_to(self, scenery: Scenery, cars: CarTable, pose: Pose) -> None:
        """Adds faces and lights."""
        digest = np.array([zlib.crc32(int(i).to_bytes(8, "little", signed=True)) for i in cars.ids], dtype=np.int64)
        style = np.where(cars.size[:, 2] > _TALL_M, 3, digest % 3)
        for index, shape in enumerate((SEDAN, HATCHBACK, SUV, VAN)):
            which = np.flatnonzero((style == index) & (cars.centre[:, 0] > -5.0))
            if len(which):
                self._add_faces(scenery, cars, which, shape, _PAINTS[(digest[which] // 7) % len(_PAINTS)], pose)
        if self._light.look.lamps > 0 or cars.braking.any():
            self._add_lights(scenery, cars)

    def _add_faces(self, scenery: Scenery, cars: CarTable, which: np.ndarray, shape: CarShape, paint: np.ndarray, pose: Pose) -> None:
        size = cars.size[which][:, None]  # (M, 1, 3)
        points = shape.points * size[:, :, None]  # (M, F, 8, 3)
        normals = shape.normals / size
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        rig = cars.to_rig(points, which)
        turned = cars.to_rig(normals, which)
        turned[..., :2] -= cars.centre[which][:, None]
        middle = rig.mean(axis=2)
        to_lens = np.array([0.0, 0.0, self._camera.config.mount_height_m]) - middle
        facing = (to_lens * turned).sum(axis=-1)
        view = self._camera.to_view(rig)
        seen = (facing > 0) & (view[..., 0].max(axis=-1) > NEAR_M)
        facing = facing / np.linalg.norm(to_lens, axis=-1)
        colours = self._shade(_ALBEDO[shape.material] + (shape.material == BODY)[:, None] * paint[:, None], turned, middle, facing, pose)
        self._mirror_and_shine(colours, shape.material, turned[..., 2], cars.braking[which])
        depth = np.broadcast_to(np.linalg.norm(cars.centre[which], axis=-1)[:, None], seen.shape)
        view, colours, depth = view[seen], self._light.through_air(colours[seen], middle[seen]), depth[seen]
        crosses = (view[..., 0] < NEAR_M).any(axis=-1)
        if crosses.any():  # a car beside the lens: only its front part is seen
            self._add(scenery, clip_near(view[crosses]), colours[crosses], depth[crosses])
        self._add(scenery, view[~crosses], colours[~crosses], depth[~crosses])

    def _add(self, scenery: Scenery, view: np.ndarray, colours: np.ndarray, depth: np.ndarray) -> None:
        scenery.add_faces(self._camera.to_pixels(view), colours, depth, CARS, self._size)

    def _shade(self, albedo: np.ndarray, normals: np.ndarray, middle: np.ndarray, facing: np.ndarray, pose: Pose) -> np.ndarray:
        """Colours (M, F, 3) of faces with rig normals and middles (M, F, 3); `facing` (M, F): cosine to the lens."""
        light = self._light
        sun = np.append(_turn(light.sun[:2], pose.yaw_rad), light.sun[2])
        sunlit = np.maximum(normals @ sun, 0.0)[..., None] * light.direct
        sky = light.ambient * (0.82 + 0.22 * normals[..., 2:3])
        beam = 0.9 * (light.beam(middle) * np.clip(facing, 0.0, 1.0))[..., None] * light.beam_colour
        return albedo * (sky + sunlit + beam)

    def _mirror_and_shine(self, colours: np.ndarray, material: np.ndarray, upward: np.ndarray, braking: np.ndarray) -> None:
        """Windows mirror the sky, more so where they lean towards it; lamps shine. `colours` (M, F, 3) change, `upward` (M, F)."""
        look, glass = self._light.look, material == GLASS
        mirror = 0.12 + 0.4 * np.maximum(upward[:, glass, None], 0.0)
        colours[:, glass] += mirror * (np.asarray(look.zenith) - colours[:, glass])
        for kind, on, rgb in ((TAIL, look.lamps * 0.75, _TAIL_RGB), (HEAD, look.lamps, _HEAD_RGB)):
            colours[:, material == kind] += on * (rgb - colours[:, material == kind])
        for kind in (TAIL, BRAKE):
            colours[:, material == kind] = np.where(braking[:, None, None], _BRAKE_RGB, colours[:, material == kind])

    def _add_lights(self, scenery: Scenery, cars: CarTable) -> None:
        centres, radii, colours, depths = self._lights(cars, mirrored=False)
        scenery.add_lights(centres, radii, colours, depths)

    def mirrored_lights(self, cars: CarTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centres (N, 2), radii (N, 2) in pixels and colours (N, 3) of the lights as a wet road shows them."""
        return self._lights(cars, mirrored=True)[:3]

    def _lights(self, cars: CarTable, mirrored: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        count = len(cars.ids)
        every = np.repeat(np.arange(count), 4)
        local = np.array([[-0.5, 0.36, 0.5], [-0.5, -0.36, 0.5], [0.5, 0.36, 0.48], [0.5, -0.36, 0.48]])
        local = np.tile(local, (count, 1)) * np.where(cars.size[every, 2:] > _TALL_M, [1.0, 1.0, 0.7], 1.0) * cars.size[every]
        rig = cars.to_rig(local, every)
        to_lens = np.array([0.0, 0.0, self._camera.config.mount_height_m]) - rig
        outward = cars.ahead[every] * np.sign(local[:, :1])
        distance = np.linalg.norm(to_lens, axis=-1)
        facing = (to_lens[:, :2] * outward).sum(axis=-1) / distance
        head = local[:, 0] > 0
        lamps, facing = self._light.look.lamps, np.clip(facing, 0.0, 1.0)
        power = np.where(head, 0.85 * lamps * facing**3, (0.5 * lamps + 0.35 * cars.braking[every]) * facing)
        # Fog spreads lights and weakens them more slowly than it hides faces.
        air = self._light.transmission(distance) ** 0.7
        seen = (power * air > 0.02) & (rig[:, 0] > 2.0)
        rig, power, air, distance, head = rig[seen], power[seen], air[seen], distance[seen], head[seen]
        if mirrored:
            rig = rig * [1.0, 1.0, -1.0]
        pixels = self._camera.to_pixels(self._camera.to_view(rig))
        pixel = self._camera.config.width / 256.0
        radius = np.minimum(np.where(head, 0.5, 0.34) * self._camera.focal_px / distance * (2.2 - 1.2 * air) + 1.5 * pixel, 26.0 * pixel)
        radii = np.stack([radius, radius * (4.5 if mirrored else 1.0)], axis=-1)
        colours = np.where(head[:, None], _HEAD_RGB, _TAIL_RGB) * (power * air)[:, None]
        return pixels, radii, colours, np.linalg.norm(cars.centre, axis=-1)[every][seen] - 0.01

    def shadows(self, cars: CarTable, pose: Pose) -> np.ndarray:
        """(N, 8, 3) view outlines of the cars' cast shadows."""
        light = self._light
        slope = _turn(-light.sun[:2] / max(light.sun[2], 0.3), pose.yaw_rad)
        every = np.arange(len(cars.ids))
        floor = self._footprint(cars, every, 1.0)
        roof = self._footprint(cars, every, 0.8) + slope * (0.85 * cars.size[:, 2])[:, None, None]
        return self._camera.to_view(_hulls(np.concatenate([floor, roof], axis=1)))

    def contact_shadows(self, cars: CarTable) -> np.ndarray:
        """(N, 4, 3) view outlines of the dark ground right under the cars."""
        return self._camera.to_view(self._footprint(cars, np.arange(len(cars.ids)), 1.06))

    def _footprint(self, cars: CarTable, which: np.ndarray, scale: float) -> np.ndarray:
        corners = np.array([[0.5, 0.5, 0.0], [-0.5, 0.5, 0.0], [-0.5, -0.5, 0.0], [0.5, -0.5, 0.0]]) * scale
        return cars.to_rig(corners * cars.size[which][:, None], which)[..., :2]

    def pools(self, cars: CarTable) -> np.ndarray:
        """(N, 6, 3) view outlines of the road that the cars' headlights light up."""
        outline = np.array([[0.6, 0.5], [5.0, 1.3], [14.0, 2.2], [14.0, -2.2], [5.0, -1.3], [0.6, -0.5]])
        local = np.zeros((len(cars.ids), 6, 3))
        local[..., :2] = outline
        local[..., 0] += 0.5 * cars.size[:, None, 0]
        return self._camera.to_view(cars.to_rig(local, np.arange(len(cars.ids)))[..., :2])


def _hulls(points: np.ndarray) -> np.ndarray:
    """Convex hulls of (N, V, 2), as (N, V, 2) whose surplus vertices repeat the last: farthest points in V directions."""
    angle = np.arange(16) * np.pi / 8
    reach = points @ np.stack([np.cos(angle), np.sin(angle)])  # (N, V, 16)
    return np.take_along_axis(points, reach.argmax(axis=1)[..., None], axis=1)


def _turn(direction: np.ndarray, yaw_rad: float) -> np.ndarray:
    """(2,) world direction in the rig frame."""
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([cos * direction[0] + sin * direction[1], cos * direction[1] - sin * direction[0]])
