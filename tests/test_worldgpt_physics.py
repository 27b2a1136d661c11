"""Physics: a reader that knows balls that are there, whole and apart; figures that are 0 for the truth and not for what breaks it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from world_samples import train_config

from data.balls import Balls, draw
from data.errors import UserError
from data.sources.physics import BACKGROUND, COLOURS, PhysicsConfig, drives, make_box
from data.store import EpisodeStore, write_store
from tokenizer.config import TokenizerConfig
from tokenizer.model import FrameTokenizer, FrameTokenizerConfig
from worldgpt.evaluate.ball_reader import BallReader
from worldgpt.evaluate.physics import (
    CONSTANT,
    COPY,
    FLOOR,
    MODEL,
    TRUE,
    collision_places,
    evaluate_physics,
    flight_places,
    measure_collisions,
    measure_flights,
    read_flights,
)
from worldgpt.evaluate.physics_config import PhysicsEvaluationConfig
from worldgpt.mixture import Mixture
from worldgpt.pipeline import WorldGPTPipeline
from worldgpt.token_store import encode_store
from worldgpt.train import build_model

BALLS = PhysicsConfig(episodes=4, val_episodes=24, size="32x48", radius=0.1, mass_ratio=1.5, speed=0.4, force=0.3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    path = tmp_path_factory.mktemp("physics") / "data"
    write_store(drives(BALLS), path, source="physics", fps=BALLS.fps, workers=1, progress=False)
    return EpisodeStore.open(path)


@pytest.fixture(scope="module")
def pipeline(store: EpisodeStore, tmp_path_factory: pytest.TempPathFactory) -> WorldGPTPipeline:
    """Untrained."""
    shape = TokenizerConfig(encoder_width=8, decoder_width=8, decoder_depth=1, levels=(5, 3))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = FrameTokenizer(FrameTokenizerConfig({**vars(shape)}, 32, 48, ("front",), store.hash)).eval()
    folder = tmp_path_factory.mktemp("physics_world")
    tokens = encode_store(store, tokenizer, folder / "tokens", device=torch.device("cpu"))
    return WorldGPTPipeline(build_model(train_config(folder / "run"), Mixture.of(tokens)).eval(), tokenizer)


def reader_of(store: EpisodeStore) -> BallReader:
    return BallReader.calibrated(store.read("val-00000-two_balls", 0, 60).frames["front"], 2)


def test_balls_are_read_to_a_tenth_of_a_pixel(store: EpisodeStore) -> None:
    reader, episode = reader_of(store), store.read("val-00001-two_balls", 0, 60)
    where, present = reader.read(episode.frames["front"])
    true = np.stack([np.stack([episode.truth[f"ball{k}_{axis}_m"] for axis in "xy"], -1) for k in range(2)], axis=1)
    assert present.all()
    assert np.abs(where - true).max() < 0.1 / 48
    box = make_box(BALLS)
    assert reader.radii_m == pytest.approx(box.radii, rel=0.03) and reader.masses == pytest.approx(box.masses / box.masses[0], rel=0.05)


def test_a_ball_that_is_gone_torn_or_doubled_is_not_there(store: EpisodeStore) -> None:
    reader, box = reader_of(store), make_box(BALLS)
    red, blue = (0.3, 0.3), (0.7, 0.35)

    def seen(*places: tuple[float, float], which: list[int]) -> list[bool]:
        chosen = replace(box, radii=box.radii[which], masses=box.masses[which])
        picture = draw(chosen, Balls(np.array(places), np.zeros((len(places), 2))), COLOURS[which], BACKGROUND, (32, 48))
        return reader.read(picture[None])[1][0].tolist()

    assert seen(red, blue, which=[0, 1]) == [True, True]
    assert seen(red, which=[0]) == [True, False]
    assert seen(red, (0.7, 0.35), which=[0, 0]) == [False, False]  # the red one twice
    picture = draw(box, Balls(np.array([red, blue]), np.zeros((2, 2))), COLOURS, BACKGROUND, (32, 48))
    torn = picture.copy()
    torn[:, 14:24], torn[:, 24:34] = np.roll(picture[:, :10], 0, axis=1), picture[:, 14:24]  # half of the red one moved away
    assert not reader.read(torn[None])[1][0, 0]
    assert np.isnan(reader.read(np.full((1, 32, 48, 3), 24, np.uint8))[0]).all()


def test_the_truth_has_no_error_and_the_baselines_have(store: EpisodeStore, pipeline: WorldGPTPipeline) -> None:
    config, context = PhysicsEvaluationConfig(data=str(store.path), rollouts=12, horizon=20), pipeline.model.config.context_steps - 1
    flights = read_flights(pipeline, store, flight_places(store, config, context), 2, 20)
    found = measure_flights(pipeline, reader_of(store), flights, flights.frames)
    errors = {name: np.array(line, float) for name, line in found["position_error_m"].items()}
    assert set(errors) == {TRUE, FLOOR, COPY, CONSTANT, MODEL} and errors[MODEL].max() < 0.1 / 48
    assert errors[COPY][-1] > errors[COPY][0] > 10 * errors[MODEL].max()
    assert errors[CONSTANT][0] < errors[COPY][0] / 1.5 and errors[CONSTANT][-1] > errors[CONSTANT][0]
    assert found["permanence"][MODEL]["value"] == 1 and found["there"][MODEL] == [1] * 20


@pytest.mark.parametrize("kind", ["wall", "balls"])
def test_collisions_keep_what_they_keep(store: EpisodeStore, pipeline: WorldGPTPipeline, kind: str) -> None:
    config, context = PhysicsEvaluationConfig(data=str(store.path), rollouts=20), pipeline.model.config.context_steps - 1
    places = collision_places(store, config, context, kind, 2)
    for drive_id, start in places:
        truth = store.read(drive_id, start + context, start + context + 4, frames=False).truth
        walls = truth["ball0_wall_hit"] + truth["ball1_wall_hit"]
        hits = walls if kind == "wall" else truth["balls_hit"]
        assert hits[1] and not hits[2:].any()
    flights = read_flights(pipeline, store, places, 2, 4)
    found = measure_collisions(pipeline, reader_of(store), flights, flights.frames)
    assert found[MODEL]["collisions"] == len(places) > 3
    assert found[MODEL]["energy"]["value"] < 0.05 and found[MODEL]["momentum"]["value"] < 0.05
    assert found[MODEL]["each_momentum"]["value"] < 0.05 < 0.2 < found[CONSTANT]["each_momentum"]["value"]  # it flies on through everything
    assert (found[CONSTANT]["momentum"]["value"] > 0.2) == (kind == "wall")  # two balls that do so keep what they have together
    slowed = np.concatenate([flights.frames[:, :3], flights.frames[:, 2:3]], axis=1)  # frozen at the end: no energy is left
    assert measure_collisions(pipeline, reader_of(store), flights, slowed)[MODEL]["energy"]["value"] > 0.9


def test_the_report(store: EpisodeStore, pipeline: WorldGPTPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "world")
    settings = {"checkpoint": str(tmp_path / "world"), "data": str(store.path), "output": str(tmp_path / "report")}
    evaluate_physics(PhysicsEvaluationConfig(**settings, rollouts=2, horizon=5))
    found = json.loads((tmp_path / "report" / "report.json").read_text())
    assert found["data_hash"] == store.hash and len(found["measured_on"]["rollouts"]) == 2
    assert set(found["collisions"]) == {"wall", "balls"} and len(found["position_error_m"][MODEL]) == 5
    assert {path.name for path in (tmp_path / "report").iterdir()} >= {"report.json", "table.md", "curves.png", "rollouts.png"}
    assert "| after a wall, medians |" in (tmp_path / "report" / "table.md").read_text()


def test_other_data_are_refused(trained: Path, column_store: EpisodeStore, tmp_path: Path) -> None:
    config = PhysicsEvaluationConfig(checkpoint=str(trained), data=str(column_store.path), output=str(tmp_path / "report"))
    with pytest.raises(UserError, match="expected bouncing balls in split 'val'"):
        evaluate_physics(config)
    assert not (tmp_path / "report").exists()
