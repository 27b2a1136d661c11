import json
from pathlib import Path

import numpy as np
import pytest
from carla_samples import SPEED, YAW_RATE_DPS, CircleSimulator, FakeCarla

from data import carla_simulator
from data.carla_collector import collect
from data.carla_recording import CONTROLS, DrivePlan, read_recording
from data.carla_simulator import CarlaSimulator
from data.chunks import join
from data.episode import Episode
from data.errors import UserError
from data.npz import read_member
from data.sources.carla import CarlaConfig, drives, plan_drives, weather_words
from data.store import EpisodeStore, write_store


def config(folder: Path, **changes: object) -> CarlaConfig:
    return CarlaConfig(**{"input": folder, "episodes": 2, "steps": 40, "record_size": "16x24", "size": "16x24", **changes})  # type: ignore[arg-type]


def record(folder: Path, simulator: CircleSimulator | None = None, **changes: object) -> CarlaConfig:
    list(drives(config(folder, host="here", **changes), simulator or CircleSimulator()))
    return config(folder, **changes)


def read_all(asked: CarlaConfig) -> list[Episode]:
    return [join(list(drive.episodes())) for drive in drives(asked)]


def test_a_circle_to_the_right_turns_round_into_our_axes(tmp_path: Path) -> None:
    """Against the circle's own formulas: left is positive here, right is in CARLA."""
    first, second = read_all(record(tmp_path, caption="a town"))
    assert (first.drive_id, second.drive_id, first.steps) == ("drive-00000", "drive-00001", 40)
    turn, times = np.radians(YAW_RATE_DPS), np.arange(40) / 10
    columns = {c.name: v for c, v in zip(first.telemetry_channels, first.telemetry.T, strict=True)}
    controls = {c.name: v for c, v in zip(first.action_channels, first.actions.T, strict=True)}
    np.testing.assert_allclose(columns["speed_mps"], SPEED, rtol=1e-6)
    np.testing.assert_allclose(columns["yaw_rate_rps"], -turn, rtol=1e-6)
    np.testing.assert_allclose(controls["steering_norm"], -np.arange(40) / 1000, atol=1e-7)  # acts from frame t to t + 1
    assert (controls["throttle_norm"] == 0.5).all() and (controls["brake_norm"] == 0.25).all()
    np.testing.assert_allclose(first.truth["x_m"], SPEED / turn * np.sin(turn * times), atol=1e-4)
    np.testing.assert_allclose(first.truth["y_m"], -SPEED / turn * (1 - np.cos(turn * times)), atol=1e-4)
    np.testing.assert_allclose(first.truth["yaw_rad"], -turn * times, atol=1e-5)
    assert np.flatnonzero(first.truth["crashed"]).tolist() == [7] and np.flatnonzero(first.truth["lane_crossed"]).tolist() == [3, 4]
    np.testing.assert_allclose(first.timestamps_s, times, atol=1e-9)
    np.testing.assert_array_equal(first.frames["front"][:, 0, 0, 0], np.arange(40))
    assert [c.text for c in first.captions] == ["sunny day", "a town"] and [c.text for c in second.captions] == ["cloudy day", "a town"]
    assert first.labels == {"weather": "clear", "time_of_day": "day", "town": "Town03"}
    assert first.cameras["front"].horizontal_fov_deg == 90.0


def test_recordings_can_be_thinned_out(tmp_path: Path) -> None:
    """At half the rate, nothing that happened between two kept frames is lost."""
    record(tmp_path)
    [first, _] = read_all(config(tmp_path, fps=5, size="8x16"))
    np.testing.assert_array_equal(first.frames["front"][:, 0, 0, 0], np.arange(0, 40, 2))
    assert np.flatnonzero(first.truth["crashed"]).tolist() == [4] and np.flatnonzero(first.truth["lane_crossed"]).tolist() == [2]
    assert first.frames["front"].shape == (20, 8, 16, 3) and first.fps == 5


