"""The other cars: highway-env's IDM and MOBIL drivers, kept at a wished density round the ego car."""

import math
from typing import TypeVar, cast

import numpy as np
from highway_env.road.road import LaneIndex
from highway_env.utils import wrap_to_pi
from highway_env.vehicle.behavior import IDMVehicle
from highway_env.vehicle.controller import ControlledVehicle

from data.dashsim.config import Traffic as Density
from data.dashsim.roads import RoadPlan
from data.dashsim.scene import CarState
from data.dashsim.steering import slip_angle, wheel_angle, wished_curvature
from data.dashsim.streets import OnStreets, Streets

CARS_PER_LANE_KM: dict[Density, float] = {"none": 0.0, "light": 6.0, "moderate": 15.0, "heavy": 60.0}
PACE: dict[Density, tuple[float, float]] = {"none": (0.8, 1.0), "light": (0.7, 1.1), "moderate": (0.6, 1.0), "heavy": (0.3, 0.55)}
"""Range of the cars' wished speeds, as a share of the road's usual top speed."""
WINDOW_M = 105.0
"""Cars are kept at their density within this distance of a point AHEAD_M before the ego car: behind it nobody looks."""
AHEAD_M = 45.0
FORGET_M = 125.0
HIDDEN_M = 125.0
"""New cars appear no nearer than this ahead once a drive has begun, and no nearer than HIDDEN_BEHIND_M behind."""
HIDDEN_BEHIND_M = 35.0
TRAFFIC_SHARE: dict[Density, float] = {"none": 0.0, "light": 0.22, "moderate": 0.4, "heavy": 1.0}
"""Most cars, as a share of those that the road allows."""
SPACING_M: dict[Density, float] = {"none": 0.0, "light": 30.0, "moderate": 22.0, "heavy": 11.0}
TIME_GAP_S: dict[Density, float] = {"none": 1.5, "light": 1.5, "moderate": 1.5, "heavy": 0.8}
"""What drivers keep to the car ahead: in dense traffic they close up."""

BODIES_M = ((4.0, 1.75, 1.45), (4.6, 1.85, 1.5), (4.8, 1.9, 1.7), (5.2, 2.0, 2.1), (8.5, 2.4, 3.1))
"""(length, width, height): small car, saloon, sports utility vehicle, van, lorry."""
BODY_SHARES = (0.22, 0.43, 0.22, 0.08, 0.05)


class TrafficCar(OnStreets, IDMVehicle):
    """An IDM/MOBIL driver that also slows for bends, gives way where told to, and leaves lanes that end."""

    stop_within_m: float = math.inf
    """Set each step: where it has to stop to give way."""
    wished_mps: float
    bend_pace: float = 1.0
    """Speed in bends, as a share of the comfortable one."""

    def act(self, action: dict | str | None = None) -> None:
        self.target_speed = max(min(self.wished_mps, self.bend_pace * self.lane.curve_speed_at(self.station_m)), 1.0)
        super().act()
        room = min(self.stop_within_m, self.room_to_lane_end() - 6.0)
        if room < SIGHT_FOR_STOPS_M:
            self.action["acceleration"] = min(self.action["acceleration"], braking_for(room, self.speed))

    def follow_road(self) -> None:
        """Its route is followed in on_state_update."""

    def steering_control(self, target_lane_index: LaneIndex) -> float:
        """highway-env's own law turns a slow car across the road."""
        lane = self.road.lane(target_lane_index)
        station, lateral = (self.station_m, self.lateral_m) if lane is self.lane else lane.local_coordinates(self.position)
        course = wrap_to_pi(self.heading + slip_angle(self.action["steering"]) - lane.heading_at(station))
        return wheel_angle(wished_curvature(self.curvature_ahead(station), lateral, course, self.speed), self.LENGTH)

    def change_lane_policy(self) -> None:
        if self.room_to_lane_end() == math.inf:
            super().change_lane_policy()
        elif self.target_lane_index == self.lane_index and self._safe_beside(left := (*self.edges[0], self.lane_index[2] - 1)):
            self.target_lane_index = left

    def _safe_beside(self, index: tuple[str, str, int]) -> bool:
        """Whether nobody would have to brake hard if it changed to that lane now."""
        front, rear = self.road.neighbour_vehicles(self, index)
        hardest = -2.5 if self.speed > 4.0 else -4.0
        ahead_ok = front is None or self.acceleration(self, front_vehicle=front) > hardest
        return ahead_ok and (rear is None or self.acceleration(cast(ControlledVehicle, rear), front_vehicle=self) > hardest)

    def step(self, dt: float) -> None:
        self.action["acceleration"] = max(self.action["acceleration"], -self.speed / dt)
        super().step(dt)

    @property
    def state(self) -> CarState:
        return CarState(
            car_id=self.car_id,
            x_m=float(self.position[0]),
            y_m=float(self.position[1]),
            yaw_rad=float(self.heading),
            length_m=self.body_length_m,
            width_m=self.body_width_m,
            height_m=self.body_height_m,
            braking=bool(self.action["acceleration"] < -0.8 or self.speed < 0.3),
        )


