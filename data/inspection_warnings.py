"""What in a prepared set will hurt those who train on it."""

import re
from collections.abc import Iterator, Sequence

from data.inspection_channels import ChannelFigures
from data.inspection_motion import DRIVING_MPS, STANDING_MPS, MotionFigures
from data.inspection_pictures import PictureFigures
from data.manifest import Manifest

_FEW_BINS = 2.0
"""A channel whose usual values spread over fewer bins than this hardly varies."""
_AT_EDGE, _BEYOND = 0.02, 0.001
"""Shares of values at an edge of the range, and beyond it, that are worth a word."""
_EQUAL, _SHARED = 0.05, 0.01
"""Shares of equal neighbours, and of pictures that stand in train and elsewhere."""
_DISAGREE, _FEWEST = 0.2, 20
"""Share of pairs in which speed and picture disagree, and number of pairs needed to say so."""
_AGAINST, _FEWEST_TURNS = -0.3, 100
"""Correlation below which a channel turns against the picture."""
_PART = re.compile(r"-(part|run)\d{3}")
_NAMED = 3


def warnings_of(manifest: Manifest, channels: Sequence[ChannelFigures], pictures: PictureFigures) -> Iterator[str]:
    """One line each."""
    yield from _splits(manifest)
    for channel in channels:
        yield from _channel(channel)
    if not manifest.actions:
        yield "no actions: a model trained on this cannot be steered"
    yield from _pictures(pictures)
    if pictures.motion is not None:
        yield from _motion(pictures.motion)


def _splits(manifest: Manifest) -> Iterator[str]:
    if "val" not in manifest.splits:
        yield "no val split: nothing is held out to measure with"
    drives: dict[str, set[str]] = {split: set() for split in manifest.splits}
    contents: dict[str, set[str]] = {split: set() for split in manifest.splits}
    for drive in manifest.drives:
        drives[drive.split].add(_PART.sub("", drive.drive_id))
        contents[drive.split].add(drive.content_hash)
    for split in manifest.splits:
        if split == "train" or "train" not in drives:
            continue
        if shared := sorted(drives["train"] & drives[split]):
            yield (
                f"train and {split} share drives ({_some(shared)}), in parts with a gap between them: "
                f"{split} tells little of how a model does on drives that it has never seen"
            )
        if copies := len(contents["train"] & contents[split]):
            yield f"train and {split} hold {copies} drives of the same content"
    if manifest.skipped:
        yield f"{len(manifest.skipped)} drives were skipped when the set was prepared ({_some(sorted(manifest.skipped))})"


def _channel(channel: ChannelFigures) -> Iterator[str]:
    name, unit = channel.name, "" if channel.unit == "1" else f" {channel.unit}"
    if channel.smallest == channel.largest:
        yield f"{name} is always {channel.smallest:.4g}{unit}"
    elif channel.usual_bins < _FEW_BINS:
        what = "a model cannot learn what it does" if channel.kind == "action" else "its bins are too wide for it"
        yield (
            f"{name} hardly varies: 98 % of its values lie within {channel.usual_low:.4g} to {channel.usual_high:.4g}{unit}, "
            f"{channel.usual_bins:.1f} of its {channel.bins} bins: {what}"
        )
    for side, edge, share in (("lower", channel.low, channel.at_low), ("upper", channel.high, channel.at_high)):
        # A pedal at rest, a car that stands: 0 is no limit that something was cut to.
        if share > _AT_EDGE and edge != 0 and channel.usual_bins >= _FEW_BINS:
            where = f"the {side} edge of its range, {edge:g}{unit}"
            yield f"{name} sits at {where}, in {share:.1%} of the steps: clipped, or its range is too small"
    for side, share, extreme in (("below", channel.below, channel.smallest), ("above", channel.above, channel.largest)):
        if share > _BEYOND:
            yield (
                f"{name} lies {side} its range {channel.low:g} to {channel.high:g}{unit} in {share:.1%} of the steps "
                f"({extreme:.4g} at most) and will be clipped"
            )


def _pictures(pictures: PictureFigures) -> Iterator[str]:
    if pictures.equal > _EQUAL * pictures.pairs:
        yield f"{pictures.equal / pictures.pairs:.1%} of neighbouring pictures are equal: is the source slower than the set's rate?"
    moving = [run for run in pictures.frozen if run.speed_mps is None or run.speed_mps > STANDING_MPS]
    if moving:
        known = "while the car moves" if all(run.speed_mps is not None for run in moving) else "where the car may be moving"
        yield f"{len(moving)} stretches are frozen {known} ({_some([run.drive_id for run in moving])})"
    for split, count in pictures.seen_in_train.items():
        if count > _SHARED * pictures.in_split[split]:
            yield f"{count:,} of {pictures.in_split[split]:,} steps of {split} that were looked at show a picture that train shows, too"


def _motion(motion: MotionFigures) -> Iterator[str]:
    if motion.standing >= _FEWEST and motion.standing_but_moves > _DISAGREE * motion.standing:
        yield (
            f"the picture moves in {motion.standing_but_moves:,} of {motion.standing:,} pairs watched at a speed of 0: "
            "speed and pictures are not of the same time, or speed is missing"
        )
    if motion.driving >= _FEWEST and motion.driving_but_stands > _DISAGREE * motion.driving:
        yield (
            f"the picture stands still in {motion.driving_but_stands:,} of {motion.driving:,} pairs watched above {DRIVING_MPS:g} m/s: "
            "speed and pictures are not of the same time, or the unit of speed is wrong"
        )
    for name, correlation in motion.turning.items():
        if motion.turning_pairs >= _FEWEST_TURNS and correlation < _AGAINST:
            yield (
                f"{name} turns against the picture (correlation {correlation:.2f} over {motion.turning_pairs:,} pairs): "
                "is it positive to the right at the source, or is the picture mirrored?"
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join([*dict.fromkeys(names)][:_NAMED]) + (", ..." if len(set(names)) > _NAMED else "")
