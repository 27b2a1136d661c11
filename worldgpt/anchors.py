"""Re-anchoring: what is done before a step is predicted so that a long rollout stays a road. One object a policy, asked once a step.

| `--reanchor` | what it does |
| --- | --- |
| `none` | nothing |
| `every_n:20` | every 20 steps: the frames held are decoded and encoded again, back onto what the tokenizer makes of pictures |
| `on_drift:1.3` | the same for each world by itself, once its surprise or its re-encoding error has risen by this factor |
| `keyframe:20` | the first frame stays pinned, and beside it, chosen anew every 20 steps, the keyframe that looks most like the present |
| `future:30` | every 30 steps: the true step 30 ahead is pinned as a goal (a log is replayed; true frames leak quality) |
| `real:50` | every 50 steps: the true steps of a log take the place of the dreamed ones (log replay; true frames leak quality) |

Axes: B worlds, K steps held in the window, F generated frames, J tokens a step.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.errors import UserError
from worldgpt.kv_cache import REACH
from worldgpt.rollout import Rollout

LEAST_STEPS = 3
"""Steps that must be held so that motion survives an anchor."""


@dataclass
class Scene:
    """What a policy may use besides the rollout."""

    retokenize: Callable[[Tensor], Tensor]
    """Steps (B, K, J) with their frames decoded and encoded again."""
    truth: Tensor | None = None
    """(B, F, J): the true steps that the generated ones stand for, where a log is replayed."""

    def keep(self, worlds: Sequence[int]) -> None:
        """Go on with some of the worlds only."""
        if self.truth is not None:
            self.truth = self.truth[list(worlds)]


class Policy(ABC):
    """When a rollout is anchored, and to what. Holds the state of one rollout: make a new one for another."""

    name: str
    needs_truth = False
    anchors = 0
    """Steps that it pins at most."""

    @abstractmethod
    def apply(self, rollout: Rollout, scene: Scene) -> Tensor:
        """Asked before each step; anchors the rollout where that is due. (B,) bool: the worlds that were anchored."""

    def keep(self, worlds: Sequence[int]) -> None:
        """Go on with some of the worlds only."""
        del worlds  # where nothing is kept of each world

    def check(self, rollout: Rollout) -> None:
        """UserError where the window is too short for the policy."""
        window, least = rollout.cache.window_steps, LEAST_STEPS + self.anchors
        if self.name != "none" and window <= least:
            raise UserError(f"--reanchor {self.name}: expected a window of more than {least} steps, the model's has {window}")


class NoAnchors(Policy):
    """The model is left to itself."""

    name = "none"

    def apply(self, rollout: Rollout, scene: Scene) -> Tensor:
        return _nobody(rollout)


class EveryN(Policy):
    """Every n steps the steps held are decoded, encoded again and read anew."""

    name = "every_n"

    def __init__(self, every: int = 20) -> None:
        self.every = _at_least(self.name, every, LEAST_STEPS)

    def apply(self, rollout: Rollout, scene: Scene) -> Tensor:
        if not _due(rollout, self.every):
            return _nobody(rollout)
        rollout.replace(scene.retokenize(rollout.history))
        return ~_nobody(rollout)


class Real(Policy):
    """Every n steps the true steps of a log take the place of those held: log replay."""

    name = "real"
    needs_truth = True

    def __init__(self, every: int = 50) -> None:
        self.every = _at_least(self.name, every, 1)

    def apply(self, rollout: Rollout, scene: Scene) -> Tensor:
        if not _due(rollout, self.every):
            return _nobody(rollout)
        assert scene.truth is not None
        known = min(rollout.held, rollout.steps)  # before these stand the context's steps, which are true already
        true = scene.truth[:, rollout.steps - known : rollout.steps].to(rollout.device)
        rollout.replace(torch.cat([rollout.history[:, : rollout.held - known], true], dim=1))
        return ~_nobody(rollout)


class Keyframe(Policy):
    """Keeps the newest step every n steps, and pins two of those kept: the first (the context's last step, or where there is none the
    third dreamed one), and for each world that one of the others past the window whose codes look most like the present.
    """

    name = "keyframe"
    anchors = 2

    def __init__(self, every: int = 20) -> None:
        self.every = _at_least(self.name, every, LEAST_STEPS)
        self.kept: list[tuple[int, Tensor]] = []
        """Number of the generated step, below 0 in the context, and its tokens (B, J)."""

    def apply(self, rollout: Rollout, scene: Scene) -> Tensor:
        begins = not self.kept and (rollout.held >= LEAST_STEPS or (rollout.steps == 0 and rollout.held > 0))
        if not begins and not (self.kept and _due(rollout, self.every)):
            return _nobody(rollout)
        self.kept.append((rollout.steps - 1, rollout.history[:, -1]))
        pinned = [self.kept[0], *self._alike(rollout)]
        away = [torch.as_tensor(step, device=rollout.device).expand(len(rollout.worlds)) - rollout.steps for step, _ in pinned]
        rollout.anchor(torch.stack([tokens for _, tokens in pinned], dim=1), torch.stack(away, dim=1))
        return ~_nobody(rollout)

    def _alike(self, rollout: Rollout) -> list[tuple[Tensor, Tensor]]:
        """Of each world the keyframe most like the present: its step (B,) and tokens (B, J); none as long as there is none to choose."""
        old = [(step, tokens) for step, tokens in self.kept[1:] if step < rollout.steps - rollout.held]
        if not old:
            return []
        present = appearance(rollout, rollout.history[:, -1])
        likeness = torch.stack([(appearance(rollout, tokens) * present).sum(-1) for _, tokens in old], dim=1)  # (B, kept)
        best, worlds = likeness.argmax(1), torch.arange(len(present), device=rollout.device)
        steps = torch.tensor([step for step, _ in old], device=rollout.device)[best]
        return [(steps, torch.stack([tokens for _, tokens in old], dim=1)[worlds, best])]

    def keep(self, worlds: Sequence[int]) -> None:
        self.kept = [(step, tokens[list(worlds)]) for step, tokens in self.kept]


class Future(Policy):
    """Every n steps the true step n ahead is pinned, so that the rollout drives towards it."""

    name = "future"
    needs_truth = True
    anchors = 1

    def __init__(self, every: int = 30) -> None:
        self.every = _at_least(self.name, every, 1)
        if every > REACH:
            raise UserError(f"--reanchor {self.name}: expected at most {REACH} steps, the farthest that training shows, got {every}")

    def apply(self, rollout: Rollout, scene: Scene) -> Tensor:
        if not rollout.held or rollout.steps % self.every:
            return _nobody(rollout)
        assert scene.truth is not None
        goal = min(rollout.steps + self.every, scene.truth.shape[1] - 1)
        away = torch.full((len(rollout.worlds), 1), goal - rollout.steps)
        rollout.anchor(scene.truth[:, goal : goal + 1], away)
        return ~_nobody(rollout)


class OnDrift(Policy):
    """Anchors a world as `every_n` does once it drifts by one of two signs, each against its own first steps: surprise (nats of the codes
    drawn; up where nothing fits, down where the picture fades), and the share of codes that change when the frames are encoded again,
    looked at every 10 steps.
    """

    name = "on_drift"
    LOOK_EVERY = 10
    SMOOTHING = 0.8
    DISAGREEMENT_FLOOR = 0.05

    def __init__(self, factor: float = 1.3) -> None:
        if not factor > 1:
            raise UserError(f"--reanchor on_drift: expected a factor above 1, got {factor:g}")
        self.factor = factor
        self.surprise: Tensor | None = None
        self.usual_surprise: Tensor | None = None
        self.usual_disagreement: Tensor | None = None

    def apply(self, rollout: Rollout, scene: Scene) -> Tensor:
        if rollout.steps == 0:
            return _nobody(rollout)
        now = rollout.surprise
        self.surprise = now if self.surprise is None else self.SMOOTHING * self.surprise + (1 - self.SMOOTHING) * now
        if not _due(rollout, self.LOOK_EVERY) or rollout.held < LEAST_STEPS:
            return _nobody(rollout)
        fresh = scene.retokenize(rollout.history)
        span = rollout.model.layout.span_of_kind("frame")
        disagreement = (fresh != rollout.history)[..., span].double().mean((1, 2))
        if self.usual_surprise is None or self.usual_disagreement is None:
            self.usual_surprise, self.usual_disagreement = self.surprise, disagreement.clamp(min=self.DISAGREEMENT_FLOOR)
            return _nobody(rollout)
        change = self.surprise / self.usual_surprise
        drifted = (change > self.factor) | (change < 1 / self.factor) | (disagreement > self.factor * self.usual_disagreement)
        if bool(drifted.any()):
            rollout.replace(fresh, drifted)
        return drifted

    def keep(self, worlds: Sequence[int]) -> None:
        for name in ("surprise", "usual_surprise", "usual_disagreement"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value[list(worlds)])


POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in (NoAnchors, EveryN, Keyframe, OnDrift, Future, Real)}


def parse_policy(text: str) -> Policy:
    """From `none`, `every_n:20`, `keyframe:20`, `on_drift:1.3`, `future:30`, `real:50`; the number may be left out. Else UserError."""
    name, colon, number = text.partition(":")
    if name not in POLICIES or (colon and name == "none"):
        raise UserError(f"--reanchor: expected one of {', '.join(POLICIES)}, with a number as in every_n:20, got {text!r}")
    if not colon:
        return POLICIES[name]()
    kind = float if name == "on_drift" else int
    try:
        value = kind(number)
    except ValueError:
        wanted = "a number" if kind is float else "a whole number"
        raise UserError(f"--reanchor {name}: expected {wanted} after the colon, got {number!r}") from None
    return POLICIES[name](value)  # type: ignore[call-arg]


@torch.inference_mode()
def appearance(rollout: Rollout, tokens: Tensor) -> Tensor:
    """(B, F) of length 1: the mean vectors of the codes of each row of the frames of tokens (B, J)."""
    parts = []
    for stream in rollout.model.layout.of_kind("frame"):
        vectors = rollout.model.table(stream)(rollout.model.layout.unpack(tokens, stream))  # (B, h, w, C)
        parts.append(vectors.mean(2).flatten(1))
    return torch.nn.functional.normalize(torch.cat(parts, dim=1), dim=1)


def _due(rollout: Rollout, every: int) -> bool:
    return rollout.steps > 0 and rollout.steps % every == 0


def _nobody(rollout: Rollout) -> Tensor:
    return torch.zeros(len(rollout.worlds), dtype=torch.bool, device=rollout.device)


def _at_least(name: str, value: int, least: int) -> int:
    if value < least:
        raise UserError(f"--reanchor {name}: expected at least {least} steps, got {value}")
    return value
