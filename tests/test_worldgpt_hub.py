"""World models on a loopback Hub: pushed, pulled, run by name; and checkpoints that mean harm, which are refused in one line."""

import json
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import HubServer, Repo

from data.errors import UserError
from tokenizer.model import FrameTokenizer, load_tokenizer
from worldgpt.hub import model_card
from worldgpt.model import WorldGPT
from worldgpt.pipeline import WorldGPTPipeline, load_world_model

ROOT = Path(__file__).parents[1]
REPO = "me/world"


class Hub:
    """The server, a folder to work in with a cache of its own, and the scripts."""

    def __init__(self, server: HubServer, folder: Path) -> None:
        self.server, self.folder = server, folder

    def run(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.server.environment(self.folder / "hf"), **variables}
        command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

    def python(self, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.server.environment(self.folder / "hf"), "PYTHONPATH": str(ROOT), **variables}
        return subprocess.run([sys.executable, "-c", code], cwd=self.folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with HubServer() as server:
        yield Hub(server, tmp_path)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


def model_files(folder: Path) -> dict[str, bytes]:
    """A checkpoint as a repository holds it."""
    paths = [folder / name for name in ("config.json", "model.safetensors")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in [*paths, *(folder / "tokenizer").glob("*.*")]}


def test_a_model_goes_to_the_hub_and_comes_back_the_same(hub: Hub, trained: Path) -> None:
    done = hub.run("hub.py", "push", "--checkpoint", str(trained), "--repo", REPO, "--license", "Apache-2.0")
    assert done.returncode == 0, done.stderr
    files = hub.server.repos["model", REPO].files
    assert {"config.json", "model.safetensors", "tokenizer/config.json", "tokenizer/model.safetensors", "README.md"} <= set(files)
    assert {"sample.mp4", "sample.png"} <= set(files)
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in files)
    card = files["README.md"].decode()
    command = "python scripts/train_worldgpt.py --preset demo --data DATA --tokenizer TOKENIZER --output OUTPUT"
    for fact in (
        "license: apache-2.0",
        "speed_mps",
        "steering_norm",
        "copy_last",
        "frame_nats",
        '"width": 48',
        command,
        "--loop.steps 400",
    ):
        assert fact in card, fact
    for limit in ("It remembers 4 steps (0.4 s)", "frames of 8x32 pixels at 10 a second", "0.0 hours of driving in 24 drives"):
        assert limit in card, limit
    assert "The floor of all pictures" not in card  # its tokenizer was never measured
    assert str(trained) not in card and str(trained.parent) not in b"".join(files.values()).decode("latin1")
    done = hub.run("hub.py", "pull", "--repo", REPO, "--output", "back")
    assert done.returncode == 0, done.stderr
    back, here = WorldGPTPipeline.from_pretrained(hub.folder / "back"), WorldGPTPipeline.from_pretrained(trained)
    assert back.model.content_hash() == here.model.content_hash()
    assert back.tokenizer is not None and here.tokenizer is not None
    assert back.tokenizer.content_hash() == here.tokenizer.content_hash()
    assert "already holds files" in refused(hub.run("hub.py", "pull", "--repo", REPO, "--output", "back"))


