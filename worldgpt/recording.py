"""Work recorded once on a GPU and replayed: thousands of small kernels for one launch by the host, which else is what they wait for."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Recording:
    """A function of tensors as a CUDA graph (Gray 2019): what it read and wrote besides its inputs lies where it lay then."""

    def __init__(self, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> None:
        """`function` must have run before, so that nothing is set up while it is recorded; the host must not need to see a result of it."""
        self.inputs = [part.clone() for part in inputs]
        self.graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # what other threads do there stays out of it
            self.outputs = function(*self.inputs)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The outputs for other inputs of the same shapes."""
        for kept, part in zip(self.inputs, inputs, strict=True):
            kept.copy_(part)
        self.graph.replay()
        return [part.clone() for part in self.outputs]
