"""Worlds driven step by step: prefill once, then token after token, or n together, on the ring cache.

Under guidance every world runs in several branches, all in one batch: as it is told, under its negative prompt, and without its actions.

Axes: B worlds, T context steps, K steps held in the window, J tokens a step, n of them predicted together, P prompt positions, A action
channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from conditioning.guidance import GuidanceSchedule, guided_logits
from data.errors import UserError
from worldgpt.decoder import DecodingStep, StepDecoder
from worldgpt.decoding import order_of
from worldgpt.draft import Draft
from worldgpt.layout import SEEN_STEPS
from worldgpt.model import WorldGPT
from worldgpt.product import Weights
from worldgpt.recording import Recording
from worldgpt.sampling import SamplingPlan, draw_keys, draw_with_nats, exponentials

FREE = -1
"""Stands in a table of forced tokens where the model decides."""
PAST_STEPS = SEEN_STEPS - 1

Branch = Literal["told", "negative", "undriven"]
"""How a world runs: as it is told; under its negative prompt; or with all its actions NULL, its telemetry as it is: training drops the two
apart, so that what is left out is what the actions add to what speed and yaw rate tell already."""

Decide = Callable[[Tensor], Tensor]
"""From the frame and telemetry tokens of a step, (B, J) with FREE for what comes after, to action tokens (B, A), or FREE."""


@dataclass(frozen=True)
class RolloutConfig:
    """How worlds go on, apart from what they are told."""

    sampling: SamplingPlan
    guidance: float | GuidanceSchedule = 1.0
    """Scale of classifier-free guidance by the prompt; where it is not 1, each world runs under its negative prompt too."""
    action_guidance: float | GuidanceSchedule = 1.0
    """The same by the actions, which pushes frames and telemetry; actions that the model draws itself are left as they are."""
    window_steps: int | None = None
    """Steps that the model sees, the present one included; None: as in training."""
    window: Literal["ring", "recompute"] = "ring"
    """'ring' keeps keys and values while the window moves; 'recompute' reads the window anew for each step: slow, the reference."""
    weights: Weights = "float"
    """'int8' rounds the blocks' matrices, on a CPU: faster, and no longer the same numbers."""
    draft: int = 0
    """Tokens that are guessed, at most, and checked in one pass (worldgpt/draft.py); 0: none. Only for the raster order. The tokens stay
    the same; nothing is recorded."""


@dataclass(frozen=True)
class Anchors:
    """A pinned steps of each world."""

    tokens: Tensor
    """(B, A, J)."""
    steps: Tensor
    """(B, A): which generated steps they are, counted from 0; before the first generated one below 0."""
    prompts: Tensor
    """(branches * B, A, P, D_text)."""


