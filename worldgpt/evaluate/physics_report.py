"""The report on physics: report.json, the figures as a table, curves.png and rollouts to look at."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.folder import write_json
from data.image import save_png
from worldgpt.evaluate.curves import curve_page
from worldgpt.evaluate.drift_report import SHOWN, sheet
from worldgpt.evaluate.intervals import estimate_text
from worldgpt.evaluate.physics import COLLISIONS, Flights

MARKS_S = (0.1, 0.5, 1.0, 2.0, 4.0)
"""Horizons at which the position error is stated."""


def write_physics_report(output: Path, flights: Flights, made: np.ndarray, report: dict[str, Any]) -> dict[str, Any]:
    """Write everything into the folder `output`; returns report.json's content."""
    write_json(output / "report.json", report)
    table = physics_table(report)
    (output / "table.md").write_text(table + "\n", encoding="utf-8")
    radius = report["radius_m"][0]
    errors = {name: np.array([np.nan if e is None else e / radius for e in line]) for name, line in report["position_error_m"].items()}
    there = {name: np.array(line) for name, line in report["there"].items()}
    panels = {"position error, radii of the first ball": errors, "share of rollouts with every ball there, once and whole": there}
    save_png(curve_page(panels, report["seconds"]), output / "curves.png")
    save_png(sheet({"true": flights.frames[:SHOWN], "model": made[:SHOWN]}), output / "rollouts.png")
    print(table)
    return report


def physics_table(report: Mapping[str, Any]) -> str:
    """The figures in short, as Markdown tables for a README."""
    seconds = [f"{second:g}" for second in MARKS_S]
    lines = ["| position error in radii after s | " + " | ".join(seconds) + " |", "| --- |" + " --- |" * len(seconds)]
    for name, line in report["position_error_m"].items():
        places = [round(second * report["fps"]) - 1 for second in MARKS_S]
        at = [line[place] if 0 <= place < len(line) else None for place in places]
        lines.append(f"| {name} | " + " | ".join("-" if e is None else f"{e / report['radius_m'][0]:.2g}" for e in at) + " |")
    lines += ["", "| every ball there, once and whole | share of frames (95 %) |", "| --- | --- |"]
    lines += [f"| {name} | {estimate_text(value)} |" for name, value in report["permanence"].items()]
    for kind, ways in report["collisions"].items():
        heads = ("energy error", "momentum error", "of each ball", "collisions")
        lines += ["", f"| after {COLLISIONS[kind]}, medians | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
        for name, way in ways.items():
            cells = [estimate_text(way[key]) for key in ("energy", "momentum", "each_momentum")]
            lines.append(f"| {name} | " + " | ".join([*cells, str(way["collisions"])]) + " |")
    return "\n".join(lines)
