"""Quality: token figures against slow references, distances that are null without their networks, a report that pins what it measured."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from world_samples import column_episode, random_model, random_prompts, random_tokens

from data.errors import UserError
from data.store import EpisodeStore
from worldgpt.evaluate.distances import NAMES, Networks, videos
from worldgpt.evaluate.inception import I3D, InceptionV3
from worldgpt.evaluate.logged import find_places
from worldgpt.evaluate.probes import Probes
from worldgpt.evaluate.quality import evaluate_quality
from worldgpt.evaluate.quality_config import QualityConfig
from worldgpt.evaluate.teacher_forcing import baseline_figures, teacher_forcing
from worldgpt.evaluate.token_figures import token_figures, token_hits
from worldgpt.evaluate.true_windows import count_baselines, read_windows
from worldgpt.pipeline import WorldGPTPipeline

WEIGHTS = "--inception", "--i3d", "--lpips"


@pytest.mark.parametrize("levels", [(), (4,) * 8])
def test_a_hit_is_the_likeliest_id_part_by_part(levels: tuple[int, ...]) -> None:
    model = random_model(levels=levels)
    tokens = random_tokens(model.layout, 2, 3)
    hidden = model(tokens, random_prompts(model, seed=0).expand(2, 3, -1, -1)).detach()
    found = token_hits(model, hidden, tokens)
    for stream in model.layout.streams:
        span, table = model.layout.spans[stream.name], model.table(stream)
        for row in range(2):
            for j in range(stream.tokens):
                told: list[torch.Tensor] = []
                for _ in table.sizes:
                    told.append(model.logits(model.predicting(hidden)[row, 1, span.start + j], span.start + j, told).argmax())
                assert bool(found[stream.name][row, 1, j]) == (int(table.join(told)) == int(tokens[row, 1, span.start + j]))


def inception_shapes() -> dict[str, tuple[int, ...]]:
    """{convolution: (out, in, height, width)} from the tables of Szegedy et al. 2015."""
    found = {
        "Conv2d_1a_3x3": (32, 3, 3, 3),
        "Conv2d_2a_3x3": (32, 32, 3, 3),
        "Conv2d_2b_3x3": (64, 32, 3, 3),
        "Conv2d_3b_1x1": (80, 64, 1, 1),
        "Conv2d_4a_3x3": (192, 80, 3, 3),
    }
    for name, wide, pool in (("Mixed_5b", 192, 32), ("Mixed_5c", 256, 64), ("Mixed_5d", 288, 64)):
        found |= {f"{name}.branch1x1": (64, wide, 1, 1), f"{name}.branch5x5_1": (48, wide, 1, 1), f"{name}.branch5x5_2": (64, 48, 5, 5)}
        found |= {f"{name}.branch3x3dbl_1": (64, wide, 1, 1), f"{name}.branch3x3dbl_2": (96, 64, 3, 3)}
        found |= {f"{name}.branch3x3dbl_3": (96, 96, 3, 3), f"{name}.branch_pool": (pool, wide, 1, 1)}
    found |= {"Mixed_6a.branch3x3": (384, 288, 3, 3), "Mixed_6a.branch3x3dbl_1": (64, 288, 1, 1)}
    found |= {"Mixed_6a.branch3x3dbl_2": (96, 64, 3, 3), "Mixed_6a.branch3x3dbl_3": (96, 96, 3, 3)}
    for name, c in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        found |= {f"{name}.branch1x1": (192, 768, 1, 1), f"{name}.branch7x7_1": (c, 768, 1, 1), f"{name}.branch7x7_2": (c, c, 1, 7)}
        found |= {f"{name}.branch7x7_3": (192, c, 7, 1), f"{name}.branch7x7dbl_1": (c, 768, 1, 1), f"{name}.branch7x7dbl_2": (c, c, 7, 1)}
        found |= {f"{name}.branch7x7dbl_3": (c, c, 1, 7), f"{name}.branch7x7dbl_4": (c, c, 7, 1)}
        found |= {f"{name}.branch7x7dbl_5": (192, c, 1, 7), f"{name}.branch_pool": (192, 768, 1, 1)}
    found |= {
        "Mixed_7a.branch3x3_1": (192, 768, 1, 1),
        "Mixed_7a.branch3x3_2": (320, 192, 3, 3),
        "Mixed_7a.branch7x7x3_1": (192, 768, 1, 1),
    }
    found |= {"Mixed_7a.branch7x7x3_2": (192, 192, 1, 7), "Mixed_7a.branch7x7x3_3": (192, 192, 7, 1)}
    found |= {"Mixed_7a.branch7x7x3_4": (192, 192, 3, 3)}
    for name, wide in (("Mixed_7b", 1280), ("Mixed_7c", 2048)):
        found |= {f"{name}.branch1x1": (320, wide, 1, 1), f"{name}.branch3x3_1": (384, wide, 1, 1)}
        found |= {f"{name}.branch3x3_2a": (384, 384, 1, 3), f"{name}.branch3x3_2b": (384, 384, 3, 1)}
        found |= {f"{name}.branch3x3dbl_1": (448, wide, 1, 1), f"{name}.branch3x3dbl_2": (384, 448, 3, 3)}
        found |= {f"{name}.branch3x3dbl_3a": (384, 384, 1, 3), f"{name}.branch3x3dbl_3b": (384, 384, 3, 1)}
        found |= {f"{name}.branch_pool": (192, wide, 1, 1)}
    return found


def i3d_shapes() -> dict[str, tuple[int, ...]]:
    """The same from the tables of Carreira & Zisserman 2017 (Inception-v1's widths)."""
    found = {"Conv3d_1a_7x7": (64, 3, 7, 7, 7), "Conv3d_2b_1x1": (64, 64, 1, 1, 1), "Conv3d_2c_3x3": (192, 64, 3, 3, 3)}
    blocks = {
        "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
        "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
        "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
        "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
        "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
        "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
        "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
        "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
        "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
    }
    for name, (wide, b0, b1a, b1b, b2a, b2b, b3b) in blocks.items():
        found |= {f"{name}.b0": (b0, wide, 1, 1, 1), f"{name}.b1a": (b1a, wide, 1, 1, 1), f"{name}.b1b": (b1b, b1a, 3, 3, 3)}
        found |= {f"{name}.b2a": (b2a, wide, 1, 1, 1), f"{name}.b2b": (b2b, b2a, 3, 3, 3), f"{name}.b3b": (b3b, wide, 1, 1, 1)}
    return found


def random_weights(shapes: dict[str, tuple[int, ...]], kind: str) -> dict[str, torch.Tensor]:
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, shape in shapes.items():
        fan = float(np.prod(shape[1:]))
        tensors[f"{name}.{kind}.weight"] = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5
        tensors |= {f"{name}.bn.{part}": torch.ones(shape[0]) for part in ("weight", "running_var")}
        tensors |= {f"{name}.bn.{part}": torch.zeros(shape[0]) for part in ("bias", "running_mean")}
    return tensors


def trained_numbers(tensors: dict[str, torch.Tensor]) -> int:
    return sum(t.numel() for name, t in tensors.items() if "running" not in name)


def test_inception_reads_what_the_paper_has(tmp_path: Path) -> None:
    tensors = random_weights(inception_shapes(), "conv")
    assert trained_numbers(tensors) == 21_785_568  # as published for Inception-v3 without its classifiers
    save_file(tensors, path := tmp_path / "inception.safetensors")
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), np.uint8)
    features = InceptionV3.load(str(path)).features(np.concatenate([frames, frames[:1]]))
    assert features.shape == (4, 2048) and np.isfinite(features).all()
    assert np.allclose(features[0], features[3], atol=1e-4) and not np.allclose(features[0], features[1], atol=1e-2)
    del tensors["Mixed_6c.branch7x7_2.bn.bias"]
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"InceptionV3, found no 'Mixed_6c.branch7x7_2.bn.bias'"):
        InceptionV3.load(str(path))


