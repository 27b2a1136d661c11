"""Roads: geometry in ISO axes, lanes that highway-env can use, maps whose paint lies on asphalt."""

import numpy as np
import pytest

from data.dashsim.config import ROADS
from data.dashsim.curves import arc, bezier, circuit, rounded, winding
from data.dashsim.lanes import COMFORT_BRAKING_MPS2, COMFORT_LATERAL_MPS2, SHOULDER_M, road_map
from data.dashsim.roads import build_road
from data.dashsim.streets import OnStreets, Streets
from data.dashsim.traffic import Traffic, TrafficCar


def plan_of(road, seed=0):
    return build_road(road, np.random.default_rng(seed), length_m=600.0)


def car_on(streets, edges, lane, station_m):
    network_lane = streets.lane((*edges[0], lane))
    car = TrafficCar(None, network_lane.position(station_m, 0.0), network_lane.heading_at(station_m), 10.0)
    car.settle(streets, edges, lane, np.random.default_rng(0))
    streets.vehicles.append(car)
    streets.refresh()
    return car


def test_an_arc_has_its_radius_and_a_left_turn_is_positive():
    left = arc(np.zeros(2), 20.0, 0.0, np.pi)
    np.testing.assert_allclose(left.curvatures_inv_m, 1 / 20, rtol=1e-3)
    assert left.length_m == pytest.approx(20 * np.pi, rel=1e-3)
    np.testing.assert_allclose(left.reversed().curvatures_inv_m, -1 / 20, rtol=1e-3)
    np.testing.assert_allclose(left.offset(5.0).curvatures_inv_m, 1 / 15, rtol=2e-3)


def test_a_bezier_meets_both_poses():
    start, end = np.array([1.0, 2.0]), np.array([14.0, 15.0])
    curve = bezier(start, 0.0, end, np.pi / 2)
    np.testing.assert_allclose(curve.points_m[[0, -1]], [start, end], atol=1e-9)
    np.testing.assert_allclose(curve.headings_rad[[0, -1]], [0.0, np.pi / 2], atol=0.02)
    assert 1 / np.abs(curve.curvatures_inv_m).max() > 11.0


@pytest.mark.parametrize("turn_deg, share", [(45, 2.8), (90, 0.9)])
def test_rounded_corners_have_the_radius_that_is_promised(turn_deg, share):
    turn = np.radians(turn_deg)
    corners = np.array([[-80.0, 0.0], [0.0, 0.0], [80 * np.cos(turn), 80 * np.sin(turn)]])
    curve = rounded(corners, softness_m=10.0)
    assert 1 / curve.curvatures_inv_m.max() == pytest.approx(10 * share, rel=0.08)
    np.testing.assert_allclose(curve.points_m[[0, -1]], corners[[0, -1]], atol=0.01)


def test_heading_and_curvature_are_those_of_the_points():
    rng = np.random.default_rng(0)
    for curve in (winding(rng, 800.0, (40, 100), (0.4, 1.5), (10, 50), 25.0), circuit(rng, 12.0)):
        steps = np.diff(curve.points_m, axis=0)
        headings = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
        middles = (curve.headings_rad[1:] + curve.headings_rad[:-1]) / 2
        np.testing.assert_allclose(np.sin(headings - middles), 0.0, atol=0.02)
        np.testing.assert_allclose(
            np.cumsum(curve.curvatures_inv_m)[-1] * curve.step_m, np.ptp(headings[[0, -1]]) * np.sign(headings[-1] - headings[0]), atol=0.2
        )


def test_a_circuit_is_closed_and_turns_once_round():
    for seed in range(5):
        curve = circuit(np.random.default_rng(seed), 12.0)
        np.testing.assert_allclose(curve.points_m[0], curve.points_m[-1], atol=0.01)
        assert abs(curve.headings_rad[-1] - curve.headings_rad[0]) == pytest.approx(2 * np.pi, abs=0.1)
        assert np.abs(curve.curvatures_inv_m).max() <= 1 / 12.0


@pytest.mark.parametrize("road", ROADS)
def test_lane_coordinates_are_inverse_to_positions_and_left_is_positive(road):
    rng = np.random.default_rng(1)
    for lane in plan_of(road).network.lanes_list():
        for station in rng.uniform(0, lane.length, 5):
            lateral = rng.uniform(-1.5, 1.5)
            point = lane.position(station, lateral)
            assert lane.local_coordinates(point) == pytest.approx((station, lateral), abs=0.05)
            heading = lane.heading_at(station)
            towards = lane.position(station, 1.0) - lane.position(station, 0.0)
            assert np.cos(heading) * towards[1] - np.sin(heading) * towards[0] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("road", ROADS)
