"""WorldGPTPipeline: tokenizer, text encoder, channels and world model in one object, from a prompt to frames.

Axes: B worlds, T steps, H W pixels, J tokens a step, M telemetry channels, A action channels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from conditioning.guidance import PromptSchedule
from conditioning.steering import Commands
from data.errors import UserError
from data.folder import atomic_folder, read_json
from tokenizer.model import FrameTokenizer, load_tokenizer
from worldgpt.model import WorldGPT, WorldGPTConfig
from worldgpt.rollout import FREE, Rollout
from worldgpt.sampling import SamplingConfig

DECODE_STEPS = 8
"""Steps whose frames are decoded together."""


@dataclass(frozen=True)
class Chunk:
    """Some generated steps of all worlds."""

    frames: Mapping[str, np.ndarray]
    """{camera: (B, T, H, W, 3) uint8}."""
    telemetry: np.ndarray
    """(B, T, M) float32 in physical units."""
    actions: np.ndarray
    """(B, T, A) float32 in physical units."""
    tokens: np.ndarray
    """(B, T, J) int64."""


class WorldGPTPipeline:
    """What a checkpoint folder holds: the world model, and below `tokenizer/` the tokenizer that it was trained with."""

    def __init__(self, model: WorldGPT, tokenizer: FrameTokenizer | None) -> None:
        self.model, self.tokenizer = model, tokenizer

    # -- on disk ------------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "WorldGPTPipeline":
        """Load a checkpoint; UserError where the folder holds none, or one that does not fit together.

        Without `device`, a GPU is taken where there is one; without `dtype`, bf16 there and float32 on the CPU.
        """
        folder = Path(folder)
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model = cast(Any, load_world_model(folder)).to(device, dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32))
        if not (folder / "tokenizer").is_dir():
            return cls(model, None)
        tokenizer = cast(Any, load_tokenizer(folder / "tokenizer")).to(device)
        if tokenizer.content_hash() != model.config.tokenizer_hash:
            raise UserError(f"{folder}: the tokenizer in it is not the one that the world model was trained with")
        return cls(model, tokenizer)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and configs into `folder`, each file in one piece."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder / ".part") as part:
            self.model.save_pretrained(part)
            if self.tokenizer is not None and not (folder / "tokenizer").exists():
                self.tokenizer.save_pretrained(part / "tokenizer")
        for path in sorted((folder / ".part").iterdir()):
            path.replace(folder / path.name)
        (folder / ".part").rmdir()

    # -- what a world is told -----------------------------------------------------------------------------------------------

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """(B, P, D_text)."""
        with torch.inference_mode():
            return self.model.text(self.model.text.tokenize(list(prompts)).to(self.model.device))

    def context(
        self,
        frames: Mapping[str, np.ndarray],
        telemetry: Mapping[str, np.ndarray] | None = None,
        actions: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Tokens (T, J) of true steps: frames {camera: (T, H, W, 3) uint8}, channels {name: (T,)} as far as they are known.

        What is missing (a camera, a channel) stands as NULL.
        """
        steps = len(next(iter(frames.values())))
        parts: dict[str, np.ndarray] = {}
        for stream in self.model.layout.of_kind("frame"):
            camera = stream.name.removeprefix("camera/")
            if camera in frames:
                parts[stream.name] = self._encode(frames[camera])
        for kind, channels, values in (("telemetry", self.model.telemetry, telemetry), ("action", self.model.actions, actions)):
            for spec, codec in zip(channels.specs, channels.codecs, strict=True):
                if values is not None and spec.name in values:
                    parts[f"{kind}/{spec.name}"] = codec.tokens(np.asarray(values[spec.name], np.float32))
        return self.model.layout.pack(parts, steps)

    def _encode(self, frames: np.ndarray) -> np.ndarray:
        height, width = self.model.config.frame_size
        if frames.shape[1:3] != (height, width):
            raise UserError(f"context: expected frames of {height}x{width}, got {frames.shape[1]}x{frames.shape[2]}")
        tokenizer = self._need_tokenizer()
        return tokenizer.encode(torch.from_numpy(np.ascontiguousarray(frames)).to(tokenizer.device)).cpu().numpy()

    def forced_tokens(self, commands: Commands | None, frame: int, worlds: int) -> Tensor:
        """(B, J): FREE, or the token of the command for this generated frame."""
        layout = self.model.layout
        forced = torch.full((worlds, layout.tokens_per_step), FREE)
        if commands is None:
            return forced
        for kind, channels, table in (
            ("telemetry", self.model.telemetry, commands.telemetry),
            ("action", self.model.actions, commands.actions),
        ):
            if len(channels) and frame < len(table):
                tokens = np.where(np.isnan(table[frame]), FREE, channels.tokens(table[frame]))
                forced[:, layout.span_of_kind(kind)] = torch.from_numpy(tokens)
        return forced

    # -- driving ------------------------------------------------------------------------------------------------------------

    def stream(
        self,
        prompts: Sequence[str | PromptSchedule],
        frames: int,
        *,
        negative_prompt: str = "",
        guidance: float = 1.0,
        context: np.ndarray | None = None,
        commands: Sequence[Commands | None] | Commands | None = None,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        worlds: Sequence[int] | None = None,
    ) -> Iterator[Chunk]:
        """Drive one world a prompt, all as one batch; yields chunks of up to 8 steps, `frames` steps in all.

        `context` (T, J) or (B, T, J) are true steps to go on from; without, the first frame is dreamed from the prompt.
        `commands` hold for all worlds, or are given one a world. `worlds` number the randomness (default 0, 1, ...).
        """
        schedules = [p if isinstance(p, PromptSchedule) else PromptSchedule(p) for p in prompts]
        rollout = Rollout(
            self.model,
            sampling or SamplingConfig(),
            seed=seed,
            worlds=range(len(schedules)) if worlds is None else worlds,
            guidance=guidance,
        )
        negative = self.embed_prompts([negative_prompt] * len(schedules))
        words: list[str] = []
        embedded = negative
        pending: list[np.ndarray] = []
        for frame in range(frames):
            if (now := [schedule.at(frame) for schedule in schedules]) != words:
                words, embedded = now, self.embed_prompts(now)
            if frame == 0 and context is not None:
                table = torch.from_numpy(np.broadcast_to(context, (len(schedules), *context.shape[-2:])).copy())
                rollout.start(table, embedded, negative)
            forced = self._forced(commands, frame, len(schedules))
            pending.append(rollout.step(embedded, negative, forced).cpu().numpy())
            if len(pending) == DECODE_STEPS or frame == frames - 1:
                yield self._chunk(np.stack(pending, axis=1))
                pending = []

    def __call__(self, prompts: str | PromptSchedule | Sequence[str | PromptSchedule], frames: int, **options: Any) -> Chunk:
        """All of `stream` (which see for the options) in one piece: B worlds, T = frames."""
        several = [prompts] if isinstance(prompts, (str, PromptSchedule)) else list(prompts)
        chunks = list(self.stream(several, frames, **options))
        joined = {camera: np.concatenate([c.frames[camera] for c in chunks], axis=1) for camera in chunks[0].frames}
        telemetry, actions, tokens = (
            np.concatenate([getattr(c, name) for c in chunks], axis=1) for name in ("telemetry", "actions", "tokens")
        )
        return Chunk(joined, telemetry, actions, tokens)

    def _forced(self, commands: Sequence[Commands | None] | Commands | None, frame: int, worlds: int) -> Tensor:
        if commands is None or isinstance(commands, Commands):
            return self.forced_tokens(commands, frame, worlds)
        return torch.cat([self.forced_tokens(c, frame, 1) for c in commands])

    def _chunk(self, tokens: np.ndarray) -> Chunk:
        """Decode tokens (B, T, J)."""
        layout, model = self.model.layout, self.model
        frames = {s.name.removeprefix("camera/"): self.decode(layout.unpack(tokens, s)) for s in layout.of_kind("frame")}
        telemetry, actions = (
            channels.values(tokens[..., layout.span_of_kind(kind)]) if len(channels) else np.zeros((*tokens.shape[:2], 0), np.float32)
            for kind, channels in (("telemetry", model.telemetry), ("action", model.actions))
        )
        return Chunk(frames, telemetry, actions, tokens)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes (..., h, w) -> frames (..., H, W, 3) uint8."""
        tokenizer = self._need_tokenizer()
        flat = torch.from_numpy(codes.reshape(-1, *codes.shape[-2:])).to(tokenizer.device)
        frames = tokenizer.decode(flat).cpu().numpy()
        return frames.reshape(*codes.shape[:-2], *frames.shape[1:])

    def _need_tokenizer(self) -> FrameTokenizer:
        if self.tokenizer is None:
            raise UserError("this world model was trained on codes that came without a tokenizer: its frames cannot be drawn")
        return self.tokenizer


def load_world_model(folder: Path) -> WorldGPT:
    """The world model of a checkpoint folder, in evaluation mode; UserError where there is none, or a broken one."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: expected a world model checkpoint, found no config.json; train one with scripts/train_worldgpt.py")
    found = read_json(folder / "config.json")
    if not isinstance(found, dict) or found.get("model_type") != WorldGPTConfig.model_type or "layout" not in found:
        kind = found.get("model_type") if isinstance(found, dict) else None
        raise UserError(f"{folder}: expected a world model checkpoint, config.json is one of {kind or 'something else'!r}")
    try:
        config = WorldGPTConfig.from_pretrained(folder)
        model, report = cast(Any, WorldGPT.from_pretrained(folder, config=config, output_loading_info=True))
    except UserError:
        raise
    except Exception as error:  # transformers and safetensors raise many kinds for a broken file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{folder}: could not be read as a world model: {reason}") from error
    wrong = sorted([*report["missing_keys"], *report["unexpected_keys"]])
    if wrong:
        raise UserError(f"{folder}: the weights do not fit config.json, first at {wrong[0]!r}")
    return model.eval()
