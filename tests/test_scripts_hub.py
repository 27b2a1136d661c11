import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from episode_samples import make_drives
from hub_server import HubServer, Repo

from data.store import EpisodeStore, write_store

SCRIPT = str(Path(__file__).parents[1] / "scripts" / "hub.py")
REPO = ("dataset", "me/drives")


class Hub:
    """The server, a folder to work in, and the script."""

    def __init__(self, server: HubServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.cache = folder / "hf"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, SCRIPT, *arguments]

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.server.environment(self.cache), **variables}
        return subprocess.run(self.command(*arguments), cwd=self.folder, env=environment, capture_output=True, text=True)

    def push(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run("push-data", "--data", "set", "--repo", REPO[1], *arguments, **variables)

    def pull(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run("pull-data", "--repo", REPO[1], "--output", "back", *arguments, **variables)

    def sent(self) -> list[str]:
        return [path for method, path in self.server.asked if method == "PUT"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    write_store(make_drives(12, 40), tmp_path / "set", source="test", fps=10.0, workers=1, progress=False, license="CC0")
    with HubServer() as server:
        yield Hub(server, tmp_path)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a refusal is; progress bars stand before it."""
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith((".tmp-", "back"))]


def test_a_set_goes_to_the_hub_and_comes_back_the_same(hub: Hub) -> None:
    pushed = hub.push("--private")
    assert pushed.returncode == 0 and pushed.stdout == f"pushed to {hub.server.url}/datasets/me/drives\n", pushed.stderr
    store, repo = EpisodeStore.open(hub.folder / "set"), hub.server.repos[REPO]
    names = {drive.file for drive in store.manifest.drives}
    assert repo.private and repo.commits == 1 and set(repo.files) == {*names, "manifest.json", "README.md"}
    assert all((hub.folder / "set" / name).read_bytes() == data for name, data in repo.files.items())

    pulled = hub.pull()
    assert pulled.returncode == 0, pulled.stderr
    back = EpisodeStore.open(hub.folder / "back")
    assert back.hash == store.hash and back.manifest == store.manifest
    np.testing.assert_array_equal(back.read("drive5").frames["front"], store.read("drive5").frames["front"])
    assert "already holds files; give --overwrite" in refused(hub.pull())

    # Pushed again, nothing is sent twice; of a set that lost a drive, the drive goes.
    sent = len(hub.sent())
    repo.files["LICENSE"] = b"mine"
    write_store(make_drives(11, 40), hub.folder / "set", source="test", fps=10.0, workers=1, progress=False, overwrite=True)
    assert hub.push().returncode == 0 and len(hub.sent()) == sent
    assert set(repo.files) == {*names, "manifest.json", "README.md", "LICENSE"} - {"train/drive11.parquet"}
    assert hub.pull("--overwrite").returncode == 0
    assert EpisodeStore.open(hub.folder / "back").hash == EpisodeStore.open(hub.folder / "set").hash != store.hash

    # What was fetched once serves without a network.
    hub.server.asked.clear()
    shutil.rmtree(hub.folder / "back")
    assert hub.pull(HF_HUB_OFFLINE="1").returncode == 0 and not hub.server.asked
    assert EpisodeStore.open(hub.folder / "back").hash == EpisodeStore.open(hub.folder / "set").hash
    assert "the Hub cannot be reached" in refused(hub.push(HF_HUB_OFFLINE="1"))


def test_datasets_streams_it_by_the_lines_of_its_card(hub: Hub) -> None:
    assert hub.push().returncode == 0
    lines = (hub.folder / "set" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    lines += """
print(sum(row["steps"] for row in rows))
np.savez("got.npz", pictures=np.stack(pictures)[..., ::-1], telemetry=telemetry, actions=actions)
folder = load_dataset("set")
print({split: sum(rows["steps"]) for split, rows in folder.items()})
"""
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=hub.folder, env=hub.server.environment(hub.cache), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    store = EpisodeStore.open(hub.folder / "set")
    steps = {split: 40 * len(store.drives(split)) for split in store.splits}
    assert done.stdout.splitlines() == [str(steps["train"]), str(steps)]
    first, got = store.read(store.drives("train")[0].drive_id, 0, 32), np.load(hub.folder / "got.npz")
    np.testing.assert_array_equal(got["pictures"], first.frames["front"])
    np.testing.assert_array_equal(got["telemetry"], first.telemetry)
    np.testing.assert_array_equal(got["actions"], first.actions)


def test_an_interrupted_upload_goes_on_with_what_is_missing(hub: Hub) -> None:
    hub.server.hang_after = 5
    push = hub.command("push-data", "--data", "set", "--repo", REPO[1])
    process = subprocess.Popen(push, cwd=hub.folder, env=hub.server.environment(hub.cache), stderr=subprocess.DEVNULL)
    wait_until(lambda: len(hub.server.blobs) >= 5 and len(hub.sent()) > 5)
    process.kill()
    process.wait()
    arrived = set(hub.server.blobs)
    assert not hub.server.repos[REPO].files and 5 <= len(arrived) < 12
    assert "holds no such file" in refused(hub.pull()) and not left_over(hub.folder)

    hub.server.hang_after = None
    hub.server.hanging.set()
    hub.server.asked.clear()
    assert hub.push().returncode == 0
    assert {path.removeprefix("/lfs/") for path in hub.sent()} == set(hub.server.blobs) - arrived
    assert hub.pull().returncode == 0


def wait_until(done: Callable[[], bool], limit_s: float = 30) -> None:
    end = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_the_hub_refuses_is_one_line(hub: Hub) -> None:
    hub.server.repos["dataset", "me/secret"] = Repo(private=True)
    assert "me/drives: no such repository on the Hub" in refused(hub.pull(HF_TOKEN=""))
    assert "me/secret: no such repository on the Hub" in refused(
        hub.run("pull-data", "--repo", "me/secret", "--output", "back", HF_TOKEN="")
    )
    assert "me/drives: the Hub refused the token" in refused(hub.pull(HF_TOKEN="hf_wrong"))
    assert "me/drives: the Hub refused the token" in refused(hub.push(HF_TOKEN="hf_wrong"))
    assert "--repo: expected user/name, got 'drives'" in refused(hub.run("push-data", "--data", "set", "--repo", "drives"))
    assert "no such data set" in refused(hub.run("push-data", "--data", "none", "--repo", REPO[1]))
    hub.server.shutdown()
    hub.server.server_close()
    assert "me/drives: the Hub cannot be reached" in refused(hub.push())
    assert not left_over(hub.folder)


def test_nothing_is_pushed_over_what_is_not_ours_or_may_be_seen(hub: Hub) -> None:
    shard = next((hub.folder / "set" / "train").glob("*.parquet"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    assert f"{shard.relative_to(hub.folder)}: expected a shard of episodes" in refused(hub.push())
    assert not hub.server.repos  # a damaged set does not even make a repository
    shard.write_bytes(whole)
    assert hub.push().returncode == 0
    assert "exists and is public, expected a private one" in refused(hub.push("--private"))
    repo = hub.server.repos[REPO]
    del repo.files["manifest.json"]
    before = dict(repo.files)
    assert "holds files that are not a data set of ours" in refused(hub.push())
    assert repo.files == before


Files = dict[str, bytes]
PULL_ALL = """
import sys
from pathlib import Path
from data.errors import UserError
from data.hub_data import pull_data
for repo in sys.argv[1:]:
    try:
        pull_data(repo, Path("back"), progress=False)
    except UserError as error:
        print(error)
"""


def test_harmful_repositories_leave_nothing(hub: Hub) -> None:
    harms: list[tuple[Callable[[Files], Any], str]] = [
        (lambda files: files.update({"train/drive0.parquet": b"import os"}), "expected a shard of episodes"),
        (lambda files: files.pop("train/drive0.parquet"), "holds no such file"),
        (lambda files: files.update({"train/drive0.parquet": files["train/drive1.parquet"]}), "expected the drive that manifest.json"),
        (lambda files: files.update({"manifest.json": b"{"}), "expected JSON"),
        (lambda files: edit(files, lambda value: value["drives"][0].update(content_hash="0" * 64)), "expected the drive that"),
        (lambda files: edit(files, lambda value: value["drives"][0].update(split="../..", drive_id="../../evil")), "holds no such file"),
        (lambda files: edit(files, lambda value: value["drives"][0].update(drive_id="/tmp/evil")), "holds no such file"),
    ]
    folder = hub.folder / "set"
    whole = {str(path.relative_to(folder)): path.read_bytes() for path in [*folder.glob("*/*.parquet"), folder / "manifest.json"]}
    for number, (harm, _) in enumerate(harms):
        files = whole | {"../evil.parquet": b"out", "train/run.py": b"print('hello')", "train/more.pkl": b"."}
        harm(files)
        hub.server.repos["dataset", f"me/harm{number}"] = Repo(files=files)
    pull = [sys.executable, "-c", PULL_ALL, *(name for _, name in hub.server.repos)]
    variables = {**hub.server.environment(hub.cache), "PYTHONPATH": str(Path(SCRIPT).parents[1])}
    done = subprocess.run(pull, cwd=hub.folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line, (_, message) in zip(done.stdout.splitlines(), harms, strict=True):
        assert message in line
    assert not left_over(hub.folder) and not list(hub.folder.parent.glob("evil*"))
    assert not list(hub.cache.rglob("*.pkl")) and not list(hub.cache.rglob("*.py"))


def edit(files: Files, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(files["manifest.json"])
    change(value)
    files["manifest.json"] = json.dumps(value).encode()
