"""The roads of dashsim, built as highway-env networks from seeded random geometry."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from data.dashsim.config import Road
from data.dashsim.curves import Curve, along, arc, bezier, chamfered, circuit, rounded, winding
from data.dashsim.lanes import DASHED, NONE, SOLID, CurveLane, Edge, LaneNetwork, settle_curve_speeds
from data.dashsim.scene import PaintLine


@dataclass(frozen=True)
class Start:
    """Where the ego car may begin."""

    edges: tuple[Edge, ...]
    """Its first roads; the driver picks further ones at random."""
    station_m: tuple[float, float]
    """Range of distances along the first of them."""
    lanes: tuple[int, ...]


@dataclass(frozen=True)
class RoadPlan:
    """A road network and how dashsim uses it."""

    network: LaneNetwork
    starts: tuple[Start, ...]
    speed_mps: tuple[float, float]
    """Range of the speeds that drivers want on straight stretches."""
    lane_count: int
    """Lanes for the ego's direction on its main road, as a caption would count them."""
    largest_traffic: int = 32
    """Most cars at a time."""
    crossings: bool = False
    """Whether paths cross, so that somebody has to give way."""
    junction_edges: frozenset[Edge] = frozenset()
    """Roads inside junctions: nobody starts there."""
    aprons: tuple[CurveLane, ...] = ()
    paint: tuple[PaintLine, ...] = ()


def build_road(road: Road, rng: np.random.Generator, length_m: float) -> RoadPlan:
    """A random road of the kind; those that are not loops can be driven for at least `length_m`."""
    builders: dict[Road, Callable[[np.random.Generator, float], RoadPlan]] = {
        "highway": _highway,
        "merge": _merge,
        "two_way": _two_way,
        "roundabout": _roundabout,
        "intersection": _intersection,
        "racetrack": _racetrack,
    }
    plan = builders[road](rng, length_m)
    settle_curve_speeds(plan.network)
    return plan


def _carriageway(network: LaneNetwork, edge: Edge, centre: Curve, lanes: int, width: float, speed: float, extra: bool = False) -> None:
    """Add `lanes` parallel lanes round a centre line, and with `extra` an acceleration lane to their right."""
    for lane in range(lanes + extra):
        offset = ((lanes - 1) / 2 - lane) * width
        left = SOLID if lane == 0 else DASHED
        right = SOLID if lane == lanes + extra - 1 else NONE
        network.add_lane(*edge, CurveLane(centre.offset(offset), width, (left, right), speed, offset, forbidden=lane == lanes))


def _two_directions(network: LaneNetwork, nodes: tuple[str, str, str, str], centre: Curve, width: float, speed: float) -> None:
    """Add one lane each way: nodes[0] -> nodes[1] along the centre line, nodes[2] -> nodes[3] against it."""
    there, back = centre.offset(-width / 2), centre.reversed().offset(-width / 2)
    network.add_lane(nodes[0], nodes[1], CurveLane(there, width, (DASHED, SOLID), speed, left_colour="yellow"))
    network.add_lane(nodes[2], nodes[3], CurveLane(back, width, (NONE, SOLID), speed))


def _main_road(rng: np.random.Generator, length_m: float) -> Curve:
    """The gentle bends of a motorway."""
    return winding(rng, length_m, radius_m=(120, 400), turn_rad=(0.3, 1.0), straight_m=(20, 100), easing_m=40)


def _highway(rng: np.random.Generator, length_m: float) -> RoadPlan:
    lanes = int(rng.integers(2, 5))
    network = LaneNetwork()
    _carriageway(network, ("a", "b"), _main_road(rng, length_m + 450), lanes, width=3.8, speed=33.0)
    start = Start((("a", "b"),), (160, 200), tuple(range(lanes)))
    return RoadPlan(network, (start,), speed_mps=(16, 30), lane_count=lanes)


