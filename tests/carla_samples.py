"""What stands in for CARLA in tests: a simulator that drives a circle to the right, and a client package that writes down its calls."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from data.carla_recording import DrivePlan, Reading
from data.errors import UserError

SPEED, YAW_RATE_DPS = 8.0, 12.0
"""m/s, degrees a second to the right, which CARLA counts as positive."""


class CircleSimulator:
    """A `data.carla_collector.Simulator`; row k of a drive has steer k / 1000 and a picture of brightness k."""

    def __init__(self, *, broken: tuple[str, ...] = ()) -> None:
        self.calls: list[str] = []
        self.broken = broken
        """Drives that fail at their fifth step."""
        self.plan: DrivePlan
        self.number = 0

    def begin(self, plan: DrivePlan) -> None:
        self.plan, self.number = plan, 0
        self.calls.append(f"begin {plan.drive_id} {plan.town} {plan.weather}")

    def step(self) -> Reading:
        if self.plan.drive_id in self.broken and self.number == 5:
            raise UserError("CARLA: time-out")
        k, self.number = self.number, self.number + 1
        time = k / self.plan.fps
        yaw, turn = math.radians(YAW_RATE_DPS * time), math.radians(YAW_RATE_DPS)
        values = {
            "time_s": 100 + time,
            "steer": (k - 1) / 1000,  # it led to this frame: the one before it is where it began to act
            "throttle": 0.5,
            "brake": 0.25,
            "x_m": SPEED / turn * math.sin(yaw),
            "y_m": SPEED / turn * (1 - math.cos(yaw)),
            "yaw_deg": (YAW_RATE_DPS * time + 180) % 360 - 180,
            "vx_mps": SPEED * math.cos(yaw),
            "vy_mps": SPEED * math.sin(yaw),
            "collision": float(k == 7),
            "lane_invasion": float(k in (3, 4)),
        }
        return Reading(np.full((*self.plan.size, 3), k % 250, np.uint8), values)

    def end(self) -> None:
        self.calls.append("end")

    def facts(self) -> dict[str, str]:
        return {"town": "Town03"}


class Recorder:
    """Anything of CARLA's: its methods are attributes given at the start, and every call is written down."""

    def __init__(self, calls: list[str], name: str, **methods: Callable[..., Any]) -> None:
        self._calls, self._name, self._methods = calls, name, methods

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_") or method not in self._methods:
            raise AttributeError(method)

        def call(*arguments: Any, **named: Any) -> Any:
            shown = ", ".join([*map(str, arguments), *(f"{key}={value}" for key, value in named.items())])
            self._calls.append(f"{self._name}.{method}({shown})")
            return self._methods[method](*arguments, **named)

        return call

    def __str__(self) -> str:
        return self._name


