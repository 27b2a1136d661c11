"""The report on drift: report.json, its figures as tables, curves.png, and the rollouts side by side to look at."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.folder import write_json
from data.image import save_png
from data.video import VideoWriter
from worldgpt.anchors import parse_policy
from worldgpt.evaluate.curves import curve_page
from worldgpt.evaluate.drift import FLOOR, OTHER, Measured, Starts
from worldgpt.evaluate.drift_config import DriftConfig
from worldgpt.evaluate.probes import Probes
from worldgpt.evaluate.read_back import read_drives, read_figures
from worldgpt.evaluate.statistics import frame_statistics
from worldgpt.pipeline import WorldGPTPipeline

MARKS_S = (1, 5, 10, 20, 40)
"""Horizons at which figures are stated: the mean over the second before."""
READ_S = 5
"""Seconds before a mark that the measuring networks read: a yaw rate must vary to be followed."""
SHOWN = 3
"""Starts that are drawn to be looked at."""
SUMMARISED = {
    "psnr_db": "PSNR dB",
    "sharpness_ratio": "sharpness",
    "code_divergence": "codes",
    "road_found": "road",
    "yaw_rate_rps_r2": "yaw R2",
    "probe_frechet": "frechet",
}
RATIOS = ("sharpness", "brightness", "flicker")
"""Figures that are stated as a ratio to the true drive's."""
AGAINST_TRUTH = ("psnr_db", "ssim")
"""Figures that mean something only where the true actions are taken."""
_SHEET_COLUMNS = 8
_LABEL = 14


def write_drift_report(
    output: Path, pipeline: WorldGPTPipeline, probes: Probes, config: DriftConfig, starts: Starts, measured: Mapping[str, Measured]
) -> None:
    """Write everything into the folder `output`."""
    fps = pipeline.model.config.fps
    curves = {name: mean_curves(m, starts) for name, m in measured.items()}
    read = read_at_marks(pipeline, probes, starts, measured)
    report = {
        "settings": asdict(config),
        "model_hash": pipeline.model.content_hash(),
        "rollouts": len(starts.tokens),
        "fps": fps,
        "true_frames_used": {name: parse_policy(name).needs_truth for name in config.policies},
        "frames_per_s": {name: m.frames_per_s for name, m in measured.items() if m.frames_per_s is not None},
        "anchors_per_rollout": {name: measured[name].anchors for name in config.policies},
        "at_seconds": {name: {**marks(lines, fps), **read[name]} for name, lines in curves.items()},
        "probes": {"folder": config.probes, "floor": probes.floor},
    }
    write_json(output / "report.json", report)
    save_png(curve_page(_panels(curves), len(starts.tokens[0]) / fps), output / "curves.png")
    rows = {"true": starts.frames[:SHOWN], **{name: m.frames[:SHOWN] for name, m in measured.items() if name != OTHER}}
    write_side_by_side(output / "rollouts.mp4", rows, fps)
    save_png(sheet(rows), output / "rollouts.png")
    table = drift_table(report)
    (output / "table.md").write_text(table + "\n", encoding="utf-8")
    print(table)


