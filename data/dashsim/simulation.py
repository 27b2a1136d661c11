"""One drive: the step loop that turns a seed into snapshots of the world, channels and truth."""

import math
import warnings
from dataclasses import dataclass, field

import numpy as np
from highway_env.utils import wrap_to_pi

from data.dashsim.config import Road, Traffic
from data.dashsim.driver import EgoCar, Style, place_ego
from data.dashsim.events import EVENTS, Event
from data.dashsim.lanes import road_map
from data.dashsim.right_of_way import RightOfWay
from data.dashsim.roads import RoadPlan
from data.dashsim.scene import RoadMap, Snapshot
from data.dashsim.staging import Stage, stage_of
from data.dashsim.streets import OnStreets, Streets
from data.dashsim.traffic import Traffic as Cars

ATTEMPTS = 20
"""How often an event is staged until it happens."""
NO_LEAD_M = 100.0
"""lead_distance_m where nobody is ahead within it."""

TRUTH = (
    "lateral_offset_m",
    "heading_error_rad",
    "lead_distance_m",
    "lead_speed_mps",
    "crashed",
    "off_road",
    "reward",
    "done",
    "x_m",
    "y_m",
    "yaw_rad",
    "curvature_inv_m",
    "lane_index",
    "lane_count",
    "lane_change",
    "in_junction",
    "cars_near",
    "event",
)
"""Names of the truth of each step, in the order of Recording.truth.

lateral_offset_m: from the centre of the lane that it is on, positive to the left. heading_error_rad: from that lane's direction.
lead_distance_m: bumper to bumper along the lane, NO_LEAD_M where nobody is nearer. reward: pace towards the road's top speed times
how well it is centred (0 to 1), 0 off the road, -1 at a crash. done: 1 on the last step of a drive. lane_index: 0 is the leftmost.
lane_change: 1 to the left, -1 to the right, 0 none. cars_near: other cars within 60 m.
event: events.code_of the staged event while it is under way, 0 at all other times.
"""


@dataclass(frozen=True, eq=False)
class Recording:
    """All that happened in a drive of T steps; pictures are rendered from it."""

    road_map: RoadMap
    lane_count: int
    """Lanes in the ego car's direction on its main road."""
    snapshots: tuple[Snapshot, ...]
    telemetry: np.ndarray
    """(T, 2) float32: speed_mps and yaw_rate_rps. The yaw rate of step t is that of the interval that ends at frame t."""
    actions: np.ndarray
    """(T, 2) float32: steering_rad and acceleration_mps2, which act between frame t and frame t + 1."""
    truth: dict[str, np.ndarray] = field(default_factory=dict)
    """{name: (T,) float32} for every name in TRUTH."""
    event: Event | None = None
    """What was staged, and happened."""
    event_car_id: int | None = None
    """The car that made it happen, where another car did."""


def simulate(
    road: Road,
    traffic: Traffic,
    steps: int,
    seed: int,
    fps: float = 10.0,
    noise: float = 1.0,
    event: Event | None = None,
    strays: bool = False,
) -> Recording:
    """Drive `steps` steps, fewer where the car crashes. The same arguments give the same recording, bit for bit.

    An `event` is staged again and again, with another road and other drivers, until it happens in a drive without a crash. In the
    rare case that it never does, a warning says so and the drive is the ordinary one of that seed. A driver who `strays` leaves the
    road now and then and comes back.
    """
    for attempt in range(ATTEMPTS if event else 0):
        rng = np.random.default_rng([seed, EVENTS.index(event), attempt])
        recording = _Simulation(road, traffic, steps, rng, 1.0 / fps, noise, stage_of(event)).run(steps, map_seed=seed % 2**31)
        if recording.event:
            return recording
    if event:
        warnings.warn(f"dashsim: {event} did not come about on {road} in {steps} steps with seed {seed}: an ordinary drive", stacklevel=2)
    return _Simulation(road, traffic, steps, np.random.default_rng(seed), 1.0 / fps, noise, Stage(), strays).run(
        steps, map_seed=seed % 2**31
    )


