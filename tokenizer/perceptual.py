"""LPIPS (Zhang et al., arXiv:1801.03924) on VGG-16 features, from a weights file of the user's; nothing is downloaded."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from data.errors import UserError

_STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Numbers of VGG-16's convolutions as torchvision counts its layers, by resolution; each stage's last output is compared."""
_CHANNELS = (64, 128, 256, 512, 512)
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
"""Mean and deviation of ImageNet's colours for signals in -1..1, as in LPIPS."""


class PerceptualDistance:
    """Distance of two pictures in the features of a fixed network. Holds tensors, no parameters: it is not trained and not saved."""

    def __init__(self, convolutions: dict[int, tuple[Tensor, Tensor]], heads: list[Tensor], trained: bool) -> None:
        self.convolutions = convolutions
        """{layer: (weight, bias)}."""
        self.heads = heads
        """Five (C,) weights of channels."""
        self.trained = trained
        """Whether the heads are LPIPS's own; without them it is another distance."""

    def __call__(self, made: Tensor, true: Tensor) -> Tensor:
        """made, true (B, 3, H, W) in -1..1, at least 16x16 -> 0-dim mean distance."""
        self._move(made.device)
        with torch.no_grad():
            targets = self._features(true)
        total = made.new_zeros(())
        for a, b, head in zip(self._features(made), targets, self.heads, strict=True):
            total = total + torch.einsum("bchw,c->bhw", (a - b) ** 2, head).mean()
        return total

    def _features(self, signal: Tensor) -> list[Tensor]:
        x = (signal - signal.new_tensor(_SHIFT)[:, None, None]) / signal.new_tensor(_SCALE)[:, None, None]
        found = []
        for stage, layers in enumerate(_STAGES):
            if stage:
                x = F.max_pool2d(x, 2)
            for layer in layers:
                x = F.relu(F.conv2d(x, *self.convolutions[layer], padding=1))
            y = x.float()
            found.append(y / (y.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def _move(self, device: torch.device) -> None:
        if self.heads[0].device != device:
            self.convolutions = {layer: (w.to(device), b.to(device)) for layer, (w, b) in self.convolutions.items()}
            self.heads = [head.to(device) for head in self.heads]


def load_perceptual(path: str) -> PerceptualDistance | None:
    """The network in a safetensors file, for training; None, told in one line, where no file is named. See `read_perceptual`."""
    if not path:
        print("perceptual term left out: no weights (losses.perceptual_weights names a safetensors file of VGG-16)")
        return None
    distance = read_perceptual(path, "losses.perceptual_weights")
    if not distance.trained:
        print(f"{path}: holds no LPIPS heads (lin0.model.1.weight, ...): every channel counts alike")
    return distance


def read_perceptual(path: str, setting: str) -> PerceptualDistance:
    """The network in a safetensors file that `setting` names; UserError where it is not usable."""
    if not Path(path).is_file():
        raise UserError(f"{setting}: expected a safetensors file, found none at {path}")
    try:
        tensors = load_file(path)
        convolutions = {n: (tensors[f"features.{n}.weight"], tensors[f"features.{n}.bias"]) for stage in _STAGES for n in stage}
    except (SafetensorError, KeyError) as error:
        raise UserError(f"{path}: expected VGG-16's convolutions as safetensors, failed at {error}") from error
    trained = all(f"lin{k}.model.1.weight" in tensors for k in range(5))
    heads = [tensors[f"lin{k}.model.1.weight"].reshape(-1) if trained else torch.full((c,), 1 / c) for k, c in enumerate(_CHANNELS)]
    return PerceptualDistance(convolutions, heads, trained)
