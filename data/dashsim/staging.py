"""Stages: how an event is made to happen in a drive, and when it is under way.

The simulation asks its stage which road to build, who drives and who is there at the start, and lets it direct them step by step.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import numpy as np
from highway_env.utils import wrap_to_pi

from data.dashsim.config import Road
from data.dashsim.driver import Driver, EgoCar, Style
from data.dashsim.events import Event, code_of
from data.dashsim.lanes import Edge
from data.dashsim.roads import RoadPlan, Start, build_exit_road, build_road
from data.dashsim.staged_car import StagedCar, StagedDriver
from data.dashsim.traffic import Traffic

CLOSEST_M, FARTHEST_M = 7.0, 36.0
"""Distance between the middles of the ego car and of another one that makes an event the camera should see."""
IN_VIEW_RAD = 0.48
"""Furthest to a side that such a car may be seen; the camera's own field of view ends at 0.57."""
PATIENCE_S = 6.0
"""How long a stage waits for a good moment, once it is due."""


class Stage:
    """An ordinary drive: nothing is staged."""

    event: Event | None = None

    def __init__(self) -> None:
        self.under_way = False
        self.happened = False
        """Whether the event has come to its end as it should."""
        self.car: StagedCar | None = None
        """The other car that makes the event."""
        self.cue_s = 0.0
        """When the event is due."""

    @property
    def code(self) -> int:
        """The event's number while it is under way, else 0."""
        return code_of(self.event) if self.event and self.under_way else 0

    def hopeless(self, time_s: float) -> bool:
        """Whether it is too late for the event to begin."""
        return self.event is not None and not (self.under_way or self.happened) and time_s > self.cue_s + PATIENCE_S

    def build(self, road: Road, rng: np.random.Generator, length_m: float) -> RoadPlan:
        """The road, with those places to start from where the event can follow."""
        return build_road(road, rng, length_m)

    def style(self, style: Style) -> Style:
        """How to drive, so that the event can happen."""
        return style

    def cast(self, ego: EgoCar, cars: Traffic, style: Style, duration_s: float, rng: np.random.Generator) -> None:
        """Put whoever is needed on the road, before the rest of the traffic."""

    def driver(self, ego: EgoCar, style: Style, junction_edges: frozenset[Edge], rng: np.random.Generator) -> Driver:
        """Who drives the ego car."""
        return Driver(ego, style, junction_edges, rng)

    def direct(self, time_s: float, ego: EgoCar, driver: Driver) -> None:
        """Tell everybody what to do next; called once a step, before anybody acts."""

    def _ends(self) -> None:
        self.under_way, self.happened = False, True


class _CalmStage(Stage):
    """A stage whose ego driver does nothing else until the event is over."""

    def driver(self, ego: EgoCar, style: Style, junction_edges: frozenset[Edge], rng: np.random.Generator) -> StagedDriver:
        return StagedDriver(ego, style, junction_edges, rng)

    def direct(self, time_s: float, ego: EgoCar, driver: Driver) -> None:
        assert isinstance(driver, StagedDriver)
        if not self.happened:
            self._play(time_s, ego, driver)
        driver.calm = not self.happened

    def _play(self, time_s: float, ego: EgoCar, driver: StagedDriver) -> None:
        raise NotImplementedError


class _BesideStage(_CalmStage):
    """A stage that needs another lane on one side of the ego car's."""

    def __init__(self, name: str, side: int) -> None:
        """`name` of the event without its side; `side` 1 left, -1 right."""
        super().__init__()
        self.side = side
        self.event = cast(Event, f"{name}_{'left' if side == 1 else 'right'}")

    def build(self, road: Road, rng: np.random.Generator, length_m: float) -> RoadPlan:
        while True:
            plan = build_road(road, rng, length_m)
            starts = [
                replace(start, lanes=tuple(lane for lane in start.lanes if 0 <= lane - self.side < plan.lane_count))
                for start in _starts_on_main_road(plan)
            ]
            if any(start.lanes for start in starts):
                return replace(plan, starts=tuple(start for start in starts if start.lanes))