def test_towns_and_weathers_take_turns() -> None:
    few = plan_drives(CarlaConfig(episodes=4, towns=("A", "B"), weathers=("ClearNoon", "WetNight")))
    assert [(p.town, p.weather) for p in few] == [("A", "ClearNoon"), ("B", "ClearNoon"), ("A", "WetNight"), ("B", "WetNight")]
    more = plan_drives(CarlaConfig(episodes=40, towns=("A", "B"), weathers=("ClearNoon", "WetNight")))
    assert more[:4] == few and len({plan.seed for plan in more}) == 40


def test_only_what_is_missing_is_driven(tmp_path: Path) -> None:
    simulator = CircleSimulator()
    record(tmp_path, simulator, towns=("Town02", "Town01"))
    assert simulator.calls == ["begin drive-00001 Town01 ClearNoon", "end", "begin drive-00000 Town02 ClearNoon", "end"]  # town by town
    again = CircleSimulator()
    record(tmp_path, again, episodes=3, towns=("Town02", "Town01"))
    assert again.calls == ["begin drive-00002 Town02 CloudyNoon", "end"]
    collect(lambda: pytest.fail("connected"), plan_drives(config(tmp_path, episodes=3, towns=("Town02", "Town01"))), tmp_path)
    with pytest.raises(UserError, match=r"drive-00000\.json: was recorded with steps = 40, got 50; give the same, or another --input"):
        record(tmp_path, episodes=3, towns=("Town02", "Town01"), steps=50)


def test_a_drive_that_fails_is_left_out_and_the_world_is_cleaned_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulator = CircleSimulator(broken=("drive-00001",))
    asked = record(tmp_path, simulator, episodes=3)
    assert "skipped drive-00001: CARLA: time-out" in capsys.readouterr().err
    assert [call for call in simulator.calls if call == "end"] == ["end"] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"drive-0000{k}.{suffix}" for k in (0, 2) for suffix in ("json", "npz")
    ]  # nothing half-written
    assert [drive.drive_id for drive in drives(asked)] == ["drive-00000", "drive-00002"]
    broken = CircleSimulator(broken=tuple(f"drive-{k:05d}" for k in range(3, 20)))
    with pytest.raises(UserError, match=r"3 drives failed one after the other, the last one \(drive-00005\): CARLA: time-out"):
        record(tmp_path, broken, episodes=20)


def damage(folder: Path, name: str) -> None:
    path = folder / f"{name}.npz"
    arrays = {key: np.array(array) for key, array in np.load(path, allow_pickle=False).items()}
    description = json.loads((folder / f"{name}.json").read_text())
    if name == "drive-00001":
        arrays["steer"][3] = np.nan
    elif name == "drive-00002":
        arrays["time_s"][9] = arrays["time_s"][5]
    elif name == "drive-00003":
        arrays["throttle"] = arrays["throttle"][:30]
    elif name == "drive-00004":
        arrays["collision"] = np.array([{}] * 40, dtype=object)
    elif name == "drive-00007":
        description["plan"]["drive_id"] = "../../elsewhere"
    elif name == "drive-00008":
        del description["plan"]["fps"]
    np.savez(path, **arrays)
    (folder / f"{name}.json").write_text(json.dumps(description))
    if name == "drive-00005":
        path.write_bytes(path.read_bytes()[:5000])
    elif name == "drive-00006":
        (folder / f"{name}.json").write_text("")
    elif name == "drive-00009":
        path.unlink()


