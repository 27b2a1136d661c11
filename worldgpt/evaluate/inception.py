"""The two networks that FID and FVD are defined by, from weights files of the user's; nothing is downloaded.

Inception-v3 (Szegedy et al. 2015, arXiv:1512.00567) in the variant of FID (Heusel et al. 2017, arXiv:1706.08500): its average pools leave
padding out of their count, its last block pools the maximum. I3D (Carreira & Zisserman 2017, arXiv:1705.07750) as FVD takes it. Both are
read from safetensors under the names of the usual PyTorch ports: `Mixed_5b.branch1x1.conv.weight`, `Mixed_3b.b1a.conv3d.weight`.
Axes: N pictures or videos, T frames, C channels, H W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from data.errors import UserError

EPS = 1e-3
"""Of the batch norms."""
_READ = 16
"""Pictures that are read at once."""


class _Network:
    """Tensors by name and a function of them; holds no parameters, is never trained."""

    flag: ClassVar[str]

    def __init__(self, tensors: Mapping[str, Tensor], path: str = "") -> None:
        self.tensors, self.path = tensors, path

    @classmethod
    def load(cls, path: str) -> Self:
        """UserError where the file is missing, no safetensors, or lacks a tensor."""
        if not Path(path).is_file():
            raise UserError(f"{cls.flag}: expected a safetensors file, found none at {path}")
        try:
            network = cls(load_file(path), path)
        except SafetensorError as error:
            raise UserError(f"{path}: expected safetensors, failed at {error}") from error
        network.check()
        return network

    def check(self) -> None:
        """UserError where weights are missing or of another shape."""
        raise NotImplementedError

    def _tried(self, run: Callable[[], object]) -> None:
        try:
            with torch.no_grad():
                run()
        except KeyError as error:
            raise UserError(f"{self.path}: expected the weights of {type(self).__name__}, found no {error}") from error
        except RuntimeError as error:
            raise UserError(
                f"{self.path}: expected the weights of {type(self).__name__}, got other shapes ({str(error).splitlines()[0]})"
            ) from error

    def _normed(self, x: Tensor, name: str) -> Tensor:
        mean, variance, weight, bias = (self.tensors[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, mean, variance, weight, bias, eps=EPS))


class InceptionV3(_Network):
    """Pictures -> the 2048 features of FID."""

    flag = "--inception"

    def check(self) -> None:
        self._tried(lambda: self._features(torch.zeros(1, 3, 75, 75)))

    @torch.no_grad()
    def features(self, frames: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 -> (N, 2048)."""
        parts = []
        for i in range(0, len(frames), _READ):
            x = torch.from_numpy(np.ascontiguousarray(frames[i : i + _READ])).permute(0, 3, 1, 2).float()
            x = F.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
            parts.append(self._features(x / 127.5 - 1).numpy())
        return np.concatenate(parts)

    def _features(self, x: Tensor) -> Tensor:
        x = self._conv(self._conv(x, "Conv2d_1a_3x3", stride=2), "Conv2d_2a_3x3")
        x = _max2d(self._conv(x, "Conv2d_2b_3x3", padding=1))
        x = _max2d(self._conv(self._conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"))
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self._joined(x, name, ("branch1x1",), ("branch5x5_1", "branch5x5_2"), _double("branch3x3dbl", 3), pool="branch_pool")
        x = self._reduced(x, "Mixed_6a", ("branch3x3",), _double("branch3x3dbl", 3))
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x = self._joined(x, name, ("branch1x1",), _double("branch7x7", 3), _double("branch7x7dbl", 5), pool="branch_pool")
        x = self._reduced(x, "Mixed_7a", _double("branch3x3", 2), _double("branch7x7x3", 4))
        for name, largest in (("Mixed_7b", False), ("Mixed_7c", True)):
            x = self._split(x, name, largest)
        return x.mean((2, 3))

    def _conv(self, x: Tensor, name: str, *, stride: int = 1, padding: int | None = 0) -> Tensor:
        """Convolution, norm, ReLU; without `padding` the grid stays as it is."""
        weight = self.tensors[f"{name}.conv.weight"]
        around = (weight.shape[2] // 2, weight.shape[3] // 2) if padding is None else padding
        return self._normed(F.conv2d(x, weight, stride=stride, padding=around), f"{name}.bn")

    def _chain(self, x: Tensor, block: str, names: Sequence[str]) -> Tensor:
        for name in names:
            x = self._conv(x, f"{block}.{name}", padding=None)
        return x

    def _joined(self, x: Tensor, block: str, *branches: Sequence[str], pool: str) -> Tensor:
        pooled = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return torch.cat([*(self._chain(x, block, names) for names in branches), self._chain(pooled, block, (pool,))], dim=1)

    def _reduced(self, x: Tensor, block: str, *branches: Sequence[str]) -> Tensor:
        """Half the grid: each branch's last convolution strides, and the third branch is a pool."""
        parts = [self._conv(self._chain(x, block, names[:-1]), f"{block}.{names[-1]}", stride=2) for names in branches]
        return torch.cat([*parts, _max2d(x)], dim=1)

    def _split(self, x: Tensor, block: str, largest: bool) -> Tensor:
        def both(part: Tensor, name: str) -> list[Tensor]:
            return [self._conv(part, f"{block}.{name}{side}", padding=None) for side in "ab"]

        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if largest else F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        middle = both(self._chain(x, block, ("branch3x3_1",)), "branch3x3_2")
        double = both(self._chain(x, block, ("branch3x3dbl_1", "branch3x3dbl_2")), "branch3x3dbl_3")
        return torch.cat([self._chain(x, block, ("branch1x1",)), *middle, *double, self._chain(pooled, block, ("branch_pool",))], dim=1)


def _double(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}_{k}" for k in range(1, count + 1))


def _max2d(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2)


class I3D(_Network):
    """Videos -> the 400 logits of Kinetics that FVD compares."""

    flag = "--i3d"
    stages: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("Mixed_3b", "Mixed_3c"),
        ("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f"),
        ("Mixed_5b", "Mixed_5c"),
    )
    pools: ClassVar[tuple[tuple[int, int, int], ...]] = ((1, 3, 3), (3, 3, 3), (2, 2, 2))
    """Pools before each stage; their strides are 1x2x2, 2x2x2 and 2x2x2."""

    def check(self) -> None:
        self._tried(lambda: self._logits(torch.zeros(1, 3, 16, 224, 224)))

    @torch.no_grad()
    def features(self, videos: np.ndarray) -> np.ndarray:
        """(N, T, H, W, 3) uint8, T at least 16 -> (N, 400)."""
        rows = []
        for video in videos:
            x = torch.from_numpy(np.ascontiguousarray(video)).permute(0, 3, 1, 2).float()
            x = F.interpolate(x, (224, 224), mode="bilinear", align_corners=False)
            rows.append(self._logits((x / 127.5 - 1).transpose(0, 1)[None]).numpy())
        return np.concatenate(rows)

    def _logits(self, x: Tensor) -> Tensor:  # (N, 3, T, H, W) -> (N, 400)
        x = self._conv(x, "Conv3d_1a_7x7", stride=2)
        x = _max3d(x, (1, 3, 3), (1, 2, 2))
        x = self._conv(self._conv(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3")
        for names, pool in zip(self.stages, self.pools, strict=True):
            x = _max3d(x, pool, (1, 2, 2) if pool[0] == 1 else (2, 2, 2))
            for name in names:
                x = self._block(x, name)
        x = F.avg_pool3d(x, (2, 7, 7), stride=1)
        return F.conv3d(x, self.tensors["logits.conv3d.weight"], self.tensors["logits.conv3d.bias"]).mean((2, 3, 4))

    def _conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.tensors[f"{name}.conv3d.weight"]
        x = F.conv3d(_padded(x, tuple(weight.shape[2:]), (stride,) * 3), weight, stride=stride)
        return self._normed(x, f"{name}.bn")

    def _block(self, x: Tensor, name: str) -> Tensor:
        one, two = (self._conv(self._conv(x, f"{name}.b{k}a"), f"{name}.b{k}b") for k in (1, 2))
        pooled = self._conv(_max3d(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b")
        return torch.cat([self._conv(x, f"{name}.b0"), one, two, pooled], dim=1)


def _max3d(x: Tensor, size: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    return F.max_pool3d(_padded(x, size, stride), size, stride)


def _padded(x: Tensor, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Zeros around, so that the grid is divided by the stride and rounded up; where the number is odd, the last side gets one more."""
    sides: list[int] = []
    for length, window, step in reversed(list(zip(x.shape[2:], size, stride, strict=True))):
        missing = max(window - (step if length % step == 0 else length % step), 0)
        sides += [missing // 2, missing - missing // 2]
    return F.pad(x, sides)
