"""Vectors of a codebook: what starts alike and unlike, that they serve both ends, and what a bin shares with its neighbours."""

from math import prod

import pytest
import torch
from torch.nn import functional as F
from vector_quantize_pytorch import FSQ

from data.errors import UserError
from tokenizer.config import WHOLE
from worldgpt.layout import Codebook, Layout
from worldgpt.token_table import SplitTable, TokenTable, token_table


def table(*, ordered: bool) -> TokenTable:
    torch.manual_seed(0)
    return TokenTable(64, 32, 16, (64,) if ordered else ())


@torch.no_grad()
def test_codes_start_unlike_and_neighbouring_bins_alike() -> None:
    for ordered in (False, True):
        vectors = table(ordered=ordered).vectors()
        assert vectors.shape == (65, 32)
        assert 0.6 < vectors.norm(dim=1).mean() < 1.4
        near = F.cosine_similarity(vectors[:-2], vectors[1:-1]).mean()
        far = F.cosine_similarity(vectors[:32], vectors[32:64]).mean()
        assert abs(far) < 0.3
        assert near > far + 0.3 if ordered else abs(near) < 0.15


@torch.no_grad()
def test_logits_compare_with_the_vectors_that_come_in_and_null_never_comes_out() -> None:
    one = table(ordered=True)
    hidden = torch.randn(5, 16)
    logits = one.logits(hidden)
    assert logits.shape == (5, 64)
    torch.testing.assert_close(logits, one.out(hidden) * 32**0.5 @ one(torch.arange(64)).T + one.bias)


def test_what_one_bin_learns_its_neighbours_know() -> None:
    for ordered in (True, False):
        one = table(ordered=ordered)
        before = one.vectors().detach().clone()
        one(torch.tensor([20])).sum().backward()
        for p in one.parameters():
            if p.grad is not None:
                p.data -= 0.01 * p.grad
        moved = (one.vectors() - before).detach().norm(dim=1)
        assert moved[20] > 0
        assert (moved[21] > 0.3 * moved[20]) == ordered
        assert moved[64] == 0


@torch.no_grad()
def test_codes_share_by_digit() -> None:
    """Ids of one digit in common are more alike than others; features are the digits', the first one fastest, as FSQ counts."""
    torch.manual_seed(0)
    one = TokenTable(60, 32, 16, (3, 4, 5))
    ids = torch.arange(60)
    digits = torch.stack([ids % 3, ids // 3 % 4, ids // 12], dim=1)
    features = one.features(torch.device("cpu"))
    assert features.shape == (60, 12)
    for digit, columns in ((0, slice(0, 3)), (1, slice(3, 7)), (2, slice(7, 12))):
        same = digits[:, None, digit] == digits[None, :, digit]
        assert ((features[:, None, columns] - features[None, :, columns]).abs().amax(-1) < 1e-6).equal(same)
    library = FSQ(levels=[3, 4, 5])
    levels = library.indices_to_codes(ids)
    for digit in range(3):
        same = digits[:, None, digit] == digits[None, :, digit]
        assert ((levels[:, None, digit] - levels[None, :, digit]).abs() < 1e-6).equal(same)


def test_vectors_are_kept_until_a_weight_changes() -> None:
    one = table(ordered=True)
    with torch.inference_mode():
        first = one.vectors()
        assert one.vectors() is first
    torch.testing.assert_close(first, one.vectors())  # with gradients: worked out anew
    with torch.no_grad():
        one.rows.weight += 1
        torch.testing.assert_close(one.vectors(), first + 1)
        one.shared.copy_(torch.zeros_like(one.shared))
        torch.testing.assert_close(one.vectors(), one.rows.weight.detach())
        assert one.double().vectors().dtype == torch.float64


def test_large_codebooks_are_told_in_parts() -> None:
    def codebook(levels: tuple[int, ...], most: int = WHOLE) -> Codebook:
        return Codebook("frame", prod(levels), levels, most)

    assert isinstance(token_table(codebook((4,) * 6), 8, 16), TokenTable)
    assert isinstance(token_table(Codebook("frame", 50_000), 8, 16), TokenTable)  # ids without digits cannot be told in parts
    for levels, most, sizes in (((4,) * 12, WHOLE, (4096,) * 2), ((4,) * 18, WHOLE, (4096,) * 3), ((4,) * 6, 16, (16,) * 3)):
        one = token_table(codebook(levels, most), 8, 16)
        assert isinstance(one, SplitTable) and one.sizes == sizes == codebook(levels, most).parts
    for most in (1, 2 * WHOLE):
        with pytest.raises(UserError, match=f"parts of 2 to {WHOLE} ids, got {most}"):
            codebook((4,) * 6, most)


def test_a_layout_keeps_how_codes_are_told() -> None:
    layout = Layout.build({"front": (2, 2)}, 4**6, (), (), 1, (4,) * 6, 64)
    assert layout.codebooks[0].parts == (64, 64) and Layout.from_dict(layout.to_dict()) == layout
    older = layout.to_dict()
    older["codebooks"] = [{name: value for name, value in book.items() if name != "most"} for book in older["codebooks"]]
    assert Layout.from_dict(older).codebooks[0].parts == (4096,)  # checkpoints from before it could be chosen


@torch.no_grad()
def test_an_id_is_its_parts_and_its_chances_sum_to_one() -> None:
    torch.manual_seed(0)
    one = SplitTable(8, 16, ((3, 4), (5,), (3, 3)))
    ids = torch.arange(541)  # the last is NULL
    parts = one.split(ids)
    assert torch.equal(one.join(parts)[:-1], ids[:-1])
    assert [int(part[-1]) for part in parts] == [12, 5, 9]
    torch.testing.assert_close(one(ids), sum(table(part) for table, part in zip(one.parts, parts, strict=True)))
    levels = FSQ(levels=[3, 4, 5, 3, 3]).indices_to_codes(ids[:-1])
    told = [FSQ(levels=part).indices_to_codes(some[:-1]) for part, some in zip(([3, 4], [5], [3, 3]), parts, strict=True)]
    torch.testing.assert_close(torch.cat(told, dim=-1), levels)
    hidden = torch.randn(16).expand(540, -1)
    logs = [one.logits(hidden, [part[:-1] for part in parts[:known]]).log_softmax(-1) for known in range(3)]
    chosen = torch.stack([log.gather(1, part[:-1, None])[:, 0] for log, part in zip(logs, parts, strict=True)])
    assert abs(float(chosen.sum(0).exp().sum()) - 1) < 1e-5
    for known in (1, 2):  # each part depends on all those before it
        for before in range(known):
            others = [part[:-1] if number != before else torch.zeros_like(ids[:-1]) for number, part in enumerate(parts[:known])]
            assert (one.logits(hidden, others).log_softmax(-1) - logs[known]).abs().max() > 1e-4
