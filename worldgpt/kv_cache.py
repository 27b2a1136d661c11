"""Keys and values of the steps in the window: preallocated, constant in memory and time however long the rollout.

The window holds W steps of S positions. Steps are stored one after the other; when the window is full, the oldest step that
is no anchor gives way: the newest finished step moves into its place, and the last place is free for the next step. So the
filled part is always one slice, and no mask is needed: attention does not care in which order the steps lie.

Anchors are steps from elsewhere, before or ahead, that stay in the first places. Keys are kept unrotated too. A step's rotary time is
its distance to the present, so once the window has begun to move, all keys are turned anew at the beginning of each step: times never grow.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from worldgpt.fused import turn_keys
from worldgpt.rope import rotate

REACH = 90
"""Steps that an anchor seems away at most: as far as training shows any (worldgpt/config.py: HistoryConfig.reach)."""


class RingCache:
    """Shapes: keys, values (L layers, B, heads, W * S, d)."""

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        head_dim: int,
        positions_per_step: int,
        window_steps: int,
        rotation_at: Callable[[Tensor], Tensor],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`rotation_at(times (R, n))` gives the rotation of n steps' positions, (R, 1, n * S, d / 2) complex, R = 1 or B."""
        shape = (layers, batch, heads, window_steps * positions_per_step, head_dim)
        self.raw_keys = torch.zeros(shape, dtype=dtype, device=device)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        across = torch.zeros(*shape[:-2], head_dim, shape[-2], dtype=dtype, device=device)
        self.values = across.mT if device.type == "cpu" else across.view(shape)
        """On a CPU they lie transposed, as a single position reads them fastest (worldgpt/decoder.py)."""
        self.positions_per_step, self.window_steps = positions_per_step, window_steps
        self.rotation_at = rotation_at
        self.steps: list[int] = []
        """Number of the step at each place but the anchors', from 0 at the first of the context."""
        self.anchors: Tensor | None = None
        """(B, A): number of the step at each of the first A places, before 0 or ahead."""
        self.filled = 0
        """Positions written, over all places."""

    @property
    def present(self) -> int:
        """Number of the newest step that is no anchor, -1 if there is none."""
        return max(self.steps, default=-1)

    @property
    def anchored(self) -> int:
        """A, places that anchors take."""
        return 0 if self.anchors is None else self.anchors.shape[1]

    @property
    def held(self) -> int:
        """Places in use."""
        return self.anchored + len(self.steps)

    def times(self) -> Tensor:
        """(R, places) rotary times: W - 1 at the present once the window is full; those of anchors at most REACH steps away from it."""
        last = min(self.present + self.anchored, self.window_steps - 1)
        device = self.keys.device
        times = torch.tensor([[last - (self.present - step) for step in self.steps]], dtype=torch.long, device=device)
        if self.anchors is None:
            return times
        away = (self.anchors - self.present).clamp(-REACH, REACH)
        return torch.cat([last + away, times.expand(len(away), -1)], dim=1)

    def clear(self) -> None:
        """Forget all steps."""
        self.steps, self.anchors, self.filled = [], None, 0

    def keep(self, rows: Tensor) -> None:
        """Go on with the worlds at `rows` (n,) of the batch."""
        self.raw_keys, self.keys, self.values = (store[:, rows] for store in (self.raw_keys, self.keys, self.values))
        self.anchors = None if self.anchors is None else self.anchors[rows]

    def take(self, other: "RingCache", rows: Tensor) -> None:
        """Copy the worlds where `rows` (B,) is true from a cache that holds as many steps, its oldest for our oldest."""
        size = self.positions_per_step
        if self.held == self.window_steps:
            self._evict()
        if (other.held, other.anchored, other.filled) != (self.held, self.anchored, self.filled):
            raise ValueError(f"expected {self.held} steps, {self.anchored} of them anchors; got {other.held}, {other.anchored}")
        for here, there in zip(self._by_age(), other._by_age(), strict=True):
            to, source = (slice(place * size, (place + 1) * size) for place in (here, there))
            for name in ("raw_keys", "keys", "values"):
                getattr(self, name)[:, rows, :, to] = getattr(other, name)[:, rows, :, source]

    def _by_age(self) -> list[int]:
        """Places: the anchors', then those of the other steps from the oldest on."""
        return [*range(self.anchored), *(self.anchored + i for i in sorted(range(len(self.steps)), key=self.steps.__getitem__))]

    def begin(self, steps: int, anchor_times: Tensor | None = None) -> Tensor:
        """Make room in an empty cache for a context of `steps`, at most W - 1; returns the rotation of their positions.

        The first A are anchors where `anchor_times` (B, A) are given: their distances in steps from the step that comes next.
        """
        anchors = 0 if anchor_times is None else anchor_times.shape[1]
        if self.held or not anchors < steps < self.window_steps:
            raise ValueError(
                f"expected an empty cache and {anchors + 1} to {self.window_steps - 1} steps, got {self.held} held and {steps} new"
            )
        self.steps = list(range(steps - anchors))
        self.anchors = None if anchor_times is None else anchor_times.to(self.keys.device) + len(self.steps)
        return self.rotation_at(self.times())

    def begin_step(self) -> Tensor:
        """Make room for the next step; returns the rotation of its S positions."""
        size, number = self.positions_per_step, self.present + 1
        if self.held == self.window_steps:
            self._evict()
        self.steps.append(number)
        times = self.times()
        if number + self.anchored >= self.window_steps or self.anchors is not None:
            self._turn(self.rotation_at(times[:, :-1]))
        assert self.filled == (self.held - 1) * size
        return self.rotation_at(times[:1, -1:])

    def _evict(self) -> None:
        size = self.positions_per_step
        oldest = min(range(len(self.steps)), key=self.steps.__getitem__)
        place = self.anchored + oldest
        newest = slice((self.window_steps - 1) * size, self.window_steps * size)
        target = slice(place * size, (place + 1) * size)
        for store in (self.raw_keys, self.values):
            store[:, :, :, target] = store[:, :, :, newest]
        self.steps[oldest] = self.steps[-1]
        self.steps.pop()
        self.filled = (self.window_steps - 1) * size

    def _turn(self, by: Tensor) -> None:
        """Rotate all finished steps' keys to their times in relation to the present."""
        if not turn_keys(self.raw_keys, self.keys, by, self.filled):
            past = slice(0, self.filled)
            self.keys[:, :, :, past] = rotate(self.raw_keys[:, :, :, past], by)

    def append(self, layer: int, keys: Tensor, values: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
        """Write n new positions (B, heads, n, d) of one layer; returns the rotated keys and values of all filled ones."""
        return self.write(layer, keys, rotate(keys, by), values)

    def write(self, layer: int, raw_keys: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As `append`, for keys that are rotated already."""
        new = keys.shape[2]
        for store, part in ((self.raw_keys, raw_keys), (self.keys, keys), (self.values, values)):
            store[layer].narrow(2, self.filled, new).copy_(part)
        if self.filled == 0:
            return keys, values
        end = self.filled + new
        return self.keys[layer].narrow(2, 0, end), self.values[layer].narrow(2, 0, end)

    def advance(self, positions: int) -> None:
        """Say, once all layers have written them, that `positions` new ones are filled."""
        self.filled += positions

    def rewind(self, positions: int) -> None:
        """Forget the newest `positions` filled ones; they are written anew."""
        self.filled -= positions
