"""WorldGPTPipeline: tokenizer, text encoder, channels and world model in one object, from a prompt to frames.

Axes: B worlds, T steps, H W pixels, J tokens a step, M telemetry channels, A action channels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from conditioning.familiarity import Familiarity
from conditioning.guidance import GuidanceSchedule, PromptSchedule
from conditioning.steering import Commands
from data.ahead import ahead
from data.errors import UserError
from data.folder import atomic_folder
from data.hub_files import Access
from tokenizer.checkpoint import checkpoint_folder, inside, load_checkpoint
from tokenizer.model import FrameTokenizer, load_tokenizer
from worldgpt.anchors import Policy, Scene, parse_policy
from worldgpt.model import WorldGPT
from worldgpt.notices import tell_clamped, tell_planner, tell_unfamiliar
from worldgpt.placement import draws_in_bf16, numbers, placed
from worldgpt.product import Weights
from worldgpt.rollout import FREE, Decide, Rollout, RolloutConfig
from worldgpt.sampling import SamplingConfig, SamplingPlan

SHARD = "2GB"
"""Largest file of weights; more of them come in several."""
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
    worlds: tuple[int, ...]
    """(B,): which of the prompts these worlds are; those that have ended are left out."""
    anchored: np.ndarray
    """(B, T) bool: the world was re-anchored before this step."""


@dataclass(frozen=True)
class Observation:
    """What a planner sees of a step before it decides on the actions."""

    frame: int
    """Number of the generated frame, from 0."""
    worlds: tuple[int, ...]
    """(B,): which of the prompts these worlds are."""
    frames: Mapping[str, np.ndarray]
    """{camera: (B, H, W, 3) uint8}."""
    telemetry: np.ndarray
    """(B, M) float32 in physical units."""


Planner = Callable[[Observation], Mapping[str, Any]]
"""From what is seen to {action channel: its value in physical units, (B,) or one for all}; NaN, or no entry, leaves a channel free."""


@dataclass
class _Drive:
    """A rollout with everything that it is told."""

    rollout: Rollout
    policy: Policy
    scene: Scene
    schedules: list[PromptSchedule]
    lengths: list[int]
    commands: Sequence[Commands | None] | Commands | None
    planner: Planner | None
    clamped: set[str] = field(default_factory=set)
    """Channels that the planner was told about for leaving their range."""


_Steps = tuple[np.ndarray, tuple[int, ...], np.ndarray]
"""Tokens (B, T, J) of some steps, the worlds (B,) and which steps were anchored (B, T): a chunk whose frames are not decoded yet."""


class WorldGPTPipeline:
    """What a checkpoint folder holds: the world model, and below `tokenizer/` the tokenizer that it was trained with."""

    def __init__(self, model: WorldGPT, tokenizer: FrameTokenizer | None) -> None:
        self.model = model
        self.tokenizer = None if tokenizer is None else cast(Any, tokenizer).to(memory_format=torch.channels_last)

    # -- on disk ------------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device | None = None,
        device_map: str | int | torch.device | Mapping[str, Any] | None = None,
        dtype: torch.dtype | str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
    ) -> "WorldGPTPipeline":
        """Load a checkpoint from a folder or, as user/name, from the Hub; UserError where there is none, or one that does not fit together.

        Without `device` or `device_map` (one device for all), a GPU is taken where there is one; without `dtype`, bf16 there and float32
        on the CPU. `subfolder` is where the checkpoint lies, `revision` a branch, tag or commit; with `local_files_only` the cache serves
        and nobody is asked.
        """
        access, below = Access(revision, local_files_only, token, cache_dir), subfolder or ""
        place = placed(device, device_map)
        root = checkpoint_folder(name, WorldGPT.kind, (below, f"{below}/tokenizer".lstrip("/")), access)
        folder = inside(root, below)
        model: Any = load_world_model(folder)
        model = model.to(place, numbers(dtype, place, model.dtype))
        if not (folder / "tokenizer").is_dir():
            return cls(model, None)
        tokenizer = cast(Any, load_tokenizer(folder / "tokenizer")).to(place)
        if tokenizer.content_hash() != model.config.tokenizer_hash:
            raise UserError(f"{name}: the tokenizer in it is not the one that the world model was trained with")
        return cls(model, tokenizer)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and configs into `folder`, each file in one piece."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder / ".part") as part:
            self.model.save_pretrained(part, max_shard_size=SHARD)
            if self.tokenizer is not None and not (folder / "tokenizer").exists():
                self.tokenizer.save_pretrained(part / "tokenizer")
        for path in sorted((folder / ".part").iterdir()):
            path.replace(folder / path.name)
        (folder / ".part").rmdir()

    def push_to_hub(self, repo: str, *, private: bool = False, license: str | None = None, token: str | bool | None = None) -> str:
        """Publish as user/name, with a sample drive and a card of what is known; the page's address. See worldgpt/hub.py."""
        from worldgpt.hub import push_pipeline

        return push_pipeline(self, repo, private=private, license=license, token=token)

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
        frames: int | Sequence[int],
        *,
        negative_prompt: str = "",
        guidance: float | GuidanceSchedule = 1.0,
        action_guidance: float | GuidanceSchedule = 1.0,
        context: np.ndarray | None = None,
        actions: Mapping[str, Any] | None = None,
        commands: Sequence[Commands | None] | Commands | None = None,
        planner: Planner | None = None,
        sampling: SamplingConfig | SamplingPlan | None = None,
        seed: int | Sequence[int] = 0,
        worlds: Sequence[int] | None = None,
        reanchor: str | Policy = "none",
        truth: np.ndarray | None = None,
        window: Literal["ring", "recompute"] = "ring",
        weights: Weights = "float",
        draft: int = 0,
    ) -> Iterator[Chunk]:
        """Drive one world a prompt, all as one batch; yields chunks of up to 8 steps as they come, `frames` steps in all; a thread
        decodes the frames of one while the next is drawn.

        `frames`, `seed` and `commands` hold for all worlds, or are given one a world; a world that has come to its end drops out of
        the batch. `context` (T, J) or (B, T, J) are true steps to go on from; without, the first frame is dreamed from the prompt.
        `guidance` and `action_guidance` are the scales, or schedules of them, by which prompt and actions count more.
        `actions` are {channel: its value in physical units, one or one a frame}, of telemetry too; `commands` the same as tables.
        `planner` decides the actions of every step after seeing its frame. `worlds` number the randomness (default 0, 1, ...).
        `reanchor` is a policy of worldgpt/anchors.py; those that replay a log need `truth` (F, J) or (B, F, J), the true steps.
        With `weights` "int8" a CPU is faster and the numbers are rounded; with `draft` so many guesses at most are checked in one pass,
        which changes no token. Commands beyond a channel's range are clamped, and words that training never showed mean little: a
        UserNotice says so.
        """
        schedules = [p if isinstance(p, PromptSchedule) else PromptSchedule(p) for p in prompts]
        count = len(schedules)
        lengths = _each(frames, count, "frames")
        if actions is not None:
            if commands is not None:
                raise UserError("actions, commands: expected one of them, got both")
            commands = Commands.named(actions, self.model.actions, self.model.telemetry, max(lengths))
        plan = sampling if isinstance(sampling, SamplingPlan) else SamplingPlan(sampling or SamplingConfig())
        plan.check(self.model.layout)
        rollout = Rollout(
            self.model,
            RolloutConfig(plan, guidance, action_guidance, window=window, weights=weights, draft=draft),
            seeds=_each(seed, count, "seed"),
            worlds=range(count) if worlds is None else worlds,
        )
        policy = parse_policy(reanchor) if isinstance(reanchor, str) else reanchor
        policy.check(rollout)
        scene = Scene(self.retokenize, self._truth(policy, truth, count, max(lengths)))
        tell_unfamiliar(self.model, [negative_prompt, *(prompt for schedule in schedules for prompt, _ in schedule.changes)])
        tell_clamped(self.model, [commands] if isinstance(commands, Commands) else commands or ())
        steps = self._steps(_Drive(rollout, policy, scene, schedules, lengths, commands, planner), context, negative_prompt)
        return ahead(lambda step: self._chunk(*step), steps)

    def _steps(self, drive: "_Drive", context: np.ndarray | None, negative_prompt: str) -> Iterator[_Steps]:
        rollout, policy, lengths = drive.rollout, drive.policy, drive.lengths
        alive = list(range(len(lengths)))
        negative = self.embed_prompts([negative_prompt] * len(alive))
        words: list[str] = []
        embedded = negative
        pending: list[np.ndarray] = []
        anchored: list[np.ndarray] = []
        for frame in range(max(lengths)):
            if (now := [drive.schedules[i].at(frame) for i in alive]) != words:
                words, embedded = now, self.embed_prompts(now)
            if frame == 0 and context is not None:
                table = torch.from_numpy(np.broadcast_to(context, (len(alive), *context.shape[-2:])).copy())
                rollout.start(table, embedded, negative)
            anchored.append(policy.apply(rollout, drive.scene).cpu().numpy())
            decide = self._decide(drive.planner, frame, tuple(alive), drive.clamped) if drive.planner else None
            forced = self._forced(drive.commands, frame, alive)
            pending.append(rollout.step(embedded, negative[: len(alive)], forced, decide).cpu().numpy())
            ended = frame + 1 in lengths
            if len(pending) == DECODE_STEPS or ended:
                yield np.stack(pending, axis=1), tuple(alive), np.stack(anchored, axis=1)
                pending, anchored = [], []
            if ended:
                kept = [place for place, i in enumerate(alive) if lengths[i] > frame + 1]
                alive = [alive[place] for place in kept]
                if alive:
                    for part in (rollout, policy, drive.scene):
                        part.keep(kept)

    def __call__(self, prompts: str | PromptSchedule | Sequence[str | PromptSchedule], frames: int, **options: Any) -> Chunk:
        """All of `stream` (which see for the options) in one piece: B worlds, T = frames, the same for all."""
        several = [prompts] if isinstance(prompts, (str, PromptSchedule)) else list(prompts)
        chunks = list(self.stream(several, frames, **options))
        joined = {camera: np.concatenate([c.frames[camera] for c in chunks], axis=1) for camera in chunks[0].frames}
        telemetry, actions, tokens, anchored = (
            np.concatenate([getattr(c, name) for c in chunks], axis=1) for name in ("telemetry", "actions", "tokens", "anchored")
        )
        return Chunk(joined, telemetry, actions, tokens, chunks[0].worlds, anchored)

    def retokenize(self, steps: Tensor) -> Tensor:
        """Steps (B, K, J) with their frames decoded and encoded again; a stream of NULL stays."""
        fresh, layout = steps.clone(), self.model.layout
        for stream in layout.of_kind("frame"):
            codes = layout.unpack(steps, stream)
            known = (codes < layout.codebook(stream).null_id).all(-1).all(-1)  # (B, K)
            if bool(known.any()):
                tokenizer = self._need_tokenizer()
                again = tokenizer.encode(tokenizer.decode(codes[known].to(tokenizer.device)))
                fresh[..., layout.spans[stream.name]][known] = again.flatten(1)[:, layout.orders[stream.name]].to(fresh)
        return fresh

    def _truth(self, policy: Policy, truth: np.ndarray | None, worlds: int, frames: int) -> Tensor | None:
        if truth is None:
            if policy.needs_truth:
                raise UserError(f"--reanchor {policy.name}: needs the true steps of a log; give a drive as --context")
            return None
        if policy.needs_truth and truth.shape[-2] < frames - 1:
            raise UserError(f"--reanchor {policy.name}: expected true steps for {frames} frames, the log has {truth.shape[-2]}")
        return torch.from_numpy(np.broadcast_to(truth, (worlds, *truth.shape[-2:])).copy())

    def familiarity(self, prompt: str) -> Familiarity | None:
        """How much of a prompt training has shown; None for a checkpoint from before words were counted."""
        counts = self.model.caption_words
        return None if counts is None else counts.familiarity(prompt)

    def _forced(self, commands: Sequence[Commands | None] | Commands | None, frame: int, alive: Sequence[int]) -> Tensor:
        if commands is None or isinstance(commands, Commands):
            return self.forced_tokens(commands, frame, len(alive))
        return torch.cat([self.forced_tokens(commands[i], frame, 1) for i in alive])

    def _decide(self, planner: Planner, frame: int, alive: tuple[int, ...], clamped: set[str]) -> Decide:
        """The planner as the rollout asks it: from tokens to tokens. Channels found beyond their range enter `clamped`."""
        channels = self.model.actions
        if not len(channels):
            raise UserError("planner: the world model has no action channels to decide")

        def decide(tokens: Tensor) -> Tensor:
            numbers = tokens.cpu().numpy()
            given = planner(Observation(frame, alive, self._frames(numbers), self._channels(numbers, "telemetry")))
            table = np.full((len(numbers), len(channels)), np.nan, np.float32)
            for name, values in given.items():
                table[:, channels.index(name)] = values
            tell_planner(channels, table, frame, clamped)
            return torch.from_numpy(np.where(np.isnan(table), FREE, channels.tokens(table)))

        return decide

    def _chunk(self, tokens: np.ndarray, worlds: tuple[int, ...], anchored: np.ndarray) -> Chunk:
        """Decode tokens (B, T, J)."""
        telemetry, actions = (self._channels(tokens, kind) for kind in ("telemetry", "action"))
        return Chunk(self._frames(tokens), telemetry, actions, tokens, worlds, anchored)

    def _frames(self, tokens: np.ndarray) -> dict[str, np.ndarray]:
        layout = self.model.layout
        return {s.name.removeprefix("camera/"): self.decode(layout.unpack(tokens, s)) for s in layout.of_kind("frame")}

    def _channels(self, tokens: np.ndarray, kind: Literal["telemetry", "action"]) -> np.ndarray:
        channels = self.model.telemetry if kind == "telemetry" else self.model.actions
        if not len(channels):
            return np.zeros((*tokens.shape[:-1], 0), np.float32)
        return channels.values(tokens[..., self.model.layout.span_of_kind(kind)])

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes (..., h, w) -> frames (..., H, W, 3) uint8."""
        tokenizer = self._need_tokenizer()
        flat = torch.from_numpy(codes.reshape(-1, *codes.shape[-2:])).to(tokenizer.device)
        device = tokenizer.device.type
        with torch.autocast(device, torch.bfloat16, enabled=draws_in_bf16(device)):
            frames = tokenizer.decode(flat).cpu().numpy()
        return frames.reshape(*codes.shape[:-2], *frames.shape[1:])

    def _need_tokenizer(self) -> FrameTokenizer:
        if self.tokenizer is None:
            raise UserError("this world model was trained on codes that came without a tokenizer: its frames cannot be drawn")
        return self.tokenizer


def _each(value: int | Sequence[int], count: int, name: str) -> list[int]:
    """One number for each of `count` worlds."""
    values = [value] * count if isinstance(value, int) else list(value)
    if len(values) != count:
        raise UserError(f"{name}: expected one number, or {count}, one a world; got {len(values)}")
    return values


def load_world_model(name: str | Path, **options: Any) -> WorldGPT:
    """The world model of a checkpoint, from a folder or the Hub, in evaluation mode; `options` are those of `from_pretrained`.

    UserError where there is none, or a broken one.
    """
    return load_checkpoint(WorldGPT, name, **options)
