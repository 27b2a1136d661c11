"""All evaluations of a checkpoint, and a page that holds what they found: one HTML file with the pictures in it."""

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.folder import atomic_file, prepare_output, read_json
from worldgpt.evaluate.page_config import PageConfig

ABOUT = {
    "quality": "How well the next step is predicted from a true past, and how close rollouts under the true actions come to true drives.",
    "control": "How much of prompts, actions and telemetry is realised in the pictures.",
    "drift": "What becomes of long rollouts, policy by policy.",
    "physics": "What a world model of bouncing balls has understood.",
}
FACTS = ("model_hash", "tokenizer_hash", "data_hash", "device", "dtype", "rollouts")
_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { border: 1px solid #ccc; padding: .2rem .6rem; text-align: left }
img { max-width: 100%; margin: .5rem 0 } pre { overflow-x: auto } .left-out { color: #a33 }"""


def evaluate_all(config: PageConfig) -> Path:
    """Run every part and write report.html; a part that cannot run says why, there and on the console. UserError where none could."""
    output = prepare_output(config.output, resume=False, overwrite=config.overwrite)
    failed: dict[str, str] = {}
    parts = config.parts()
    for name, settings in parts.items():
        try:
            _evaluation(name)(settings)
        except UserError as error:
            failed[name] = str(error)
            print(f"{name} left out: {error}")
    if len(failed) == len(parts):
        raise UserError(f"{config.output}: no part could be measured; {next(iter(failed.values()))}")
    with atomic_file(output / "report.html") as temp:
        temp.write_text(page(config.checkpoint, output, tuple(parts), failed), encoding="utf-8")
    return output / "report.html"


def _evaluation(name: str) -> Callable[[Any], Any]:
    from worldgpt.evaluate.control import evaluate_control
    from worldgpt.evaluate.drift import evaluate_drift
    from worldgpt.evaluate.physics import evaluate_physics
    from worldgpt.evaluate.quality import evaluate_quality

    return {"quality": evaluate_quality, "control": evaluate_control, "drift": evaluate_drift, "physics": evaluate_physics}[name]


def page(title: str, folder: Path, names: Sequence[str], failed: Mapping[str, str]) -> str:
    """HTML of the reports of the parts `names` below `folder`; those that `failed` say why."""
    parts = [_part(name, folder / name, failed.get(name)) for name in names]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body><h1>{html.escape(title)}</h1>{''.join(parts)}</body></html>\n"


def _part(name: str, folder: Path, failure: str | None) -> str:
    top = f"<h2>{name.capitalize()}</h2><p>{ABOUT[name]}</p>"
    if failure is not None:
        return f'{top}<p class="left-out">Left out: {html.escape(failure)}</p>'
    report = read_json(folder / "report.json")
    facts = [f"{fact.replace('_', ' ')} {html.escape(str(report[fact]))}" for fact in FACTS if fact in report]
    pictures = "".join(_picture(path) for path in sorted(folder.glob("*.png")))
    return f"{top}<p>{'; '.join(facts)}</p>{tables((folder / 'table.md').read_text(encoding='utf-8'))}{pictures}"


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<h3>{html.escape(path.stem)}</h3><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}">'


def tables(markdown: str) -> str:
    """HTML of Markdown tables, one after the other with empty lines between.

    >>> tables("| a | b |\\n| --- | --- |\\n| 1 | <2 |")
    '<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>&lt;2</td></tr></table>'
    """
    found = []
    for block in markdown.strip().split("\n\n"):
        first, _, *rest = block.splitlines()
        rows = [_row(first, "th"), *(_row(line, "td") for line in rest)]
        found.append(f"<table>{''.join(rows)}</table>")
    return "".join(found)


def _row(line: str, tag: str) -> str:
    cells = line.strip().strip("|").split("|")
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell.strip())}</{tag}>" for cell in cells) + "</tr>"
