import errno
from pathlib import Path

import pytest

from data.errors import DiskFullError, UserError
from data.folder import (
    MARKER,
    atomic_file,
    atomic_folder,
    bytes_text,
    disk_free_check,
    prepare_output,
    read_json,
    remove_if_unused,
    write_json,
)


def test_an_absent_or_empty_output_is_taken(tmp_path: Path) -> None:
    for path in (tmp_path / "new" / "deep", tmp_path / "empty"):
        if path.name == "empty":
            path.mkdir()
        assert prepare_output(path) == path
        assert prepare_output(path) == path  # still nothing in it but the marker


def test_a_used_output_is_refused_unless_asked_for(tmp_path: Path) -> None:
    path = prepare_output(tmp_path / "out")
    (path / "work.txt").write_text("hours")
    with pytest.raises(UserError, match=r"--resume .* --overwrite"):
        prepare_output(path)
    prepare_output(path, resume=True)
    assert (path / "work.txt").read_text() == "hours"
    prepare_output(path, overwrite=True)
    assert [entry.name for entry in path.iterdir()] == [MARKER]


def test_resume_and_overwrite_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at most one"):
        prepare_output(tmp_path, resume=True, overwrite=True)


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_a_folder_of_others_is_never_touched(tmp_path: Path, flag: str) -> None:
    (tmp_path / "manifest.json").write_text("{}")  # a donkeycar tub has one too
    with pytest.raises(UserError, match="not an output of ours"):
        prepare_output(tmp_path, **{flag: True})
    assert (tmp_path / "manifest.json").exists()


def test_a_file_is_no_output(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for place in (file, file / "below"):
        with pytest.raises(UserError, match=str(place)):
            prepare_output(place)


def test_an_unused_output_is_removed(tmp_path: Path) -> None:
    path = prepare_output(tmp_path / "out")
    (path / "train").mkdir()
    remove_if_unused(path)
    assert not path.exists()
    path = prepare_output(tmp_path / "out")
    (path / "train").mkdir()
    (path / "train" / "drive").write_text("hours")
    remove_if_unused(path)
    assert (path / "train" / "drive").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as temp:
        temp.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]
    with atomic_file(path) as temp:
        assert temp.suffix == ".txt" and temp.parent == tmp_path
        temp.write_text("new")
    assert path.read_text() == "new"


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    for text, fails in (("first", False), ("half", True), ("second", False)):
        try:
            with atomic_folder(path) as temp:
                (temp / "weights").write_text(text)
                if fails:
                    raise RuntimeError
        except RuntimeError:
            assert (path / "weights").read_text() == "first"
        assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]
    assert (path / "weights").read_text() == "second"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("x: No space left on device (os error 28)")]
)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(DiskFullError, match=r"disk full: .*file\.bin"), atomic_file(tmp_path / "file.bin") as temp:
        temp.write_bytes(b"half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_disk_free_check(tmp_path: Path) -> None:
    disk_free_check(tmp_path / "not" / "there" / "yet", 1)
    with pytest.raises(DiskFullError, match=r"needs about 1000000.0 TB"):
        disk_free_check(tmp_path / "yet", 1e18)


def test_json_round_trips_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"ä": [1, 2.5, None]})
    assert read_json(path) == {"ä": [1, 2.5, None]}
    with pytest.raises(UserError, match="finite"):
        write_json(path, {"loss": float("nan")})
    assert read_json(path) == {"ä": [1, 2.5, None]}


@pytest.mark.parametrize("text", ["", '{"a": 1', "PK\x03\x04", '{"a": NaN}'])
def test_unreadable_json_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json: expected JSON"):
        read_json(path)


def test_missing_json_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        read_json(tmp_path / "none.json")


def test_bytes_text() -> None:
    assert [bytes_text(n) for n in (0, 999, 1000, 1.5e6, 2e12)] == ["0 B", "999 B", "1.0 kB", "1.5 MB", "2.0 TB"]
