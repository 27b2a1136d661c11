"""A running CARLA server (0.9.13 and later of 0.9), driven through its client package, which the caller hands in."""

import math
import queue
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from data.carla_recording import CONTROLS, DrivePlan, Reading
from data.errors import UserError

TICKS_A_SECOND = 20
"""At least; CARLA's drivers and physics are unsteady at longer ticks."""
WARM_UP_S = 2.0
"""Passes unseen at the start: cars fall onto the road and get going."""
TIMEOUT_S = 20.0
_CAR = "vehicle.tesla.model3"
_CAMERA_AHEAD_M = 1.2


def load_client() -> Any:
    """The `carla` package; UserError, saying what to install, where it is missing."""
    try:
        return import_module("carla")
    except ImportError as error:
        raise UserError(
            "--host: the CARLA client is not installed; install worldgpt[carla], or the wheel in PythonAPI/carla/dist of the server: "
            "client and server must be of the same version"
        ) from error


class CarlaSimulator:
    """A `data.carla_collector.Simulator`: synchronous mode, the car on autopilot, one camera at the windscreen."""

    def __init__(self, carla: Any, host: str, port: int) -> None:
        """UserError where no server answers."""
        self._carla = carla
        with _explained(f"CARLA at {host}:{port}"):
            self._client = carla.Client(host, port)
            self._client.set_timeout(TIMEOUT_S)
            self._version = str(self._client.get_server_version())
        self._world: Any = None
        self._settings: Any = None
        self._traffic_manager: Any = None
        self._actors: list[Any] = []
        self._flags = {"collision": False, "lane_invasion": False}
        self._images: queue.Queue[Any] = queue.Queue()
        self._plan: DrivePlan

    def begin(self, plan: DrivePlan) -> None:
        self._plan = plan
        with _explained(f"CARLA, {plan.drive_id}"):
            self._world = self._load(plan)
            self._stop_clock(plan)
            self._world.set_weather(self._weather(plan.weather))
            self._car = self._spawn_vehicles(plan)
            self._attach_sensors(plan)
            for _ in range(math.ceil(WARM_UP_S * TICKS_A_SECOND)):
                self._tick()
            self._flags = dict.fromkeys(self._flags, False)

    def step(self) -> Reading:
        with _explained(f"CARLA, {self._plan.drive_id}"):
            controls = []
            for _ in range(_ticks_a_step(self._plan)):
                image = self._tick()
                controls.append([getattr(self._car.get_control(), name) for name in CONTROLS])
            place, velocity = self._car.get_transform(), self._car.get_velocity()
            values = {
                "time_s": self._world.get_snapshot().timestamp.elapsed_seconds,
                **dict(zip(CONTROLS, np.mean(controls, axis=0).tolist(), strict=True)),
                "x_m": place.location.x,
                "y_m": place.location.y,
                "yaw_deg": place.rotation.yaw,
                "vx_mps": velocity.x,
                "vy_mps": velocity.y,
                **self._flags,
            }
            self._flags = dict.fromkeys(self._flags, False)
            return Reading(self._picture(image), {name: float(value) for name, value in values.items()})

    def end(self) -> None:
        with _explained("CARLA"):
            if self._traffic_manager is not None:
                self._traffic_manager.set_synchronous_mode(False)
            if self._settings is not None:
                self._world.apply_settings(self._settings)
                self._settings = None
            while self._actors:
                actor = self._actors.pop()  # sensors before the car that they are fixed to
                if hasattr(actor, "stop"):
                    actor.stop()
                actor.destroy()

    def facts(self) -> Mapping[str, str]:
        return {"town": self._town(), "server_version": self._version}

    def _town(self) -> str:
        return self._world.get_map().name.rsplit("/", 1)[-1]

    def _load(self, plan: DrivePlan) -> Any:
        """The planned map; loading takes a minute, so one that is there is kept."""
        self._world = self._client.get_world()
        if plan.town is None or plan.town == self._town():
            return self._world
        known = sorted(name.rsplit("/", 1)[-1] for name in self._client.get_available_maps())
        if plan.town not in known:
            raise UserError(f"--towns: expected maps of the server, {', '.join(known)}, got {plan.town!r}")
        return self._client.load_world(plan.town)

    def _stop_clock(self, plan: DrivePlan) -> None:
        self._settings = self._world.get_settings()
        settings = self._world.get_settings()
        settings.synchronous_mode = True
        settings.fixed_delta_seconds = 1 / (plan.fps * _ticks_a_step(plan))
        self._world.apply_settings(settings)
        self._traffic_manager = self._client.get_trafficmanager()
        self._traffic_manager.set_synchronous_mode(True)
        self._traffic_manager.set_random_device_seed(plan.seed)

    def _weather(self, name: str) -> Any:
        presets = self._carla.WeatherParameters
        if not hasattr(presets, name):
            raise UserError(f"--weathers: this version of CARLA has no weather {name!r}; expected a preset of carla.WeatherParameters")
        return getattr(presets, name)

    def _spawn_vehicles(self, plan: DrivePlan) -> Any:
        """The car at a place that the seed draws, and others around; where a place is taken, the next one serves."""
        rng = random.Random(plan.seed)
        library = self._world.get_blueprint_library()
        places = list(self._world.get_map().get_spawn_points())
        rng.shuffle(places)
        others = sorted(library.filter("vehicle.*"), key=lambda blueprint: blueprint.id)
        others = [blueprint for blueprint in others if int(blueprint.get_attribute("number_of_wheels")) == 4]
        car = None
        for place in places:
            if len(self._actors) > plan.traffic:
                break
            blueprint = library.find(_CAR) if car is None else rng.choice(others)
            vehicle = self._world.try_spawn_actor(blueprint, place)
            if vehicle is not None:
                car = car or vehicle
                self._actors.append(vehicle)
                vehicle.set_autopilot(True, self._traffic_manager.get_port())
                self._traffic_manager.update_vehicle_lights(vehicle, True)
        if car is None:
            raise UserError(f"{self._town()}: expected a free place for the car among {len(places)}, got none")
        return car

    def _attach_sensors(self, plan: DrivePlan) -> None:
        carla, library = self._carla, self._world.get_blueprint_library()
        camera = library.find("sensor.camera.rgb")
        values = {"image_size_x": plan.size[1], "image_size_y": plan.size[0], "fov": plan.horizontal_fov_deg}
        for name, value in values.items():
            camera.set_attribute(name, str(value))
        self._images = queue.Queue()
        place = carla.Transform(carla.Location(x=_CAMERA_AHEAD_M, z=plan.camera_height_m))
        self._attach(camera, place).listen(self._images.put)
        for name in self._flags:
            sensor = self._attach(library.find(f"sensor.other.{name}"), carla.Transform())
            sensor.listen(lambda _, name=name: self._flags.__setitem__(name, True))

    def _attach(self, blueprint: Any, place: Any) -> Any:
        sensor = self._world.spawn_actor(blueprint, place, attach_to=self._car)
        self._actors.append(sensor)
        return sensor

    def _tick(self) -> Any:
        """The image of the next tick."""
        frame = self._world.tick()
        while True:
            try:
                image = self._images.get(timeout=TIMEOUT_S)
            except queue.Empty as error:
                raise UserError(f"CARLA: no picture of frame {frame} within {TIMEOUT_S:g} s; does the server render?") from error
            if image.frame == frame:
                return image

    def _picture(self, image: Any) -> np.ndarray:
        """CARLA's pixels are blue, green, red, alpha."""
        pixels = np.frombuffer(image.raw_data, np.uint8).reshape(*self._plan.size, 4)
        return np.ascontiguousarray(pixels[..., 2::-1])


def _ticks_a_step(plan: DrivePlan) -> int:
    return math.ceil(TICKS_A_SECOND / plan.fps - 1e-9)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """CARLA raises RuntimeError, of several lines, for all that goes wrong on the way to the server, IndexError for unknown blueprints."""
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, OSError, IndexError) as error:
        raise UserError(f"{name}: {' '.join(str(error).split())}; is the server running, and of the client's version?") from error