class CutIn(_BesideStage):
    """A car comes up in the lane beside, overtakes a little, and changes into the ego lane close ahead."""

    def style(self, style: Style) -> Style:
        return replace(style, bend_pace=min(style.bend_pace, 0.85), wished_mps=min(style.wished_mps, 25.0))

    def cast(self, ego: EgoCar, cars: Traffic, style: Style, duration_s: float, rng: np.random.Generator) -> None:
        self.cue_s = rng.uniform(4.0, max(4.0, duration_s - 7.5))
        self.gap_m, self.pace_mps = rng.uniform(4.5, 8.5), rng.uniform(2.5, 4.5)
        self.gain_mps = rng.uniform(0.5, 2.0)
        self.lurk_m = rng.uniform(-12.0, -5.0)
        self.settle_s, self.wished_mps = math.inf, cars.plan.speed_mps[1] * rng.uniform(0.8, 1.0)
        beside = (*ego.edges[0], ego.lane_index[2] - self.side)
        self.car = cars.cast(StagedCar, beside, ego.station_m + self.lurk_m, ego.speed)

    def _play(self, time_s: float, ego: EgoCar, driver: StagedDriver) -> None:
        assert self.car is not None
        car, lead = self.car, ego.lane_distance_to(self.car)
        wanted = self.gap_m + (ego.body_length_m + car.body_length_m) / 2
        if self.under_way:
            car.command_mps2 = _towards(car.speed, ego.speed + self.gain_mps)
            if car.lane_index == car.target_lane_index and abs(car.lateral_m) < 0.5:
                car.release(self.wished_mps)
                self._ends()
            return
        due = time_s >= self.cue_s - (wanted - self.lurk_m) / self.pace_mps - 1.5
        aim = wanted if due else self.lurk_m
        closing = min(max(0.7 * (aim + 1.0 - lead), -3.0), self.pace_mps)
        car.wished_mps, car.command_mps2 = 45.0, _towards(car.speed, ego.speed + closing)
        if time_s >= self.cue_s and abs(lead - wanted - 1.0) < 1.8 and self._may_cut_in(ego, lead):
            car.target_lane_index = ego.lane_index
            self.under_way = True

    def _may_cut_in(self, ego: EgoCar, lead_m: float) -> bool:
        assert self.car is not None
        front, _ = ego.road.neighbour_vehicles(ego)
        room = math.inf if front is None else ego.lane_distance_to(front) - front.body_length_m / 2
        same_road = self.car.edges[0] == ego.edges[0] and self.car.lane_index[2] == ego.lane_index[2] - self.side
        to_end = self.car.lane.length - self.car.station_m
        return same_road and to_end > self.car.speed and room > lead_m + self.car.body_length_m / 2 + 6.0 and _in_view(ego, self.car)


class HardBrake(_CalmStage):
    """The car ahead brakes hard to a third of its speed or less, lingers, and goes on."""

    event = "hard_brake"

    def build(self, road: Road, rng: np.random.Generator, length_m: float) -> RoadPlan:
        plan = build_road(road, rng, length_m)
        return replace(plan, starts=tuple(_starts_on_main_road(plan)))

    def style(self, style: Style) -> Style:
        """Near enough behind to see it well."""
        return replace(style, headway_s=min(style.headway_s, 1.0), wished_mps=min(style.wished_mps, 21.0))

    def cast(self, ego: EgoCar, cars: Traffic, style: Style, duration_s: float, rng: np.random.Generator) -> None:
        self.cue_s = rng.uniform(2.5, max(2.5, duration_s - 7.5))
        self.braking_mps2, self.share = rng.uniform(4.5, 6.5), rng.uniform(0.0, 0.35)
        self.linger_s, self.until_s, self.slow_mps = rng.uniform(0.6, 1.5), math.inf, 0.0
        self.headway_s, self.wished_mps = style.headway_s, cars.plan.speed_mps[1] * rng.uniform(0.7, 0.9)
        station = ego.station_m + self._wanted(ego.speed) + 5.0
        self.car = cars.cast(StagedCar, ego.lane_index, station, ego.speed)

    def _wanted(self, speed_mps: float) -> float:
        """Metres from bumper to bumper that the ego driver likes to keep, and a little more."""
        return 4.5 + self.headway_s * speed_mps

    def _play(self, time_s: float, ego: EgoCar, driver: StagedDriver) -> None:
        assert self.car is not None
        car, lead = self.car, ego.lane_distance_to(self.car)
        if self.under_way:
            if car.speed > self.slow_mps:
                car.command_mps2 = -self.braking_mps2
                self.until_s = time_s + self.linger_s
            else:
                car.command_mps2 = 0.0
            if time_s >= self.until_s:
                car.release(self.wished_mps)
                self._ends()
            return
        gap = lead - (ego.body_length_m + car.body_length_m) / 2
        catching_up = min(max(0.5 * (self._wanted(ego.speed) - gap), -2.5), 2.5)
        car.wished_mps, car.command_mps2 = 45.0, _towards(car.speed, ego.speed + catching_up)
        front, _ = ego.road.neighbour_vehicles(ego)
        if time_s >= self.cue_s and front is car and ego.speed > 6.0 and gap < self._wanted(ego.speed) + 4.0 and _in_view(ego, car):
            self.slow_mps = self.share * car.speed
            self.under_way = True


class LaneChange(_BesideStage):
    """The ego car changes lanes."""

    def cast(self, ego: EgoCar, cars: Traffic, style: Style, duration_s: float, rng: np.random.Generator) -> None:
        self.cue_s = rng.uniform(2.5, max(2.5, duration_s - 7.5))

    def _play(self, time_s: float, ego: EgoCar, driver: StagedDriver) -> None:
        if self.under_way and not driver.change:
            self._ends()
        elif not self.under_way and time_s >= self.cue_s and ego.speed > 5.0:
            self.under_way = driver.change_lane(self.side)


