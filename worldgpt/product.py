"""Matrices as they are kept for decoding: in the form in which the device at hand multiplies few rows with them fastest.

On a CPU one row is multiplied fastest with a matrix that lies transposed, several rows with one that oneDNN has laid out beforehand
(docs/experiments.md); and int8 weights, of which four fit where one float32 number lies, are read in less than half the time.
"""

import warnings
from typing import Any, Literal, cast

import torch
from torch import Tensor

from data.errors import UserError

Weights = Literal["float", "int8"]

PACKED_FOR = 16
"""Rows that oneDNN lays a matrix out for."""

_LINEAR_DYNAMIC = torch.ops.quantized.linear_dynamic.default._op
"""Without the checks in Python that torch.ops makes at each call: they take a third of its time."""


class Product:
    """Rows (N, in) -> (N, out), exact to rounding."""

    def __init__(self, matrix: Tensor, bias: Tensor | None = None) -> None:
        """`matrix` (out, in), `bias` (out,)."""
        self.matrix, self.bias = matrix.t().contiguous(), bias
        cpu = matrix.device.type == "cpu" and torch.backends.mkldnn.is_available()
        packs = cpu and matrix.dtype == torch.float32 and matrix.numel() > 0
        self.packed = torch.ops.mkldnn._reorder_linear_weight(matrix.contiguous(), PACKED_FOR) if packs else None

    def __call__(self, rows: Tensor) -> Tensor:
        if self.packed is not None and len(rows) > 1:
            return torch.ops.mkldnn._linear_pointwise(rows, self.packed, self.bias, "none", [], "")
        return torch.mm(rows, self.matrix) if self.bias is None else torch.addmm(self.bias, rows, self.matrix)

    def onto(self, sum: Tensor, rows: Tensor) -> Tensor:
        """`sum` (N, out) with the product added; there is no bias."""
        assert self.bias is None
        return sum + self(rows) if self.packed is not None and len(rows) > 1 else torch.addmm(sum, rows, self.matrix)


class Int8Product:
    """The same with weights rounded to int8, one scale an output, and rows rounded to 8 bits as they come; on a CPU."""

    def __init__(self, matrix: Tensor) -> None:
        """`matrix` (out, in)."""
        whole, scales = rounded(matrix)
        usual, torch.backends.quantized.engine = torch.backends.quantized.engine, _engine()
        try:
            # Quantized tensors are to go from torch one day; nothing else is as fast, and pyproject bounds torch.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                make = cast(Any, torch)._make_per_channel_quantized_tensor
                quantized = make(whole, scales.double(), torch.zeros(len(matrix), dtype=torch.long), 0)
            self.packed: Any = torch.ops.quantized.linear_prepack(quantized, None)
        finally:
            torch.backends.quantized.engine = usual

    def __call__(self, rows: Tensor) -> Tensor:
        return _LINEAR_DYNAMIC(rows, self.packed, False)

    def onto(self, sum: Tensor, rows: Tensor) -> Tensor:
        """`sum` (N, out) with the product added."""
        return self(rows).add_(sum)


def rounded(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices (..., out, in) as int8, and the scale (..., out) of each output."""
    scales = matrix.float().abs().amax(-1).clamp(min=1e-12) / 127
    return (matrix.float() / scales[..., None]).round().to(torch.int8), scales


def product(matrix: Tensor, kind: Weights) -> Product | Int8Product:
    """Of a matrix (out, in)."""
    return Int8Product(matrix) if kind == "int8" else Product(matrix)


def check_weights(kind: Weights, device: torch.device, dtype: torch.dtype) -> None:
    """UserError where weights cannot be kept so."""
    if kind == "int8" and (device.type != "cpu" or dtype != torch.float32):
        raise UserError(f"weights int8: expected a float32 model on a CPU, got {str(dtype).removeprefix('torch.')} on {device.type}")


def _engine() -> str:
    """FBGEMM is twice as fast as oneDNN on few rows; ARM has neither."""
    known = torch.backends.quantized.supported_engines
    return next(name for name in ("fbgemm", "qnnpack", *known) if name in known)