def _merge(rng: np.random.Generator, length_m: float) -> RoadPlan:
    """A motorway with slip roads that join it from the right every few hundred metres."""
    lanes, width = int(rng.integers(2, 4)), 3.8
    main = _main_road(rng, length_m + 900)
    network, aprons, starts = LaneNetwork(), [], []
    stations = [0.0, float(rng.uniform(280, 340))]
    while stations[-1] + 700 < main.length_m:
        stations += [stations[-1] + rng.uniform(160, 220), stations[-1] + rng.uniform(430, 520)]
    stations.append(main.length_m)
    for index, (start, end) in enumerate(pairwise(stations)):
        joins = index % 2 == 1 and index < len(stations) - 2
        centre = main.piece(start, end)
        _carriageway(network, (f"m{index}", f"m{index + 1}"), centre, lanes, width, speed=33.0, extra=joins)
        if joins:
            side = -(lanes + 1) / 2 * width
            _slip_road(rng, network, index, centre.offset(side), width)
            aprons.append(_taper(centre, main.piece(end, min(end + 70, main.length_m)), side, width))
    starts = [Start((("s1", "r1"), ("r1", "m1"), ("m1", "m2")), (5, 40), (0,)), Start((("m0", "m1"),), (170, 230), tuple(range(lanes)))]
    return RoadPlan(network, tuple(starts), speed_mps=(15, 27), lane_count=lanes, aprons=tuple(aprons))


def _slip_road(rng: np.random.Generator, network: LaneNetwork, index: int, lane: Curve, width: float) -> None:
    """A slip road that bends round and runs into the acceleration lane whose centre line is given."""
    end, heading = lane.pose(0.0)
    ahead, left = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
    middle, turn = end - rng.uniform(85, 110) * ahead - rng.uniform(16, 24) * left, rng.uniform(0.25, 0.4)
    far, swing = middle - rng.uniform(60, 80) * (ahead * 0.7 + left * 0.7), turn + rng.uniform(0.2, 0.8)
    bend = bezier(far, heading + swing, middle, heading + turn)
    final = bezier(middle, heading + turn, end, heading)
    network.add_lane(f"s{index}", f"r{index}", CurveLane(bend, width, (SOLID, SOLID), 20.0))
    network.add_lane(f"r{index}", f"m{index}", CurveLane(final, width, (SOLID, SOLID), 24.0))


def _taper(zone: Curve, after: Curve, side_m: float, width: float) -> CurveLane:
    """Asphalt that narrows from the end of a lane beside the motorway, `side_m` off its middle, into its outermost lane."""
    outermost = side_m - math.copysign(width, side_m)
    start, heading = zone.offset(side_m).pose(zone.offset(side_m).length_m)
    end, end_heading = after.offset(outermost).pose(after.offset(outermost).length_m)
    return CurveLane(bezier(start, heading, end, end_heading), width, (NONE, SOLID) if side_m < 0 else (SOLID, NONE))


def build_exit_road(rng: np.random.Generator, length_m: float) -> RoadPlan:
    """A motorway with an exit ahead: a lane opens on its right, and a slip road carries that lane on and bends away.

    Its two starts are, in this order, on the way off (in the rightmost lane) and on the way past (in any lane).
    """
    lanes, width = int(rng.integers(2, 4)), 3.8
    side = -(lanes + 1) / 2 * width
    while True:
        main = _main_road(rng, length_m + 950)
        opens = float(round(rng.uniform(300, 380)))
        parts = opens + round(rng.uniform(95, 120))
        slip = _off_ramp(rng, main.piece(opens, parts).offset(side), length_m)
        if slip is not None and _parts_for_good(main, slip, (lanes + 1) * width):
            break
    network = LaneNetwork()
    before, zone = main.piece(0, opens), main.piece(opens, parts)
    _carriageway(network, ("m0", "m1"), before, lanes, width, speed=33.0)
    _carriageway(network, ("m1", "m2"), zone, lanes, width, speed=33.0, extra=True)
    _carriageway(network, ("m2", "m3"), main.piece(parts, main.length_m), lanes, width, speed=33.0)
    network.add_lane("m2", "e1", CurveLane(slip, width, (SOLID, SOLID), 24.0))
    network.exits.add(("m2", "e1"))
    routes = [(("m0", "m1"), ("m1", "m2"), ("m2", end)) for end in ("e1", "m3")]
    stations = (opens - 100, opens - 45)
    starts = (Start(routes[0], stations, (lanes - 1,)), Start(routes[1], stations, tuple(range(lanes))))
    apron = _taper(zone.reversed(), main.piece(opens - 70, opens).reversed(), -side, width)
    plan = RoadPlan(network, starts, speed_mps=(18, 27), lane_count=lanes, aprons=(apron,))
    settle_curve_speeds(plan.network)
    return plan