class _Simulation:
    def __init__(
        self,
        road: Road,
        traffic: Traffic,
        steps: int,
        rng: np.random.Generator,
        dt: float,
        noise: float,
        stage: Stage,
        strays: bool = False,
    ) -> None:
        self.dt, self.stage = dt, stage
        road_rng, car_rng, driver_rng, start_rng = rng.spawn(4)
        self.plan: RoadPlan = stage.build(road, road_rng, length_m=steps * dt * 34.0)
        self.road = Streets(self.plan.network, car_rng)
        self.ego = self._place(start_rng, noise)
        self.road.vehicles[:] = [self.ego]
        self.road.refresh()
        style = stage.style(Style.draw(driver_rng, self.plan.speed_mps, noise))
        self.ego.speed = self.ego.target_speed = style.wished_mps * start_rng.uniform(0.6, 1.05)
        self.cars = Cars(self.plan, self.road, traffic, car_rng)
        stage.cast(self.ego, self.cars, style, steps * dt, start_rng)
        self.cars.populate(self.ego)
        self.right_of_way = RightOfWay(self.road)
        self.driver = stage.driver(self.ego, style, self.plan.junction_edges, driver_rng)
        self.driver.strays = strays
        self.yaw_rate = self.ego.speed * self.ego.lane.curvature_at(self.ego.station_m)

    def _place(self, rng: np.random.Generator, noise: float) -> EgoCar:
        start = self.plan.starts[int(rng.integers(len(self.plan.starts)))]
        lane = int(rng.choice(start.lanes))
        station = rng.uniform(*start.station_m)
        if station < 0:
            station += self.road.lane((*start.edges[0], lane)).length
        return place_ego(self.road, list(start.edges), lane, station, rng, off_centre=noise > 0 and rng.random() < 0.4)

    def run(self, steps: int, map_seed: int) -> Recording:
        snapshots, telemetry, actions, truth = [], [], [], []
        for step in range(steps):
            self.stage.direct(step * self.dt, self.ego, self.driver)
            held = self.right_of_way.holds() if self.plan.crossings else {}
            action = self.driver.act(self.dt, held.get(self.ego.car_id, math.inf))
            snapshots.append(self._snapshot(step))
            telemetry.append((self.ego.speed, self.yaw_rate))
            actions.append(action)
            truth.append(self._truth(last=step == steps - 1))
            if self._crashed() or self.stage.hopeless(step * self.dt):
                break
            self._advance(action, held)
        return Recording(
            road_map=road_map(self.plan.network, map_seed, self.plan.aprons, self.plan.paint),
            lane_count=self.plan.lane_count,
            snapshots=tuple(snapshots),
            telemetry=np.array(telemetry, np.float32),
            actions=np.array(actions, np.float32),
            truth={name: np.array([row[name] for row in truth], np.float32) for name in TRUTH},
            event=self.stage.event if self.stage.happened and not truth[-1]["crashed"] else None,
            event_car_id=self.stage.car.car_id if self.stage.car else None,
        )

    def _advance(self, action: tuple[float, float], held: dict[int, float]) -> None:
        for car in self.cars.cars:
            car.stop_within_m = held.get(car.car_id, math.inf)
            car.act()
        self.ego.action = {"steering": action[0], "acceleration": action[1]}
        before = self.ego.heading
        self.road.step(self.dt)
        self.yaw_rate = (self.ego.heading - before) / self.dt
        self.cars.renew(self.ego)

    def _crashed(self) -> bool:
        return any(_touch(self.ego, car) for car in self.cars.cars)

    def _snapshot(self, step: int) -> Snapshot:
        x, y = self.ego.position
        near = [car.state for car in self.cars.cars if np.hypot(*(car.position - self.ego.position)) < 155.0]
        return Snapshot(step * self.dt, float(x), float(y), float(self.ego.heading), float(self.ego.speed), tuple(near))

    def _truth(self, last: bool) -> dict[str, float]:
        ego, lane = self.ego, self.ego.lane
        crashed, off_road = self._crashed(), abs(ego.lateral_m) > lane.width / 2
        front, _ = self.road.neighbour_vehicles(ego)
        gap = NO_LEAD_M if front is None else ego.lane_distance_to(front) - (ego.body_length_m + front.body_length_m) / 2
        pace = min(ego.speed / self.plan.speed_mps[1], 1.0) / (1 + ego.lateral_m**2)
        return {
            "lateral_offset_m": ego.lateral_m,
            "heading_error_rad": wrap_to_pi(ego.heading - lane.heading_at(ego.station_m)),
            "lead_distance_m": min(max(gap, 0.0), NO_LEAD_M),
            "lead_speed_mps": front.speed if front is not None and gap < NO_LEAD_M else 0.0,
            "crashed": crashed,
            "off_road": off_road,
            "reward": -1.0 if crashed else 0.0 if off_road else pace,
            "done": crashed or last,
            "x_m": ego.position[0],
            "y_m": ego.position[1],
            "yaw_rad": ego.heading,
            "curvature_inv_m": lane.curvature_at(ego.station_m),
            "lane_index": ego.lane_index[2],
            "lane_count": len(self.road.network.road(ego.edges[0])),
            "lane_change": self.driver.change,
            "in_junction": ego.edges[0] in self.plan.junction_edges,
            "cars_near": sum(np.hypot(*(car.position - ego.position)) < 60.0 for car in self.cars.cars),
            "event": self.stage.code,
        }


def _touch(one: OnStreets, two: OnStreets) -> bool:
    """Whether two bodies overlap: no line along a side of either keeps them apart."""
    if np.hypot(*(one.position - two.position)) > (one.body_length_m + two.body_length_m) / 2 + 1.5:
        return False
    for heading in (one.heading, one.heading + math.pi / 2, two.heading, two.heading + math.pi / 2):
        axis = np.array([math.cos(heading), math.sin(heading)])
        first, second = one.corners() @ axis, two.corners() @ axis
        if first.max() < second.min() or second.max() < first.min():
            return False
    return True