def test_every_lane_leads_on_but_for_ends_of_long_roads_and_acceleration_lanes(road):
    plan = plan_of(road)
    streets = Streets(plan.network, np.random.default_rng(0))
    loops = road in ("roundabout", "intersection", "racetrack")
    for index, lane in plan.network.lanes().items():
        leads_on = [streets.following(index, edge) for edge in plan.network.roads_from(index[1])]
        assert all(leads_on) != lane.forbidden if leads_on else not loops
        for following in filter(None, leads_on):
            turn = streets.lane(following).heading_at(0.0) - lane.heading_at(lane.length)
            assert abs(np.sin(turn / 2)) < 0.05, (index, following)


@pytest.mark.parametrize("road", ROADS)
def test_paint_lies_on_asphalt_and_not_across_other_lanes(road):
    plan = plan_of(road, seed=2)
    drawn = road_map(plan.network, 0, plan.aprons)
    centres = [strip.centre_m for strip in drawn.lanes]
    for line in drawn.paint:
        to_lanes = np.array([np.hypot(*(line.points_m[:, None] - centre[None]).transpose(2, 0, 1)).min(1) for centre in centres])
        margins = to_lanes - np.array([strip.width_m / 2 - SHOULDER_M for strip in drawn.lanes])[:, None]
        assert np.abs(margins.min(0)).max() < 0.45, "a line is a lane's edge, or a little inside another lane where two part"


@pytest.mark.parametrize("road", ROADS)
def test_bends_are_taken_at_a_comfortable_speed_that_can_be_reached_in_time(road):
    for lane in plan_of(road).network.lanes_list():
        speed = lane.curve_speed_mps
        assert (speed**2 * np.abs(lane.curve.curvatures_inv_m) <= COMFORT_LATERAL_MPS2 + 1e-6).all()
        assert (-np.diff(speed**2) / (2 * lane.curve.step_m) <= COMFORT_BRAKING_MPS2 + 1e-6).all()


def test_traffic_keeps_to_the_right_and_goes_round_the_island_counterclockwise():
    plan = plan_of("roundabout")
    rings = [lane for (start, end, _), lane in plan.network.lanes().items() if start[0] + end[0] in ("xe", "ex")]
    assert all((lane.curve.curvatures_inv_m > 0).all() for lane in rings)
    two_way = plan_of("two_way").network
    (there,), (back,) = two_way.graph["a"]["b"], two_way.graph["c"]["d"]
    assert there.local_coordinates(back.position(back.length / 2, 0.0))[1] > 3.0, "who comes towards us is on our left"


def test_same_seed_same_road():
    for road in ROADS:
        first, second, other = (plan_of(road, seed).network.lanes_list() for seed in (5, 5, 6))
        assert all(np.array_equal(a.curve.points_m, b.curve.points_m) for a, b in zip(first, second, strict=True))
        assert len(first) != len(other) or not all(
            np.array_equal(a.curve.points_m, b.curve.points_m) for a, b in zip(first, other, strict=True)
        )


def test_neighbours_are_seen_across_the_joint_of_two_roads():
    plan = plan_of("racetrack", seed=1)
    streets = Streets(plan.network, np.random.default_rng(0))
    edges = [("t0", "t1"), ("t1", "t2")]
    length = streets.lane(("t0", "t1", 0)).length
    behind, ahead = car_on(streets, edges, 0, length - 8.0), car_on(streets, edges[1:], 0, 12.0)
    assert streets.neighbour_vehicles(behind) == (ahead, None)
    assert streets.neighbour_vehicles(ahead) == (None, behind)
    assert behind.lane_distance_to(ahead) == pytest.approx(20.0, abs=0.1)
    assert ahead.lane_distance_to(behind) == pytest.approx(-20.0, abs=0.1)


def test_cars_on_the_other_carriageway_are_no_neighbours():
    plan = plan_of("two_way")
    streets = Streets(plan.network, np.random.default_rng(0))
    ours = car_on(streets, [("a", "b")], 0, 100.0)
    oncoming = car_on(streets, [("c", "d")], 0, streets.lane(("c", "d", 0)).length - 130.0)
    assert np.hypot(*(ours.position - oncoming.position)) < 60
    assert streets.neighbour_vehicles(ours) == (None, None)


@pytest.mark.parametrize("density, least, most", [("none", 0, 0), ("light", 2, 7), ("heavy", 20, 32)])
def test_traffic_is_as_dense_as_asked(density, least, most):
    for seed in range(3):
        plan = plan_of("highway", seed)
        streets = Streets(plan.network, np.random.default_rng(0))
        lane = streets.lane(("a", "b", 0))
        ego = OnStreets(None, lane.position(180.0, 0.0), lane.heading_at(180.0), 20.0)
        ego.settle(streets, [("a", "b")], 0, np.random.default_rng(0))
        ego.target_speed, ego.car_id = 20.0, -1
        cars = Traffic(plan, streets, density, np.random.default_rng(seed))
        cars.populate(ego)
        assert least <= len(cars.cars) <= most
