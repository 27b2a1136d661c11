"""Files on their way to and from a repository of the Hub; what they are is their owner's matter (hub_data, worldgpt/hub)."""

import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data.errors import UserError
from data.folder import MARKER
from data.hub import hub_errors
from data.progress import Bar

AT_ONCE = 8
"""Files on the way at the same time."""
Kind = Literal["model", "dataset"]


@dataclass(frozen=True)
class Access:
    """How a repository is reached; the names and defaults are those of huggingface_hub."""

    revision: str | None = None
    """Branch, tag or commit; None: the main branch."""
    local_files_only: bool = False
    """Take the cache as it is and ask nobody."""
    token: str | bool | None = None
    """None: HF_TOKEN or what `hf auth login` kept; False: none at all."""
    cache_dir: str | Path | None = None
    """Folder of the cache; None: the usual one."""


def cached_files(
    repo: str,
    first: str,
    choose: Callable[[Mapping[str, int]], Iterable[str]],
    access: Access,
    *,
    kind: Kind = "model",
    progress: bool = True,
) -> Path:
    """Folder of the Hub's cache that holds the file `first` of a repository and those that `choose` picks, all of one commit.

    `choose` sees {name: bytes} of the whole repository before anything is fetched, and may refuse it with a UserError. Where the Hub cannot
    be reached the cache serves, and a line says so. UserError in one line for everything that the Hub answers.
    """
    from huggingface_hub import hf_hub_download

    given: dict[str, Any] = {"repo_type": kind, "token": access.token, "cache_dir": access.cache_dir}
    with hub_errors(repo):
        found = _listing(repo, kind, access)
        names = set(choose(found[1])) if found is not None else set()
        offline = found is None
        known = Path(hf_hub_download(repo, first, revision=access.revision, local_files_only=offline, **given))
        snapshot = known.parents[first.count("/")]
    if found is None:
        if not _asks_nobody(access):
            print(f"{repo}: the Hub cannot be reached; taking what the cache holds ({snapshot.name[:12]})", file=sys.stderr)
        return snapshot
    if snapshot.name != found[0]:
        raise UserError(f"{repo}: was changed while it was read; try again")

    def fetch(name: str) -> None:
        hf_hub_download(repo, name, revision=found[0], **given)

    fetch_all(repo, sorted(name for name in names if not (snapshot / name).exists()), fetch, progress)
    return snapshot


def fetch_all(repo: str, names: Collection[str], fetch: Callable[[str], None], progress: bool) -> None:
    """Call `fetch` on every name, some at once; the first error ends it."""
    bar = Bar("fetching", total=len(names), unit="files", enabled=progress and len(names) > 0)
    with hub_errors(repo, "fetching again goes on from the cache"), bar, ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for _ in pool.map(fetch, names):
                bar.advance(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def check_output(output: Path, overwrite: bool) -> None:
    """UserError where a folder to pull into holds files, unless they may be overwritten."""
    if not overwrite and output.is_dir() and any(entry.name != MARKER for entry in output.iterdir()):
        raise UserError(f"{output}: already holds files; give --overwrite to replace them, or another --output")


def place(cached: Path, target: Path) -> None:
    """A file of the cache at its place: the same bytes on disk where one file system holds both, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(cached.resolve(), target)
    except OSError:
        shutil.copyfile(cached, target)


@dataclass(frozen=True)
class Shipment:
    """What one commit brings to a repository."""

    large: Mapping[str, Path]
    """Files that are sent first, some at a time, and need not be sent again after an interruption."""
    small: Mapping[str, Path | bytes]
    message: str
    stale: Callable[[str], bool]
    """Which of the files there are ours and go, unless they are brought anew."""
    expected: str
    """A file that a repository of this kind holds: one that holds others, but not it, is left alone."""
    named: str
    """What such a repository is called, as in 'a data set of ours'."""


HUB_OWN = {".gitattributes", "README.md"}


def send(repo: str, kind: Kind, shipment: Shipment, *, private: bool = False, progress: bool = True, **options: Any) -> str:
    """Make the repository if need be, upload, and commit all at once; returns the page's address.

    `options`: `revision`, a branch that is made if it is not there, and `token`. UserError where the repository holds something else, is
    public though `private` is asked, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    revision = options.get("revision")
    with hub_errors(repo, "nothing is published yet, and pushing again sends only what is missing"):
        api: Any = HfApi(library_name="worldgpt", token=options.get("token"))
        url = api.create_repo(repo, repo_type=kind, private=private or None, exist_ok=True)
        _check_ours(api.repo_info(repo, repo_type=kind), repo, shipment, private)
        if revision is not None:
            api.create_branch(repo, branch=revision, repo_type=kind, exist_ok=True)
        there = {file.rfilename for file in api.repo_info(repo, repo_type=kind, revision=revision).siblings or []}
        gone = {name for name in there if shipment.stale(name)} - {*shipment.large, *shipment.small}
        sent = [CommitOperationAdd(name, path) for name, path in shipment.large.items()]
        with Bar("sending", total=len(sent), unit="files", enabled=progress) as bar:
            for batch in (sent[k : k + AT_ONCE] for k in range(0, len(sent), AT_ONCE)):
                api.preupload_lfs_files(repo, batch, repo_type=kind, revision=revision, num_threads=AT_ONCE, free_memory=False)
                bar.advance(len(batch))
        sent += [CommitOperationAdd(name, data) for name, data in shipment.small.items()]
        operations = [*sent, *(CommitOperationDelete(name) for name in sorted(gone))]
        api.create_commit(repo, operations, repo_type=kind, revision=revision, commit_message=shipment.message)
    return str(url)


def _check_ours(info: Any, repo: str, shipment: Shipment, private: bool) -> None:
    if private and not info.private:
        raise UserError(f"{repo}: exists and is public, expected a private one; change it on the Hub, or give another --repo")
    names = {file.rfilename for file in info.siblings or []}
    if names - HUB_OWN and shipment.expected not in names:
        raise UserError(f"{repo}: holds files that are not {shipment.named} (no {shipment.expected} inside); give another --repo")


def _asks_nobody(access: Access) -> bool:
    from huggingface_hub import constants

    return access.local_files_only or constants.HF_HUB_OFFLINE


def _listing(repo: str, kind: Kind, access: Access) -> tuple[str, dict[str, int]] | None:
    """The commit that is asked for and {name: bytes} of its files; None where the Hub is not to be asked, or cannot be reached."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    if _asks_nobody(access):
        return None
    api: Any = HfApi(library_name="worldgpt", token=access.token)
    no_answer: Any = HfHubHTTPError.__mro__[1]  # what the HTTP client raises
    limit = constants.HF_HUB_ETAG_TIMEOUT
    try:
        info = api.repo_info(repo, repo_type=kind, revision=access.revision, files_metadata=True, timeout=limit)
    except HfHubHTTPError:
        raise
    except (no_answer, ConnectionError):
        return None
    return info.sha, {file.rfilename: file.size or 0 for file in info.siblings or []}
