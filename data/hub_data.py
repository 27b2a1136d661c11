"""Episode stores on the Hub: a store is pushed as a dataset that anybody can stream, and pulled as the same store."""

from pathlib import Path

from data.errors import UserError
from data.folder import MARKER, atomic_file, atomic_folder, prepare_output, remove_if_unused
from data.hub import check_repo, hub_errors
from data.hub_card import CARD_FILE, data_card
from data.hub_files import Shipment, check_output, fetch_all, place, send
from data.manifest import MANIFEST_FILE, load_manifest
from data.shard import read_shard_info
from data.store import EpisodeStore

_KIND = "dataset"


def push_data(folder: Path, repo: str, *, private: bool = False, progress: bool = True) -> str:
    """Upload a store's shards, manifest and data card in one commit and return the page's address; makes the repository if need be.

    Shards of an earlier push that the store no longer has are removed, the card is replaced, other files stay. After an interruption the
    next call sends only what is missing. UserError where the store is damaged, the repository holds something else, is public though
    `private` is asked, or the Hub refuses.
    """
    check_repo(repo)
    store = EpisodeStore.open(folder)
    _check_shards(store)
    card = data_card(store.manifest, repo)
    shipment = Shipment(
        large={drive.file: folder / drive.file for drive in store.manifest.drives},
        small={MANIFEST_FILE: folder / MANIFEST_FILE, CARD_FILE: card.encode()},
        message=f"Data {store.hash[:12]}",
        stale=lambda name: name.endswith(".parquet"),
        expected=MANIFEST_FILE,
        named="a data set of ours",
    )
    url = send(repo, _KIND, shipment, private=private, progress=progress)
    with atomic_file(folder / CARD_FILE) as temp:
        temp.write_text(card, encoding="utf-8")
    return url


def pull_data(repo: str, output: Path, *, overwrite: bool = False, progress: bool = True) -> EpisodeStore:
    """Fetch a store that was pushed into the folder `output`, whole or not at all, and open it.

    The manifest alone decides which files are fetched: Parquet, at places inside the folder. Whatever else the repository holds stays
    there. After an interruption the next call goes on from the Hub's cache, which also serves without a network. UserError where the
    repository holds no store, it is damaged, or `output` is in use and not `overwrite`.
    """
    check_repo(repo)
    check_output(output, overwrite)
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


def _fetch(repo: str, folder: Path, progress: bool) -> None:
    """Put the manifest and the shards that it lists into `folder`."""
    from huggingface_hub import hf_hub_download

    with hub_errors(repo):
        manifest = Path(hf_hub_download(repo, MANIFEST_FILE, repo_type=_KIND))
    place(manifest, folder / MANIFEST_FILE)
    drives = load_manifest(folder).drives
    revision = manifest.parent.name  # all files of one commit, whatever is pushed meanwhile

    def fetch(name: str) -> None:
        place(Path(hf_hub_download(repo, name, repo_type=_KIND, revision=revision)), folder / name)

    fetch_all(repo, [drive.file for drive in drives], fetch, progress)


def _check_shards(store: EpisodeStore) -> None:
    """UserError where a shard is truncated, foreign, or not the one that the manifest tells of."""
    for drive in store.manifest.drives:
        path = store.path / drive.file
        info = read_shard_info(path)
        if info.record != drive or info.signals != store.manifest.signals:
            raise UserError(f"{path}: expected the drive that {MANIFEST_FILE} lists, got another version of it; prepare the data again")