def test_a_broken_recording_is_named_and_the_others_come_through(tmp_path: Path) -> None:
    asked = record(tmp_path / "in", episodes=11)
    for number in range(1, 10):
        damage(tmp_path / "in", f"drive-{number:05d}")
    manifest = write_store(drives(asked), tmp_path / "out", source="carla", fps=10, workers=1, val_fraction=0, progress=False)
    assert [drive.drive_id for drive in manifest.drives] == ["drive-00000", "drive-00010"]
    expected = {
        1: "drive-00001.npz: 'steer' expected a finite number, got nan in row 4",
        2: "drive-00002.npz, 'time_s': timestamps expected to rise, got 100.500 s after 100.800 s",
        3: "drive-00003.npz: 'throttle' expected numbers of shape (40,) as in drive-00003.json, got (30,)",
        4: "drive-00004.npz: 'collision' holds pickled objects, which are never read",
        5: "drive-00005.npz: expected an npz file, got a truncated or foreign one",
        6: "drive-00006.json: expected the description of a CARLA drive, got an empty file",
        7: "drive-00007.json: expected drive_id 'drive-00007'",
        8: "drive-00008.json: field 'fps' is missing",
        9: "drive-00009.npz: no such npz file",
    }
    assert set(manifest.skipped) == {f"drive-{k:05d}" for k in expected}
    for number, message in expected.items():
        reason = manifest.skipped[f"drive-{number:05d}"]
        assert message in reason and "\n" not in reason


def test_through_the_store(tmp_path: Path) -> None:
    """Also on two processes: recordings are read where a server could not be shared."""
    asked = record(tmp_path / "in", episodes=3)
    write_store(drives(asked), tmp_path / "out", source="carla", fps=10, workers=2, val_fraction=0, progress=False)
    store = EpisodeStore.open(tmp_path / "out")
    np.testing.assert_array_equal(store.read("drive-00002").frames["front"][:, 0, 0, 0], np.arange(40))


def test_words_for_weathers() -> None:
    assert weather_words("HardRainNight") == ({"weather": "heavy rain", "time_of_day": "night"}, "rainy night, heavy rain")
    assert weather_words("MidRainyNoon")[1] == weather_words("MidRainNoon")[1] == "rainy day"
    assert weather_words("WetCloudySunset")[1] == "cloudy sunset, clouds, wet road"
    assert weather_words("ClearNight")[1] == "clear night"
    assert weather_words("DustStorm") == ({"weather": "dust storm"}, "dust storm")


