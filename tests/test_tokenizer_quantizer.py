"""Laws of the quantizers: codes and vectors are two names for one thing, in float32, on any grid."""

import numpy as np
import pytest
import torch

from tokenizer.config import TokenizerConfig
from tokenizer.quantizer import FiniteScalarQuantizer, Quantizer, VectorQuantizer, build_quantizer

CONFIGS = [TokenizerConfig(levels=(8, 5, 5, 5)), TokenizerConfig(quantizer="vq", codebook_size=32, code_dim=4)]


def trained(config: TokenizerConfig) -> Quantizer:
    """A quantizer after some training passes, in evaluation mode."""
    torch.manual_seed(0)
    quantizer = build_quantizer(config)
    for _ in range(3):
        quantizer.train()(torch.randn(4, quantizer.dim, 3, 5, requires_grad=True))
    return quantizer.eval()


@pytest.mark.parametrize("config", CONFIGS, ids=["fsq", "vq"])
def test_codes_name_the_quantized_vectors(config: TokenizerConfig) -> None:
    quantizer = trained(config)
    quantized = quantizer(torch.randn(2, quantizer.dim, 3, 5))
    assert quantized.codes.shape == (2, 3, 5)
    assert quantized.codes.dtype == torch.int64
    assert quantized.values.dtype == torch.float32
    assert torch.equal(quantizer.codes_to_values(quantized.codes), quantized.values)


@pytest.mark.parametrize("config", CONFIGS, ids=["fsq", "vq"])
def test_every_code_decodes_to_a_vector_of_its_own(config: TokenizerConfig) -> None:
    quantizer = trained(config)
    every = torch.arange(quantizer.codebook_size).reshape(1, 1, -1)
    values = quantizer.codes_to_values(every)
    assert len(torch.unique(values[0, :, 0].T, dim=0)) == quantizer.codebook_size == config.vocabulary


def test_fsq_finds_each_codebook_vector_again() -> None:
    quantizer = FiniteScalarQuantizer((8, 5, 5))
    every = torch.arange(200).reshape(1, 10, 20)
    values = quantizer.codes_to_values(every)
    levels = torch.tensor([8.0, 5.0, 5.0])[:, None, None]
    # Inverse of FSQ's squashing: tanh(z + shift) * half - offset = value * (levels // 2).
    half, offset = (levels - 1) * 1.001 / 2, torch.where(levels % 2 == 0, 0.5, 0.0)
    z = torch.atanh((values * (levels // 2) + offset).div(half).clamp(-0.9999, 0.9999)) - torch.atanh(offset / half)
    assert torch.equal(quantizer(z).codes, every)


def test_fsq_codes_are_mixed_radix_numbers_of_their_levels() -> None:
    values = FiniteScalarQuantizer((8, 5, 3)).codes_to_values(torch.arange(120).reshape(1, 1, 120))[0, :, 0].numpy()
    for code in range(120):
        digits = np.array([code % 8, code // 8 % 5, code // 40])
        np.testing.assert_allclose(values[:, code], (digits - [4, 2, 1]) / [4, 2, 1])


@pytest.mark.parametrize("config", CONFIGS, ids=["fsq", "vq"])
def test_autocast_does_not_reach_the_quantizer(config: TokenizerConfig) -> None:
    quantizer = trained(config)
    z = torch.randn(8, quantizer.dim, 4, 4)
    plain = quantizer(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = quantizer(z)
    assert torch.equal(cast.codes, plain.codes)
    assert torch.equal(cast.values, plain.values)


@pytest.mark.parametrize("config", CONFIGS, ids=["fsq", "vq"])
def test_gradients_pass_through(config: TokenizerConfig) -> None:
    quantizer = trained(config).train()
    z = torch.randn(4, quantizer.dim, 3, 5, requires_grad=True)
    quantizer(z).values.sum().backward()
    assert z.grad is not None
    assert float(z.grad.abs().mean()) > 0


def test_vq_takes_the_nearest_vector() -> None:
    quantizer = trained(CONFIGS[1])
    z = torch.randn(2, 4, 3, 5)
    codebook = quantizer.codes_to_values(torch.arange(32).reshape(1, 1, -1))[0, :, 0].T
    vectors = z.permute(0, 2, 3, 1).reshape(-1, 4)
    nearest = ((vectors[:, None] - codebook[None]) ** 2).sum(-1).argmin(1)
    assert torch.equal(quantizer(z).codes.reshape(-1), nearest)


def test_vq_revives_dead_codes() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(codebook_size=16, dim=2, decay=0.5, dead_code_threshold=2, commitment_weight=0.25).train()
    quantizer(torch.randn(8, 2, 4, 4))  # the k-means start
    for _ in range(30):
        quantizer(torch.randn(8, 2, 4, 4) + 100)  # the world has moved away from the whole codebook
    codes = quantizer.eval()(torch.randn(64, 2, 4, 4) + 100).codes
    assert len(codes.unique()) > 12


def test_vq_asks_for_commitment_and_fsq_does_not() -> None:
    vq, fsq = (trained(config).train() for config in (CONFIGS[1], CONFIGS[0]))
    assert float(vq(torch.randn(4, 4, 3, 5) * 5).loss.detach()) > 0
    assert float(fsq(torch.randn(4, 4, 3, 5) * 5).loss.detach()) == 0
