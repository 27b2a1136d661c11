"""A prepared set as people want to see it: figures, warnings, and pictures of it in `<folder>/inspection/`."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data.chart import ChannelChart, chart_page
from data.contact_sheet import store_sheet
from data.folder import write_json
from data.image import save_png
from data.inspection_channels import ChannelFigures, DriveChannels, channel_figures, read_channels, specs_of
from data.inspection_pictures import FROZEN_S, PictureFigures, picture_figures
from data.inspection_warnings import warnings_of
from data.manifest import Manifest
from data.store import EpisodeStore

FOLDER = "inspection"
_SHOWN, _KEPT = 5, 100
"""Captions and frozen stretches told by name, and captions in the file of figures."""
_CHARTED_DRIVES, _CHARTED_STEPS = 4, 1200
"""Drives in the time series, one after the other, and steps of each."""


@dataclass(frozen=True)
class SplitFigures:
    drives: int
    steps: int
    hours: float


@dataclass(frozen=True)
class CaptionFigures:
    distinct: int
    covered: float
    """Share of steps of which something is said."""
    steps: Mapping[str, int]
    """{caption: steps of which it is said}, the 100 most frequent."""


@dataclass(frozen=True)
class Inspection:
    """All figures of a set."""

    folder: str
    source: str
    license: str | None
    hash: str
    fps: float
    splits: Mapping[str, SplitFigures]
    skipped: int
    frame_sizes: Mapping[str, tuple[int, int]]
    """{camera: (H, W)} in pixels."""
    code_grids: Mapping[str, tuple[int, int]]
    channels: tuple[ChannelFigures, ...]
    truth: tuple[str, ...]
    captions: CaptionFigures
    pictures: PictureFigures
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people; warnings come last."""
        steps = sum(split.steps for split in self.splits.values())
        return [
            f"{self.folder}: source {self.source}, licence {self.license or 'not known'}, {self.fps:g} steps a second",
            *(f"  {name}: {split.drives:,} drives, {split.steps:,} steps, {split.hours:.2f} h" for name, split in self.splits.items()),
            *([f"  skipped: {self.skipped} drives"] if self.skipped else []),
            *(f"  camera {name}: {h}x{w} pixels" for name, (h, w) in self.frame_sizes.items()),
            *(f"  camera {name}: {h}x{w} codes" for name, (h, w) in self.code_grids.items()),
            *_channel_lines(self.channels),
            *_caption_lines(self.captions, steps),
            *_picture_lines(self.pictures, steps, self.fps),
            *(["warnings:", *(f"  - {text}" for text in self.warnings)] if self.warnings else ["no warnings"]),
        ]


def inspect_store(store: EpisodeStore, *, progress: bool = True) -> Inspection:
    """Look at a set and write inspection.json, channels.png and contact_sheet.png into `<folder>/inspection/`.

    Channels are read whole. Pictures are, too, up to 100,000 of them (fewer where they are large); of larger sets, as many are read,
    spread evenly.
    """
    manifest = store.manifest
    drives = list(read_channels(store))
    channels = _channels(manifest, drives)
    pictures = picture_figures(store, progress=progress)
    inspection = Inspection(
        folder=str(store.path),
        source=manifest.source,
        license=manifest.license,
        hash=store.hash,
        fps=manifest.fps,
        splits={split: _split(manifest, split) for split in manifest.splits},
        skipped=len(manifest.skipped),
        frame_sizes=manifest.signals.frame_sizes,
        code_grids=manifest.signals.code_grids,
        channels=channels,
        truth=manifest.signals.truth,
        captions=_captions(manifest),
        pictures=pictures,
        warnings=tuple(warnings_of(manifest, channels, pictures)),
    )
    folder = store.path / FOLDER
    write_json(folder / "inspection.json", asdict(inspection))
    _draw(store, drives, folder)
    return inspection


def _split(manifest: Manifest, split: str) -> SplitFigures:
    steps = [drive.steps for drive in manifest.drives if drive.split == split]
    return SplitFigures(len(steps), sum(steps), sum(steps) / manifest.fps / 3600)


