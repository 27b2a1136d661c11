from dataclasses import replace

import pytest
import yaml
from episode_samples import make_episode

from data.episode import Camera
from data.errors import UserError
from data.hub import check_repo
from data.hub_card import data_card
from data.manifest import DriveRecord, Manifest, Signals


def manifest_of(*splits: str, license: str | None = None) -> Manifest:
    episode = make_episode(0, 40)
    drives = (DriveRecord(f"d{k}", split, 18_000 * (k + 1), (), {}, f"{k}") for k, split in enumerate(splits))
    return Manifest("test", Signals.of(episode), tuple(drives), license)


def header_of(card: str) -> dict:
    return yaml.safe_load(card.split("---")[1])


def test_the_header_tells_datasets_where_the_splits_are() -> None:
    [config] = header_of(data_card(manifest_of("train", "val", "held-out", "no"), "me/x"))["configs"]
    found = {item["split"]: item["path"] for item in config["data_files"]}
    assert found == {"train": "train/*.parquet", "val": "val/*.parquet", "held_out": "held-out/*.parquet", "no": "no/*.parquet"}


@pytest.mark.parametrize(
    "license, header",
    [
        ("MIT", {"license": "mit"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC0", {"license": "cc0-1.0"}),
        ("CC BY-NC-SA 3.0", {"license": "cc-by-nc-sa-3.0"}),
        ("KITTI, ask first", {"license": "other", "license_name": "kitti-ask-first"}),
        (None, {}),
    ],
)
def test_licences_that_the_hub_does_not_know_are_other(license: str | None, header: dict) -> None:
    card = data_card(manifest_of("train", license=license), "me/x")
    assert {key: value for key, value in header_of(card).items() if key.startswith("license")} == header
    assert (f"Licence of the data: {license}." in card) == (license is not None)


def test_the_card_holds_facts_and_leaves_out_what_is_not_known() -> None:
    manifest = manifest_of("train", "train", "val")
    card = data_card(manifest, "me/drives")
    assert "3 drives, 108,000 steps, 3.00 hours at 10 steps a second" in card
    assert "| train | 2 | 54,000 | 1.50 |" in card and "| val | 1 | 54,000 | 1.50 |" in card
    assert "| action | steering_rad | rad | -0.5 to 0.5 | 128 |" in card
    assert "| camera | picture | field of view |\n" in card and "| front | 16x24 pixels | 90° |" in card
    assert "aption" not in card and "None" not in card and manifest.hash in card
    unknown = replace(manifest, signals=replace(manifest.signals, cameras={"front": Camera()}, truth=()))
    assert "field of view" not in data_card(unknown, "me/x") and "Known of the world" not in data_card(unknown, "me/x")


def test_a_card_of_codes_speaks_of_codes() -> None:
    manifest = manifest_of("train")
    signals = replace(manifest.signals, frame_sizes={}, code_grids={"front": (8, 16)}, codebook_size=1024, telemetry=(), actions=())
    card = data_card(replace(manifest, signals=signals), "me/codes")
    assert "| front | 8x16 codes out of 1024 |" in card and "cv2" not in card and "| channel |" not in card
    assert 'codes = np.array(row["codes_front"]).reshape(row["steps"], 8, 16)' in card


@pytest.mark.parametrize("repo", ["drives", "me/", "/drives", "me/a/b", "me/a b", "../x", "me/..", ""])
def test_a_repository_is_user_and_name(repo: str) -> None:
    assert check_repo("me/my.drives-2_x") == "me/my.drives-2_x"
    with pytest.raises(UserError, match="--repo: expected user/name, got"):
        check_repo(repo)
