"""The report on quality: report.json, the figures as tables, curves.png and the rollouts to look at."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.folder import write_json
from data.image import save_png
from worldgpt.evaluate.curves import curve_page
from worldgpt.evaluate.distances import table_of
from worldgpt.evaluate.drift import COPY, FLOOR, OTHER, Measured, Starts
from worldgpt.evaluate.drift_report import SHOWN, sheet
from worldgpt.evaluate.intervals import estimate_text, mean_of
from worldgpt.pipeline import WorldGPTPipeline

MARKS_S = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Horizons at which PSNR and SSIM are stated, as means over all rollouts of the frame at that time."""
HORIZON = {"psnr_db": "PSNR, dB", "ssim": "SSIM"}


def write_quality_report(
    output: Path, pipeline: WorldGPTPipeline, starts: Starts, driven: Mapping[str, Measured], report: dict[str, Any]
) -> dict[str, Any]:
    """Write everything into the folder `output`; returns report.json's content."""
    fps = pipeline.model.config.fps
    report = {**report, "horizon": horizon_figures(driven, fps)}
    write_json(output / "report.json", report)
    table = quality_table(report)
    (output / "table.md").write_text(table + "\n", encoding="utf-8")
    lines = {title: {name: m.curves[key].mean(0) for name, m in driven.items() if name != OTHER} for key, title in HORIZON.items()}
    save_png(curve_page(lines, starts.frames.shape[1] / fps), output / "curves.png")
    rows = {"true": starts.frames[:SHOWN], **{name: m.frames[:SHOWN] for name, m in driven.items() if name != OTHER}}
    save_png(sheet(rows), output / "rollouts.png")
    print(table)
    return report


def horizon_figures(driven: Mapping[str, Measured], fps: float) -> dict[str, dict[str, dict[str, Any]]]:
    """{way of driving: {psnr_db | ssim: {second: estimate over the rollouts}}}; None past the horizon."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name in (FLOOR, COPY, *(n for n in driven if n not in (FLOOR, COPY, OTHER))):
        found[name] = {}
        for key in HORIZON:
            values = driven[name].curves[key]  # (B, F)
            frames = {second: round(second * fps) - 1 for second in MARKS_S}
            at = {second: mean_of(values[:, f]).to_dict() if f < values.shape[1] else None for second, f in frames.items()}
            found[name][key] = {f"{second:g}": value for second, value in at.items()}
    return found


def quality_table(report: Mapping[str, Any]) -> str:
    """The figures in short, as Markdown tables for a README."""
    lines = ["| stream | predictor | nats/token | bits/step | nats, changed | accuracy | of changed tokens |", "| --- |" + " --- |" * 6]
    for stream, ways in report["tokens"].items():
        for name, figures in ways.items():
            lines.append(f"| {stream} | {name.replace('_', ' ')} | " + " | ".join(map(estimate_text, figures.values())) + " |")
    seconds = [f"{second:g}" for second in MARKS_S]
    for key, title in HORIZON.items():
        lines += ["", f"| {title} after s | " + " | ".join(seconds) + " |", "| --- |" + " --- |" * len(seconds)]
        for name, figures in report["horizon"].items():
            lines.append(f"| {name} | " + " | ".join(estimate_text(figures[key][second]) for second in seconds) + " |")
    return "\n".join([*lines, "", *table_of(report["distances"])])
