"""Control: prompts that tell what they say, readings that count rollouts, a report in which a knob that does nothing is found out."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from world_samples import column_drive, column_episode, random_tokens

from data.dashsim.captions import DOING_WORDS, Facts, describe
from data.dashsim.config import HELD_OUT, ROADS, TRAFFICS
from data.dashsim.scene import TIMES_OF_DAY, WEATHERS
from data.episode import Episode
from data.errors import UserError
from data.store import EpisodeStore, write_store
from data.video import probe
from tokenizer.report import reconstruct
from worldgpt.evaluate.adherence import JOINT, joint_accuracy, look_scores, read_look
from worldgpt.evaluate.control import evaluate_control, look_prompts, plan_trips
from worldgpt.evaluate.control_actions import deviations, measure_lateral, measure_path
from worldgpt.evaluate.control_config import ControlConfig
from worldgpt.evaluate.control_prompts import geometry_change
from worldgpt.evaluate.control_scene import Scene
from worldgpt.evaluate.logged import Logged, find_places, read_logged
from worldgpt.evaluate.plots import Points, matrix_page, point_page
from worldgpt.evaluate.probe_training import train_probes
from worldgpt.evaluate.probes import ProbeConfig, Probes
from worldgpt.evaluate.prompt_cases import (
    CONSTRUCTIONS,
    HELD_OUT_KIND,
    SEEN,
    TYPOS,
    UNKNOWN,
    PromptCase,
    caption_cases,
    dashsim_cases,
    misspelt,
)
from worldgpt.evaluate.read_back import ReadBack
from worldgpt.evaluate.trips import Drawing, Driven, Trip, run_trips
from worldgpt.pipeline import WorldGPTPipeline
from worldgpt.sampling import SamplingConfig

QUICK = ProbeConfig(steps=60, road_steps=5, batch_size=16, road_batch_size=8, width=8, road_width=8, floor_steps=64, floor_frames=64)


@pytest.fixture(scope="module")
def pipeline(trained: Path) -> WorldGPTPipeline:
    return WorldGPTPipeline.from_pretrained(trained, device="cpu")


@pytest.fixture(scope="module")
def probes(pipeline: WorldGPTPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks that read this world as its untrained tokenizer draws it."""
    folder = tmp_path_factory.mktemp("measuring")

    def drawn(number: int) -> list[Episode]:
        episode = column_episode(number)
        return [replace(episode, frames={"front": reconstruct(pipeline.tokenizer, episode.frames["front"])[0]})]

    drives = [replace(column_drive(k, "train" if k < 24 else "val"), episodes=partial(drawn, k)) for k in range(32)]
    write_store(drives, folder / "drawn", source="columns", fps=10.0, workers=1, progress=False)
    train_probes(QUICK, EpisodeStore.open(folder / "drawn"), folder / "probes")
    return folder / "probes"


@pytest.fixture(scope="module")
def logged(pipeline: WorldGPTPipeline, column_store: EpisodeStore) -> Logged:
    return read_logged(pipeline, column_store, find_places(column_store, "val", 15, 6), 12)


def words(count: int = 400) -> set[str]:
    """Words of many of dashsim's captions."""
    rng, found = np.random.default_rng(0), set()
    for number in range(count):
        facts = Facts(WEATHERS[number % 5], TIMES_OF_DAY[number % 3], ROADS[number % 6], TRAFFICS[number % 4], 2)
        found |= set(describe(facts, list(DOING_WORDS)[number % len(DOING_WORDS)], rng).replace(",", "").split())
    return found


def captions(number: int = 20000) -> set[str]:
    rng = np.random.default_rng(1)
    facts = [Facts(w, t, r, "light", 2) for w in WEATHERS for t in TIMES_OF_DAY for r in ROADS]
    return {describe(facts[k % len(facts)], "straight", rng).replace(",", "") for k in range(number)}


