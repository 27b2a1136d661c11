"""Episode stores on the Hub: a store is pushed as a dataset that anybody can stream, and pulled as the same store."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError
from data.folder import MARKER, atomic_file, atomic_folder, prepare_output, remove_if_unused
from data.hub import check_repo, hub_errors
from data.hub_card import CARD_FILE, data_card
from data.manifest import MANIFEST_FILE, load_manifest
from data.progress import Bar
from data.shard import read_shard_info
from data.store import DriveRecord, EpisodeStore

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_KIND = "dataset"
_AT_ONCE = 8
"""Files on the way at the same time."""
_HUB_OWN = {".gitattributes", CARD_FILE}


def push_data(folder: Path, repo: str, *, private: bool = False, progress: bool = True) -> str:
    """Upload a store's shards, manifest and data card in one commit and return the page's address; makes the repository if need be.

    Shards of an earlier push that the store no longer has are removed, the card is replaced, other files stay. After an interruption the
    next call sends only what is missing. UserError where the store is damaged, the repository holds something else, is public though
    `private` is asked, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    check_repo(repo)
    store = EpisodeStore.open(folder)
    _check_shards(store)
    card = data_card(store.manifest, repo)
    names = [drive.file for drive in store.manifest.drives]
    with hub_errors(repo):
        api = HfApi(library_name="worldgpt")
        url = api.create_repo(repo, repo_type=_KIND, private=private or None, exist_ok=True)
        stale = {name for name in _files_there(api, repo, private) if name.endswith(".parquet")} - set(names)
        shards = [CommitOperationAdd(name, folder / name) for name in names]
        with Bar("sending", total=len(shards), unit="files", enabled=progress) as bar:
            for batch in (shards[k : k + _AT_ONCE] for k in range(0, len(shards), _AT_ONCE)):
                api.preupload_lfs_files(repo, batch, repo_type=_KIND, num_threads=_AT_ONCE, free_memory=False)
                bar.advance(len(batch))
        about = [CommitOperationAdd(MANIFEST_FILE, folder / MANIFEST_FILE), CommitOperationAdd(CARD_FILE, card.encode())]
        gone = [CommitOperationDelete(name) for name in sorted(stale)]
        api.create_commit(repo, [*shards, *about, *gone], repo_type=_KIND, commit_message=f"Data {store.hash[:12]}")
    with atomic_file(folder / CARD_FILE) as temp:
        temp.write_text(card, encoding="utf-8")
    return str(url)


def pull_data(repo: str, output: Path, *, overwrite: bool = False, progress: bool = True) -> EpisodeStore:
    """Fetch a store that was pushed into the folder `output`, whole or not at all, and open it.

    The manifest alone decides which files are fetched: Parquet, at places inside the folder. Whatever else the repository holds stays
    there. After an interruption the next call goes on from the Hub's cache, which also serves without a network. UserError where the
    repository holds no store, it is damaged, or `output` is in use and not `overwrite`.
    """
    check_repo(repo)
    _check_output(output, overwrite)
    prepare_output(output, resume=True)
    try:
        with atomic_folder(output) as part:
            _fetch(repo, part, progress)
            store = EpisodeStore.open(part)
            _check_shards(store)
            (part / CARD_FILE).write_text(data_card(store.manifest, repo), encoding="utf-8")
            (part / MARKER).touch()
    finally:
        remove_if_unused(output)
    return EpisodeStore.open(output)


def _check_output(output: Path, overwrite: bool) -> None:
    if not overwrite and output.is_dir() and any(entry.name != MARKER for entry in output.iterdir()):
        raise UserError(f"{output}: already holds files; give --overwrite to replace them, or another --output")


def _files_there(api: "HfApi", repo: str, private: bool) -> set[str]:
    """Names of the repository's files, which must be none or those of a store."""
    info = api.dataset_info(repo)
    if private and not info.private:
        raise UserError(f"{repo}: exists and is public, expected a private one; change it on the Hub, or give another --repo")
    names = {file.rfilename for file in info.siblings or []}
    if names - _HUB_OWN and MANIFEST_FILE not in names:
        raise UserError(f"{repo}: holds files that are not a data set of ours (no {MANIFEST_FILE} inside); give another --repo")
    return names


def _fetch(repo: str, folder: Path, progress: bool) -> None:
    """Put the manifest and the shards that it lists into `folder`."""
    from huggingface_hub import hf_hub_download

    with hub_errors(repo):
        manifest = Path(hf_hub_download(repo, MANIFEST_FILE, repo_type=_KIND))
    _place(manifest, folder / MANIFEST_FILE)
    drives = load_manifest(folder).drives
    revision = manifest.parent.name  # all files of one commit, whatever is pushed meanwhile

    def fetch(drive: DriveRecord) -> None:
        _place(Path(hf_hub_download(repo, drive.file, repo_type=_KIND, revision=revision)), folder / drive.file)

    with hub_errors(repo), Bar("fetching", total=len(drives), unit="files", enabled=progress) as bar, ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            for _ in pool.map(fetch, drives):
                bar.advance(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _place(cached: Path, target: Path) -> None:
    """A file of the cache at its place: the same bytes on disk where one file system holds both, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(cached.resolve(), target)
    except OSError:
        shutil.copyfile(cached, target)


def _check_shards(store: EpisodeStore) -> None:
    """UserError where a shard is truncated, foreign, or not the one that the manifest tells of."""
    for drive in store.manifest.drives:
        path = store.path / drive.file
        info = read_shard_info(path)
        if info.record != drive or info.signals != store.manifest.signals:
            raise UserError(f"{path}: expected the drive that {MANIFEST_FILE} lists, got another version of it; prepare the data again")