def test_inputs_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such folder; record drives with --host"):
        list(drives(config(tmp_path / "none")))
    with pytest.raises(UserError, match=r"expected recordings .* got none; record drives with --host"):
        list(drives(config(tmp_path)))
    with pytest.raises(UserError, match="steps expected 2 or more, got 1"):
        config(tmp_path, steps=1)
    monkeypatch.setattr(carla_simulator, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(UserError, match=r"--host: the CARLA client is not installed; install worldgpt\[carla\]") as caught:
        list(drives(config(tmp_path, host="localhost")))
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


PLAN = DrivePlan("drive-00000", 4, 10.0, (16, 24), "HardRainNight", "Town03", traffic=2, seed=7)


def test_the_calls_to_a_server(tmp_path: Path) -> None:
    """In CARLA's order: stop the clock, weather, cars on autopilot, sensors, ticks; and all of it undone at the end."""
    carla = FakeCarla()
    carla.collides_at = 40 + 5
    simulator = CarlaSimulator(carla, "there", 2001)
    collect(lambda: simulator, [PLAN], tmp_path, progress=False)
    calls = carla.calls

    def place(beginning: str) -> int:
        return next(k for k, call in enumerate(calls) if call.startswith(beginning))

    car = "vehicle.tesla.model3"
    order = ["Client(there, 2001)", "client.get_server_version", "client.get_world", "world.apply_settings"]
    order += ["traffic.set_synchronous_mode(True)", "traffic.set_random_device_seed(7)", "world.set_weather(rain at night)"]
    order += ["world.try_spawn_actor", f"{car}.set_autopilot(True, 8000)", "attached sensor.camera.rgb", "world.tick", f"{car}.get_control"]
    order += ["traffic.set_synchronous_mode(False)", "sensor.other.lane_invasion.stop", f"{car}.destroy"]
    assert [place(call) for call in order] == sorted(place(call) for call in order)
    assert "synchronous_mode=True, fixed_delta_seconds=0.05" in calls[place("world.apply_settings")]  # two ticks a step
    assert carla.settings.synchronous_mode is False and carla.alive == 0
    assert sum(call.startswith("world.try_spawn_actor") for call in calls) == 4  # a place was taken: 1 car and 2 others came
    assert not any("bike" in call for call in calls)
    assert "'image_size_x': '24', 'image_size_y': '16', 'fov': '90.0'" in calls[place("attached sensor.camera.rgb")]
    assert "client.load_world" not in " ".join(calls)  # the town was there already
    assert sum(call == "world.tick()" for call in calls) == 40 + 2 * (PLAN.steps + 1)


def test_what_a_server_says_is_written_down(tmp_path: Path) -> None:
    carla = FakeCarla()
    carla.collides_at = 40 + 5  # in the third step
    collect(lambda: CarlaSimulator(carla, "there", 2001), [PLAN], tmp_path, progress=False)
    path = tmp_path / "drive-00000.npz"
    assert read_recording(tmp_path / "drive-00000.json") == (PLAN, {"town": "Town03", "server_version": "0.9.15"})
    pixels = read_member(path, "observations")
    ticks = 40 + 2 * np.arange(1, 5)  # after the warm-up, the last tick of each step
    np.testing.assert_array_equal(pixels[:, 0, 0], [[3, 2, (1000 + tick) % 250] for tick in ticks])  # RGB out of BGRA
    np.testing.assert_allclose(read_member(path, "time_s"), ticks * 0.05)
    np.testing.assert_allclose(read_member(path, "steer"), (ticks + 1.5) / 1000)  # the mean of the two ticks that follow
    np.testing.assert_allclose(read_member(path, "yaw_deg"), ticks * 0.5)
    assert read_member(path, "collision").tolist() == [0, 0, 1, 0] and set(CONTROLS) == {"steer", "throttle", "brake"}


@pytest.mark.parametrize(
    "carla, changes, message",
    [
        (FakeCarla(places=1), {}, "Town03: expected a free place for the car among 1, got none"),
        (FakeCarla(), {"weather": "Sunny"}, "--weathers: this version of CARLA has no weather 'Sunny'; expected a preset"),
        (FakeCarla(), {"town": "Town99"}, "--towns: expected maps of the server, Town01, Town03, got 'Town99'"),
        (FakeCarla(failing="tick"), {}, "CARLA, drive-00000: rpc::timeout; is the server running, and of the client's version?"),
        (FakeCarla(silent=True), {}, "CARLA: no picture of frame 1001 within 0.05 s; does the server render?"),
    ],
)
def test_a_server_that_fails_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], carla: FakeCarla, changes: dict, message: str
) -> None:
    monkeypatch.setattr(carla_simulator, "TIMEOUT_S", 0.05)
    collect(lambda: CarlaSimulator(carla, "there", 2001), [DrivePlan(**{**vars(PLAN), **changes})], tmp_path, progress=False)
    said = capsys.readouterr().err
    assert said.startswith(f"skipped drive-00000: {message}") and said.count("\n") == 1
    assert carla.alive == 0 and carla.settings.synchronous_mode is False and not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"CARLA at there:2001: time-out of 20000ms while .*; is the server running") as caught:
        collect(lambda: CarlaSimulator(FakeCarla(failing="connect"), "there", 2001), [PLAN], tmp_path, progress=False)
    assert "\n" not in str(caught.value)


def test_another_town_is_loaded(tmp_path: Path) -> None:
    carla = FakeCarla()
    collect(lambda: CarlaSimulator(carla, "there", 2001), [DrivePlan(**{**vars(PLAN), "town": "Town01"})], tmp_path, progress=False)
    assert "client.load_world(Town01)" in carla.calls
