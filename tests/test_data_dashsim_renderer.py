"""The dash camera's laws: pictures are a function of the snapshot alone, the world stands still, masks say what is seen."""

from dataclasses import replace
from itertools import combinations

import cv2
import numpy as np
import pytest

from data.dashsim.camera import Camera, CameraConfig, Pose
from data.dashsim.renderer import MASKS, Renderer
from data.dashsim.roadside import place
from data.dashsim.scene import TIMES_OF_DAY, WEATHERS, CarState, Conditions, LaneStrip, PaintLine, RoadMap, Snapshot

DEFAULT_CAMERA = CameraConfig()
DAY = Conditions("clear", "day")


def shifted(centre: np.ndarray, left_m: float) -> np.ndarray:
    """(N, 2) line moved to its left."""
    tangent = np.gradient(centre, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    return centre + left_m * np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)


def highway(seed: int = 1) -> RoadMap:
    """Four lanes along +x, y from 0 to -16, with points 50 m apart."""
    centre = np.stack([np.linspace(0, 1000, 21), np.zeros(21)], axis=1)
    lanes = tuple(LaneStrip(shifted(centre, -2.0 - 4 * lane), 4.0) for lane in range(4))
    paint = tuple(PaintLine(shifted(centre, -4.0 * line), dashed=0 < line < 4) for line in range(5))
    return RoadMap(lanes, paint, seed)


def winding_road(seed: int = 2) -> RoadMap:
    """Two lanes with a yellow line between them."""
    along = np.arange(0, 600, 3.0)
    yaw = np.cumsum(0.054 * np.sin(along / 45))
    centre = np.cumsum(3 * np.stack([np.cos(yaw), np.sin(yaw)], axis=1), axis=0)
    lanes = (LaneStrip(shifted(centre, -1.8), 3.6), LaneStrip(shifted(centre, 1.8)[::-1], 3.6))
    edges = tuple(PaintLine(shifted(centre, left), dashed=False) for left in (-3.6, 3.6))
    return RoadMap(lanes, (*edges, PaintLine(centre, dashed=False, colour="yellow")), seed)


def roundabout(seed: int = 3) -> RoadMap:
    """A ring of two lanes and four arms."""
    angle = np.linspace(0, 2 * np.pi, 80)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lanes = [LaneStrip(radius * circle, 4.0) for radius in (24.0, 28.0)]
    for out in np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]):
        aside = np.array([-out[1], out[0]])
        lanes += [LaneStrip(np.stack([28 * out + left * aside, 200 * out + left * aside]), 4.0) for left in (-2.0, 2.0)]
    return RoadMap(tuple(lanes), (PaintLine(22 * circle, False), PaintLine(26 * circle, True)), seed)


def crossing(seed: int = 4) -> RoadMap:
    """Two roads that cross at the origin."""
    lanes, paint = [], []
    for out in np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]):
        aside = np.array([-out[1], out[0]])
        lanes += [LaneStrip(np.stack([left * aside, 150 * out + left * aside]), 4.0) for left in (-2.0, 2.0)]
        paint.append(PaintLine(np.stack([10 * out, 150 * out]), dashed=True, colour="yellow"))
    return RoadMap(tuple(lanes), tuple(paint), seed)


TRAFFIC = (
    CarState(1, 112.0, -6.0, 0.0),
    CarState(2, 125.0, -2.0, 0.0, braking=True),
    CarState(3, 120.0, -10.0, 0.0, length_m=7.0, width_m=2.2, height_m=2.9),
    CarState(4, 103.0, -2.0, 0.05),
)
SNAPSHOT = Snapshot(3.0, 100.0, -6.0, 0.02, 20.0, TRAFFIC)


def picture(
    road: RoadMap, snapshot: Snapshot, conditions: Conditions = DAY, camera: CameraConfig = DEFAULT_CAMERA, seed: int = 0
) -> np.ndarray:
    return Renderer(road, conditions, camera, seed).render(snapshot)


def brightness(pixels: np.ndarray) -> float:
    return float(pixels.astype(np.float64).mean())


@pytest.mark.parametrize("conditions", [Conditions("rain", "night"), Conditions("snow", "day"), Conditions("clear", "dusk")])
def test_a_picture_is_a_function_of_its_snapshot_alone(conditions):
    fresh = picture(highway(), SNAPSHOT, conditions)
    used = Renderer(highway(), conditions, CameraConfig(), 0)
    for step in range(4):
        used.render(replace(SNAPSHOT, time_s=step / 10, x_m=200.0 + 2 * step, yaw_rad=-0.1 * step, cars=()))
        used.masks(replace(SNAPSHOT, x_m=50.0))
    assert fresh.dtype == np.uint8 and fresh.shape == (64, 128, 3)
    np.testing.assert_array_equal(used.render(SNAPSHOT), fresh)
    np.testing.assert_array_equal(used.render(SNAPSHOT), fresh)