def test_i3d_reads_what_the_paper_has(tmp_path: Path) -> None:
    tensors = random_weights(i3d_shapes(), "conv3d")
    assert trained_numbers(tensors) == 12_287_264  # as published, without the classifier
    tensors |= {"logits.conv3d.weight": torch.randn(400, 1024, 1, 1, 1) / 32, "logits.conv3d.bias": torch.zeros(400)}
    save_file(tensors, path := tmp_path / "i3d.safetensors")
    drives = np.random.default_rng(0).integers(0, 256, (1, 20, 32, 48, 3), np.uint8)
    cut = videos(drives)
    assert cut.shape == (1, 16, 32, 48, 3) and np.array_equal(cut[0], drives[0, :16])
    features = I3D.load(str(path)).features(cut)
    assert features.shape == (1, 400) and np.isfinite(features).all()
    tensors["Mixed_4b.b0.conv3d.weight"] = torch.zeros(3, 3, 1, 1, 1)
    save_file(tensors, path)
    with pytest.raises(UserError, match="I3D, got other shapes"):
        I3D.load(str(path))
    with pytest.raises(UserError, match="at least 16 frames, got 10"):
        videos(drives[:, :10])


def test_distances_are_null_without_their_networks(column_probes: Path, column_store: EpisodeStore, tmp_path: Path) -> None:
    networks = replace(Networks.load("", "", ""), probes=Probes.load(column_probes))
    drives = np.stack([column_store.read(d.drive_id, 0, 20).frames["front"] for d in column_store.drives("val")])
    same = networks.distances(drives, drives, paired=True)
    assert set(same) == set(NAMES) and [same[name] for name in ("fid", "fvd", "lpips")] == [None] * 3
    other = networks.distances(drives[:, ::-1] // 2, drives, paired=True)
    for name in ("probe_frechet_frames", "probe_frechet_clips"):
        assert same[name] == pytest.approx(0, abs=1e-3) and (other[name] or 0) > 0.01
    for flag, names in zip(WEIGHTS, (("absent", "", ""), ("", "absent", ""), ("", "", "absent")), strict=True):
        with pytest.raises(UserError, match=f"{flag}: expected a safetensors file, found none at absent"):
            Networks.load(*names)
    (tmp_path / "broken").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="broken: expected safetensors"):
        InceptionV3.load(str(tmp_path / "broken"))


