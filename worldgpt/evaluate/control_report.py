"""The report on control: report.json, response.png, guidance.png, confusion.png, the figures as a table, and rollouts side by side."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data.folder import write_json
from data.image import save_png
from worldgpt.evaluate.adherence import JOINT
from worldgpt.evaluate.control_actions import commanded_by, realised
from worldgpt.evaluate.control_scene import Scene
from worldgpt.evaluate.drift_report import sheet, write_side_by_side
from worldgpt.evaluate.intervals import estimate_text
from worldgpt.evaluate.plots import Points, matrix_page, point_page
from worldgpt.evaluate.provenance import provenance
from worldgpt.evaluate.trips import Driven

PLOTTED = ("true", "x1.5", "mirrored", "shuffled", "free")
"""Ways of driving whose response is drawn."""


def write_control_report(output: Path, scene: Scene, driven: Mapping[str, Driven], figures: dict[str, Any]) -> dict[str, Any]:
    """Write everything into the folder `output`; returns report.json's content."""
    model = scene.pipeline.model
    report = {
        "settings": asdict(scene.config),
        **provenance(scene.pipeline, scene.store),
        "rollouts": len(scene.logged.places),
        **figures,
        "probes": {"folder": scene.config.probes, "data_hash": scene.probes.settings.data_hash, "floor": scene.probes.floor},
    }
    write_json(output / "report.json", report)
    table = control_table(report)
    (output / "table.md").write_text(table + "\n", encoding="utf-8")
    save_png(point_page(_responses(scene, driven), diagonal=True), output / "response.png")
    save_png(point_page(_guidance(figures["prompts"]["guidance_curve"])), output / "guidance.png")
    save_png(matrix_page(_matrices(figures["prompts"])), output / "confusion.png")
    fps = model.config.fps
    for name, prefix, first in (
        ("actions", "actions/", {"true frames": scene.logged.frames}),
        ("prompts", "prompts/", {}),
        ("look", "look/", {}),
    ):
        rows = {**first, **{key.removeprefix(prefix): d.shown for key, d in driven.items() if key.startswith(prefix)}}
        count = min((len(frames) for frames in rows.values()), default=0)
        if count:
            rows = {key: frames[: min(count, 3)] for key, frames in rows.items()}
            write_side_by_side(output / f"{name}.mp4", rows, fps)
            save_png(sheet(rows), output / f"{name}.png")
    print(table)
    return report


def control_table(report: Mapping[str, Any]) -> str:
    """The figures in short, as a table for a README."""
    rows = [("figure", "realised", "floor or control")]
    rows += _prompt_rows(report["prompts"])
    apart = report["disentanglement"]
    moved = ", ".join(f"{look} moves {estimate_text(change)}" for look, change in apart["look_change"].items())
    rows.append(("lanes move with another prompt, over another seed", estimate_text(apart["ratio"]), moved))
    for number, ways in report["actions"].items():
        floor, true = ways["floor"]["reconstructed"], ways["true"]["given"]
        rows.append((f"{number}: slope", estimate_text(true["slope"]), estimate_text(floor["slope"])))
        rows.append((f"{number}: R2 (delay {true['delay_frames']} frames)", estimate_text(true["r2"]), estimate_text(floor["r2"])))
        for kind in ("shuffled", "free"):
            if kind in ways:
                rows.append((f"{number}: R2 against the true path, actions {kind}", estimate_text(ways[kind]["logged"]["r2"]), ""))
    for command, ways in (report["lateral"] or {"realised": {}})["realised"].items():
        told = ", ".join(f"{way.removesuffix('_m')} {estimate_text(value)}" for way, value in ways.items() if way != "path_m")
        rows.append((f"commanded {command} m", f"{estimate_text(ways.get('path_m'))} m", told))
    for name, figures in report["telemetry"].items():
        rows.append(
            (
                f"{name}: tokens against pictures, over the probe's floor",
                estimate_text(figures["over_floor"]),
                estimate_text(figures["floor_mae"]),
            )
        )
    for second, errors in (report["path"] or {"model": {}})["model"].items():
        if errors is not None:
            constant = report["path"]["constant_speed_and_turn_rate"][second]
            for name in ("ade_m", "fde_m"):
                rows.append((f"path, {name} at {second} s", estimate_text(errors[name]), f"constant {estimate_text(constant[name])}"))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "| --- | --- | --- |", *lines[1:]])


def _prompt_rows(prompts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows = []
    for kind, looks in prompts["kinds"].items():
        for look, score in looks.items():
            over = score["over_reconstructed"]
            rows.append(
                (
                    f"{kind}: {look}",
                    estimate_text(score["accuracy"]),
                    "" if over["value"] is None else f"{estimate_text(over)} of reconstructions'",
                )
            )
    return rows


def _responses(scene: Scene, driven: Mapping[str, Driven]) -> dict[str, dict[str, Points]]:
    """Yaw rate as commanded against as read, a panel a way of driving."""
    truth = realised(scene.logged.signals)
    panels = {}
    if "yaw_rate_rps" not in truth or "yaw_rate_rps" not in scene.probes.settings.means:
        return panels
    for kind in PLOTTED:
        if f"actions/{kind}" not in driven:
            continue
        commanded = truth["yaw_rate_rps"] if kind in ("true", "free") else commanded_by(scene, kind).get("yaw_rate_rps")
        against = "logged" if kind == "free" else "commanded"
        if commanded is not None:
            made = driven[f"actions/{kind}"].read.numbers["yaw_rate_rps"]
            panels[f"{kind}: yaw rate read against {against}, rad/s"] = {"steps": Points(commanded.ravel(), made.ravel())}
    return panels


def _guidance(curve: Mapping[str, Any]) -> dict[str, dict[str, Points]]:
    """Accuracy over the guidance scale, look by look."""
    scales = np.array([float(scale) for scale in curve])
    looks = [look for look in next(iter(curve.values()), {}) if look != JOINT] + (
        [JOINT] if any(JOINT in c for c in curve.values()) else []
    )
    series = {}
    for look in looks:
        ends = [[_number(curve[scale].get(look), end) for scale in curve] for end in ("value", "low", "high")]
        series[look] = Points(scales, *(np.array(end) for end in ends), joined=True)
    return {"accuracy over the guidance scale": series} if series else {}


def _number(estimate: Mapping[str, Any] | None, end: str) -> float:
    return np.nan if not estimate or estimate[end] is None else float(estimate[end])


def _matrices(prompts: Mapping[str, Any]) -> dict[str, tuple[list[str], np.ndarray]]:
    return {
        f"{kind}: {look} (rows told, columns read)": (score["names"], np.array(score["confusion"]))
        for kind, looks in prompts["kinds"].items()
        for look, score in looks.items()
        if "confusion" in score
    }