class Turn(Stage):
    """The ego car takes a given way through the first junction: an intersection or a roundabout."""

    def __init__(self, event: Event) -> None:
        super().__init__()
        self.event = event
        self.cue_s = 15.0
        self.junction: frozenset[Edge] = frozenset()

    def build(self, road: Road, rng: np.random.Generator, length_m: float) -> RoadPlan:
        plan = build_road(road, rng, length_m)
        self.junction = plan.junction_edges
        arms = {"turn_right": 1, "go_straight": 2, "turn_left": 3}[str(self.event)]  # arms lie counterclockwise
        routes = {start.edges[0]: _through(road, start.edges[0], arms) for start in plan.starts}
        near = (-25.0, -8.0) if road == "roundabout" else (-75.0, -25.0)
        return replace(plan, starts=tuple(Start(route, near, (0,)) for route in routes.values()))

    def direct(self, time_s: float, ego: EgoCar, driver: Driver) -> None:
        inside = ego.edges[0] in self.junction
        if self.under_way and not inside:
            self._ends()
        elif inside and not self.happened:
            self.under_way = True


class Exit(_CalmStage):
    """The ego car changes to the lane that leads off the motorway, and leaves on the slip road."""

    event = "exit"
    route = 0
    """Which of the exit road's starts to take."""
    OFF_M = 40.0
    """Where on the slip road it has left."""

    def build(self, road: Road, rng: np.random.Generator, length_m: float) -> RoadPlan:
        plan = build_exit_road(rng, length_m)
        return replace(plan, starts=(plan.starts[self.route],))

    def cast(self, ego: EgoCar, cars: Traffic, style: Style, duration_s: float, rng: np.random.Generator) -> None:
        self.cue_s = 12.0
        self.delay_m = rng.uniform(2.0, 25.0)

    def _play(self, time_s: float, ego: EgoCar, driver: StagedDriver) -> None:
        driver.leaves = True
        if ego.edges[0] in ego.road.network.exits:
            if ego.station_m > self.OFF_M:
                self._ends()
        elif not self.under_way and ego.edge_ahead(1) in ego.road.network.exits and ego.station_m > self.delay_m:
            self.under_way = driver.change_lane(-1)


class PassExit(Exit):
    """The ego car stays on the motorway where others might leave it."""

    event = "pass_exit"
    route = 1

    def _play(self, time_s: float, ego: EgoCar, driver: StagedDriver) -> None:
        beside = any(lane.forbidden for lane in ego.road.network.road(ego.edges[0]))
        if self.under_way and not beside:
            self._ends()
        self.under_way = beside and not self.happened


def stage_of(event: Event | None) -> Stage:
    """A new stage for an event; for None one on which nothing is staged."""
    if event is None:
        return Stage()
    if event in ("turn_left", "turn_right", "go_straight"):
        return Turn(event)
    if event.startswith(("cut_in", "change")):
        name, side = event.rsplit("_", 1)
        return {"cut_in": CutIn, "change": LaneChange}[name](name, 1 if side == "left" else -1)
    return {"hard_brake": HardBrake, "exit": Exit, "pass_exit": PassExit}[event]()


def _starts_on_main_road(plan: RoadPlan) -> Iterator[Start]:
    """Those that are on no slip road, with room for another car before and behind."""
    for start in plan.starts:
        lanes = plan.network.road(start.edges[0])
        if len(lanes) == plan.lane_count:
            low, high = start.station_m
            yield replace(start, station_m=(max(low, 20.0), min(high, lanes[0].length - 45.0)))


def _through(road: Road, inbound: Edge, arms: int) -> tuple[Edge, ...]:
    """The roads from an arm of a town's junction to the arm `arms` further counterclockwise, with the inbound one."""
    first = int(inbound[1].removeprefix("in"))
    last = (first + arms) % 4
    if road == "intersection":
        return inbound, (inbound[1], f"out{last}")
    ring = [(f"e{(first + arm) % 4}", f"x{(first + arm + 1) % 4}") for arm in range(arms)]
    across = [(f"x{(first + arm) % 4}", f"e{(first + arm) % 4}") for arm in range(1, arms)]
    inside = [edge for pair in zip(ring, [*across, (f"x{last}", f"out{last}")], strict=True) for edge in pair]
    return inbound, (inbound[1], f"e{first}"), *inside


def _towards(speed_mps: float, wanted_mps: float) -> float:
    """Acceleration that takes a car to a speed within a second or so."""
    return min(max(1.2 * (wanted_mps - speed_mps), -3.5), 3.0)


def _in_view(ego: EgoCar, car: StagedCar) -> bool:
    """Whether the camera sees the car, and sees it large enough."""
    to_car = car.position - ego.position
    aside = wrap_to_pi(math.atan2(to_car[1], to_car[0]) - ego.heading)
    return CLOSEST_M < float(np.hypot(*to_car)) < FARTHEST_M and abs(aside) < IN_VIEW_RAD
