"""Laws of the products kept for decoding: exact where they say so, near where they are rounded."""

import pytest
import torch
from world_samples import random_model

from data.errors import UserError
from worldgpt.decoder import StepDecoder
from worldgpt.product import Int8Product, Product


@pytest.mark.parametrize("rows", [1, 2, 5, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_is_a_product(rows: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(rows)
    matrix, bias, x, sum = (torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((24, 16), (24,), (rows, 16), (rows, 24)))
    near = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 1e-5}
    torch.testing.assert_close(Product(matrix)(x), x @ matrix.t(), **near)
    torch.testing.assert_close(Product(matrix, bias)(x), x @ matrix.t() + bias, **near)
    torch.testing.assert_close(Product(matrix).onto(sum, x), sum + x @ matrix.t(), **near)


@pytest.mark.parametrize("rows", [1, 16])
def test_int8_is_off_by_a_hundredth(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    matrix, x = torch.randn(96, 64, generator=generator), torch.randn(rows, 64, generator=generator)
    off = Int8Product(matrix)(x) - x @ matrix.t()
    assert 0 < float(off.std() / (x @ matrix.t()).std()) < 0.02
    sum = torch.randn(rows, 96, generator=generator)
    torch.testing.assert_close(Int8Product(matrix).onto(sum, x), Int8Product(matrix)(x) + sum)


def test_choosing_int8_leaves_the_engine_as_it_was() -> None:
    before = torch.backends.quantized.engine
    Int8Product(torch.randn(8, 8))
    assert torch.backends.quantized.engine == before


def test_int8_is_for_float32_on_a_cpu() -> None:
    with pytest.raises(UserError, match="weights int8: expected a float32 model on a CPU, got float64 on cpu"):
        StepDecoder(random_model(), "int8")