def test_prompts_tell_what_they_are_scored_by() -> None:
    seen = dashsim_cases(SEEN, 52, 0)
    looks = [(c.told["weather"], c.told["time_of_day"]) for c in seen]
    assert len(set(looks)) == 13 and not set(looks) & set(HELD_OUT)
    assert {looks.count(look) for look in set(looks)} == {4}
    assert {c.told["road"] for c in seen} == set(ROADS) and {c.told["traffic"] for c in seen} == set(TRAFFICS)
    heldout = dashsim_cases(HELD_OUT_KIND, 10, 0)
    assert {(c.told["weather"], c.told["time_of_day"]) for c in heldout} == set(HELD_OUT)
    assert any(c.text.startswith("snowy night on a") for c in heldout)
    assert dashsim_cases(SEEN, 52, 0) == seen


def test_constructions_are_of_known_words_and_new() -> None:
    known, said = words(), captions()
    cases = dashsim_cases(CONSTRUCTIONS, 60, 0)
    assert set(" ".join(c.text for c in cases).split()) <= known
    assert not {c.text for c in cases} & said
    plain = dashsim_cases(SEEN, 60, 0)
    assert set(" ".join(c.text for c in plain).replace(",", "").split()) <= known
    unknown = {word for c in dashsim_cases(UNKNOWN, 60, 0) for word in c.text.split()} - {"at"}
    assert not unknown & known


def test_typos_spoil_every_longer_word_and_nothing_else() -> None:
    for typo, case in zip(dashsim_cases(TYPOS, 40, 0), dashsim_cases(SEEN, 40, 0), strict=True):
        assert typo.told == case.told
        for wrong, right in zip(typo.text.split(), case.text.split(), strict=True):
            assert (wrong != right) == (len(right.strip(",")) > 3) and wrong[0] == right[0]
    assert misspelt("a car", np.random.default_rng(0)) == "a car"


def test_captions_serve_where_no_words_are_known(column_store: EpisodeStore) -> None:
    cases = caption_cases(column_store, "val", 6)
    assert {(c.text, c.told["time_of_day"]) for c in cases} == {("night on a road", "night"), ("sunny day", "day")}


def read_of(looks: dict[str, np.ndarray]) -> ReadBack:
    shape = next(iter(looks.values())).shape[:2]
    return ReadBack({}, looks, np.zeros((*shape, 4)), np.ones(shape, bool))


def test_a_drive_is_one_reading_and_unread_steps_do_not_count() -> None:
    steps = np.tile([0.6, 0.4], (3, 5, 1))
    steps[1] = [0.1, 0.9]
    steps[2, 2:] = [0.0, 1.0]
    steps[2, :2] = np.nan
    assert read_look("weather", steps, ["clear", "rain"]).tolist() == [0, 1, 1]
    steps[0] = np.nan
    assert read_look("weather", steps, ["clear", "rain"]).tolist()[0] == -1


def test_an_event_is_a_peak_not_a_mean() -> None:
    names = ["cut_in_left", "exit", "none"]
    probabilities = np.tile([0.02, 0.03, 0.95], (3, 40, 1))
    probabilities[0, 10:18] = [0.9, 0.05, 0.05]
    probabilities[1, 10] = [0.9, 0.05, 0.05]  # one step alone is noise
    assert read_look("event", probabilities, names).tolist() == [0, 2, 2]


def test_scores_count_rollouts_class_by_class() -> None:
    names = {"weather": ["clear", "rain"], "time_of_day": ["day", "night"]}
    eye = np.eye(2)
    weather = np.repeat(eye[[0, 1, 1, 0]][:, None], 6, 1)
    time = np.repeat(eye[[0, 0, 1, 1]][:, None], 6, 1)
    told = [("clear", "day"), ("rain", "night"), ("rain", "night"), ("hail", "night")]
    cases = [PromptCase("", {"weather": w, "time_of_day": t}) for w, t in told]
    scores = look_scores(read_of({"weather": weather, "time_of_day": time}), cases, names)
    assert scores["weather"].names == ("clear", "rain", "hail")
    np.testing.assert_array_equal(scores["weather"].confusion, [[1, 0, 0], [0, 2, 0], [1, 0, 0]])
    assert scores["weather"].accuracy.value == 0.75
    assert {name: e.value for name, e in scores["weather"].by_name.items()} == {"clear": 1, "rain": 1, "hail": 0}
    joint = joint_accuracy(read_of({"weather": weather, "time_of_day": time}), cases, names)
    assert joint is not None and (joint.value, joint.count) == (0.5, 4)
    assert joint_accuracy(read_of({"weather": weather}), cases, {"weather": names["weather"]}) is None


