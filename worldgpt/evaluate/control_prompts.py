"""Prompts, measured: is what they tell to be seen, and does the road stay when only the look is told otherwise.

Axes: B rollouts, F frames, L names of a look.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldgpt.evaluate.adherence import JOINT, joint_accuracy, look_scores
from worldgpt.evaluate.control_scene import Scene, context_steps, reconstructed, row_means
from worldgpt.evaluate.intervals import Estimate, bootstrap, mean_of, undefined
from worldgpt.evaluate.logged import find_places, read_logged
from worldgpt.evaluate.probes import EVENT
from worldgpt.evaluate.prompt_cases import HELD_OUT_KIND, PromptCase
from worldgpt.evaluate.read_back import ReadBack, read_drives
from worldgpt.evaluate.trips import Driven

GEOMETRY = ("lateral_offset_m", "heading_error_rad", "yaw_rate_rps")
"""Numbers that say where the road lies."""


def measure_prompts(scene: Scene, driven: Mapping[str, Driven]) -> dict[str, Any]:
    """{"kinds": {kind: {look: score}}, "floor": {split: {"real", "reconstructed"}}, "guidance_curve": {scale: {look: accuracy}}}.

    A score's `over_reconstructed` is its accuracy over that of real drives through the tokenizer.
    """
    names = scene.probes.look_names
    floor = {split: floor_looks(scene, split) for split in (scene.config.split, scene.config.heldout_split) if split in scene.store.splits}
    kinds = {}
    for kind, cases in scene.cases.items():
        split = scene.config.heldout_split if kind == HELD_OUT_KIND and scene.config.heldout_split in floor else scene.config.split
        figures = look_figures(driven[f"prompts/{kind}"].read, cases, names)
        best = {look: score["accuracy"]["value"] for look, score in floor[split]["reconstructed"].items()}
        for look, score in figures.items():
            accuracy = Estimate(**{**score["accuracy"], **{k: np.nan for k, v in score["accuracy"].items() if v is None}})
            score["over_reconstructed"] = accuracy.over(best.get(look) or 0.0).to_dict()
        kinds[kind] = figures
    first = next(iter(scene.cases.values()), [])
    curve = {f"{scene.config.guidance:g}": next(iter(kinds.values()), {})}
    for scale in scene.config.guidance_curve if first else ():
        curve[f"{scale:g}"] = look_figures(driven[f"guidance/{scale:g}"].read, first, names)
    accuracies = {s: {look: score["accuracy"] for look, score in curve[s].items()} for s in sorted(curve, key=float)}
    return {"kinds": kinds, "floor": floor, "guidance_curve": accuracies}


def look_figures(read: ReadBack, cases: Sequence[PromptCase], names: dict[str, list[str]]) -> dict[str, Any]:
    """{look: accuracy, by name, confusion}, and weather and time of day both right."""
    figures = {look: score.to_dict() for look, score in look_scores(read, cases, names).items()}
    joint = joint_accuracy(read, cases, names)
    return figures | ({JOINT: {"accuracy": joint.to_dict()}} if joint is not None else {})


def floor_looks(scene: Scene, split: str) -> dict[str, Any]:
    """{"real", "reconstructed": figures} of true drives of a split, read as the rollouts are, told by their own labels.

    Events are told of the stretches at which they are under way.
    """
    frames, pipeline = scene.config.frames, scene.pipeline
    places = find_places(scene.store, split, context_steps(pipeline) + frames, scene.config.rollouts)
    logged = scene.logged if split == scene.config.split else read_logged(pipeline, scene.store, places, frames)
    looks = [look for look in scene.probes.look_names if look != EVENT]
    cases = [PromptCase("", {look: one[look] for look in looks if look in one}) for one in logged.labels]
    events = _event_places(scene, split)
    staged = read_logged(pipeline, scene.store, events, frames) if events else None
    found = {}
    for name in ("real", "reconstructed"):
        read = read_drives(scene.probes, logged.frames) if name == "real" else reconstructed(scene, logged)
        found[name] = look_figures(read, cases, scene.probes.look_names)
        if staged is not None:
            read = read_drives(scene.probes, staged.frames) if name == "real" else reconstructed(scene, staged)
            told = [PromptCase("", {EVENT: one[EVENT]}) for one in staged.labels]
            found[name] |= look_figures(read, told, scene.probes.look_names)
    return found


def _event_places(scene: Scene, split: str) -> list[tuple[str, int]]:
    """Places whose frames begin as an event does, up to as many as rollouts."""
    if EVENT not in scene.probes.look_names:
        return []
    context, found = context_steps(scene.pipeline), []
    for drive in scene.store.drives(split):
        codes = scene.store.read(drive.drive_id, frames=False).truth.get(EVENT, np.zeros(0))
        if codes.any():
            first = int(np.clip(np.flatnonzero(codes)[0] - context - 2, 0, drive.steps - context - scene.config.frames))
            if drive.steps >= context + scene.config.frames:
                found.append((drive.drive_id, first))
    return found[: scene.config.rollouts]


def measure_disentanglement(scene: Scene, driven: Mapping[str, Driven]) -> dict[str, Any]:
    """How far the lanes move when only the prompt changes, over how far they move when only the seed does; and whether the look changes."""
    base, prompt, seed = (driven[f"look/{name}"].read for name in ("base", "prompt", "seed"))
    spreads = scene.probes.settings.spreads
    names = [name for name in GEOMETRY if name in spreads]
    by_prompt, by_seed = (geometry_change(base, other, {name: spreads[name] for name in names}) for other in (prompt, seed))
    known = np.isfinite(by_prompt) & np.isfinite(by_seed)
    changes = by_prompt[known], by_seed[known]
    ratio = bootstrap(int(known.sum()), lambda rows: float(changes[0][rows].mean() / max(changes[1][rows].mean(), 1e-12)))
    return {
        "numbers": names,
        "prompt_change": mean_of(by_prompt).to_dict(),
        "seed_change": mean_of(by_seed).to_dict(),
        "ratio": (ratio if names else undefined()).to_dict(),
        "look_change": {look: mean_of(_apart(base.looks[look], prompt.looks[look])).to_dict() for look in base.looks},
        "look_change_by_seed": {look: mean_of(_apart(base.looks[look], seed.looks[look])).to_dict() for look in base.looks},
    }


def geometry_change(one: ReadBack, other: ReadBack, spreads: Mapping[str, float]) -> np.ndarray:
    """(B,) mean absolute difference of the numbers named in `spreads`, in units of these; NaN where nothing is read."""
    if not spreads:
        return np.full(len(one.features), np.nan)
    parts = [np.abs(one.numbers[name] - other.numbers[name]) / spread for name, spread in spreads.items()]
    return row_means(np.mean(parts, axis=0))


def _apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(B,) mean total variation distance, 0 to 1, of probabilities (B, F, L)."""
    return row_means(np.abs(one - other).sum(-1) / 2)
