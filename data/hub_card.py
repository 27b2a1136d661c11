"""The data card of an episode store (`README.md`): facts of its manifest, and where `datasets` finds the splits."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from data.manifest import Manifest, safe_name

CARD_FILE = "README.md"
_LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-2.0", "gpl-3.0", "agpl-3.0", "unlicense"),
    *("cc0-1.0", "odbl", "odc-by", "pddl"),
    *("cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nd-4.0"),
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
    *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
)
"""Licences that the Hub knows by name; it refuses a card that names another one."""
_SPOKEN = 5
"""Captions shown, the most frequent ones."""


def data_card(manifest: Manifest, repo: str) -> str:
    """Markdown with a YAML header; what the manifest does not know is left out."""
    drives, steps = len(manifest.drives), sum(drive.steps for drive in manifest.drives)
    parts = [
        _header(manifest),
        f"# {repo.rpartition('/')[2]}",
        f"Driving data of the source `{manifest.source}` as WorldGPT prepares it: {drives:,} drives, {steps:,} steps, "
        f"{steps / manifest.fps / 3600:.2f} hours at {manifest.fps:g} steps a second.",
        *([f"Licence of the data: {manifest.license}."] if manifest.license else []),
        table(("split", "drives", "steps", "hours"), _split_rows(manifest)),
        table(("camera", "picture", "field of view", "height", "tilt down", "turn to the left"), _camera_rows(manifest)),
        *_channels(manifest),
        *_captions(manifest),
        "## How to load it",
        f"```bash\npython scripts/hub.py pull-data --repo {repo} --output runs/data/{repo.rpartition('/')[2]}\n```",
        f"A row holds up to 32 steps of one drive, the first of them `start`. {_columns(manifest)}",
        f"```python\n{_example(manifest, repo)}\n```",
        f"Fingerprint of the data: `{manifest.hash}`.",
    ]
    return "\n\n".join(parts) + "\n"


def _header(manifest: Manifest) -> str:
    lines = ["---", *license_lines(manifest.license)]
    lines += ["tags:", "- driving", "- worldgpt", "configs:", "- config_name: default", "  data_files:"]
    for split in manifest.splits:
        # A split's name is a word to `datasets`; quoted, for YAML takes some words for truth values.
        lines += [f'  - split: "{re.sub(r"[^A-Za-z0-9_]", "_", split)}"', f'    path: "{safe_name(split)}/*.parquet"']
    return "\n".join([*lines, "---"])


def license_lines(license: str | None) -> list[str]:
    """Lines of a card's header that name a licence, as the Hub knows it or as another; none where none is known."""
    if not license:
        return []
    name = re.sub(r"[^a-z0-9.]+", "-", license.lower()).strip("-")
    name = "cc0-1.0" if name == "cc0" else name
    return [f"license: {name}"] if name in _LICENSES else ["license: other", f"license_name: {name or 'other'}"]


def _split_rows(manifest: Manifest) -> list[tuple[str, ...]]:
    rows = []
    for split in manifest.splits:
        steps = [drive.steps for drive in manifest.drives if drive.split == split]
        rows.append((split, f"{len(steps):,}", f"{sum(steps):,}", f"{sum(steps) / manifest.fps / 3600:.2f}"))
    return rows


def _camera_rows(manifest: Manifest) -> list[tuple[str, ...]]:
    rows = []
    for name, camera in manifest.cameras.items():
        size, grid = manifest.signals.frame_sizes.get(name), manifest.signals.code_grids.get(name)
        codes = f" codes out of {manifest.signals.codebook_size}" if manifest.signals.codebook_size else " codes"
        picture = f"{size[0]}x{size[1]} pixels" if size else f"{grid[0]}x{grid[1]}{codes}" if grid else ""
        known = (camera.horizontal_fov_deg, camera.height_m, camera.pitch_deg, camera.yaw_deg)
        units = ("°", " m", "°", "°")
        rows.append((name, picture, *("" if value is None else f"{value:g}{unit}" for value, unit in zip(known, units, strict=True))))
    return rows


def _channels(manifest: Manifest) -> list[str]:
    rows = [
        (kind, channel.name, channel.unit, f"{channel.low:g} to {channel.high:g}", str(channel.bins))
        for kind, channels in (("telemetry", manifest.telemetry), ("action", manifest.actions))
        for channel in channels
    ]
    said = "World axes: x forward, y left; yaw, curvature and steering are positive to the left. An action acts until the next step."
    listed = [table(("channel", "name", "unit", "range", "bins"), rows), said] if rows else []
    truth = [f"Known of the world, never an input: {', '.join(manifest.signals.truth)}."] if manifest.signals.truth else []
    return listed + truth


def _captions(manifest: Manifest) -> list[str]:
    said = Counter[str]()
    for drive in manifest.drives:
        for caption in drive.captions:
            said[caption.text] += caption.end - caption.start
    if not said:
        return []
    shown = "; ".join(f'"{text}"' for text, _ in said.most_common(_SPOKEN))
    return [f"Captions: {len(said):,} different ones, {'such as ' if len(said) > _SPOKEN else ''}{shown}."]


def _columns(manifest: Manifest) -> str:
    named = [f"`frames_{name}`: a PNG file a step" for name in manifest.signals.frame_sizes]
    named += [f"`codes_{name}`: {h} x {w} codes a step, flat" for name, (h, w) in manifest.signals.code_grids.items()]
    for kind, channels in (("telemetry", manifest.telemetry), ("actions", manifest.actions)):
        named += [f"`{kind}`: {', '.join(channel.name for channel in channels)} a step, flat"] if channels else []
    return "; ".join([*named, "`timestamps_s`: seconds, true times of the source"]) + "."


def _example(manifest: Manifest, repo: str) -> str:
    lines = ["import numpy as np", "from datasets import load_dataset", ""]
    split = re.sub(r"[^A-Za-z0-9_]", "_", manifest.splits[0])
    lines += [f'rows = load_dataset("{repo}", split="{split}", streaming=True)', "row = next(iter(rows))"]
    for name in manifest.signals.frame_sizes:
        lines[:1] = ["import cv2", "import numpy as np"] if "import cv2" not in lines else lines[:1]
        lines.append(f'pictures = [cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR) for png in row["frames_{name}"]]  # BGR')
    for name, (h, w) in manifest.signals.code_grids.items():
        lines.append(f'codes = np.array(row["codes_{name}"]).reshape(row["steps"], {h}, {w})')
    for kind, channels in (("telemetry", manifest.telemetry), ("actions", manifest.actions)):
        if channels:
            lines.append(f'{kind} = np.array(row["{kind}"], np.float32).reshape(row["steps"], {len(channels)})')
    return "\n".join(lines)


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown, without the columns in which nothing is known."""
    rows = list(rows)
    kept = [k for k in range(len(names)) if any(row[k] for row in rows)]
    lines = [[names[k] for k in kept], ["---"] * len(kept), *([row[k] for k in kept] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