def driven(speed: np.ndarray, rate: np.ndarray, lane: np.ndarray) -> Driven:
    numbers = {"speed_mps": speed, "yaw_rate_rps": rate, "lateral_offset_m": lane}
    unread = {name: np.where(np.arange(values.shape[1]) < 2, np.nan, values) for name, values in numbers.items()}
    read = ReadBack(unread, {}, np.zeros((*speed.shape, 4)), np.ones(speed.shape, bool))
    telemetry = {"speed_mps": speed, "yaw_rate_rps": rate}
    return Driven(read, telemetry, np.zeros((1, speed.shape[1], 8, 8, 3), np.uint8))


def s_curve(deviation: float, speed: float, frames: int = 25, fps: float = 10.0) -> np.ndarray:
    """(F,) yaw rates that lead `deviation` to the left."""
    u = (np.arange(frames) + 0.5) / frames
    return deviation * (60 * u - 180 * u**2 + 120 * u**3) / (frames / fps) ** 2 / speed


def test_deviations_are_found_against_the_course_held_and_a_deaf_model_shows_none() -> None:
    shape = (4, 25)
    bend = np.full(shape, 0.05)  # the course itself turns
    speed, lane = np.full(shape, 15.0), np.full(shape, 0.2)
    hold = driven(speed, bend, lane)
    moved = driven(speed, bend + s_curve(0.5, 15.0), lane + 0.5 * np.linspace(0, 1, 25) ** 0.1)
    found = deviations(moved, hold, 10.0)
    for way in ("path_m", "told_m", "lane_m"):
        np.testing.assert_allclose(found[way], 0.5, atol=0.05)
    deaf = deviations(hold, hold, 10.0)
    assert all(np.allclose(values, 0) for values in deaf.values())


def scene_of(logged: Logged, pipeline: WorldGPTPipeline, probes: Path, store: EpisodeStore, **changes: object) -> Scene:
    config = ControlConfig(rollouts=6, frames=12, **changes)  # type: ignore[arg-type]
    return Scene(pipeline, Probes.load(probes), config, store, logged, logged, {})


def test_a_slope_of_deviations(logged: Logged, pipeline: WorldGPTPipeline, probes: Path, column_store: EpisodeStore) -> None:
    shape = (6, 25)
    hold = driven(np.full(shape, 15.0), np.zeros(shape), np.zeros(shape))
    trips = {"lateral/+0": hold}
    for command in (0.5, -0.5, 1.0, -1.0):
        half = driven(np.full(shape, 15.0), np.tile(s_curve(command / 2, 15.0), (6, 1)), np.zeros(shape))
        trips[f"lateral/{command:+g}"] = half
    found = measure_lateral(scene_of(logged, pipeline, probes, column_store), trips)
    assert found is not None
    assert found["response"]["path_m"]["slope"]["value"] == pytest.approx(0.5, abs=0.05)
    assert found["response"]["path_m"]["r2"]["value"] > 0.99
    assert found["response"]["lane_m"]["slope"]["value"] == 0  # the lanes did not move: found out
    assert found["realised"]["+1"]["told_m"]["value"] == pytest.approx(0.5, abs=0.05)