def read_at_marks(
    pipeline: WorldGPTPipeline, probes: Probes, starts: Starts, measured: Mapping[str, Measured]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """{way of driving: {figure: {second: value}}}: what the measuring networks read in the READ_S seconds before each mark."""
    fps, model = pipeline.model.config.fps, pipeline.model
    names = model.telemetry.names
    values = model.telemetry.values(starts.tokens[..., model.layout.span_of_kind("telemetry")]) if names else None
    commanded = {} if values is None else {name: values[..., k] for k, name in enumerate(names)}
    true = read_drives(probes, starts.frames)
    ends = {second: round(second * fps) for second in MARKS_S if round(second * fps) <= len(starts.tokens[0])}
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for name, driven in measured.items():
        if name == OTHER:  # half of the true drives against the other half: shifted by one, all together they are the same set
            half = 2 * (len(starts.tokens) // 2)
            against, told = true.drives(slice(1, half, 2)), {k: v[1:half:2] for k, v in commanded.items()}
            made = true.drives(slice(0, half, 2))
        else:
            made, against, told = read_drives(probes, driven.frames), true, commanded
            if driven.telemetry is not None:
                told = {channel: driven.telemetry[..., k] for k, channel in enumerate(names)}
        windows = {second: slice(max(0, end - round(READ_S * fps)), end) for second, end in ends.items()}
        at = {second: read_figures(made, against, told, window) for second, window in windows.items()}
        figures = next(iter(at.values()), {})
        found[name] = {figure: {str(s): at[s][figure] if s in at else None for s in MARKS_S} for figure in figures}
    return found


def mean_curves(measured: Measured, starts: Starts) -> dict[str, np.ndarray]:
    """{figure: (F,)}: means over the starts; ratios of sharpness, brightness and flicker are of these means to the true drives'."""
    true = frame_statistics(starts.frames, starts.frames, starts.last)
    found: dict[str, np.ndarray] = {}
    for name, values in measured.curves.items():
        line = values if values.ndim == 1 else values.mean(0)
        if name in AGAINST_TRUTH and measured.telemetry is not None:
            continue  # driven by the model, it went another way
        if name in RATIOS:
            found[f"{name}_ratio"] = _smooth(line) / np.maximum(_smooth(true[name].mean(0)), 1e-6)
        else:
            found[name] = line
    return found


def marks(lines: Mapping[str, np.ndarray], fps: float) -> dict[str, dict[str, float | None]]:
    """{figure: {second: mean over the second before it}}; None past the horizon, or where it is not defined."""
    found: dict[str, dict[str, float | None]] = {}
    for name, line in lines.items():
        ends = {second: round(second * fps) for second in MARKS_S}
        means = {
            second: float(np.mean(line[max(0, end - round(fps)) : end])) if end <= len(line) else np.nan for second, end in ends.items()
        }
        found[name] = {str(second): None if np.isnan(mean) else mean for second, mean in means.items()}
    return found


def drift_table(report: Mapping[str, Any]) -> str:
    """Markdown tables, one for each horizon that was reached."""
    tables = []
    for second in MARKS_S:
        if report["at_seconds"][FLOOR]["code_divergence"][str(second)] is None:
            continue
        titles = (f"after {second} s", *SUMMARISED.values(), "frames/s")
        lines = ["| " + " | ".join(titles) + " |", "| --- |" + " --- |" * (len(titles) - 1)]
        for name, figures in report["at_seconds"].items():
            cells = [figures.get(key, {}).get(str(second)) for key in SUMMARISED] + [report["frames_per_s"].get(name)]
            lines.append(f"| {name} | " + " | ".join("-" if cell is None else format(cell, ".3g") for cell in cells) + " |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _panels(curves: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    titles = {
        "psnr_db": "PSNR against the true drive, dB",
        "ssim": "SSIM against the true drive",
        "sharpness_ratio": "sharpness, ratio to true",
        "brightness_ratio": "brightness, ratio to true",
        "flicker_ratio": "change from frame to frame, ratio to true",
        "code_divergence": "divergence of the codes' histogram, nats",
    }
    return {title: {name: _smooth(lines[figure]) for name, lines in curves.items() if figure in lines} for figure, title in titles.items()}


def _smooth(line: np.ndarray, steps: int = 10) -> np.ndarray:
    """Running mean over a second; fewer steps at the ends."""
    kernel = np.ones(min(steps, len(line)))
    return np.convolve(line, kernel, "same") / np.convolve(np.ones(len(line)), kernel, "same")


def write_side_by_side(path: Path, rows: Mapping[str, np.ndarray], fps: float) -> None:
    """A column a way of driving, a row a start."""
    length = len(next(iter(rows.values()))[0])
    with VideoWriter(path, fps=fps, size=_picture(rows, 0).shape[:2]) as video:
        for step in range(length):
            video.write(_picture(rows, step))


def _picture(rows: Mapping[str, np.ndarray], step: int) -> np.ndarray:
    return np.concatenate([np.concatenate([_label(name, frames.shape[3]), *frames[:, step]]) for name, frames in rows.items()], axis=1)


def _label(text: str, width: int) -> np.ndarray:
    strip = np.full((_LABEL, width, 3), 24, np.uint8)
    cv2.putText(strip, text, (3, _LABEL - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.34, (235, 235, 235), 1, cv2.LINE_AA)
    return strip


def sheet(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """A row a way of driving, the first start's frames spread over the horizon."""
    chosen = np.linspace(0, len(next(iter(rows.values()))[0]) - 1, _SHEET_COLUMNS).round().astype(int)
    lines = []
    for name, frames in rows.items():
        line = np.concatenate(list(frames[0][chosen]), axis=1)
        lines += [_label(name, line.shape[1]), line]
    return np.concatenate(lines)
