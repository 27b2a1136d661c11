"""Paths that data files name: they must not lead out of the data's folder."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from data.errors import UserError


def inside(root: Path, name: str, *, source: str) -> Path:
    """`root/name`; UserError, naming the file `source` that says so, where `name` leads out of `root`.

    Told from the name alone: links that the user's own tools made (as in a download cache) are followed.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise UserError(f"{source}: expected a path inside {root}, got {name!r}")
    return root / path


def fill_template(template: str, values: Mapping[str, int | str], *, source: str) -> str:
    """'chunk-{chunk_index:03d}' with its fields filled in; only names and widths are understood, whatever a data file holds."""

    def field(match: re.Match[str]) -> str:
        name, width = match[1], int(match[2] or 0)
        if name not in values:
            raise UserError(f"{source}: expected fields among {', '.join(values)} in {template!r}, got {name!r}")
        return str(values[name]).zfill(width)

    filled = re.sub(r"\{(\w+)(?::0?(\d)d)?\}", field, template)
    if "{" in filled or "}" in filled:
        raise UserError(f"{source}: expected a template such as 'file-{{file_index:03d}}.mp4', got {template!r}")
    return filled