def test_the_models_path_is_held_against_the_true_one(
    logged: Logged, pipeline: WorldGPTPipeline, probes: Path, column_store: EpisodeStore
) -> None:
    frames, count = 30, 5
    rate, speed = np.full((count, frames + 1), 0.2), np.full((count, frames + 1), 10.0)
    rate[:, 1:] += 0.1  # the turn tightens right away
    signals = {"speed_mps": speed, "yaw_rate_rps": rate}
    drives = Logged((), *[np.zeros(0)] * 6, signals, ("",) * count, ({},) * count)  # type: ignore[arg-type]
    scene = scene_of(drives, pipeline, probes, column_store)
    scene = Scene(scene.pipeline, scene.probes, ControlConfig(frames=frames), column_store, drives, None, {})
    found = measure_path(scene, driven(speed[:, 1:], rate[:, 1:], speed[:, 1:]))
    assert found is not None
    assert found["model"]["3"]["fde_m"]["value"] == pytest.approx(0, abs=1e-9)
    constant = found["constant_speed_and_turn_rate"]["3"]["fde_m"]["value"]
    chord = np.hypot(np.sin(0.9) / 0.3 - np.sin(0.6) / 0.2, (1 - np.cos(0.9)) / 0.3 - (1 - np.cos(0.6)) / 0.2) * 10
    assert constant == pytest.approx(chord, rel=0.02)
    assert found["model"]["1"]["ade_m"]["count"] == count


def test_geometry_change_is_in_units_of_spread() -> None:
    one = driven(np.full((2, 9), 5.0), np.zeros((2, 9)), np.zeros((2, 9)))
    other = driven(np.full((2, 9), 5.0), np.full((2, 9), 0.3), np.full((2, 9), -0.5))
    change = geometry_change(one.read, other.read, {"yaw_rate_rps": 0.1, "lateral_offset_m": 0.5})
    np.testing.assert_allclose(change, (3 + 1) / 2)
    assert geometry_change(one.read, one.read, {"yaw_rate_rps": 0.1}).tolist() == [0, 0]


def test_logged_drives_are_true_ones(logged: Logged, column_store: EpisodeStore, pipeline: WorldGPTPipeline) -> None:
    context = pipeline.model.config.context_steps - 1
    drive_id, start = logged.places[3]
    episode = column_episode(int(drive_id.removeprefix("drive")))
    first = start + context
    assert (logged.frames[3] == episode.frames["front"][first : first + 12]).all()
    assert (logged.last[3] == episode.frames["front"][first - 1]).all()
    np.testing.assert_array_equal(logged.actions[3], episode.actions[first : first + 12])
    np.testing.assert_array_equal(logged.last_actions[3], episode.actions[first - 1])
    np.testing.assert_array_equal(logged.signals["speed_mps"][3], episode.telemetry[first - 1 : first + 12, 0])
    assert logged.captions[3] == next(c.text for c in episode.captions if c.start <= first < c.end)
    with pytest.raises(UserError, match="--frames: expected a drive of at least 500 steps"):
        find_places(column_store, "val", 500, 3)


def test_the_plan_changes_one_thing_at_a_time(pipeline: WorldGPTPipeline, logged: Logged) -> None:
    config = ControlConfig(rollouts=6, frames=12, guidance=2.0)
    cases = {SEEN: [PromptCase("sunny day", {"time_of_day": "day"})] * 6}
    trips = plan_trips(pipeline, config, logged, None, cases)
    base, prompt, seed = (trips[f"look/{name}"] for name in ("base", "prompt", "seed"))
    assert (base.seed, base.actions is prompt.actions, base.context is prompt.context) == (prompt.seed, True, True)
    assert all(a != b for a, b in zip(base.prompts, prompt.prompts, strict=True))
    assert list(seed.prompts) == list(base.prompts) and seed.seed != base.seed
    assert trips["actions/free"].actions is None and trips["actions/true"].guidance == 1
    assert {name for name in trips if name.startswith("guidance/")} == {"guidance/1", "guidance/1.5", "guidance/3", "guidance/5"}
    own, others = look_prompts(logged)
    labels = [one["time_of_day"] for one in logged.labels]
    for k, text in enumerate(others):
        assert labels[own.index(text)] != labels[k]


