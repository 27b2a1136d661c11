"""Keys and values of the steps in the window: preallocated, constant in memory and time however long the rollout.

The window holds W steps of S positions. Steps are stored one after the other; when the window is full, the oldest step that
is not pinned gives way: the newest finished step moves into its place, and the last place is free for the next step. So the
filled part is always one slice, and no mask is needed: attention does not care in which order the steps lie.

Keys are kept unrotated too. A step's rotary time is its distance to the present, so once the window has begun to move, all
keys are turned anew at the beginning of each step: times never grow.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from worldgpt.rope import rotate


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
        """`rotation_at(times (n,))` gives the rotation of n steps' positions, (n * S, d / 2) complex."""
        shape = (layers, batch, heads, window_steps * positions_per_step, head_dim)
        self.raw_keys = torch.zeros(shape, dtype=dtype, device=device)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.positions_per_step, self.window_steps = positions_per_step, window_steps
        self.rotation_at = rotation_at
        self.steps: list[int] = []
        """Step number held at each place."""
        self.pinned: set[int] = set()
        self.filled = 0
        """Positions written, over all places."""

    @property
    def present(self) -> int:
        """Number of the newest step, -1 if there is none."""
        return max(self.steps, default=-1)

    def times(self) -> Tensor:
        """Rotary time of each place: W - 1 at the present once the window is full, at least 0 for pinned steps."""
        last = min(self.present, self.window_steps - 1)
        return torch.tensor([max(0, last - (self.present - step)) for step in self.steps], device=self.keys.device)

    def clear(self) -> None:
        """Forget all steps."""
        self.steps, self.pinned, self.filled = [], set(), 0

    def keep(self, rows: Tensor) -> None:
        """Go on with the worlds at `rows` (n,) of the batch."""
        self.raw_keys, self.keys, self.values = (store[:, rows] for store in (self.raw_keys, self.keys, self.values))

    def take(self, other: "RingCache", rows: Tensor) -> None:
        """Copy the worlds where `rows` (B,) is true from a cache that holds as many steps, its oldest for our oldest."""
        size = self.positions_per_step
        if len(self.steps) == self.window_steps:
            self._evict()
        if len(other.steps) != len(self.steps) or self.filled != other.filled:
            raise ValueError(f"expected {len(self.steps)} steps, got {len(other.steps)}")
        ours, theirs = (sorted(range(len(c.steps)), key=c.steps.__getitem__) for c in (self, other))
        for here, there in zip(ours, theirs, strict=True):
            to, source = (slice(place * size, (place + 1) * size) for place in (here, there))
            for name in ("raw_keys", "keys", "values"):
                getattr(self, name)[:, rows, :, to] = getattr(other, name)[:, rows, :, source]

    def pin(self, step: int) -> None:
        """Keep a step that is in the window; at least one place must stay for the present and one for its past."""
        if step not in self.steps:
            raise ValueError(f"step {step} is not in the window {self.steps}")
        if len(self.pinned | {step}) > self.window_steps - 2:
            raise ValueError(f"at most {self.window_steps - 2} of {self.window_steps} steps can be pinned")
        self.pinned.add(step)

    def begin(self, steps: int) -> Tensor:
        """Make room in an empty cache for a context of `steps`, at most W - 1; returns the rotation of their positions."""
        if self.steps or not 0 < steps < self.window_steps:
            raise ValueError(f"expected an empty cache and 1 to {self.window_steps - 1} steps, got {len(self.steps)} held and {steps} new")
        self.steps = list(range(steps))
        return self.rotation_at(self.times())

    def begin_step(self) -> Tensor:
        """Make room for the next step; returns the rotation of its S positions."""
        size, number = self.positions_per_step, self.present + 1
        if len(self.steps) == self.window_steps:
            self._evict()
        self.steps.append(number)
        times = self.times()
        if number >= self.window_steps:
            self._turn(self.rotation_at(times[:-1]))
        assert self.filled == (len(self.steps) - 1) * size
        return self.rotation_at(times[-1:])

    def _evict(self) -> None:
        size = self.positions_per_step
        place = min((i for i, step in enumerate(self.steps) if step not in self.pinned), key=lambda i: self.steps[i])
        newest = slice((self.window_steps - 1) * size, self.window_steps * size)
        target = slice(place * size, (place + 1) * size)
        for store in (self.raw_keys, self.values):
            store[:, :, :, target] = store[:, :, :, newest]
        self.steps[place] = self.steps[-1]
        self.steps.pop()
        self.filled = (self.window_steps - 1) * size

    def _turn(self, by: Tensor) -> None:
        """Rotate all finished steps' keys to their times in relation to the present."""
        past = slice(0, self.filled)
        self.keys[:, :, :, past] = rotate(self.raw_keys[:, :, :, past], by)

    def append(self, layer: int, keys: Tensor, values: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
        """Write n new positions (B, heads, n, d) of one layer; returns the rotated keys and values of all filled ones."""
        end = self.filled + keys.shape[2]
        new = slice(self.filled, end)
        self.raw_keys[layer, :, :, new] = keys
        self.keys[layer, :, :, new] = rotate(keys, by)
        self.values[layer, :, :, new] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, positions: int) -> None:
        """Say, once all layers have written them, that `positions` new ones are filled."""
        self.filled += positions
