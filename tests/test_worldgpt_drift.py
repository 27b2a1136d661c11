"""Drift: figures against slow references, baselines where they must be, a report that says what it is, starts that truly exist."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.errors import UserError
from data.store import EpisodeStore
from data.video import probe
from tokenizer.metrics import picture_quality
from worldgpt.evaluate.curves import curve_page
from worldgpt.evaluate.drift import COPY, FLOOR, OTHER, Measured, evaluate_drift, measure_policy, read_starts, roll
from worldgpt.evaluate.drift_config import DriftConfig
from worldgpt.evaluate.drift_report import marks
from worldgpt.evaluate.read_back import ReadBack, read_figures
from worldgpt.evaluate.statistics import code_divergence, frame_statistics, sharpness
from worldgpt.pipeline import WorldGPTPipeline

POLICIES = ("none", "every_n:6", "real:5")


@pytest.fixture(scope="module")
def pipeline(trained: Path) -> WorldGPTPipeline:
    return WorldGPTPipeline.from_pretrained(trained, device="cpu")


def settings(trained: Path, store: EpisodeStore, output: Path, **changes: object) -> DriftConfig:
    values = {
        "checkpoint": str(trained),
        "data": str(store.path),
        "output": str(output),
        "horizon": 20,
        "rollouts": 4,
        **changes,
    }
    return DriftConfig(policies=POLICIES, **values)  # type: ignore[arg-type]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_statistics_are_what_they_say() -> None:
    made, true, before = noise(2, 3, 16, 24, 3), noise(2, 3, 16, 24, 3, seed=1), noise(2, 16, 24, 3, seed=2)
    found = frame_statistics(made, true, before)
    assert {values.shape for values in found.values()} == {(2, 3)}
    assert found["psnr_db"][1, 2] == pytest.approx(picture_quality(true[1, 2][None], made[1, 2][None]).psnr_db)
    assert found["brightness"][0, 1] == pytest.approx(made[0, 1].mean())
    assert found["flicker"][1, 0] == pytest.approx(np.abs(made[1, 0].astype(float) - before[1]).mean())
    assert found["flicker"][1, 1] == pytest.approx(np.abs(made[1, 1].astype(float) - made[1, 0]).mean())
    frozen = frame_statistics(np.repeat(made[:, :1], 3, axis=1), true, made[:, 0])
    assert (frozen["flicker"] == 0).all()


def test_blur_costs_sharpness() -> None:
    frame = noise(32, 48, 3)
    assert sharpness(np.full((32, 48, 3), 77, np.uint8)) == 0
    assert sharpness(cv2.GaussianBlur(frame, (5, 5), 1.5)) < 0.3 * sharpness(frame)


def test_divergence_is_nothing_for_the_same_codes_and_ln_2_for_others() -> None:
    codes = np.arange(1000) % 7
    assert code_divergence(codes, codes[::-1], 14) == 0
    assert code_divergence(codes, codes + 7, 14) == pytest.approx(np.log(2))
    assert 0 < code_divergence(codes, np.zeros_like(codes), 14) < np.log(2)


def test_marks_are_means_over_the_second_before() -> None:
    line = np.arange(60.0)
    found = marks({"x": line}, 10.0)["x"]
    assert found == {"1": 4.5, "5": 44.5, "10": None, "20": None, "40": None}


def test_the_page_draws_lines_where_the_values_are() -> None:
    page = curve_page({"a title": {"up": np.linspace(0, 1, 50), "gap": np.array([0.5, np.nan, 0.5, 0.5])}}, 5.0)
    blue = (page[..., 2].astype(int) - page[..., 0] > 60)[:-30]
    rows, columns = np.nonzero(blue)
    rising = columns < 150  # the other line begins behind its gap
    assert np.corrcoef(rows[rising], columns[rising])[0, 1] < -0.99


def test_figures_of_a_window_against_written_out_ones() -> None:
    rng = np.random.default_rng(0)
    yaw, features = rng.normal(size=(3, 40)), rng.normal(size=(3, 40, 4))
    looks = {"weather": np.eye(2)[rng.integers(0, 2, (3, 40))]}
    true = ReadBack({"yaw_rate_rps": yaw}, looks, features, np.ones((3, 40), bool))
    read = yaw + 0.5
    read[:, :2] = np.nan
    made = ReadBack({"yaw_rate_rps": read}, looks, features + 2, rng.random((3, 40)) < 0.5)
    found = read_figures(made, true, {"yaw_rate_rps": yaw, "speed_mps": yaw}, slice(0, 20))
    assert found["road_found"] == made.road_found[:, :20].mean()
    assert found["yaw_rate_rps_r2"] == pytest.approx(1 - 0.25 / yaw[:, 2:20].var())
    assert found["weather_kept"] == 1
    assert found["probe_frechet"] == pytest.approx(4 * 2**2)
    still = read_figures(made, true, {"yaw_rate_rps": np.zeros_like(yaw)}, slice(0, 20))
    assert still["yaw_rate_rps_r2"] is None  # nothing was commanded that could be followed


def test_starts_are_true_drives(trained: Path, pipeline: WorldGPTPipeline, column_store: EpisodeStore, tmp_path: Path) -> None:
    config = settings(trained, column_store, tmp_path, rollouts=6)
    starts = read_starts(pipeline, config)
    context = pipeline.model.config.context_steps - 1
    assert starts.tokens.shape[:2] == (6, 20) and starts.context.shape[1] == context
    frames = column_store.frame_array("val", progress=False)
    found = [k for k in range(len(frames) - 19) if np.array_equal(frames[k : k + 20], starts.frames[2])]
    assert found and any(np.array_equal(frames[k - 1], starts.last[2]) for k in found)
    with pytest.raises(UserError, match="--horizon: expected a drive of at least 103 steps"):
        read_starts(pipeline, settings(trained, column_store, tmp_path, horizon=100))


def test_the_report_holds_every_policy_beside_its_floor(
    trained: Path, column_store: EpisodeStore, column_probes: Path, tmp_path: Path
) -> None:
    measured = evaluate_drift(settings(trained, column_store, tmp_path / "drift", probes=str(column_probes)))
    assert list(measured) == [FLOOR, COPY, OTHER, *POLICIES]
    report = json.loads((tmp_path / "drift" / "report.json").read_text())
    assert report["anchors_per_rollout"] == {"none": 0, "every_n:6": 3, "real:5": 3}
    assert report["true_frames_used"] == {"none": False, "every_n:6": False, "real:5": True}
    assert set(report["frames_per_s"]) == set(POLICIES)
    for figures in report["at_seconds"].values():
        assert figures["code_divergence"]["1"] is not None and figures["psnr_db"]["40"] is None
    for name, figures in report["at_seconds"].items():
        assert 0 <= figures["road_found"]["1"] <= 1 and figures["probe_frechet"]["1"] >= 0 and figures["time_of_day_kept"]["1"] <= 1, name
    assert report["probes"]["floor"]["road"]
    assert report["at_seconds"][FLOOR]["code_divergence"]["1"] == 0
    assert report["at_seconds"][COPY]["flicker_ratio"]["1"] < 1
    info = probe(tmp_path / "drift" / "rollouts.mp4")
    assert (info.frames, info.width) == (20, 6 * 32)  # true, floor, copy, three policies
    assert (tmp_path / "drift" / "curves.png").stat().st_size > 0 and (tmp_path / "drift" / "rollouts.png").stat().st_size > 0


def test_measured_in_batches_is_measured_at_once(
    trained: Path, pipeline: WorldGPTPipeline, column_store: EpisodeStore, tmp_path: Path
) -> None:
    found: list[Measured] = []
    for batch in (4, 3):
        config = settings(trained, column_store, tmp_path, batch=batch)
        found.append(measure_policy(pipeline, config, read_starts(pipeline, config), "every_n:6"))
    for name, curve in found[0].curves.items():
        np.testing.assert_allclose(curve, found[1].curves[name])
    assert np.array_equal(found[0].frames, found[1].frames)


def test_the_model_drives_where_that_is_asked(trained: Path, column_store: EpisodeStore, column_probes: Path, tmp_path: Path) -> None:
    config = settings(trained, column_store, tmp_path / "own", probes=str(column_probes), actions="model")
    with pytest.raises(UserError, match="--policies real:5: expected one without true frames where the model drives"):
        evaluate_drift(config)
    measured = evaluate_drift(replace(config, policies=("none",)))
    log = settings(trained, column_store, tmp_path, horizon=20)
    pipeline = WorldGPTPipeline.from_pretrained(trained)
    starts = read_starts(pipeline, log)
    chunks = list(roll(pipeline, replace(config, policies=("none",)), starts, slice(0, 4), "none", 20))
    told = measured["none"].telemetry
    assert told is not None and np.array_equal(told, np.concatenate([chunk.telemetry for chunk in chunks], axis=1))
    own = np.concatenate([chunk.actions for chunk in chunks], axis=1)
    true = pipeline.model.actions.values(starts.tokens[..., pipeline.model.layout.span_of_kind("action")])
    assert not np.allclose(own, true)
    figures = json.loads((tmp_path / "own" / "report.json").read_text())["at_seconds"]
    assert "psnr_db" not in figures["none"] and figures[COPY]["psnr_db"]["1"] is not None
    assert measure_policy(pipeline, log, starts, "none").telemetry is None


def test_actions_are_guided_where_that_is_asked(
    pipeline: WorldGPTPipeline, trained: Path, column_store: EpisodeStore, tmp_path: Path
) -> None:
    made = []
    for scale in (1.0, 1.0, 4.0):
        config = settings(trained, column_store, tmp_path, action_guidance=scale)
        made.append(measure_policy(pipeline, config, read_starts(pipeline, config), "none").frames)
    assert np.array_equal(made[0], made[1]) and not np.array_equal(made[0], made[2])


def test_settings_are_checked(trained: Path, column_store: EpisodeStore, tmp_path: Path) -> None:
    for change in ({"horizon": 5}, {"rollouts": 0}, {"batch": 0}):
        with pytest.raises(UserError, match=f"--{next(iter(change))}: expected at least"):
            settings(trained, column_store, tmp_path, **change)
    with pytest.raises(UserError, match="--action-guidance: expected a finite scale, got nan"):
        settings(trained, column_store, tmp_path, action_guidance=float("nan"))
    with pytest.raises(UserError, match="--reanchor: expected one of"):
        evaluate_drift(DriftConfig(checkpoint=str(trained), policies=("often",), output=str(tmp_path / "none")))
    assert not (tmp_path / "none").exists()