@pytest.fixture(scope="module")
def report(trained: Path, column_store: EpisodeStore, probes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("control") / "new"
    config = ControlConfig(
        checkpoint=str(trained), data=str(column_store.path), probes=str(probes), output=str(output), rollouts=8, frames=12,
        guidance_curve=(1.0,), batch=8,
    )  # fmt: skip
    evaluate_control(config)
    return output


def test_the_report_says_what_is_obeyed(report: Path) -> None:
    found = json.loads((report / "report.json").read_text())
    assert (found["device"], found["dtype"], found["rollouts"]) == ("cpu", "float32", 8)
    time = found["prompts"]["kinds"]["captions"]["time_of_day"]
    assert time["accuracy"]["value"] > 0.7 and time["accuracy"]["count"] == 8  # this world model knows day from night
    assert time["over_reconstructed"]["value"] is not None
    assert found["prompts"]["floor"]["val"]["reconstructed"]["time_of_day"]["accuracy"]["value"] == 1
    assert set(found["prompts"]["guidance_curve"]) == {"1", "2"}
    assert JOINT not in found["prompts"]["kinds"]["captions"]  # no weather is told
    assert found["lateral"] is None and found["path"] is None  # no yaw rate in this world
    speed = found["actions"]["speed_change_mps"]
    assert set(speed) == {"floor", "true", "free", "x0.5", "x1.5", "mirrored", "held", "shuffled"}
    assert found["telemetry"]["speed_mps"]["mae"]["value"] >= 0
    assert found["disentanglement"]["numbers"] == [] and found["disentanglement"]["ratio"]["value"] is None


def test_the_report_can_be_looked_at(report: Path) -> None:
    names = {path.name for path in report.iterdir()}
    pictures = {f"{name}.{kind}" for name in ("actions", "prompts", "look") for kind in ("mp4", "png")}
    assert names >= {"report.json", "table.md", "response.png", "guidance.png", "confusion.png"} | pictures
    assert (report / "table.md").read_text().startswith("| figure | realised |")
    assert probe(report / "actions.mp4").frames == 12 and probe(report / "actions.mp4").width == 32 * 8


def test_settings_are_checked_and_quick_shortens() -> None:
    for change, words in ({"rollouts": 1}, "--rollouts: expected at least 2"), ({"frames": 3}, "--frames: expected at least 8"):
        with pytest.raises(UserError, match=words):
            ControlConfig(**change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--deviations-m: expected metres above 0"):
        ControlConfig(deviations_m=(0.5, 3.0))
    quick = ControlConfig(quick=True).shortened()
    assert quick.rollouts * quick.frames < 200 and ControlConfig().shortened() == ControlConfig()


def test_plots_draw_what_they_are_given() -> None:
    x = np.linspace(-1, 1, 50)
    page = point_page({"a": {"s": Points(x, x)}, "b": {"s": Points(x, -x, -x - 0.1, -x + 0.1, joined=True)}}, diagonal=True)
    assert page.dtype == np.uint8 and page.shape[1] > page.shape[0]
    matrix = matrix_page({"weather": (["clear", "rain"], np.array([[5, 0], [1, 4]]))})
    blue = matrix[..., 2].astype(int) - matrix[..., 0] > 100
    assert blue[52:90, :180].any() and blue[100:140, 150:].any()  # the diagonal is shaded
    assert point_page({}).size and matrix_page({}).size


def test_trips_go_as_they_go_alone(trained: Path, probes: Path) -> None:
    pipeline, networks = WorldGPTPipeline.from_pretrained(trained, dtype=torch.float64), Probes.load(probes)
    actions = np.ones((2, 6, 1), np.float32)
    context = random_tokens(pipeline.model.layout, 2, 2).numpy()
    trips = {
        "guided": Trip(["night", "day", "night"], 5, guidance=2.0),
        "told": Trip(["night", "day"], 6, context, actions, seed=3),
        "free": Trip(["day", "night"], 4, context, seed=3),
        "dreamed": Trip(["day"], 4),
    }
    together = run_trips(pipeline, networks, trips, Drawing(SamplingConfig(), 3))
    for name, trip in trips.items():
        (alone,) = run_trips(pipeline, networks, {name: trip}, Drawing(SamplingConfig(), 1)).values()
        assert np.array_equal(together[name].shown, alone.shown), name
        assert together[name].shown.shape[:2] == (len(trip.prompts), trip.frames)
        for channel, values in alone.telemetry.items():
            assert np.array_equal(together[name].telemetry[channel], values), name