def _off_ramp(rng: np.random.Generator, lane: Curve, length_m: float) -> Curve | None:
    """The slip road that carries on a lane, bends to the right until it is well off the motorway's course, and winds on gently.

    None where it would hardly turn, or turn back.
    """
    start, heading = lane.pose(lane.length_m)
    parting = np.full(60, float(lane.curvatures_inv_m[-1]) - 1 / rng.uniform(260, 340))
    course = rng.uniform(-1.5, -1.1)
    turn, radius = heading + parting.sum() - course, rng.uniform(55, 90)
    if not 0.4 < turn < 1.6:
        return None
    pieces, side, total = [parting, np.full(round(turn * radius), -1 / radius)], rng.choice([-1.0, 1.0]), 0
    while total < 0.65 * length_m + 150:
        bend = np.full(round(rng.uniform(40, 70)), side / rng.uniform(120, 250))
        pieces += [np.zeros(round(rng.uniform(20, 60))), bend]
        side, total = -side, total + len(pieces[-1]) + len(pieces[-2])
    easing = np.ones(31) / 31
    return along(np.convolve(np.pad(np.concatenate(pieces), 15, mode="edge"), easing, mode="valid"), start, heading)


def _parts_for_good(main: Curve, slip: Curve, clearance_m: float) -> bool:
    """Whether a slip road stays clear of the motorway from 110 m after it has left it."""
    far, near = slip.points_m[110::4], main.points_m[::4]
    return bool(np.hypot(*(far[:, None] - near[None]).transpose(2, 0, 1)).min() > clearance_m)


def _two_way(rng: np.random.Generator, length_m: float) -> RoadPlan:
    centre = winding(rng, length_m + 400, radius_m=(32, 120), turn_rad=(0.4, 1.6), straight_m=(8, 60), easing_m=22)
    network = LaneNetwork()
    _two_directions(network, ("a", "b", "c", "d"), centre, width=float(rng.uniform(3.3, 3.7)), speed=24.0)
    return RoadPlan(network, (Start((("a", "b"),), (160, 180), (0,)),), speed_mps=(10, 22), lane_count=1)


def _racetrack(rng: np.random.Generator, length_m: float) -> RoadPlan:
    """A closed circuit of one to three lanes, all driven the same way round, in four parts."""
    lanes, width = int(rng.integers(1, 4)), float(rng.uniform(4.0, 4.6))
    centre = circuit(rng, smallest_radius_m=11.0 + lanes * 2.0)
    quarter = centre.length_m / 4
    network, starts = LaneNetwork(), []
    for part in range(4):
        edge = (f"t{part}", f"t{(part + 1) % 4}")
        _carriageway(network, edge, centre.piece(part * quarter, (part + 1) * quarter), lanes, width, speed=20.0)
        starts.append(Start((edge,), (0, quarter - 10), tuple(range(lanes))))
    return RoadPlan(network, tuple(starts), speed_mps=(8, 17), lane_count=lanes, largest_traffic=22)


def _town(rng: np.random.Generator, network: LaneNetwork, inner_m: float, width: float) -> list[float]:
    """Four arms round a junction at the origin, joined in pairs by two-way roads, so that a drive always comes back to it.

    Arm k is left by the lane that starts at node `out{k}` and reached by the one that ends at `in{k}`, both `inner_m` from the origin.
    Returns the directions of the arms.
    """
    turn = rng.uniform(0, 2 * np.pi)
    directions = [float(turn + arm * np.pi / 2 + rng.uniform(-0.06, 0.06)) for arm in range(4)]
    for first, second in ((0, 1), (2, 3)):
        u, v = (np.array([np.cos(directions[arm]), np.sin(directions[arm])]) for arm in (first, second))
        p, q = rng.uniform(75, 105, 2) + inner_m - 12
        middle = rng.uniform(0.85, 1.1) * (p * u + q * v)
        corners = chamfered(np.stack([inner_m * u, p * u, middle, q * v, inner_m * v]), cut_m=float(rng.uniform(16, 24)))
        centre = rounded(corners, softness_m=float(rng.uniform(8, 10)))
        nodes = (f"out{first}", f"in{second}", f"out{second}", f"in{first}")
        _two_directions(network, nodes, centre, width, speed=15.0)
    return directions


def _arm_poses(directions: list[float], inner_m: float, width: float) -> list[tuple[np.ndarray, float, np.ndarray, float]]:
    """Per arm: point and heading where its inbound lane ends, point and heading where its outbound lane starts."""
    poses = []
    for direction in directions:
        outward, left = np.array([np.cos(direction), np.sin(direction)]), np.array([-np.sin(direction), np.cos(direction)])
        poses.append((inner_m * outward + width / 2 * left, direction + np.pi, inner_m * outward - width / 2 * left, direction))
    return poses