def _channels(manifest: Manifest, drives: list[DriveChannels]) -> tuple[ChannelFigures, ...]:
    values = np.concatenate([drive.values for drive in drives])
    count = len(manifest.telemetry)
    telemetry = [channel_figures(spec, "telemetry", values[:, k]) for k, spec in enumerate(manifest.telemetry)]
    return (*telemetry, *(channel_figures(spec, "action", values[:, count + k]) for k, spec in enumerate(manifest.actions)))


def _captions(manifest: Manifest) -> CaptionFigures:
    said, covered = Counter[str](), 0
    for drive in manifest.drives:
        spoken = np.zeros(drive.steps, bool)
        for caption in drive.captions:
            said[caption.text] += caption.end - caption.start
            spoken[caption.start : caption.end] = True
        covered += int(spoken.sum())
    return CaptionFigures(len(said), covered / sum(drive.steps for drive in manifest.drives), dict(said.most_common(_KEPT)))


def _draw(store: EpisodeStore, drives: list[DriveChannels], folder: Path) -> None:
    if store.manifest.signals.frame_sizes:
        save_png(store_sheet(store), folder / "contact_sheet.png")
    specs = specs_of(store)
    if not specs:
        return
    chosen = [drives[round(k)] for k in np.linspace(0, len(drives) - 1, min(_CHARTED_DRIVES, len(drives)))]
    charts = [
        ChannelChart(
            f"{'telemetry' if k < len(store.manifest.telemetry) else 'action'} {spec.name}",
            spec,
            np.concatenate([drive.values[:, k] for drive in drives]),
            {f"{drive.record.split} {drive.record.drive_id}": drive.values[:_CHARTED_STEPS, k] for drive in chosen},
        )
        for k, spec in enumerate(specs)
    ]
    save_png(chart_page(charts, store.manifest.fps), folder / "channels.png")


def _channel_lines(channels: tuple[ChannelFigures, ...]) -> list[str]:
    if not channels:
        return ["  channels: none"]
    rows = [("", "channel", "unit", "used", "98 % within", "range", "bins of 98 %", "at the edges")]
    for c in channels:
        used, usual = f"{c.smallest:.4g} to {c.largest:.4g}", f"{c.usual_low:.4g} to {c.usual_high:.4g}"
        bins, edges = f"{c.usual_bins:.0f} of {c.bins}", f"{c.at_low:.1%}, {c.at_high:.1%}"
        rows.append((c.kind, c.name, c.unit, used, usual, f"{c.low:g} to {c.high:g}", bins, edges))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _caption_lines(captions: CaptionFigures, steps: int) -> list[str]:
    if not captions.distinct:
        return ["  captions: none"]
    head = f"  captions: {captions.distinct:,} different ones, something is said of {captions.covered:.0%} of the steps; most of all:"
    most = list(captions.steps.items())[:_SHOWN]
    return [head, *(f'    {count / steps:6.1%}  "{text}"' for text, count in most)]


def _picture_lines(pictures: PictureFigures, steps: int, fps: float) -> list[str]:
    kind = "pictures" if pictures.motion else "codes"
    sampled = "" if pictures.looked_at == steps else f" (in {pictures.looked_at:,} of {steps:,} steps, spread evenly)"
    lines = [f"  duplicates: {pictures.equal:,} of {pictures.pairs:,} neighbouring {kind} are equal{sampled}"]
    lines += [f"  stretches frozen for {FROZEN_S:g} s or longer: {len(pictures.frozen)}"] if pictures.frozen else []
    for run in pictures.frozen[:_SHOWN]:
        speed = "" if run.speed_mps is None else f", {run.speed_mps:.1f} m/s meanwhile"
        lines.append(f"    {run.drive_id} {run.camera}: steps {run.first} to {run.last - 1}, {(run.last - run.first) / fps:.1f} s{speed}")
    if pictures.motion is not None:
        turning = [f"{name} {value:+.2f}" for name, value in pictures.motion.turning.items()]
        said = f"; correlation with turning: {', '.join(turning)}" if turning else ""
        lines.append(f"  motion: {pictures.motion.pairs:,} pairs of {pictures.motion.camera} watched{said}")
    return lines
