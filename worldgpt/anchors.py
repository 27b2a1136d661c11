"""Re-anchoring: what is done before a step is predicted so that a long rollout stays a road. One object a policy, asked once a step.

| `--reanchor` | what it does |
| --- | --- |
| `none` | nothing |
| `every_n:20` | every 20 steps: the frames held are decoded and encoded again, back onto what the tokenizer makes of pictures |
| `on_drift:1.3` | the same for each world by itself, once its surprise or its re-encoding error has risen by this factor |
| `real:50` | every 50 steps: the true steps of a log take the place of the dreamed ones (log replay; true frames leak quality) |

Axes: B worlds, K steps held in the window, F generated frames, J tokens a step.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.errors import UserError
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

    @abstractmethod
    def apply(self, rollout: Rollout, scene: Scene) -> Tensor:
        """Asked before each step; anchors the rollout where that is due. (B,) bool: the worlds that were anchored."""

    def keep(self, worlds: Sequence[int]) -> None:
        """Go on with some of the worlds only."""
        del worlds  # where nothing is kept of each world

    def check(self, rollout: Rollout) -> None:
        """UserError where the window is too short for the policy."""
        if self.name != "none" and rollout.cache.window_steps <= LEAST_STEPS:
            window = rollout.cache.window_steps
            raise UserError(f"--reanchor {self.name}: expected a window of more than {LEAST_STEPS} steps, the model's has {window}")


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


class OnDrift(Policy):
    """Anchors a world as `every_n` does once it drifts by one of two signs, each against its own first steps:
    surprise (nats of the codes drawn), and the share of codes that change when the frames are encoded again, looked at every 10 steps.
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
        drifted = (self.surprise > self.factor * self.usual_surprise) | (disagreement > self.factor * self.usual_disagreement)
        if bool(drifted.any()):
            rollout.replace(fresh, drifted)
        return drifted

    def keep(self, worlds: Sequence[int]) -> None:
        for name in ("surprise", "usual_surprise", "usual_disagreement"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value[list(worlds)])


POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in (NoAnchors, EveryN, OnDrift, Real)}


def parse_policy(text: str) -> Policy:
    """From `none`, `every_n:20`, `on_drift:1.3`, `real:50`; the number may be left out. UserError for anything else."""
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


def _due(rollout: Rollout, every: int) -> bool:
    return rollout.steps > 0 and rollout.steps % every == 0


def _nobody(rollout: Rollout) -> Tensor:
    return torch.zeros(len(rollout.worlds), dtype=torch.bool, device=rollout.device)


def _at_least(name: str, value: int, least: int) -> int:
    if value < least:
        raise UserError(f"--reanchor {name}: expected at least {least} steps, got {value}")
    return value
