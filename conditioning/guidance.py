"""Conditioning dropout in training, classifier-free guidance and prompt changes in sampling.

Dropping a condition now and then teaches the model the world without it; sampling then moves the logits away from that
world by a scale (Ho & Salimans, "Classifier-free diffusion guidance", 2022). A negative prompt stands in for the absence.
The scale may fall over the generated frames and over the codes of a frame (GAIA-1, Hu et al. 2023, arXiv:2309.17080).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, cast, get_args

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


def guided_logits(conditional: torch.Tensor, *without: tuple[torch.Tensor, float | torch.Tensor]) -> torch.Tensor:
    """Logits (..., V) moved away from those without a condition: c + sum of (scale_i - 1) (c - u_i) over (u_i, scale_i).

    Of one condition alone that is u + scale (c - u): scale 0: unconditional; 1: the conditional logits, bit for bit; above 1: the condition
    counts more. Several push each by itself, as in composed diffusion (Liu et al. 2022, arXiv:2206.01714). float64 stays so, all else is
    computed in float32. A scale is one for all, or a tensor that broadcasts. Ids ruled out (-inf) in the conditional logits stay so.
    """
    import torch

    guided = conditional = conditional.to(torch.promote_types(conditional.dtype, torch.float32))
    for unconditional, scale in without:
        if isinstance(scale, torch.Tensor) or scale != 1:
            push = conditional - unconditional.to(conditional.dtype)
            guided = guided + (scale - 1) * torch.where(push.isfinite(), push, 0.0)
    return guided


Fall = Literal["constant", "linear", "cosine"]
"""How a scale comes down to 1: not at all, evenly, or at first and at last slowly."""


@dataclass(frozen=True)
class GuidanceSchedule:
    """Scale of guidance at every generated frame and every place in it: `scale`, or on the way from there to 1.

    >>> schedule = GuidanceSchedule(3.0, over_frames="linear", frames=50)
    >>> schedule.at(0), schedule.at(25), schedule.at(50)
    (3.0, 2.0, 1.0)
    """

    scale: float = 1.0
    """Where it begins; 1: no guidance."""
    over_frames: Fall = "constant"
    """How the scale falls over the generated frames."""
    frames: int = 0
    """Generated frames until it is 1; 0 where it does not fall."""
    over_codes: Fall = "constant"
    """How the scale falls within a frame, from its first code to its last, where it is 1; channels keep the frame's scale."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise UserError(f"guidance: expected a finite scale, got {self.scale}")
        if (self.over_frames == "constant") != (self.frames == 0) or self.frames < 0:
            raise UserError(
                f"guidance schedule: expected a number of frames where it falls over them, got {self.over_frames}:{self.frames}"
            )

    @classmethod
    def of(cls, guidance: float | GuidanceSchedule) -> GuidanceSchedule:
        """A plain scale holds at all places."""
        return guidance if isinstance(guidance, GuidanceSchedule) else cls(float(guidance))

    @classmethod
    def parse(cls, scale: float, texts: Sequence[str]) -> GuidanceSchedule:
        """From "frames=linear:50" and "codes=cosine", either of them or both.

        >>> GuidanceSchedule.parse(3.0, ["frames=cosine:50", "codes=linear"])
        GuidanceSchedule(scale=3.0, over_frames='cosine', frames=50, over_codes='linear')
        """
        over_frames, frames, over_codes = "constant", 0, "constant"
        falls = [fall for fall in get_args(Fall) if fall != "constant"]
        for text in texts:
            name, _, rest = text.partition("=")
            fall, _, number = rest.partition(":")
            if name == "frames" and fall in falls and number.isascii() and number.isdigit() and int(number) > 0:
                over_frames, frames = fall, int(number)
            elif name == "codes" and rest in falls:
                over_codes = rest
            else:
                raise UserError(
                    f"--guidance-schedule: expected frames=linear:50, frames=cosine:50, codes=linear or codes=cosine, got {text!r}"
                )
        return cls(scale, cast(Fall, over_frames), frames, cast(Fall, over_codes))

    def at(self, frame: int, place: float = 0.0) -> float:
        """The scale at a generated frame, counted from 0, and a place in it, 0 at its first code to 1 at its last."""
        left = _left(self.over_codes, place)
        if self.over_frames != "constant":
            left *= _left(self.over_frames, frame / self.frames)
        return self.scale if left == 1 else 1 + (self.scale - 1) * left

    def over(self, frame: int) -> bool:
        """Whether there is no guidance at this frame nor at any later one."""
        return self.scale == 1 or (self.over_frames != "constant" and frame >= self.frames)


def _left(fall: Fall, way: float) -> float:
    """Share that is left after a share `way` of the fall, from 1 at 0 to 0 at 1 and beyond."""
    if fall == "constant":
        return 1.0
    if way >= 1:
        return 0.0
    return 1 - way if fall == "linear" else (1 + math.cos(math.pi * way)) / 2


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
