"""The ego car and its driver, an expert who keeps and changes lanes, follows, gives way, and now and then does something else."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from highway_env.utils import wrap_to_pi
from highway_env.vehicle.kinematics import Vehicle

from data.dashsim.lanes import Edge
from data.dashsim.steering import slip_angle, wheel_angle, wished_curvature
from data.dashsim.streets import OnStreets, Streets
from data.dashsim.traffic import braking_for

MAX_STEERING_RAD = 0.4
MAX_YAW_RATE_RPS = 0.78
MAX_SIDEWAYS_MPS2 = 7.0
MAX_ACCELERATION_MPS2 = 4.0
MAX_BRAKING_MPS2 = 6.0

Kind = Literal["keep", "aside", "weave", "nudge", "brake", "slow", "hurry", "stop", "stray"]
STRAY_M = (0.5, 4.0)
"""How far beyond the road's edge a driver who strays aims."""


class EgoCar(OnStreets, Vehicle):
    """The car with the camera: highway-env's kinematic bicycle, steered by road wheel angle and acceleration."""

    car_id = -1
    target_speed: float = 0.0
    """What other drivers take for its wished speed."""


@dataclass(frozen=True)
class Style:
    """How one driver drives, over a whole drive."""

    wished_mps: float
    headway_s: float
    bend_pace: float
    """Speed in bends, as a share of the comfortable one."""
    sway_mps2: float
    """Standard deviation of the sideways acceleration that its unsteady steering makes."""
    pedal_mps2: float
    """Standard deviation of its unsteady acceleration."""
    change_rate_hz: float
    """How often it changes lanes for no reason."""
    restlessness: float
    """Share of the time in which it does something on purpose, other than keeping its lane and speed."""

    @staticmethod
    def draw(rng: np.random.Generator, speed_mps: tuple[float, float], noise: float) -> "Style":
        """A random style; `noise` 0 gives a steady driver."""
        steady = rng.random() < 0.25
        return Style(
            wished_mps=rng.uniform(*speed_mps),
            headway_s=rng.uniform(0.9, 1.8),
            bend_pace=rng.uniform(0.8, 1.15),
            sway_mps2=noise * (0.0 if steady else rng.uniform(0.1, 0.9)),
            pedal_mps2=noise * (0.0 if steady else rng.uniform(0.1, 0.6)),
            change_rate_hz=rng.uniform(0.03, 0.14),
            restlessness=min(1.0, noise * (0.15 if steady else rng.uniform(0.3, 0.75))),
        )


@dataclass(frozen=True)
class Manoeuvre:
    """Something done on purpose for a while."""

    kind: Kind
    until_s: float
    amount: float = 0.0
    """Metres aside, astray or of weaving, sideways m/s² of a nudge, m/s² of braking, or a factor on the wished speed."""
    period_s: float = 4.0


class Wobble:
    """An Ornstein-Uhlenbeck process: noise that lasts about `memory_s`."""

    def __init__(self, deviation: float, memory_s: float) -> None:
        self.deviation, self.memory_s, self.value = deviation, memory_s, 0.0

    def step(self, rng: np.random.Generator, dt: float) -> float:
        kick = self.deviation * math.sqrt(2 * dt / self.memory_s) * rng.standard_normal()
        self.value += kick - self.value * dt / self.memory_s
        return self.value


