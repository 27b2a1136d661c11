"""Genuine driving data, which lies outside the project's tree."""

from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1].parent / "shared" / "data"


def real_data(name: str) -> Path:
    """`name` below the shared data; skips the test where it is absent."""
    path = _ROOT / name
    if not path.exists():
        pytest.skip(f"needs the genuine data {name}, which is not on this machine")
    return path