def test_every_pair_of_conditions_gives_another_picture():
    snapshot = Snapshot(2.0, 30.0, -1.8, 0.1, 10.0, ())
    pictures = {(w, t): picture(winding_road(), snapshot, Conditions(w, t)) for w in WEATHERS for t in TIMES_OF_DAY}
    assert len(pictures) == 15
    for one, other in combinations(pictures, 2):
        difference = np.abs(pictures[one].astype(int) - pictures[other]).mean()
        assert difference > 2.0, f"{one} and {other} differ by {difference:.2f} only"


@pytest.mark.parametrize(("height", "width"), [(48, 80), (128, 256), (61, 99)])
@pytest.mark.parametrize("supersample", [1, 2, 3])
def test_any_size_shows_the_same_view(height, width, supersample):
    config = CameraConfig(height=height, width=width, supersample=supersample)
    image = picture(highway(), SNAPSHOT, camera=config)
    assert image.shape == (height, width, 3)
    # Width decides the scale, so that heights are cut or added around the middle.
    rows = round(height * 128 / width)
    reference = picture(highway(), SNAPSHOT, camera=CameraConfig(height=rows, width=128))
    small = cv2.resize(image, (32, 16), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(small - cv2.resize(reference, (32, 16), interpolation=cv2.INTER_AREA)).mean() < 8.0


def test_lines_are_drawn_where_the_camera_projects_them():
    """To a quarter of a pixel: the centre of mass, row by row, of what a line adds to the picture."""
    line = np.array([[0.0, 0.0], [200.0, 0.0]])
    lanes = (LaneStrip(line, 12.0),)
    snapshot = Snapshot(0.0, 10.0, -1.0, 0.0, 5.0, ())
    bare = picture(RoadMap(lanes, (), 1), snapshot).astype(float)
    painted = picture(RoadMap(lanes, (PaintLine(line, dashed=False),), 1), snapshot)
    added = np.abs(painted - bare).sum(axis=-1)
    points = np.stack([np.linspace(13.0, 50.0, 4000), np.zeros(4000)], axis=1)
    projected = Camera(DEFAULT_CAMERA).project(points, Pose.of_car(DEFAULT_CAMERA, 10.0, -1.0, 0.0))
    for row in range(33, 62):
        centre = (added[row] * (np.arange(128) + 0.5)).sum() / added[row].sum()
        expected = np.interp(row + 0.5, projected[::-1, 1], projected[::-1, 0])
        assert abs(centre - expected) < 0.25, f"row {row}: {centre:.2f}, expected {expected:.2f}"


@pytest.mark.parametrize("conditions", [DAY, Conditions("overcast", "day")])
def test_the_world_stands_still_while_the_camera_moves(conditions):
    """What one picture shows of the ground is found in the next where projection puts it."""
    camera, road = CameraConfig(height=128, width=256), winding_road()
    renderer = Renderer(road, replace(conditions), camera, 0)
    start = Snapshot(0.0, 60.0, 10.0, 0.1, 10.0, ())
    moved = replace(start, time_s=0.1, x_m=60.6, y_m=10.2, yaw_rad=0.13)
    grid = Camera(camera).ground_grid()[20:]
    cos, sin = np.cos(start.yaw_rad), np.sin(start.yaw_rad)
    pose = Pose.of_car(camera, start.x_m, start.y_m, start.yaw_rad)
    world = np.stack([pose.x_m + cos * grid[..., 0] - sin * grid[..., 1], pose.y_m + sin * grid[..., 0] + cos * grid[..., 1]], axis=-1)
    pixels = Camera(camera).project(world, Pose.of_car(camera, moved.x_m, moved.y_m, moved.yaw_rad)).astype(np.float32)
    seen = (pixels > 1).all(axis=-1) & (pixels < [254, 126]).all(axis=-1)
    first, second = (renderer.render(s).astype(np.float32) for s in (start, moved))
    warped = cv2.remap(second, pixels[..., 0] - 0.5, pixels[..., 1] - 0.5, cv2.INTER_LINEAR)
    rest = np.abs(warped - first[-len(grid) :])[seen].mean()
    assert rest < 0.35 * np.abs(second - first)[-len(grid) :][seen].mean()


def test_far_scenery_turns_with_the_camera_only():
    """Sky and hills depend on yaw, not on place."""
    renderer = Renderer(winding_road(), DAY, CameraConfig(), 0)
    here, there = (renderer.render(Snapshot(0.0, x, 400.0, 0.5, 0.0, ())) for x in (2000.0, 2500.0))  # no trees out there
    np.testing.assert_array_equal(here[:28], there[:28])
    assert (renderer.render(Snapshot(0.0, 2000.0, 400.0, 0.6, 0.0, ()))[:28] != here[:28]).any()


@pytest.mark.parametrize("road", [highway(), winding_road(), roundabout(), crossing()])
def test_nothing_grows_on_asphalt(road):
    plants, posts = place(road, np.random.default_rng(0))
    assert len(plants.xy_m) > 10 and len(posts) > 4
    for lane in road.lanes:
        steps = np.linspace(0, len(lane.centre_m) - 1, 4000)
        line = np.stack([np.interp(steps, np.arange(len(lane.centre_m)), lane.centre_m[:, axis]) for axis in range(2)], axis=-1)
        for spots in (plants.xy_m, posts):
            distance = np.linalg.norm(spots[:, None] - line[None], axis=-1).min(axis=1)
            assert distance.min() > lane.width_m / 2


def test_scenery_follows_the_seed_of_the_road():
    snapshot = replace(SNAPSHOT, cars=())
    assert (picture(highway(1), snapshot) != picture(highway(5), snapshot)).any()


def test_changing_the_colour_of_paint_changes_pixels_near_the_paint_mask_only():
    white = highway()
    yellow = replace(white, paint=tuple(replace(line, colour="yellow") for line in white.paint))
    as_white = picture(white, SNAPSHOT).astype(int)
    changed = np.abs(as_white - picture(yellow, SNAPSHOT)).max(axis=-1) > 4
    paint = Renderer(white, DAY, CameraConfig(), 0).masks(SNAPSHOT)["paint"]
    assert paint.sum() > 20
    assert changed[paint].all()
    bare = replace(white, paint=())
    touched = np.abs(as_white - picture(bare, SNAPSHOT)).max(axis=-1) > 0
    assert not (changed & ~touched).any()


def test_masks_are_where_the_picture_changes_when_cars_leave():
    renderer = Renderer(highway(), Conditions("overcast", "day"), CameraConfig(), 0)
    with_cars, without = renderer.render(SNAPSHOT), renderer.render(replace(SNAPSHOT, cars=()))
    masks = renderer.masks(SNAPSHOT)
    assert set(masks) == set(MASKS)
    assert all(mask.dtype == bool and mask.shape == (64, 128) for mask in masks.values())
    changed = np.abs(with_cars.astype(int) - without).max(axis=-1) > 12
    assert masks["cars"].sum() > 200
    assert changed[masks["cars"]].mean() > 0.95


def test_a_car_hides_paint_and_road_and_masks_do_not_overlap():
    renderer = Renderer(highway(), DAY, CameraConfig(), 0)
    on_line = (CarState(1, 112.0, -4.0, 0.0),)
    free, hidden = renderer.masks(replace(SNAPSHOT, cars=())), renderer.masks(replace(SNAPSHOT, cars=on_line))
    assert (free["paint"] & hidden["cars"]).any()
    for standing in ("cars", "trees"):
        assert not (hidden[standing] & (hidden["paint"] | hidden["road"])).any()
    assert not (hidden["paint"] & ~hidden["road"]).any()
    assert not (hidden["cars"] & hidden["trees"]).any()


def test_fog_hides_far_cars_and_clear_air_does_not():
    car = replace(SNAPSHOT, y_m=-6.0, yaw_rad=0.0, cars=(CarState(1, 210.0, -6.0, 0.0, height_m=2.9),))
    effect = {}
    for weather in ("clear", "fog"):
        renderer = Renderer(highway(), Conditions(weather, "day"), CameraConfig(), 0)
        here, gone = renderer.render(car).astype(int), renderer.render(replace(car, cars=())).astype(int)
        mask = renderer.masks(car)["cars"]
        assert mask.any()
        effect[weather] = np.abs(here - gone)[mask].mean()
    assert effect["clear"] > 10
    assert effect["fog"] < 4


@pytest.mark.parametrize("time_of_day", ["day", "night"])
def test_cars_show_red_behind_and_white_ahead(time_of_day):
    renderer = Renderer(highway(), Conditions("overcast", time_of_day), CameraConfig(), 0)
    for yaw, is_red in ((0.0, True), (np.pi, False)):
        snapshot = replace(SNAPSHOT, yaw_rad=0.0, cars=(CarState(3, 112.0, -6.0, yaw, braking=is_red),))
        mask = renderer.masks(snapshot)["cars"]
        pixels = renderer.render(snapshot)[mask].astype(int)
        red = ((pixels[:, 0] > 180) & (pixels[:, 0] - pixels[:, 1] > 110)).any()
        white = (pixels.min(axis=1) > 140).any()
        assert red == is_red
        assert white or is_red


def test_brake_lights_are_brighter_than_tail_lights_at_night():
    renderer = Renderer(highway(), Conditions("clear", "night"), CameraConfig(), 0)
    on, off = (renderer.render(replace(SNAPSHOT, cars=(CarState(1, 112.0, -6.0, 0.0, braking=b),))) for b in (True, False))
    assert on[..., 0].astype(int).sum() > off[..., 0].astype(int).sum() + 1000


def test_headlights_light_the_road_ahead_at_night_and_nothing_beside_it():
    image = picture(highway(), replace(SNAPSHOT, yaw_rad=0.0, cars=()), Conditions("clear", "night"))
    assert brightness(image[44:56, 50:78]) > 3 * brightness(image[30:33, 4:30])


def test_wet_asphalt_mirrors_the_lights_of_cars():
    car = replace(SNAPSHOT, yaw_rad=0.0, cars=(CarState(1, 112.0, -6.0, 0.0, braking=True),))
    glow = {}
    for weather in ("rain", "overcast"):
        renderer = Renderer(highway(), Conditions(weather, "night"), CameraConfig(), 0)
        difference = renderer.render(car).astype(int) - renderer.render(replace(car, cars=()))
        glow[weather] = difference[46:54, 54:74, 0].mean()
    assert glow["rain"] > 3 * max(glow["overcast"], 1.0)


def test_snow_covers_the_verge():
    snapshot = replace(SNAPSHOT, yaw_rad=0.6, cars=())
    ground = {w: picture(highway(), snapshot, Conditions(w, "day"))[34:40] for w in ("snow", "overcast")}
    assert brightness(ground["snow"]) > brightness(ground["overcast"]) + 40


def test_sun_casts_shadows_and_an_overcast_sky_does_not():
    car = replace(SNAPSHOT, yaw_rad=0.0, cars=(CarState(1, 112.0, -6.0, 0.0),))
    darkened = {}
    for weather in ("clear", "overcast"):
        renderer = Renderer(highway(), Conditions(weather, "day"), CameraConfig(), 0)
        difference = renderer.render(car).astype(int).sum(axis=-1) - renderer.render(replace(car, cars=())).astype(int).sum(axis=-1)
        darkened[weather] = ((difference < -40) & ~renderer.masks(car)["cars"]).sum()
    assert darkened["clear"] > 1.5 * darkened["overcast"]


@pytest.mark.parametrize("weather", ["rain", "snow"])
def test_drops_and_flakes_keep_their_path(weather):
    """Within a hundredth of a second they hardly move; they are other ones with another seed, and few."""
    still = replace(SNAPSHOT, speed_mps=0.0)
    now, soon, later = (picture(highway(), replace(still, time_s=t), Conditions(weather, "dusk")).astype(int) for t in (3.0, 3.01, 3.5))
    assert 0 < np.abs(soon - now).mean() < 0.4 * np.abs(later - now).mean()
    other = picture(highway(), still, Conditions(weather, "dusk"), seed=1).astype(float)
    psnr = 10 * np.log10(255**2 / np.mean((other - now) ** 2))
    assert psnr > 32  # particles alone do not cap what a tokenizer can reach


def test_dashes_are_where_the_line_says_and_absent_in_the_gaps():
    line = PaintLine(np.array([[0.0, 0.0], [200.0, 0.0]]), dashed=True)
    road = RoadMap((LaneStrip(np.array([[0.0, 0.0], [200.0, 0.0]]), 8.0),), (line,), 1)
    camera = CameraConfig()
    paint = Renderer(road, DAY, camera, 0).masks(Snapshot(0.0, 0.0, 0.5, 0.0, 5.0, ()))["paint"]
    pose = Pose.of_car(camera, 0.0, 0.5, 0.0)
    on, off = (Camera(camera).project(np.array([[x, 0.0] for x in at]), pose).astype(int) for at in ((10.0, 10.8, 19.5), (6.0, 14.0, 15.5)))
    assert paint[on[:, 1], on[:, 0]].all()
    assert not paint[off[:, 1], off[:, 0]].any()