class Rollout:
    """B worlds that go on together, each with its own prompt, commands and randomness."""

    def __init__(self, model: WorldGPT, config: RolloutConfig, *, seeds: Sequence[int], worlds: Sequence[int]) -> None:
        """`seeds` and `worlds` number the randomness: world w of a batch draws what it draws alone."""
        self.model, self.config, self.seeds, self.worlds = model, config, tuple(seeds), tuple(worlds)
        self.guidance: dict[Branch, GuidanceSchedule] = {
            "negative": GuidanceSchedule.of(config.guidance),
            "undriven": GuidanceSchedule.of(config.action_guidance),
        }
        self.branches: tuple[Branch, ...] = ("told", *(branch for branch, schedule in self.guidance.items() if not schedule.over(0)))
        """Those that still count; the batch holds all worlds of the first, then all of the next."""
        if "undriven" in self.branches and not len(model.actions):
            raise UserError("--action-guidance: the world model has no action channels")
        self.cache = model.new_cache(len(self.worlds) * len(self.branches), config.window_steps)
        self.decoder = StepDecoder(model, config.weights)
        if config.draft and not model.layout.causal:
            raise UserError(f"--decode draft: expected a checkpoint trained for raster, got one trained for {order_of(model.layout)}")
        self.draft = Draft(model.layout, config.draft) if config.draft else None
        self.device = model.embedding.prompt_place.device
        self._null_actions = torch.as_tensor(model.layout.null_tokens[model.layout.span_of_kind("action")], device=self.device)
        self.seen = model.embedding.unseen(len(self.worlds))
        """(B, SEEN_STEPS, J): the newest steps, the last one as far as it is known."""
        self.steps = 0
        """Steps generated so far."""
        self.surprise = torch.full((len(self.worlds),), torch.nan, dtype=torch.float64, device=self.device)
        """(B,) mean nats of the frame codes drawn in the last step, under the unfiltered distribution; NaN where all were forced."""
        self._anchors: Anchors | None = None
        self.records = self.device.type == "cuda" and self.draft is None
        """Whether a step that is made as the one before it was is recorded and replayed."""
        self._made: tuple[object, ...] = ()
        self._recording: Recording | None = None
        self._tokens = model.embedding.unseen(len(self.worlds))[:, :PAST_STEPS]
        self._prompts: list[Tensor] = []  # (branches * B, P, D_text) of each step held

    @property
    def held(self) -> int:
        """K, the past steps that the next one sees, anchors not counted: with those at most one less than the window."""
        return len(self._prompts)

    @property
    def room(self) -> int:
        """The largest K."""
        return self.cache.window_steps - 1 - (self._anchors.tokens.shape[1] if self._anchors else 0)

    @property
    def history(self) -> Tensor:
        """(B, K, J): tokens of the steps held."""
        return self._tokens[:, PAST_STEPS:]

    @torch.inference_mode()
    def start(self, context: Tensor, prompts: Tensor, negative: Tensor) -> None:
        """Read context steps (B, T, J), the last ones that the window can hold; prompts and negative (B, P, D_text)."""
        held = min(self.room, context.shape[1])
        self._tokens = torch.cat([self._tokens, context.to(self.device)], dim=1)[:, -held - PAST_STEPS :]
        self._prompts = [self._branches(prompts, negative)] * held
        self._read()

    @torch.inference_mode()
    def replace(self, steps: Tensor, rows: Tensor | None = None) -> None:
        """Put `steps` (B, K, J) in the place of the K steps held, and read them anew: what the cache knew of older ones is gone.

        With `rows` (B,) bool only these worlds are replaced, the others go on as if nothing had happened.
        """
        steps = steps.to(self.device)
        assert steps.shape == self.history.shape, f"expected steps of {tuple(self.history.shape)}, got {tuple(steps.shape)}"
        if rows is None or bool(rows.all()):
            self._tokens = torch.cat([self._tokens[:, :PAST_STEPS], steps], dim=1)
            self._read()
            return
        rows = rows.to(self.device)
        kept, self.cache = self.cache, self.model.new_cache(len(self.worlds) * len(self.branches), self.config.window_steps)
        self._tokens = torch.cat([self._tokens[:, :PAST_STEPS], torch.where(rows[:, None, None], steps, self.history)], dim=1)
        self._read()
        kept.take(self.cache, rows.repeat(len(self.branches)))
        self.cache = kept

    @torch.inference_mode()
    def anchor(self, tokens: Tensor, away: Tensor) -> None:
        """Pin anchor steps (B, A, J), `away` (B, A) steps from the next one (below 0: behind), in place of former ones; all is read anew.

        They stand under the prompts that hold now. The window gives up as many of the steps held as it needs; one at least must be held.
        """
        prompts = torch.stack([self._prompts[-1]] * tokens.shape[1], dim=1)
        self._anchors = Anchors(tokens.to(self.device), away.to(self.device) + self.steps, prompts)
        self._prompts = self._prompts[-self.room :]
        self._tokens = self._tokens[:, -self.held - PAST_STEPS :]
        self._read()

    @torch.inference_mode()
    def keep(self, worlds: Sequence[int]) -> None:
        """Go on with some of the worlds only, given by their places in the batch."""
        rows = torch.tensor(list(worlds), device=self.device)
        self._keep_rows(torch.cat([rows + branch * len(self.worlds) for branch in range(len(self.branches))]))
        self.seeds, self.worlds = (tuple(values[i] for i in worlds) for values in (self.seeds, self.worlds))
        self.seen, self._tokens, self.surprise = self.seen[rows], self._tokens[rows], self.surprise[rows]
        if self._anchors:
            self._anchors = replace(self._anchors, tokens=self._anchors.tokens[rows], steps=self._anchors.steps[rows])

    @torch.inference_mode()
    def step(self, prompts: Tensor, negative: Tensor, forced: Tensor, decide: Decide | None = None) -> Tensor:
        """The next step's tokens (B, J); `forced` (B, J) holds FREE or the token that must stand there.

        `decide` is asked for the actions once frame and telemetry are known; where it answers FREE, `forced` and the model have their say.
        """
        with torch.autocast(self.device.type, enabled=False):
            return self._step(prompts, negative, forced.to(self.device), decide)

    def _step(self, prompts: Tensor, negative: Tensor, forced: Tensor, decide: Decide | None) -> Tensor:
        self._end_guidance()
        if self.config.window == "recompute" and self.held:
            self._read()
        told, known = self._branches(prompts, negative), (forced != FREE).all(0).tolist()
        self.seen = torch.cat([self.seen[:, 1:], forced[:, None]], dim=1)
        inputs = (self.cache.begin_step(), self.seen, told, forced, self._keys())
        tokens, surprise = self._say(*inputs, known=known, decide=decide) if decide else self._say_again(inputs, known)
        self._remember(tokens, told, surprise)
        return tokens

    def _say_again(self, inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], known: list[bool]) -> Sequence[Tensor]:
        """`_say`, recorded once steps are made alike: with a full window and what is forced and how it is guided as before."""
        cache = self.cache
        scales = [self.guidance[branch].at(self.steps, place) for branch in self.branches[1:] for place in (0.0, 0.5, 1.0)]
        made = (cache.filled, cache.keys.data_ptr(), cache.values.data_ptr(), self.worlds, self.branches, scales, known)
        if made != self._made or not self.records:
            self._made, self._recording = made, None
            return self._say(*inputs, known=known)
        if self._recording is None:
            self._recording = Recording(partial(self._say, known=known), inputs)
        said = self._recording(*inputs)
        cache.filled = cache.held * cache.positions_per_step
        return said

    def _say(
        self, by: Tensor, seen: Tensor, told: Tensor, forced: Tensor, keys: Tensor, known: list[bool], decide: Decide | None = None
    ) -> tuple[Tensor, Tensor]:
        """The tokens of a step begun, and (B,) the surprise; `known` (J,) says which tokens are forced in every world."""
        layout, tokens, known = self.model.layout, forced.clone(), list(known)
        actions = layout.span_of_kind("action") if decide else slice(layout.tokens_per_step, layout.tokens_per_step)
        known[actions] = [False] * len(known[actions])
        surprise: list[Tensor] = []
        step = self.decoder.begin(by, self._given(seen), told, self.cache)
        if self.draft:
            self.draft.begin(seen[:, -2])
        hidden, number, end = step.prompt(), 0, len(layout.schedule) - 1
        while number < end:
            start, stop = layout.schedule[number].start, layout.schedule[number].stop
            for stream, first, last in layout.pieces(start, stop):
                if decide and first == actions.start:
                    decided = decide(tokens.clone()).to(self.device)
                    tokens[:, actions] = torch.where(decided == FREE, tokens[:, actions], decided)
                    known[actions] = (tokens[:, actions] != FREE).all(0).tolist()
                if not all(known[first:last]):
                    drawn, nats = self._draw(hidden[:, first - start : last - start], first, keys[:, :, first:last])
                    free = tokens[:, first:last] == FREE
                    tokens[:, first:last] = torch.where(free, drawn, tokens[:, first:last])
                    if stream.kind == "frame":
                        surprise.append(torch.where(free, nats, torch.nan))
            # The tokens just decided go in together with all that follow and are known in every world.
            first, number = number + 1, number + 1
            while number < end and all(known[layout.schedule[number].start : layout.schedule[number].stop]):
                number += 1
            ahead = self.draft.ahead(number) if self.draft else 0
            if ahead:
                hidden, nats, number = self._look_ahead(step, tokens, keys, known, (start, number, ahead))
                surprise.append(nats)
            else:
                hidden = step.read(self._given(tokens), first, number + 1)
                hidden = hidden[:, layout.schedule[number].at - layout.schedule[first].first :]
        nothing = torch.full((len(tokens),), torch.nan, dtype=torch.float64, device=self.device)
        return tokens, torch.cat(surprise, dim=1).nanmean(1) if surprise else nothing

    def _look_ahead(
        self, step: DecodingStep, tokens: Tensor, keys: Tensor, known: list[bool], places: tuple[int, int, int]
    ) -> tuple[Tensor, Tensor, int]:
        """Reads the tokens start .. stop - 1 of `places` and guesses of the `ahead` next ones, in raster order.

        What was right goes into `tokens`, and the true one in the place of the first that was not; they are `known` from then on. Returns
        the hidden state that predicts the token after the last right one, the nats of those put in, and that token's place.
        """
        assert self.draft
        start, stop, ahead = places
        self.draft.guesses = torch.where(tokens == FREE, self.draft.guesses, tokens)
        hidden = step.read(self._given(self.draft.guesses), start + 1, stop + ahead + 1)[:, stop - start - 1 :]
        count = min(ahead + 1, self.draft.end(stop) - stop)
        drawn, nats = self._draw(hidden[:, :count], stop, keys[:, :, stop : stop + count])
        free = tokens[:, stop : stop + count] == FREE
        drawn, nats = torch.where(free, drawn, tokens[:, stop : stop + count]), torch.where(free, nats, torch.nan)
        right = self.draft.check(drawn, stop, ahead)
        self.cache.rewind(ahead - right)
        taken = min(right + 1, count)
        tokens[:, stop : stop + taken] = drawn[:, :taken]
        known[stop : stop + taken] = [True] * taken
        return hidden[:, right : right + 1], nats[:, :taken], stop + right

    def _remember(self, tokens: Tensor, told: Tensor, surprise: Tensor) -> None:
        self.seen[:, -1] = tokens
        self.steps += 1
        self.surprise = surprise
        self._tokens = torch.cat([self._tokens, tokens[:, None]], dim=1)[:, -self.room - PAST_STEPS :]
        self._prompts = [*self._prompts, told][-self.room :]

    def _read(self) -> None:
        """Read the steps held into the emptied cache."""
        self.cache.clear()
        held = self.held
        prompts = torch.stack(self._prompts, dim=1)
        before, read = self._tokens[:, :PAST_STEPS], self._tokens[:, PAST_STEPS:]
        assert read.shape[1] == held
        away = None
        if self._anchors:
            read, prompts = torch.cat([self._anchors.tokens, read], dim=1), torch.cat([self._anchors.prompts, prompts], dim=1)
            away = (self._anchors.steps - self.steps).repeat(len(self.branches), 1)
        self.model.prefill(self._given(read), prompts, self.cache, self._given(before), away)
        self.seen = self._tokens[:, -SEEN_STEPS:].clone()

    def _end_guidance(self) -> None:
        """Leave the branches whose guidance has come to its end: from here on they would change nothing."""
        kept = [i for i, branch in enumerate(self.branches) if branch == "told" or not self.guidance[branch].over(self.steps)]
        if len(kept) < len(self.branches):
            count = len(self.worlds)
            self._keep_rows(torch.cat([torch.arange(i * count, (i + 1) * count, device=self.device) for i in kept]))
            self.branches = tuple(self.branches[i] for i in kept)

    def _keep_rows(self, rows: Tensor) -> None:
        """Of what holds all branches of all worlds, these rows."""
        self._prompts = [prompts[rows] for prompts in self._prompts]
        if self._anchors:
            self._anchors = replace(self._anchors, prompts=self._anchors.prompts[rows])
        self.cache.keep(rows)

    def _branches(self, prompts: Tensor, negative: Tensor) -> Tensor:
        """(branches * B, P, D_text)."""
        return torch.cat([negative if branch == "negative" else prompts for branch in self.branches])

    def _given(self, tokens: Tensor) -> Tensor:
        """Tokens (B, ..., J) as each branch is given them, (branches * B, ..., J)."""
        span, parts = self.model.layout.span_of_kind("action"), []
        for branch in self.branches:
            part = tokens
            if branch == "undriven":
                part = tokens.clone()
                part[..., span] = self._null_actions
            parts.append(part)
        return torch.cat(parts)

    def _keys(self) -> Tensor:
        """(B, parts, J) int64: the step's randomness, one key for each part that a token can have."""
        layout = self.model.layout
        parts = max(len(codebook.parts) for codebook in layout.codebooks)
        keys = draw_keys(self.seeds, self.worlds, self.steps, parts * layout.tokens_per_step)
        return rearrange(keys, "b (parts j) -> b parts j", parts=parts).to(self.device)

    def _draw(self, hidden: Tensor, token: int, keys: Tensor) -> tuple[Tensor, Tensor]:
        """(B, m) ids drawn for m tokens of one stream, `token` the first, and their nats; from hidden states (branches * B, m, D) and
        keys (B, parts, m)."""
        stream, told, count = self.decoder.at[token], [], hidden.shape[1]
        sampling, telling = self.config.sampling.of(stream.stream), self.decoder.telling(hidden.flatten(0, 1), token)
        nats = torch.zeros(len(keys) * count, dtype=torch.float64, device=self.device)
        sizes = stream.table.table.sizes
        waits = exponentials(keys[:, : len(sizes)], max(sizes))  # (B, parts, m, V): of all parts at once
        for part, size in enumerate(sizes):
            logits = self._guided(telling.logits(), token, count)
            drawn, surprise = draw_with_nats(logits, waits[:, part, :, :size].flatten(0, 1), sampling)
            telling.tell(drawn.repeat(len(self.branches)))
            told.append(drawn)
            nats = nats + surprise
        return stream.table.table.join(told).view(-1, count), nats.view(-1, count)

    def _guided(self, logits: Tensor, token: int, count: int) -> Tensor:
        """Logits (branches * B * count, V) of tokens of one stream, `token` the first -> (B * count, V)."""
        told, *others = logits.chunk(len(self.branches))
        scales = [self._scale(branch, token, count) for branch in self.branches[1:]]
        return guided_logits(told, *zip(others, scales, strict=True))

    def _scale(self, branch: Branch, token: int, count: int) -> float | Tensor:
        """One scale for all, or where it falls within the frame and tokens come together (B * count, 1)."""
        stream, span, schedule = self.decoder.at[token].stream, self.decoder.at[token].span, self.guidance[branch]
        if branch == "undriven" and stream.kind == "action":
            return 1.0
        places = [(token + i - span.start) / max(1, stream.tokens - 1) if stream.kind == "frame" else 0.0 for i in range(count)]
        scales = [schedule.at(self.steps, place) for place in places]
        if len(set(scales)) == 1:
            return scales[0]
        # Made on the device: a recording takes nothing from the host.
        each = torch.cat([torch.full((1, 1), scale, device=self.device) for scale in scales])
        return each.repeat(len(self.worlds), 1)
