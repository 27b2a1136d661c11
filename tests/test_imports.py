"""The tree is the diagram: data -> tokenizer, conditioning -> worldgpt -> scripts."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "data": {"data"},
    "tokenizer": {"data", "tokenizer"},
    "conditioning": {"data", "conditioning"},
    "worldgpt": {"data", "tokenizer", "conditioning", "worldgpt"},
}
SCRIPTS = {path.stem for path in (ROOT / "scripts").glob("*.py")}
BANNED = {"torchvision", "lpips", "torch_fidelity", "timm", "lerobot", "pickle"}
NEEDS_PICKLE = {"data/store_writer.py"}
"""Checks that work can be handed to another process; reads nothing back."""


def imports(path: Path) -> Iterator[str]:
    """Top names of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield (node.module or "").split(".")[0]


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_one_way(package: str) -> None:
    ours = {*MAY_IMPORT, *SCRIPTS, "scripts", "tests"}
    for path in files(package):
        wrong = set(imports(path)) & ours - MAY_IMPORT[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_data_needs_no_torch() -> None:
    for path in files("data"):
        assert not set(imports(path)) & {"torch", "transformers", "accelerate"}, path


@pytest.mark.parametrize("package", [*MAY_IMPORT, "scripts"])
def test_what_breaks_installs_or_trusts_files_is_not_used(package: str) -> None:
    for path in files(package):
        wrong = set(imports(path)) & BANNED
        assert not wrong or str(path.relative_to(ROOT)) in NEEDS_PICKLE, f"{path.relative_to(ROOT)} imports {wrong}"


def test_packages_import_lightly() -> None:
    code = f"""
import sys
import {", ".join(MAY_IMPORT)}
import data.store
from data.sources import SOURCES, source
for name in SOURCES:
    source(name)
print(*sorted({{"torch", "transformers", "pyarrow", "av", "datasets", "highway_env", "tyro"}} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