Part = TypeVar("Part", bound=TrafficCar)

SIGHT_FOR_STOPS_M = 80.0


def braking_for(room_m: float, speed_mps: float, comfort_mps2: float = 2.0) -> float:
    """Acceleration that stops within `room_m`: none while there is room, then as much as it takes, up to 6 m/s²."""
    needed = speed_mps**2 / (2 * max(room_m, 0.3))
    return -min(needed * 1.05, 6.0) if needed > 0.6 * comfort_mps2 or room_m < 1.5 else math.inf


class Traffic:
    """Keeps the cars round the ego car: adds them out of sight, forgets those far away or at the end of their road."""

    def __init__(self, plan: RoadPlan, road: Streets, density: Density, rng: np.random.Generator) -> None:
        self.plan, self.road, self.rng = plan, road, rng
        self.density: Density = density
        self.cars: list[TrafficCar] = []
        self._born = 0
        self._index_lanes()

    def _index_lanes(self) -> None:
        """All points of all lanes where a car may start, in one array, to find places round the ego car at once."""
        lanes = [
            (index, lane)
            for index, lane in self.road.network.lanes().items()
            if index[:2] not in self.plan.junction_edges and not lane.forbidden
        ]
        self._lanes = [index for index, _ in lanes]
        self._points = np.concatenate([lane.curve.points_m for _, lane in lanes])
        self._owner = np.repeat(np.arange(len(lanes)), [len(lane.curve.points_m) for _, lane in lanes])
        self._station = np.concatenate([np.linspace(0, lane.length, len(lane.curve.points_m)) for _, lane in lanes])

    def populate(self, ego: OnStreets) -> None:
        """First cars of a drive, anywhere but on top of the ego car."""
        self._tell_road(ego)
        for _ in range(6 * self.plan.largest_traffic):
            if len(self.cars) >= self.wanted(ego):
                break
            self._try_add(ego, nearest_m=11.0, nearest_behind_m=11.0)
        for _ in range(3):  # who slows for the car ahead makes those behind slow
            for user in (ego, *self.cars):
                user.speed = min(user.speed, self._safe_speed(user))

    def _safe_speed(self, user: OnStreets) -> float:
        """A speed at which a road user can start where it is: slow enough for bends and for the car ahead."""
        front, _ = self.road.neighbour_vehicles(user)
        bend = user.lane.curve_speed_at(user.station_m)
        if front is None:
            return bend
        room = max(user.lane_distance_to(front) - (user.body_length_m + front.body_length_m) / 2 - 4.0, 0.0)
        return min(bend, math.sqrt(front.speed**2 + 2 * 1.5 * room))

    def _centre(self, ego: OnStreets) -> np.ndarray:
        return ego.position + AHEAD_M * ego.direction

    def wanted(self, ego: OnStreets) -> int:
        """How many cars belong near the ego car."""
        if self.density == "none":
            return 0
        metres = np.count_nonzero(((self._points - self._centre(ego)) ** 2).sum(1) < WINDOW_M**2)
        share = TRAFFIC_SHARE[self.density]
        return int(np.clip(round(metres / 1000 * CARS_PER_LANE_KM[self.density]), 2, round(share * self.plan.largest_traffic)))

    def renew(self, ego: OnStreets) -> None:
        """Forget cars that are out of the way and add one out of sight where some are missing."""
        centre = self._centre(ego)
        kept = [car for car in self.cars if not car.finished and np.hypot(*(car.position - centre)) < FORGET_M]
        if len(kept) != len(self.cars):
            self.cars = kept
            self._tell_road(ego)
        if len(self.cars) < self.wanted(ego):
            self._try_add(ego, HIDDEN_M, HIDDEN_BEHIND_M)

    def _try_add(self, ego: OnStreets, nearest_m: float, nearest_behind_m: float) -> None:
        """Add a car at a random place, unless another car is there."""
        away = self._points - ego.position
        gaps = np.hypot(*away.T)
        ahead = away @ ego.direction
        hidden = (gaps > nearest_m) | ((ahead < 0) & (gaps > nearest_behind_m))
        places = np.flatnonzero(hidden & (np.hypot(*(self._points - self._centre(ego)).T) < WINDOW_M))
        if not len(places):
            return
        place = int(self.rng.choice(places))
        index = self._lanes[self._owner[place]]
        if any(np.hypot(*(other.position - self._points[place])) < self._room_to(other, index) for other in [*self.cars, ego]):
            return
        car = self._new_car(index, float(self._station[place]), TrafficCar)
        self.cars.append(car)
        self._tell_road(ego)
        car.speed = min(car.speed, self._safe_speed(car))

    def _room_to(self, other: OnStreets, index: tuple[str, str, int]) -> float:
        """How far a new car on a lane should be from another: cars on lanes beside it may be near."""
        return SPACING_M[self.density] if other.lane_index == index or other.edges[0] != index[:2] else 6.0

    def cast(self, kind: type[Part], index: tuple[str, str, int], station_m: float, speed_mps: float) -> Part:
        """Add a car of a certain kind at a certain place, for a staged event; no lorry."""
        car = self._new_car(index, station_m, kind)
        _shape(car, int(self.rng.choice(len(BODIES_M) - 1)))
        car.speed = speed_mps
        self.cars.append(car)
        return car

    def _new_car(self, index: tuple[str, str, int], station_m: float, kind: type[Part]) -> Part:
        lane = self.road.lane(index)
        wished = self.plan.speed_mps[1] * self.rng.uniform(*PACE[self.density])
        car = kind(None, lane.position(station_m, 0.0), lane.heading_at(station_m), wished)  # type: ignore[arg-type]
        car.settle(self.road, [index[:2]], index[2], np.random.default_rng(self.rng.integers(2**63)))
        car.wished_mps, car.car_id = wished, self._born
        car.randomize_behavior()
        car.TIME_WANTED = TIME_GAP_S[self.density]
        _shape(car, int(self.rng.choice(len(BODIES_M), p=BODY_SHARES)))
        self._born += 1
        return car

    def _tell_road(self, ego: OnStreets) -> None:
        self.road.vehicles[:] = [ego, *self.cars]
        self.road.refresh()


def _shape(car: TrafficCar, body: int) -> None:
    """Give a car one of BODIES_M and the distance to keep that goes with it."""
    car.body_length_m, car.body_width_m, car.body_height_m = BODIES_M[body]
    car.DISTANCE_WANTED = 4.0 + (car.body_length_m + 4.6) / 2
