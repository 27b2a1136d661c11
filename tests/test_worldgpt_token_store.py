"""Laws of the encoded set: rows are the drives', windows stay within a drive, what is there is encoded once."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from world_samples import STEPS, column_episode, column_tokenizer, write_columns

from data.episode import Caption, Drive, Episode
from data.errors import UserError
from data.store import EpisodeStore, write_store
from worldgpt.token_store import TokenDrive, TokenStore, drive_of, encode_frames, encode_store, window_captions

CPU = torch.device("cpu")


class Counting:
    """A tokenizer that counts the frames it encodes, and breaks off at `most` of them."""

    most: int | None = None

    def __init__(self, store: EpisodeStore) -> None:
        self.inner, self.frames = column_tokenizer(store), 0
        self.grid, self.codebook_size, self.content_hash = self.inner.grid, self.inner.codebook_size, self.inner.content_hash
        self.levels = self.inner.levels

    def to(self, device: torch.device) -> "Counting":
        return self

    def eval(self) -> "Counting":
        return self

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        if self.most is not None and self.frames + len(frames) > self.most:
            raise KeyboardInterrupt
        self.frames += len(frames)
        return self.inner.encode(frames)


def test_rows_are_the_drives_codes_and_channels(column_store: EpisodeStore, column_tokens: TokenStore) -> None:
    tokenizer = column_tokenizer(column_store)
    assert column_tokens.info.grids == {"front": (1, 4)}
    assert column_tokens.info.codebook_size == tokenizer.codebook_size == 15
    assert column_tokens.info.tokenizer_hash == tokenizer.content_hash()
    for split in ("train", "val"):
        codes, channels = column_tokens.arrays(split)
        assert codes.dtype == np.uint16
        drives = column_tokens.drives(split)
        assert [d.first for d in drives] == [0, *(d.last for d in drives[:-1])]
        assert drives[-1].last == len(codes) == len(channels)
        for drive in drives[::5]:
            true, rows = column_store.read(drive.drive_id), slice(drive.first, drive.last)
            assert (codes[rows] == encode_frames(tokenizer, true.frames["front"], CPU, batch_size=7).reshape(STEPS, 4)).all()
            assert (channels[rows] == np.concatenate([true.telemetry, true.actions], axis=1)).all()
            assert drive.captions == true.captions
            assert drive.labels == true.labels


def test_windows_never_cross_a_drive(column_tokens: TokenStore) -> None:
    for steps in (2, 7, STEPS):
        starts, drives = column_tokens.window_starts("train", steps)
        assert len(np.unique(starts)) == len(starts) == sum(d.steps - steps + 1 for d in drives)
        for start in starts.tolist():
            drive = drive_of(drives, start)
            assert drive.first <= start
            assert start + steps <= drive.last
    with pytest.raises(UserError, match=r"'train' has no drive of 49 steps \(the longest has 48\); lower model.context_steps"):
        column_tokens.window_starts("train", STEPS + 1)


def test_a_drive_too_short_for_a_window_gives_none() -> None:
    drives = tuple(TokenDrive(f"d{i}", "train", first, last, (), {}) for i, (first, last) in enumerate([(0, 5), (5, 7), (7, 12)]))
    store = TokenStore(Path("unused"), None)  # type: ignore[arg-type]
    store.drives = lambda split: list(drives)  # type: ignore[method-assign]
    starts, found = store.window_starts("train", 4)
    assert starts.tolist() == [0, 1, 7, 8]
    assert [drive_of(found, row).drive_id for row in (0, 4, 5, 6, 7, 11)] == ["d0", "d0", "d1", "d1", "d2", "d2"]


def test_captions_follow_their_segments() -> None:
    captions = (Caption(0, 3, "rain"), Caption(3, 6, "sun"), Caption(8, 10, "fog"))
    drive = TokenDrive("d", "train", 100, 110, captions, {})
    assert window_captions(drive, 0, 10, None) == ["rain"] * 3 + ["sun"] * 3 + [""] * 2 + ["fog"] * 2
    assert window_captions(drive, 2, 3, np.random.default_rng(0)) == ["rain", "sun", "sun"]
    assert window_captions(drive, 6, 1, None) == [""]
    assert window_captions(TokenDrive("d", "train", 0, 9, (), {}), 4, 3, None) == [""] * 3


def test_of_several_true_captions_one_is_drawn_and_stays() -> None:
    drive = TokenDrive("d", "train", 0, 8, (Caption(0, 8, "a"), Caption(0, 8, "b"), Caption(4, 8, "c")), {})
    drawn = [tuple(window_captions(drive, 0, 8, np.random.default_rng(seed))) for seed in range(60)]
    assert set(drawn) == {("a",) * 8, ("b",) * 8}
    assert 15 < drawn.count(("a",) * 8) < 45
    assert {window_captions(drive, 5, 1, np.random.default_rng(seed))[0] for seed in range(60)} == {"a", "b", "c"}


def test_encodes_once_until_data_or_tokenizer_change(tmp_path: Path) -> None:
    store = write_columns(tmp_path / "data", range(2), range(2, 3))
    tokenizer, folder = Counting(store), tmp_path / "tokens"
    encode_store(store, tokenizer, folder, device=CPU)
    assert tokenizer.frames == 3 * STEPS
    encode_store(store, tokenizer, folder, device=CPU)
    assert tokenizer.frames == 3 * STEPS
    larger = write_columns(tmp_path / "larger", range(3), range(3, 4))
    found = encode_store(larger, tokenizer, folder, device=CPU)
    assert tokenizer.frames == (3 + 1) * STEPS, "only the new drive is encoded"
    assert found.info.data_hash == larger.hash
    with torch.no_grad():
        next(tokenizer.inner.parameters()).add_(1.0)
    found = encode_store(larger, tokenizer, folder, device=CPU)
    assert tokenizer.frames == (4 + 4) * STEPS
    assert found.info.tokenizer_hash == tokenizer.content_hash()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp")] == []


def test_an_interrupted_encoding_goes_on_where_it_was(tmp_path: Path) -> None:
    store = write_columns(tmp_path / "data", range(3), range(3, 4))
    whole = encode_store(store, column_tokenizer(store), tmp_path / "whole" / "tokens", device=CPU)
    tokenizer, folder = Counting(store), tmp_path / "cut" / "tokens"
    tokenizer.most = 2 * STEPS
    with pytest.raises(KeyboardInterrupt):
        encode_store(store, tokenizer, folder, device=CPU)
    assert not folder.exists()
    tokenizer.most = None
    found = encode_store(store, tokenizer, folder, device=CPU)
    assert tokenizer.frames == 4 * STEPS
    for split in ("train", "val"):
        for ours, theirs in zip(found.arrays(split), whole.arrays(split), strict=True):
            assert (ours == theirs).all()


def test_drives_of_equal_content_do_not_disturb_those_behind(tmp_path: Path) -> None:
    drives = [Drive(name, partial(renamed, name, number), split, STEPS) for name, number, split in TWINS]
    write_store(drives, tmp_path / "data", source="columns", fps=10.0, workers=1, progress=False)
    store = EpisodeStore.open(tmp_path / "data")
    tokenizer = column_tokenizer(store)
    codes, _ = encode_store(store, tokenizer, tmp_path / "tokens", device=CPU).arrays("train")
    for row, drive in enumerate(store.drives("train")):
        expected = encode_frames(tokenizer, store.read(drive.drive_id).frames["front"], CPU).reshape(STEPS, -1)
        assert (codes[row * STEPS : (row + 1) * STEPS] == expected).all(), drive.drive_id


TWINS = (("a", 0, "train"), ("twin", 0, "train"), ("b", 1, "train"), ("c", 2, "val"))


def renamed(name: str, number: int) -> list[Episode]:
    return [replace(column_episode(number), drive_id=name)]


def coded_episode(number: int) -> Episode:
    codes = np.random.default_rng(number).integers(0, 40 + number, (20, 2, 3), np.int32)
    return Episode(f"drive{number}", 10.0, np.arange(20) / 10, codes={"front": codes}, codebook_size=1024)


def coded(number: int) -> list[Episode]:
    return [coded_episode(number)]


def test_a_source_of_codes_needs_no_tokenizer(tmp_path: Path) -> None:
    drives = [Drive(f"drive{k}", partial(coded, k), split=split, steps=20) for k, split in enumerate(("train", "val"))]
    write_store(drives, tmp_path / "data", source="codes", fps=10.0, workers=1, progress=False)
    tokens = encode_store(EpisodeStore.open(tmp_path / "data"), None, tmp_path / "tokens", device=CPU)
    assert tokens.info.grids == {"front": (2, 3)}
    assert tokens.info.tokenizer_hash == "codes"
    assert tokens.info.codebook_size == 1024  # as the source says, though the largest code never came
    assert (tokens.arrays("val")[0] == coded_episode(1).codes["front"].reshape(20, 6)).all()
    assert tokens.arrays("val")[1].shape == (20, 0)


def test_what_is_damaged_is_named(column_tokens: TokenStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found no tokens\.json"):
        TokenStore.open(tmp_path)
    with pytest.raises(UserError, match="expected a split 'test', got only train, val"):
        column_tokens.arrays("test")
    values = json.loads((column_tokens.folder / "tokens.json").read_text())
    for change, message in (({"format": "other"}, "expected format"), ({"drives": [{}]}, "damaged")):
        (tmp_path / "tokens.json").write_text(json.dumps({**values, **change}))
        with pytest.raises(UserError, match=message):
            TokenStore.open(tmp_path)
    (tmp_path / "tokens.json").write_text(json.dumps(values))
    (tmp_path / "train.codes.npy").write_bytes((column_tokens.folder / "train.codes.npy").read_bytes()[:200])
    for split in ("train", "val"):
        with pytest.raises(UserError, match=rf"{split}\.codes\.npy: damaged"):
            TokenStore.open(tmp_path).arrays(split)


def test_the_sidecar_round_trips(column_tokens: TokenStore) -> None:
    again = TokenStore.open(column_tokens.folder).info
    assert again == column_tokens.info
    assert again.drives[0].captions[0] == column_episode(0).captions[0]
