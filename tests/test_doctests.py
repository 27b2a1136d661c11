"""Examples in docstrings, and those of docs/python.md, run and give what they say."""

import doctest
import importlib
import os
import pkgutil
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("data", "tokenizer", "conditioning", "worldgpt")


def modules() -> list[str]:
    found = []
    for package in PACKAGES:
        found += [info.name for info in pkgutil.walk_packages([str(ROOT / package)], f"{package}.")]
    return found


def with_examples(name: str) -> bool:
    return ">>> " in (ROOT / f"{name.replace('.', '/')}.py").read_text() if (ROOT / f"{name.replace('.', '/')}.py").is_file() else False


EXAMPLES = [name for name in modules() if with_examples(name)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0


def test_every_package_but_the_raw_data_shows_how_it_is_used() -> None:
    assert {name.partition(".")[0] for name in EXAMPLES} >= {"tokenizer", "conditioning", "worldgpt"}


def test_the_page_on_python_runs_from_its_first_line_to_its_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trainings are as small as they stand there."""
    monkeypatch.chdir(tmp_path)
    space: dict = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    assert len(blocks) >= 6
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/python.md, block {number}", "exec"), space)
    assert (tmp_path / "night.mp4").stat().st_size > 500
    assert os.listdir(tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs")
    assert isinstance(space["chunk"].frames["front"], np.ndarray)
