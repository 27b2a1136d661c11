"""Conditioning dropout in training, classifier-free guidance and prompt changes in sampling.

Dropping a condition now and then teaches the model the world without it; sampling then moves the logits away from that
world by a scale (Ho & Salimans, "Classifier-free diffusion guidance", 2022). A negative prompt stands in for the absence.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from data.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DropoutConfig:
    """How often training hides each kind of condition from the model; each is drawn by itself, once a window."""

    text: float = 0.1
    """Share of the windows whose prompt is replaced by the null embedding, 0 to 1."""
    actions: float = 0.1
    """Share of the windows whose action tokens are all NULL, 0 to 1."""
    telemetry: float = 0.1
    """Share of the windows whose telemetry tokens are all NULL, 0 to 1."""

    def __post_init__(self) -> None:
        for name, probability in vars(self).items():
            if not 0 <= probability <= 1:
                raise UserError(f"dropout.{name}: expected a share from 0 to 1, got {probability}")


def guided_logits(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Logits (..., V) moved along conditional - unconditional; float64 stays so, all else is computed in float32.

    scale 0: unconditional; 1: the conditional logits, bit for bit; above 1: the condition counts more. Ids that are ruled out
    (-inf) in the conditional logits stay so.
    """
    import torch

    dtype = torch.promote_types(conditional.dtype, torch.float32)
    conditional, unconditional = conditional.to(dtype), unconditional.to(dtype)
    if scale == 1:
        return conditional
    guided = unconditional + scale * (conditional - unconditional)
    return torch.where(conditional.isfinite() & unconditional.isfinite(), guided, conditional)


@dataclass(frozen=True)
class PromptSchedule:
    """Which prompt holds at which generated frame.

    >>> schedule = PromptSchedule([("sunny day", 0), ("heavy rain at night", 60)])
    >>> schedule.at(59), schedule.at(60)
    ('sunny day', 'heavy rain at night')
    """

    changes: tuple[tuple[str, int], ...]
    """((prompt, first generated frame), ...), the first from frame 0, frames rising."""

    def __init__(self, changes: str | Iterable[tuple[str, int]]) -> None:
        """One prompt for all frames, or [("sunny day", 0), ("heavy rain at night", 60)]."""
        changes = ((changes, 0),) if isinstance(changes, str) else tuple((prompt, frame) for prompt, frame in changes)
        frames = [frame for _, frame in changes]
        if not frames or frames[0] != 0:
            raise UserError(f"prompt schedule: expected the first prompt at frame 0, got {changes[0] if changes else 'none'}")
        for earlier, later in pairwise(frames):
            if later <= earlier:
                raise UserError(f"prompt schedule: expected rising frames, got {later} after {earlier}")
        object.__setattr__(self, "changes", changes)

    def at(self, frame: int) -> str:
        """The prompt that holds at a generated frame, counted from 0."""
        if frame < 0:
            raise ValueError(f"frame: expected 0 or more, got {frame}")
        return self.changes[bisect_right([first for _, first in self.changes], frame) - 1][0]
