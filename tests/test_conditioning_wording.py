"""Captions worded anew: in the stated shares, by the generator alone, and still the same words."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from conditioning.familiarity import edit_distance
from conditioning.text import PADDING, SentencePieceEncoder, build_text_encoder, fit_text_encoder
from conditioning.text_config import TextConfig, WordingConfig
from conditioning.wording import Rewording, in_another_order, with_typos
from data.errors import UserError

CAPTIONS = ["rainy night on a two-lane road, heavy traffic, turning left", "sunny day, braking", "fog by day, many cars", ""]
NONE = WordingConfig(0, 0, 0)


@pytest.fixture(scope="module")
def encoder() -> SentencePieceEncoder:
    config, proto = fit_text_encoder(CAPTIONS, TextConfig())
    encoder = build_text_encoder(config)
    encoder.set_proto(proto)
    return encoder


def test_without_shares_captions_stay_as_they_are(encoder: SentencePieceEncoder) -> None:
    assert torch.equal(Rewording(NONE, encoder).tokenize(CAPTIONS, np.random.default_rng(0)), encoder.tokenize(CAPTIONS))


def test_the_generator_decides(encoder: SentencePieceEncoder) -> None:
    rewording = Rewording(WordingConfig(0.5, 0.5, 0.5), encoder)
    first, again, other = (rewording.tokenize(CAPTIONS * 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


@pytest.mark.parametrize("field", ["typos", "order", "pieces"])
def test_each_share_is_kept_and_no_prompt_stays_none(encoder: SentencePieceEncoder, field: str) -> None:
    rewording = Rewording(replace(NONE, **{field: 0.3}), encoder)
    plain = [row[row != PADDING].tolist() for row in encoder.tokenize(CAPTIONS)]
    rows = rewording.tokenize(CAPTIONS * 300, np.random.default_rng(0))
    changed = np.array([row[row != PADDING].tolist() != plain[i % 4] for i, row in enumerate(rows)]).reshape(300, 4)
    assert changed[:, 0].mean() == pytest.approx(0.3, abs=0.09)  # some orders and pieces are the ones there were
    assert not changed[:, 3].any()


def test_other_pieces_spell_the_same_words(encoder: SentencePieceEncoder) -> None:
    from conditioning.text import _processor, normalise

    processor = _processor(encoder.proto.numpy().tobytes())
    rows = Rewording(replace(NONE, pieces=1.0), encoder).tokenize(CAPTIONS[:1] * 50, np.random.default_rng(0))
    cuts = [row[row != PADDING].tolist() for row in rows]
    assert {processor.decode(cut) for cut in cuts} == {normalise(CAPTIONS[0])}
    assert len({tuple(cut) for cut in cuts}) > 25
    short = SentencePieceEncoder(replace(encoder.config, max_pieces=8))
    short.set_proto(encoder.proto.numpy().tobytes())
    assert torch.equal(
        Rewording(replace(NONE, pieces=1.0), short).tokenize(CAPTIONS[:1], np.random.default_rng(0)), short.tokenize(CAPTIONS[:1])
    )


def test_clauses_are_kept_whole() -> None:
    rng = np.random.default_rng(0)
    orders = Counter(in_another_order(CAPTIONS[0], rng) for _ in range(600))
    assert len(orders) == 6 and min(orders.values()) > 60
    assert {", ".join(sorted(text.split(", "))) for text in orders} == {", ".join(sorted(CAPTIONS[0].split(", ")))}


def test_typos_are_one_edit_off_and_never_in_the_first_letter() -> None:
    rng, mistyped = np.random.default_rng(0), Counter()
    for _ in range(400):
        for before, after in zip(CAPTIONS[0].split(" "), with_typos(CAPTIONS[0], (), rng).split(" "), strict=True):
            assert (
                after[0] == before[0] and sum(edit_distance(*pair) for pair in zip(before.split("-"), after.split("-"), strict=True)) <= 1
            )
            mistyped[before] += before != after
    assert {word for word, count in mistyped.items() if count} == {
        "rainy",
        "night",
        "two-lane",
        "road,",
        "heavy",
        "traffic,",
        "turning",
        "left",
    }
    assert all(with_typos("at an on-ramp", (), np.random.default_rng(seed)) != "at an on-ramp" for seed in range(3))
    assert with_typos("fog, day", (), rng) == "fog, day"  # too short for one


def test_no_typo_makes_another_word_of_the_captions() -> None:
    rng = np.random.default_rng(0)
    made = {with_typos("wide", (), rng) for _ in range(200)}
    allowed = {with_typos("wide", made - {"wdie"}, rng) for _ in range(200)}
    assert len(made) > 5 and allowed == {"wide", "wdie"}


def test_shares_are_checked() -> None:
    with pytest.raises(UserError, match=r"wording.order: expected a share from 0 to 1, got 1.5"):
        WordingConfig(order=1.5)