def test_the_card_tells_the_tokenizers_floor_where_it_is_known(trained: Path, tmp_path: Path) -> None:
    report = json.loads((trained / "report.json").read_text())
    report["tokenizer"] = {"psnr_db": 31.24, "ssim": 0.9, "masks": {"paint": {"psnr_db": 25.01}, "cars": None}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    card = model_card(WorldGPTPipeline.from_pretrained(trained), REPO, None, tmp_path)
    assert "the tokenizer's own error: PSNR 31.2 dB, SSIM 0.900, inside paint 25.0 dB." in card and "## How it was trained" not in card


PUSH = f"""
from worldgpt.pipeline import WorldGPTPipeline
pipeline = WorldGPTPipeline.from_pretrained("TRAINED")
print(pipeline.push_to_hub("{REPO}", private=True))
"""


def test_a_pipeline_is_pushed_and_had_back_by_its_revision(hub: Hub, trained: Path) -> None:
    done = hub.python(PUSH.replace("TRAINED", str(trained)))
    assert done.returncode == 0, done.stderr
    repo = hub.server.repos["model", REPO]
    assert repo.private and REPO in done.stdout
    load = f'print(WorldGPTPipeline.from_pretrained("{REPO}", revision="{repo.sha}").model.content_hash())'
    load = f"from worldgpt.pipeline import WorldGPTPipeline\n{load}"
    done = hub.python(load)
    assert done.returncode == 0 and done.stdout.strip() == load_world_model(trained).content_hash(), done.stderr


def test_an_interrupted_push_publishes_nothing_and_goes_on_with_what_is_missing(hub: Hub, trained: Path) -> None:
    server, push = hub.server, ("push", "--checkpoint", str(trained), "--repo", REPO)
    server.hang_after = 1
    command = [sys.executable, str(ROOT / "scripts" / "hub.py"), *push]
    process = subprocess.Popen(command, cwd=hub.folder, env=server.environment(hub.folder / "hf"), stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while len(server.blobs) < 1 or sum(method == "PUT" for method, _ in server.asked) < 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    process.wait()
    arrived = set(server.blobs)
    assert not server.repos["model", REPO].files
    assert "holds no config.json" in refused(hub.run("hub.py", "pull", "--repo", REPO, "--output", "back"))
    server.refuses = True  # a right that was withdrawn
    assert f"{REPO}: the token in use has no right to do this" in refused(hub.run("hub.py", *push))
    assert not server.repos["model", REPO].files
    server.hang_after, server.refuses = None, False
    server.hanging.set()
    server.asked.clear()
    assert hub.run("hub.py", *push).returncode == 0
    sent = {path.removeprefix("/lfs/") for method, path in server.asked if method == "PUT"}
    assert sent and not sent & arrived
    assert hub.run("hub.py", "pull", "--repo", REPO, "--output", "back").returncode == 0


def test_models_run_by_their_name_and_without_a_network(hub: Hub, trained: Path) -> None:
    hub.server.repos["model", REPO] = Repo(files=model_files(trained))
    flags = ("--prompt", "night on a road", "--frames", "4", "--checkpoint")
    assert hub.run("generate.py", *flags, REPO, "--output", "hub.mp4").returncode == 0
    assert hub.run("generate.py", *flags, REPO, "--output", "offline.mp4", HF_HUB_OFFLINE="1").returncode == 0
    assert hub.run("generate.py", *flags, str(trained), "--output", "here.mp4").returncode == 0
    made = [(hub.folder / f"{name}.mp4").read_bytes() for name in ("hub", "offline", "here")]
    assert made[0] == made[1] == made[2]


LOAD = f"""
import torch
from transformers import AutoConfig, AutoModel
import worldgpt.model
from tokenizer.model import FrameTokenizer
from worldgpt.model import WorldGPT
print(type(AutoConfig.from_pretrained("{REPO}")).__name__, type(AutoModel.from_pretrained("{REPO}")).__name__)
print(type(FrameTokenizer.from_pretrained("{REPO}", subfolder="tokenizer")).__name__)
print(WorldGPT.from_pretrained("{REPO}", dtype=torch.bfloat16).dtype, WorldGPT.from_pretrained("{REPO}").content_hash())
print(WorldGPT.from_pretrained("{REPO}", local_files_only=True).content_hash())
"""


def test_parts_load_alone_and_in_shards(hub: Hub, trained: Path, tmp_path: Path) -> None:
    model = load_world_model(trained)
    model.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    shards = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    assert sum(name.endswith(".safetensors") for name in shards) > 2
    rest = {name: data for name, data in model_files(trained).items() if name.startswith("tokenizer/")}
    hub.server.repos["model", REPO] = Repo(files={**shards, **rest, "evil.py": b"raise SystemExit(3)"})
    done = hub.python(LOAD)
    assert done.returncode == 0, done.stderr
    told = done.stdout.split()
    digest = model.content_hash()
    assert told == ["WorldGPTConfig", "WorldGPT", "FrameTokenizer", "torch.bfloat16", digest, digest]


def test_what_the_hub_refuses_is_one_line(hub: Hub, trained: Path) -> None:
    hub.server.repos["model", REPO] = Repo(files=model_files(trained))
    hub.server.repos["model", "me/other"] = Repo(files={"pytorch_model.bin": b"."})
    hub.server.repos["model", "me/empty"] = Repo(files={"README.md": b"nothing"})
    pull = ("hub.py", "pull", "--output", "back", "--repo")
    assert "me/absent" in refused(hub.run(*pull, "me/absent"))
    assert REPO in refused(hub.run(*pull, REPO, HF_TOKEN="hf_wrong"))
    assert REPO in refused(hub.run(*pull, REPO, "--revision", "v9"))
    assert "holds 'pytorch_model.bin', which may be a pickle" in refused(hub.run(*pull, "me/other"))
    assert "holds no config.json" in refused(hub.run(*pull, "me/empty"))
    assert not (hub.folder / "back").exists()
    push = ("hub.py", "push", "--checkpoint", str(trained), "--repo")
    assert "holds files that are not a world model of ours" in refused(hub.run(*push, "me/other"))
    assert "expected user/name" in refused(hub.run(*push, "nobody"))


# -- checkpoints that mean harm --------------------------------------------------------------------------------------------------


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a file of weights declares, and leave its bytes."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    value = json.loads(data[8 : 8 + length])
    change(value)
    text = json.dumps(value).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def first(value: dict[str, Any]) -> dict[str, Any]:
    return next(tensor for name, tensor in value.items() if name != "__metadata__")


def index(folder: Path, file: str) -> None:
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"x": file}}))


HARMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pickle": (lambda f: (f / "pytorch_model.bin").write_bytes(b"cos\nsystem\n."), "may be a pickle"),
    "adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "no part of a checkpoint of ours"),
    "wrong shape": (lambda f: header(f / "model.safetensors", lambda v: first(v)["shape"].append(1)), "do not fit config.json"),
    "huge declared": (lambda f: header(f / "model.safetensors", lambda v: first(v).update(shape=[1 << 40, 9])), "takes .* bytes"),
    "huge header": (lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}"), "a header of"),
    "overlap": (lambda f: header(f / "model.safetensors", lambda v: v.update(more=first(v))), "overlap or leave gaps"),
    "path out": (lambda f: index(f, "../../etc/model-00001-of-00001.safetensors"), "expected in a file such as"),
    "absolute path": (lambda f: index(f, "/etc/passwd"), "expected in a file such as"),
    "missing shard": (lambda f: index(f, "model-00001-of-00001.safetensors"), "is missing"),
    "link out": (lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors").symlink_to("/etc/hostname")), "leads out"),
    "huge width": (lambda f: edit(f / "config.json", lambda v: v["model"].update(width=1 << 40)), "expected at most"),
    "huge grid": (lambda f: edit(f / "config.json", lambda v: v["layout"]["streams"][0].update(rows=60_000)), "expected at most"),
    "other digits": (lambda f: edit(f / "config.json", lambda v: v["layout"]["codebooks"][0].update(levels=[4] * 9)), "whose product is"),
    "many digits": (lambda f: edit(f / "config.json", lambda v: v["layout"]["codebooks"][0].update(levels=[4] * 4000)), "whose product is"),
    "not a number": (lambda f: edit(f / "config.json", lambda v: v.update(fps=float("nan"))), "expected at most"),
    "unknown field": (lambda f: edit(f / "config.json", lambda v: v.update(auto_map={"AutoModel": "evil.py"})), "unknown field 'auto_map'"),
    "quantized": (lambda f: edit(f / "config.json", lambda v: v.update(quantization_config={})), "unknown field"),
    "name twice": (lambda f: (f / "config.json").write_text('{"model_type": "worldgpt", "model_type": "worldgpt"}'), "a name stands twice"),
    "deep": (lambda f: (f / "config.json").write_text("[" * 100_000), "expected JSON"),
    "other layers": (lambda f: edit(f / "config.json", lambda v: v["model"].update(layers=400)), "do not fit config.json"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_hostile_world_model_is_refused_in_one_line(harm: str, trained: Path, tmp_path: Path) -> None:
    change, message = HARMS[harm]
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(trained / name, folder / name)
    change(folder)
    for load in (load_world_model, WorldGPT.from_pretrained, WorldGPTPipeline.from_pretrained):
        with pytest.raises(UserError, match=message) as told:
            load(folder)
        assert "\n" not in str(told.value) and len(str(told.value)) < 700


@pytest.mark.parametrize(
    "field, value", [("codebook_size", 1 << 40), ("levels", [60_000] * 4), ("levels", [4] * 4000), ("depth_of_hell", 1)]
)
def test_a_hostile_tokenizer_is_refused_in_one_line(field: str, value: Any, trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained / "tokenizer", tmp_path / "tokenizer")
    edit(folder / "config.json", lambda v: v.update({field: value}))
    for load in (load_tokenizer, FrameTokenizer.from_pretrained):
        with pytest.raises(UserError, match=r"expected at most|unknown field") as told:
            load(folder)
        assert "\n" not in str(told.value)


def test_a_tokenizer_of_another_model_is_refused(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "mixed", ignore=shutil.ignore_patterns("checkpoints"))
    weights = folder / "tokenizer" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-4:] = np.float32(0.5).tobytes()
    weights.write_bytes(bytes(data))
    with pytest.raises(UserError, match="not the one that the world model was trained with"):
        WorldGPTPipeline.from_pretrained(folder)