def test_a_network_without_lpips_heads_is_not_lpips(tmp_path: Path) -> None:
    widths = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256), 17: (256, 512)}
    widths |= dict.fromkeys((19, 21, 24, 26, 28), (512, 512))
    tensors = {f"features.{n}.weight": torch.zeros(out, wide, 3, 3) for n, (wide, out) in widths.items()}
    tensors |= {f"features.{n}.bias": torch.zeros(out) for n, (_, out) in widths.items()}
    save_file(tensors, path := tmp_path / "vgg.safetensors")
    with pytest.raises(UserError, match="--lpips: expected LPIPS's heads"):
        Networks.load("", "", str(path))
    tensors |= {f"lin{k}.model.1.weight": torch.ones(1, c, 1, 1) for k, c in enumerate((64, 128, 256, 512, 512))}
    save_file(tensors, path)
    frames = np.zeros((1, 2, 16, 16, 3), np.uint8)
    assert Networks.load("", "", str(path)).distances(frames, frames, paired=True)["lpips"] == 0


def test_windows_and_their_figures_are_those_of_training(trained: Path, column_store: EpisodeStore) -> None:
    pipeline = WorldGPTPipeline.from_pretrained(trained, device="cpu")
    layout, places = pipeline.model.layout, find_places(column_store, "val", 4, 30)
    windows = read_windows(pipeline, column_store, [("drive25", 0), ("drive25", 1), ("drive26", 22), *places], 4)
    for row, (number, start) in enumerate([(25, 0), (25, 1), (26, 22)]):
        true = pipeline.model.actions.values(windows.tokens[row][:, layout.spans["action/steering_norm"]])
        np.testing.assert_array_equal(true, column_episode(number).actions[start : start + 4])
    assert (windows.before[0] == layout.null_tokens).all() and (windows.before[1][1] == windows.tokens[0][0]).all()
    assert windows.captions[2] == ["night on a road"] * 2 + ["night on a road, late"] * 2
    baselines = count_baselines(pipeline, column_store, 500)
    found, known = token_figures(pipeline.model, windows, baselines, 8), teacher_forcing(pipeline.model, windows, 8)
    for figure, stream, name in (
        ("frame_nats", "camera/front", "nats"),
        ("changed_code_nats", "camera/front", "changed_nats"),
        ("bits_per_frame", "camera/front", "bits_per_step"),
        ("action_nats", "action/steering_norm", "nats"),
    ):
        assert found[stream]["model"][name]["value"] == pytest.approx(known[figure], rel=1e-4)
    copied = baseline_figures(baselines, windows, pipeline.model)["copy_last"]
    assert found["camera/front"]["copy_last"]["nats"]["value"] == pytest.approx(copied["frame_nats"])