class Driver:
    """Chooses steering and acceleration of the ego car, step by step."""

    strays: bool = False
    """Leaves the road now and then where the ground beside it is open, and comes back."""

    def __init__(self, car: EgoCar, style: Style, junction_edges: frozenset[Edge], rng: np.random.Generator) -> None:
        self.car, self.style, self.junction_edges, self.rng = car, style, junction_edges, rng
        self.time_s = 0.0
        self.manoeuvre = Manoeuvre("keep", until_s=rng.uniform(1.0, 4.0))
        self.sway, self.pedal = Wobble(style.sway_mps2, 0.8), Wobble(style.pedal_mps2, 1.5)
        self.aim_m, self.aim_mps = car.lateral_m, 0.0
        self.haste_s = 1.0
        self.change = 0
        """The lane change under way: 1 to the left, -1 to the right, 0 none."""
        self._next_thought_s = rng.uniform(0.5, 2.0)
        self._steering = 0.0

    def act(self, dt: float, stop_within_m: float) -> tuple[float, float]:
        """(steering_rad, acceleration_mps2) for the next dt seconds; `stop_within_m` is where it must stop to give way."""
        self.time_s += dt
        if self.time_s >= self.manoeuvre.until_s:
            self.manoeuvre = self._next_manoeuvre()
        if self.time_s >= self._next_thought_s:
            self._next_thought_s = self.time_s + 0.5
            self._consider_lanes()
        return self._steer(dt), self._accelerate(dt, stop_within_m)

    # What to do

    def _next_manoeuvre(self) -> Manoeuvre:
        rng, now = self.rng, self.time_s
        if self.strays and self.manoeuvre.kind == "keep" and not self._near_junction() and (sides := self._open_sides()):
            side = float(rng.choice(sides))
            return Manoeuvre("stray", now + rng.uniform(3, 6), side * (self.car.lane.width / 2 + rng.uniform(*STRAY_M)))
        if self.manoeuvre.kind != "keep" or rng.random() > self.style.restlessness or self._near_junction():
            return Manoeuvre("keep", now + rng.uniform(1.5, 5.0), amount=float(np.clip(rng.normal(0, 0.15), -0.4, 0.4)))
        side = float(rng.choice([-1.0, 1.0]))
        kind = rng.choice(["aside", "weave", "nudge", "brake", "slow", "hurry", "stop"], p=[0.26, 0.16, 0.2, 0.12, 0.12, 0.12, 0.02])
        if kind == "aside":
            return Manoeuvre("aside", now + rng.uniform(3, 6), side * min(rng.uniform(0.4, 1.3), self._room(side)))
        if kind == "weave":
            room = min(self._room(1.0), self._room(-1.0))
            return Manoeuvre("weave", now + rng.uniform(4, 8), side * min(rng.uniform(0.4, 1.0), room), rng.uniform(3.0, 6.0))
        if kind == "nudge":
            return Manoeuvre("nudge", now + rng.uniform(0.5, 1.3), side * rng.uniform(0.6, 2.2))
        if kind == "brake":
            return Manoeuvre("brake", now + rng.uniform(0.8, 2.2), -rng.uniform(1.5, 4.0))
        if kind == "slow":
            return Manoeuvre("slow", now + rng.uniform(3, 7), rng.uniform(0.4, 0.75))
        if kind == "hurry":
            return Manoeuvre("hurry", now + rng.uniform(3, 6), rng.uniform(1.15, 1.45))
        return Manoeuvre("stop", now + rng.uniform(4, 7))

    def _near_junction(self) -> bool:
        car = self.car
        near = car.edge_ahead(1) if car.lane.length - car.station_m < 30 else None
        return car.edges[0] in self.junction_edges or near in self.junction_edges

    def _room(self, side: float) -> float:
        """How far from its lane's centre the car may go on one side (1 left, -1 right), in metres."""
        beside = self._beside(int(side))
        room = self.car.lane.width / 2 - self.car.body_width_m / 2
        return room + (1.2 if beside is not None and self._is_free(beside) else 0.3)

    def _beside(self, side: int) -> tuple[str, str, int] | None:
        """The lane on one side of the target lane, if there is one to drive on."""
        start, end, lane = self.car.target_lane_index
        lanes = self.car.road.network.road((start, end))
        other = lane - side
        return (start, end, other) if 0 <= other < len(lanes) and not lanes[other].forbidden else None

    def _open_sides(self) -> list[float]:
        """The sides (1 left, -1 right) on which no road runs beside its lane, here or a little ahead."""
        return [side for side in (1.0, -1.0) if self._beside(int(side)) is None and self._is_open(side)]

    def _is_open(self, side: float) -> bool:
        lane, network = self.car.lane, self.car.road.network
        aside = side * (lane.width / 2 + STRAY_M[1])
        places = [lane.position(min(self.car.station_m + ahead, lane.length), aside) for ahead in (0.0, 20.0, 40.0, 60.0, 80.0)]
        return self.car.lane_index == self.car.target_lane_index and not any(
            network.lane(index).on_lane(place, margin=STRAY_M[1] - 1) for index in network.lanes() for place in places
        )

    def _is_free(self, index: tuple[str, str, int]) -> bool:
        """Whether changing to a lane now would leave room ahead and behind; a car that has to get in makes do with less."""
        car = self.car
        front, rear = car.road.neighbour_vehicles(car, index)
        share = 0.4 if car.room_to_lane_end() < 60 and car.speed < 8 else 1.0
        if front and self._gap(front) < share * (5 + 0.35 * car.speed) + 1.5 * max(0.0, car.speed - front.speed):
            return False
        if rear is None:
            return True
        behind = -car.lane_distance_to(rear) - (car.body_length_m + rear.body_length_m) / 2
        return behind > share * (5 + 0.25 * rear.speed + 2.0 * max(0.0, rear.speed - car.speed))

    def _consider_lanes(self) -> None:
        """Change lanes where the lane ends, where the car ahead is slow, or for the sake of it."""
        car = self.car
        if self.change or self.manoeuvre.kind in ("nudge", "stop", "stray") or car.lane_index != car.target_lane_index:
            return
        if car.room_to_lane_end() < math.inf:
            self._try_change(1)
            return
        front, _ = car.road.neighbour_vehicles(car)
        slow = front is not None and front.speed < 0.85 * self._wished() and self._gap(front) < 12 + 2.0 * car.speed
        if car.speed > 3 and ((slow and self.rng.random() < 0.4) or self.rng.random() < 0.5 * self.style.change_rate_hz):
            for side in self.rng.permutation([1, -1]):
                if self._try_change(int(side)):
                    return

    def _try_change(self, side: int) -> bool:
        beside = self._beside(side)
        if beside is None or not self._is_free(beside):
            return False
        car = self.car
        self.aim_m += car.road.lane(car.target_lane_index).offset_m - car.road.lane(beside).offset_m
        car.target_lane_index = beside
        self.change, self.haste_s = side, self.rng.uniform(0.7, 1.3)
        return True

    # How to steer

    def _goal_m(self) -> float:
        """Where to be across the target lane, positive to the left."""
        now = self.manoeuvre
        if now.kind == "weave":
            return now.amount * math.sin(2 * math.pi * (now.until_s - self.time_s) / now.period_s)
        return now.amount if now.kind in ("keep", "aside", "stray") else 0.0

    def _move_aim(self, dt: float) -> None:
        """Let the aimed place across the lane follow the goal like a critically damped spring, as hands turn a wheel."""
        stiffness = 1 / self.haste_s
        pull = stiffness**2 * (self._goal_m() - self.aim_m) - 2 * stiffness * self.aim_mps
        self.aim_mps += pull * dt
        self.aim_m += self.aim_mps * dt
        if self.change and abs(self.aim_m - self._goal_m()) < 0.35:
            self.change, self.haste_s = 0, 0.8

    def _steer(self, dt: float) -> float:
        car = self.car
        self._move_aim(dt)
        target = car.road.lane(car.target_lane_index)
        station, lateral = target.local_coordinates(car.position) if target is not car.lane else (car.station_m, car.lateral_m)
        wanted = math.atan(self.aim_mps / max(car.speed, 3.0))
        course = wrap_to_pi(car.heading + slip_angle(self._steering) - target.heading_at(station)) - wanted
        curvature = wished_curvature(car.curvature_ahead(station), lateral - self.aim_m, course, car.speed)
        wheel = wheel_angle(curvature, car.LENGTH)
        turned = min(max(wheel, self._steering - 1.2 * dt), self._steering + 1.2 * dt)
        self._steering = turned
        push = self.sway.step(self.rng, dt) + self._nudge_mps2()
        disturbed = turned + car.LENGTH * push / max(car.speed, 5.0) ** 2
        speed = max(car.speed, 1.0)
        most = min(MAX_STEERING_RAD, wheel_angle(min(MAX_YAW_RATE_RPS / speed, MAX_SIDEWAYS_MPS2 / speed**2), car.LENGTH))
        return min(max(disturbed, -most), most)

    def _nudge_mps2(self) -> float:
        """Sideways push of a nudge, as long as there is room on that side."""
        if self.manoeuvre.kind != "nudge":
            return 0.0
        side = math.copysign(1.0, self.manoeuvre.amount)
        return self.manoeuvre.amount if side * self.car.lateral_m < self._room(side) - 0.4 else 0.0

    # How fast to go

    def _wished(self) -> float:
        factor = self.manoeuvre.amount if self.manoeuvre.kind in ("slow", "hurry") else 1.0
        return 0.0 if self.manoeuvre.kind == "stop" else self.style.wished_mps * factor

    def _gap(self, other: OnStreets) -> float:
        """Metres from bumper to bumper along the road."""
        return self.car.lane_distance_to(other) - (self.car.body_length_m + other.body_length_m) / 2

    def _accelerate(self, dt: float, stop_within_m: float) -> float:
        car = self.car
        bend = car.lane.curve_speed_at(car.station_m + 0.3 * car.speed) * self.style.bend_pace
        target = min(self._wished(), bend, 36.0)
        car.target_speed = max(target, 1.0)
        wish = min(max((target - car.speed) / 1.3, -3.5), 2.4) + self.pedal.step(self.rng, dt)
        if self.manoeuvre.kind == "brake" and car.speed > 4.0:
            wish = min(wish, self.manoeuvre.amount)
        room = min(stop_within_m, car.room_to_lane_end() - 8.0)
        if room < 80.0:
            wish = min(wish, braking_for(room, car.speed))
        for index in {car.lane_index, car.target_lane_index}:
            front, _ = car.road.neighbour_vehicles(car, index)
            if front is not None:
                wish = min(wish, self._following_acceleration(front))
        wish = min(max(wish, -MAX_BRAKING_MPS2), MAX_ACCELERATION_MPS2)
        return max(wish, -car.speed / dt)

    def _following_acceleration(self, front: OnStreets) -> float:
        """The intelligent driver model's answer to the car ahead (Treiber et al. 2000), without its free-road term."""
        car, gap = self.car, max(self._gap(front), 0.5)
        comfortable = 2 * math.sqrt(2.0 * 2.5)
        desired = 3.5 + max(0.0, car.speed * self.style.headway_s + car.speed * (car.speed - front.speed) / comfortable)
        return 2.0 * (1 - (desired / gap) ** 2)


def place_ego(road: Streets, edges: list[Edge], lane: int, station_m: float, rng: np.random.Generator, off_centre: bool) -> EgoCar:
    """The ego car on a lane, standing; off centre and askew on request."""
    network_lane = road.lane((*edges[0], lane))
    lateral, askew = (rng.uniform(-1.2, 1.2), rng.uniform(-0.06, 0.06)) if off_centre else (0.0, 0.0)
    car = EgoCar(None, network_lane.position(station_m, lateral), network_lane.heading_at(station_m) + askew, 0.0)  # type: ignore[arg-type]
    car.settle(road, edges, lane, rng)
    return car
