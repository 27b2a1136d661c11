"""Settings of scripts/generate.py; free of torch, so that `--help` is quick."""

import math
from dataclasses import dataclass
from typing import Literal

from conditioning.guidance import GuidanceSchedule
from data.errors import UserError


@dataclass(frozen=True)
class GenerateConfig:
    """Drive a trained world model from prompts, and write videos."""

    checkpoint: str = "runs/worldgpt"
    """Folder of a trained world model, or user/name on the Hub."""
    prompt: tuple[str, ...] = ("",)
    """What the drive looks like, as in "rainy night"; several prompts make several videos, sampled as one batch."""
    prompt_at: tuple[tuple[int, str], ...] = ()
    """Frames and the prompts that hold from there on, for all videos: 60 "heavy rain at night". Counts from the first generated frame."""
    negative_prompt: str = ""
    """What guidance moves away from; empty: the absence of a prompt."""
    guidance: float = 1.0
    """Scale of classifier-free guidance; 1: none, above 1: the prompt counts more, at twice the cost."""
    guidance_schedule: tuple[str, ...] = ()
    """How --guidance falls to 1: frames=linear:50 or frames=cosine:50 over the first 50 generated frames, codes=linear or codes=cosine
    over the codes of each frame; or both. Once it is 1 for good, it costs nothing."""
    action_guidance: float = 1.0
    """Scale of guidance by the actions: above 1, frames and telemetry are pushed away from what they would be without actions. With
    --guidance, the two pushes are added, at three times the cost of none."""
    context: str | None = None
    """True frames to go on from: a drive of a prepared set (its .parquet file), an mp4 or an image; without, the first frame is dreamed."""
    context_frames: int = 8
    """How many frames of the context are read."""
    actions: str | None = None
    """CSV file with a column a channel and a row a generated frame; or `log`: those that the drive given as --context took."""
    steer: str | None = None
    """Directions and for how many frames: left, or left:20,straight:30."""
    speed: float | None = None
    """Speed in m/s that the telemetry is held at."""
    frames: int = 100
    """Frames to generate; the context is not counted."""
    seed: int = 0
    """Decides every draw: the same seed makes the same file."""
    num_samples: int = 1
    """Worlds a prompt, drawn differently and shown as a grid."""
    temperature: float = 1.0
    """Of the draws; 0 takes the likeliest token, which is known to freeze."""
    entropy: float = 0.0
    """Sharpens the draws where the model is sure, by this strength in nats (0.5 is a fair start); 0: all alike."""
    top_k: int = 0
    """Draw from the k likeliest tokens; 0: all."""
    top_p: float = 0.95
    """Draw from the likeliest tokens that together reach this probability."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the likeliest one's probability."""
    stream_sampling: tuple[str, ...] = ()
    """Other settings for a stream or a kind of stream: "telemetry:temperature=0.7,top_p=0.9" "action/steering_rad:temperature=0"."""
    reanchor: str = "none"
    """Against drift: none; every_n:20 (decode and encode again); on_drift:1.3 (the same when it is needed); real:50 (log replay: true
    frames of the drive given as --context)."""
    decode: str = ""
    """How many tokens come in one pass: raster, rows, rows:2, diagonal:2, ... A checkpoint knows the one that it was trained for, another
    is refused. draft or draft:32 is raster with up to 16 or 32 guesses checked in one pass: the same tokens, sooner (not quite with
    int8 weights, which round what is read together). Without a name it is the checkpoint's own order, and on a CPU, for one or two
    worlds, raster with a draft."""
    weights: Literal["float", "int8"] = "float"
    """'int8' rounds the transformer's matrices to 8 bits: faster on a CPU, and not quite the same drive."""
    window: Literal["ring", "recompute"] = "ring"
    """'recompute' reads the whole window anew for each frame: many times slower, for comparison."""
    output: str = "out.mp4"
    """Video to write, a contact sheet (.png) and a record (.json) beside it. With several prompts, their words are added to the name."""
    overlay: bool = True
    """Draw prompt, telemetry and action below the picture."""
    scale: int = 4
    """Enlargement of the frames in the video."""

    def __post_init__(self) -> None:
        for name in ("frames", "num_samples", "context_frames", "scale"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise UserError(f"--seed: expected 0 or more, got {self.seed}")
        if not self.output.endswith(".mp4"):
            raise UserError(f"--output: expected a name that ends in .mp4, got {self.output!r}")
        schedule = GuidanceSchedule.parse(self.guidance, self.guidance_schedule)
        if self.guidance_schedule and schedule.over(0):
            raise UserError("--guidance-schedule: needs a --guidance other than 1 to begin with")
        if not math.isfinite(self.action_guidance):
            raise UserError(f"--action-guidance: expected a finite scale, got {self.action_guidance}")
        if not self.prompt:
            raise UserError("--prompt: expected at least one prompt")
        starts = [frame for frame, _ in self.prompt_at]
        if starts != sorted(set(starts)) or (starts and not 0 < starts[0] <= starts[-1] < self.frames):
            raise UserError(f"--prompt-at: expected rising frames from 1 to {self.frames - 1}, got {', '.join(map(str, starts))}")
        if self.actions == "log" and self.context is None:
            raise UserError("--actions log: needs the drive whose actions are taken; give it as --context")