def test_data_that_teaches_no_probes_has_no_distances(trained: Path, column_store: EpisodeStore, tmp_path: Path) -> None:
    (tmp_path / "probes").mkdir()
    shared = {"checkpoint": str(trained), "data": str(column_store.path), "probes": str(tmp_path / "probes")}
    found = evaluate_quality(QualityConfig(**shared, output=str(tmp_path / "new"), windows=4, baseline_steps=100, rollouts=2, horizon=10))
    assert found["distances"]["model"] == dict.fromkeys(NAMES) and found["probes"] is None
    assert "expected the measuring networks" in found["missing"]["probe_frechet_clips"]


@pytest.fixture(scope="module")
def report(trained: Path, column_store: EpisodeStore, column_probes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("quality") / "new"
    shared = {"checkpoint": str(trained), "data": str(column_store.path), "probes": str(column_probes), "output": str(output)}
    evaluate_quality(QualityConfig(**shared, windows=16, rollouts=4, horizon=12, batch=4))
    return output


def test_the_report_has_every_figure_beside_its_floor(report: Path, trained: Path, column_store: EpisodeStore) -> None:
    found = json.loads((report / "report.json").read_text())
    assert (found["device"], found["dtype"]) == ("cpu", "float32")
    codes = found["tokens"]["camera/front"]
    value = {name: {figure: estimate["value"] for figure, estimate in one.items()} for name, one in codes.items()}
    assert value["model"]["nats"] < value["copy_last"]["nats"] < value["unigram"]["nats"]
    assert value["model"]["accuracy"] > value["copy_last"]["accuracy"] and value["copy_last"]["changed_accuracy"] == 0
    assert value["model"]["changed_accuracy"] > 0.5  # the action tells where the column goes
    assert value["model"]["bits_per_step"] == pytest.approx(value["model"]["nats"] * 4 / np.log(2))
    assert codes["copy_last"]["nats"]["low"] < value["copy_last"]["nats"] < codes["copy_last"]["nats"]["high"]
    assert set(found["tokens"]) == {"camera/front", "telemetry/speed_mps", "action/steering_norm"}
    psnr = {way: figures["psnr_db"] for way, figures in found["horizon"].items()}
    assert psnr["model"]["1"]["value"] <= psnr["tokenizer floor"]["1"]["value"] + 0.5 and psnr["model"]["5"] is None
    assert psnr["copy last"]["1"]["count"] == 4 and psnr["copy last"]["1"]["low"] <= psnr["copy last"]["1"]["value"]
    distances = found["distances"]
    assert set(distances) == {"tokenizer floor", "copy last", "model", "another drive"}
    assert distances["model"]["fid"] is None and distances["another drive"]["lpips"] is None
    pinned = found["measured_on"]
    assert found["data_hash"] == column_store.hash and len(pinned["rollouts"]) == 4
    one = pinned["rollouts"][1]
    frames = column_store.read(one["drive_id"], one["step"], one["step"] + 12).frames["front"]
    assert one["frames_sha256"] == hashlib.sha256(frames.tobytes()).hexdigest()
    window = pinned["windows"][3]
    frames = column_store.read(window["drive_id"], window["step"], window["step"] + 4).frames["front"]
    assert len(pinned["windows"]) == 16 and window["frames_sha256"] == hashlib.sha256(frames.tobytes()).hexdigest()


def test_the_report_can_be_looked_at(report: Path) -> None:
    assert {"report.json", "table.md", "curves.png", "rollouts.png"} <= {path.name for path in report.iterdir()}
    table = (report / "table.md").read_text()
    assert table.startswith("| stream | predictor | nats/token |") and "| camera/front | copy last |" in table and "| null |" in table


def test_settings_are_checked_and_quick_shortens() -> None:
    with pytest.raises(UserError, match="--horizon: expected at least 10, got 3"):
        QualityConfig(horizon=3)
    quick = QualityConfig(quick=True).shortened()
    assert quick.rollouts * quick.horizon <= 80 and QualityConfig().shortened() == QualityConfig()