def _across(point_m: np.ndarray, heading_rad: float, width: float, dashed: bool) -> PaintLine:
    """A line across a lane: where to stop, or dashed, where to give way."""
    left = np.array([-np.sin(heading_rad), np.cos(heading_rad)])
    steps = np.linspace(0.45, -0.45, 10)[:, None] * width
    return PaintLine(point_m + steps * left, dashed, width_m=0.4)


def _town_starts(junction: list[Edge]) -> tuple[Start, ...]:
    """On the way to the junction, near enough to reach it soon; each pair of arms is joined by about 180 m or more."""
    inbound = [("out1", "in0"), ("out0", "in1"), ("out3", "in2"), ("out2", "in3")]
    return tuple(Start((edge, turn), (-75, -25), (0,)) for edge in inbound for turn in junction if turn[0] == edge[1])


def _intersection(rng: np.random.Generator, length_m: float) -> RoadPlan:
    width, inner = 3.7, float(rng.uniform(14, 18))
    network = LaneNetwork()
    poses = _arm_poses(_town(rng, network, inner, width), inner, width)
    junction = []
    for arm, (stop, heading, _, _) in enumerate(poses):
        for turn, priority in ((1, 1), (2, 1), (3, 0)):
            # Counterclockwise neighbours lie to the right of who drives in: arm + 1 is a right turn, arm + 3 a left one, which gives way.
            other = (arm + turn) % 4
            curve = bezier(stop, heading, poses[other][2], poses[other][3])
            major = 2 * (arm % 2)
            edge = (f"in{arm}", f"out{other}")
            kerb = SOLID if turn == 1 else NONE
            network.add_lane(*edge, CurveLane(curve, width, (NONE, kerb), 12.0, priority=priority + major))
            junction.append(edge)
    paint = tuple(_across(stop, heading, width, dashed=False) for stop, heading, _, _ in poses)
    return RoadPlan(network, _town_starts(junction), (7, 13), 1, 9, crossings=True, junction_edges=frozenset(junction), paint=paint)


def _roundabout(rng: np.random.Generator, length_m: float) -> RoadPlan:
    """One wide lane round an island, driven counterclockwise; whoever is in it goes first."""
    width, ring_width, radius = 3.7, 5.0, float(rng.uniform(15, 24))
    inner = radius + float(rng.uniform(17, 22))
    network = LaneNetwork()
    directions = _town(rng, network, inner, width)
    poses = _arm_poses(directions, inner, width)
    opening = 0.36 + 3.0 / radius
    junction: list[Edge] = []
    for arm, (stop, heading, leave, leave_heading) in enumerate(poses):
        entry, exit_, following = (directions[arm] + opening, directions[arm] - opening, directions[(arm + 1) % 4] - opening)
        following += 2 * np.pi * (following < entry - np.pi / 2)
        for edge, start, end in (((f"x{arm}", f"e{arm}"), exit_, entry), ((f"e{arm}", f"x{(arm + 1) % 4}"), entry, following)):
            ring = arc(np.zeros(2), radius, start, end)
            network.add_lane(*edge, CurveLane(ring, ring_width, (SOLID, SOLID), 12.0, priority=2))
            junction.append(edge)
        for edge, curve, priority in (
            ((f"in{arm}", f"e{arm}"), _onto_ring(stop, heading, radius, entry, 1), 0),
            ((f"x{arm}", f"out{arm}"), _onto_ring(leave, leave_heading, radius, exit_, -1), 2),
        ):
            network.add_lane(*edge, CurveLane(curve, width, (SOLID, SOLID), 12.0, priority=priority))
            junction.append(edge)
    paint = tuple(_across(stop, heading, width, dashed=True) for stop, heading, _, _ in poses)
    return RoadPlan(network, _town_starts(junction), (7, 13), 1, 9, crossings=True, junction_edges=frozenset(junction), paint=paint)


def _onto_ring(arm_m: np.ndarray, arm_rad: float, radius_m: float, angle_rad: float, way: int) -> Curve:
    """The curve from an arm's lane onto the ring (way 1), or off it onto an arm's lane (way -1)."""
    point = radius_m * np.array([np.cos(angle_rad), np.sin(angle_rad)])
    tangent = angle_rad + np.pi / 2
    return bezier(arm_m, arm_rad, point, tangent) if way == 1 else bezier(point, tangent, arm_m, arm_rad)