class FakeCarla:
    """The `carla` package and a server behind it: cars stand still but for the first, every tick renders a frame of its number."""

    def __init__(self, *, taken_places: int = 1, places: int = 5, silent: bool = False, failing: str | None = None) -> None:
        self.calls: list[str] = []
        self.frame, self.ticks, self.silent = 1000, 0, silent
        self.collides_at: int | None = None
        self.listeners: dict[str, Callable[[Any], None]] = {}
        self.taken, self.alive = taken_places, 0
        self.settings = SimpleNamespace(synchronous_mode=False, fixed_delta_seconds=None)
        self.failing = failing
        self.WeatherParameters = SimpleNamespace(ClearNoon="clear noon", HardRainNight="rain at night")
        self.places = [f"place{k}" for k in range(places)]
        self.Location = lambda **values: f"({values})"
        self.Transform = lambda location="origin": f"at {location}"

    def Client(self, host: str, port: int) -> Recorder:
        self.calls.append(f"Client({host}, {port})")
        return Recorder(
            self.calls,
            "client",
            set_timeout=lambda seconds: None,
            get_server_version=self._version,
            get_world=lambda: self.world(),
            load_world=lambda town: self.world(town),
            get_available_maps=lambda: ["/Game/Carla/Maps/Town01", "/Game/Carla/Maps/Town03"],
            get_trafficmanager=lambda: Recorder(
                self.calls,
                "traffic",
                set_synchronous_mode=lambda on: None,
                set_random_device_seed=lambda seed: None,
                get_port=lambda: 8000,
                update_vehicle_lights=lambda vehicle, on: None,
            ),
        )

    def _version(self) -> str:
        if self.failing == "connect":
            raise RuntimeError("time-out of 20000ms while waiting for the simulator,\nmake sure the simulator is ready")
        return "0.9.15"

    def world(self, town: str = "Town03") -> Recorder:
        scene = SimpleNamespace(name=f"Carla/Maps/{town}", get_spawn_points=lambda: list(self.places))
        return Recorder(
            self.calls,
            "world",
            get_settings=lambda: SimpleNamespace(**vars(self.settings)),
            apply_settings=lambda settings: setattr(self, "settings", settings),
            get_map=lambda: scene,
            set_weather=lambda weather: None,
            get_blueprint_library=lambda: SimpleNamespace(find=self._blueprint, filter=self._vehicles),
            try_spawn_actor=self._spawn_vehicle,
            spawn_actor=lambda blueprint, place, attach_to: self._sensor(blueprint),
            tick=self._tick,
            get_snapshot=lambda: SimpleNamespace(timestamp=SimpleNamespace(elapsed_seconds=self.ticks * self.settings.fixed_delta_seconds)),
        )

    def _blueprint(self, name: str) -> SimpleNamespace:
        attributes: dict[str, str] = {}
        return SimpleNamespace(id=name, attributes=attributes, set_attribute=attributes.__setitem__, get_attribute=lambda _: 4)

    def _vehicles(self, pattern: str) -> list[SimpleNamespace]:
        bike = SimpleNamespace(id="vehicle.bike", get_attribute=lambda _: 2)
        return [bike, self._blueprint("vehicle.van"), self._blueprint("vehicle.bus")]

    def _spawn_vehicle(self, blueprint: SimpleNamespace, place: str) -> Recorder | None:
        if self.taken:
            self.taken -= 1
            return None
        self.alive += 1
        return Recorder(
            self.calls,
            blueprint.id,
            set_autopilot=lambda on, port: None,
            destroy=self._destroy,
            get_control=lambda: SimpleNamespace(steer=self.ticks / 1000, throttle=0.5, brake=0.0),
            get_transform=lambda: SimpleNamespace(
                location=SimpleNamespace(x=self.ticks * 1.0, y=2.0), rotation=SimpleNamespace(yaw=self.ticks * 0.5)
            ),
            get_velocity=lambda: SimpleNamespace(x=3.0, y=4.0),
        )

    def _sensor(self, blueprint: SimpleNamespace) -> Recorder:
        self.alive += 1
        self.calls.append(f"attached {blueprint.id} {blueprint.attributes}")
        listen = lambda callback: self.listeners.__setitem__(blueprint.id, callback)  # noqa: E731
        return Recorder(self.calls, blueprint.id, listen=listen, stop=lambda: None, destroy=self._destroy)

    def _destroy(self) -> None:
        self.alive -= 1

    def _tick(self) -> int:
        self.frame, self.ticks = self.frame + 1, self.ticks + 1
        if self.failing == "tick" and self.ticks > 43:
            raise RuntimeError("rpc::timeout")
        if self.ticks == self.collides_at:
            self.listeners["sensor.other.collision"]("event")
        if not self.silent:
            for frame in (self.frame - 1, self.frame):  # the one before once more, as a slow sensor has it
                pixels = np.zeros((16, 24, 4), np.uint8)
                pixels[..., :3] = (frame % 250, 2, 3)  # blue, green, red
                self.listeners["sensor.camera.rgb"](SimpleNamespace(frame=frame, raw_data=pixels.tobytes()))
        return self.frame
