"""The dash camera: turns a road, its conditions and a snapshot of the traffic into a picture."""

import cv2
import numpy as np

from data.dashsim.camera import NEAR_M, Camera, CameraConfig, Pose, clip_near
from data.dashsim.ground import Coverage, Ground, Shade
from data.dashsim.lighting import Lighting
from data.dashsim.looks import look_of
from data.dashsim.painter import SHIFT, Scenery, add_light, to_fixed
from data.dashsim.particles import Particles
from data.dashsim.roadside import place
from data.dashsim.scene import Conditions, RoadMap, Snapshot
from data.dashsim.sky import Sky
from data.dashsim.vegetation import Vegetation
from data.dashsim.vehicles import CarTable, Vehicles

MASKS = ("paint", "cars", "trees", "road")


class Renderer:
    """Pictures of one drive. Each is a function of its snapshot alone: no state is kept from one to the next.

    What stands still is decided by `road.seed`; `seed` decides where the sun stands and how rain and snow fall.
    """

    def __init__(self, road: RoadMap, conditions: Conditions, camera: CameraConfig, seed: int) -> None:
        self.config = camera
        self._camera = Camera(camera.enlarged())
        self._look = look_of(conditions)
        own = np.random.default_rng([seed, 1])
        sun_azimuth = float(own.uniform(-np.pi, np.pi))
        streams = [np.random.default_rng([road.seed, i]) for i in range(3)]
        self._lighting = Lighting(self._look, sun_azimuth, camera.mount_height_m)
        self._sky = Sky(self._look, self._camera, sun_azimuth, streams[0])
        self._ground = Ground(road, self._look, self._camera, self._lighting, streams[1])
        self._plants = Vegetation(*place(road, streams[2]), self._lighting)
        self._vehicles = Vehicles(self._lighting, self._camera)
        falling = conditions.weather in ("rain", "snow")
        self._particles = Particles(self._look, self._camera, own) if falling else None
        above = self._camera.rays[: self._camera.first_ground_row]
        self._sky_veil = np.rint(self._lighting.veil(above) - self._lighting.haze).astype(np.uint8) + np.zeros_like(above, dtype=np.uint8)

    def render(self, snapshot: Snapshot) -> np.ndarray:
        """The picture, uint8 (H, W, 3) RGB."""
        camera, top = self._camera, self._camera.first_ground_row
        pose = self._pose(snapshot)
        cars = self._vehicles.gather(snapshot.cars, pose)
        cover = self._ground.coverage(pose)
        picture = np.empty((camera.config.height, camera.config.width, 3), np.uint8)
        picture[:top] = self._sky.render(pose.yaw_rad, slice(0, top))
        if self._sky_veil.any():
            picture[:top] = cv2.add(picture[:top], self._sky_veil)
        ground = self._ground.render(pose, cover, self._shade(cars, pose))
        if self._look.wet:
            self._reflect(ground, cover, cars, pose)
        picture[top:] = np.clip(ground, 0.0, 255.0, out=ground)
        self._scenery(cars, pose).draw(picture)
        if self._particles:
            self._particles.draw(picture, snapshot.time_s, pose, snapshot.speed_mps)
        return self._shrink(picture)

    def masks(self, snapshot: Snapshot) -> dict[str, np.ndarray]:
        """{name: bool (H, W)}: what covers at least half of a pixel. Paint is part of the road; what stands before it hides it."""
        camera, top = self._camera, self._camera.first_ground_row
        pose = self._pose(snapshot)
        cover = self._ground.coverage(pose)
        standing = np.zeros((camera.config.height, camera.config.width, 4), np.uint8)
        standing[top:, :, 3] = cover.asphalt
        self._scenery(self._vehicles.gather(snapshot.cars, pose), pose).draw_kinds(standing)
        paint = np.zeros(standing.shape[:2], np.uint8)
        paint[top:] = np.minimum(np.maximum(cover.white, cover.yellow), standing[top:, :, 3])
        cars, trees, _, road = np.moveaxis(self._shrink(standing) >= 128, -1, 0)
        return {"paint": self._shrink(paint) >= 128, "cars": cars, "trees": trees, "road": road}

    def _pose(self, snapshot: Snapshot) -> Pose:
        return Pose.of_car(self.config, snapshot.x_m, snapshot.y_m, snapshot.yaw_rad)

    def _shrink(self, large: np.ndarray) -> np.ndarray:
        if self.config.supersample == 1:
            return large
        return cv2.resize(large, (self.config.width, self.config.height), interpolation=cv2.INTER_AREA)

    def _scenery(self, cars: CarTable, pose: Pose) -> Scenery:
        scenery = Scenery()
        self._plants.add_to(scenery, self._camera, pose)
        self._vehicles.add_to(scenery, cars, pose)
        return scenery

    def _shade(self, cars: CarTable, pose: Pose) -> Shade:
        """Where other things take light from the ground or add to it."""
        look, vehicles = self._look, self._vehicles
        contact = self._fill(vehicles.contact_shadows(cars), 255.0)
        sun = None
        if any(look.direct):
            sun = self._fill(self._plants.shadows(self._camera, pose), 200.0)
            self._fill(vehicles.shadows(cars, pose), 255.0, sun)
        pools = None
        if look.beam > 0:
            pools = cv2.GaussianBlur(self._fill(vehicles.pools(cars), 255.0), (0, 0), self._camera.config.width / 50)
        return Shade(contact, sun, pools)

    def _fill(self, view: np.ndarray, value: float, mask: np.ndarray | None = None) -> np.ndarray:
        """Draws (N, V, 3) convex view outlines on the ground onto uint8 (H', W), a new one if none is given."""
        camera = self._camera
        if mask is None:
            mask = np.zeros((camera.config.height - camera.first_ground_row, camera.config.width), np.uint8)
        view = view[view[..., 0].max(axis=-1) > NEAR_M]
        pixels = camera.to_pixels(clip_near(view)) - [0.0, camera.first_ground_row]
        for outline in to_fixed(pixels):
            cv2.fillConvexPoly(mask, outline, value, cv2.LINE_AA, SHIFT)
        return mask

    def _reflect(self, ground: np.ndarray, cover: Coverage, cars: CarTable, pose: Pose) -> None:
        """Mirrors sky, hills and lights in the wet asphalt, blurred along the line of sight."""
        top = self._camera.first_ground_row
        mirror = self._sky.render(pose.yaw_rad, slice(top, None))
        for centre, radii, colour in zip(*self._vehicles.mirrored_lights(cars), strict=True):
            add_light(mirror, centre - [0.0, top], radii, colour.tolist())
        mirror = cv2.blur(mirror, (1, 2 * (self._camera.config.height // 32) + 1))
        weight = (cover.asphalt * np.float32(1 / 255))[..., None] * self._ground.mirror_share
        ground += weight * (mirror - ground)
