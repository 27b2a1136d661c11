"""Laws of the trained text encoder: spelling, determinism, padding, the null prompt, saving."""

import logging
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel

from conditioning.text import PADDING, SentencePieceEncoder, build_text_encoder, fit_text_encoder, normalise
from conditioning.text_config import TextConfig
from data.errors import UserError

WEATHERS = ("clear", "rain", "fog", "snow", "overcast")
CAPTIONS = [
    f"{weather} {time} on a {road}, {cars} traffic"
    for weather, time, road, cars in product(WEATHERS, ("day", "night"), ("highway", "two-lane road"), ("light", "heavy"))
]
PROMPTS = ["rain night on a highway", "", "snow", "a clear day on a two-lane road, light traffic", "ночь 🚗 雪"]


@pytest.fixture(scope="module")
def encoder() -> SentencePieceEncoder:
    config, proto = fit_text_encoder(CAPTIONS, TextConfig())
    torch.manual_seed(0)
    encoder = build_text_encoder(config)
    encoder.set_proto(proto)
    return encoder


def test_same_captions_give_the_same_bytes_in_any_order_and_number() -> None:
    config, proto = SentencePieceEncoder.fit(CAPTIONS, TextConfig())
    assert SentencePieceEncoder.fit([*reversed(CAPTIONS), *CAPTIONS], TextConfig()) == (config, proto)
    assert config.proto_bytes == len(proto) and 256 < config.vocab_size <= 512


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Rainy Night", "rainy night"),
        ("  rainy\t\nnight \u00a0", "rainy night"),
        ("rainy night, heavy traffic.", "rainy night heavy traffic"),
        ("two-lane", "two–lane"),
        ("ｒａｉｎ", "rain"),
        ("STRASSE", "straße"),
        ("CAFE\u0301", "café"),
        ("12.5 m/s!", "12.5 m s"),
        ("...", ""),
    ],
)
def test_spellings_that_mean_the_same_are_one(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)
    assert normalise(normalise(one)) == normalise(one)


def test_what_may_mean_something_is_kept() -> None:
    assert normalise("12.5") != normalise("12 5") and normalise("🚗") == "🚗" and normalise("雪") == "雪"


@pytest.mark.parametrize("prompt", ["rayny nihgt", "ночь", "🚗💨", "雪の夜", "\x00\ud800x", "a" * 40, "٣"])
def test_any_text_is_read_and_stays_distinct(encoder: SentencePieceEncoder, prompt: str) -> None:
    pieces = encoder.tokenize([prompt, "rainy night"])
    kept = pieces[0][pieces[0] != PADDING]
    assert len(kept) and kept.min() >= 0 and kept.max() < encoder.config.vocab_size
    assert 0 not in kept  # the unknown piece is never needed
    a, b = encoder(pieces)
    assert a.isfinite().all() and not torch.allclose(a, b)


def test_pieces_are_padded_int64_on_the_cpu(encoder: SentencePieceEncoder) -> None:
    pieces = encoder.tokenize(PROMPTS)
    assert pieces.dtype == torch.int64 and (pieces[1] == PADDING).all()
    assert (pieces != PADDING).sum(dim=1).max() == pieces.shape[1]
    assert encoder.tokenize([""]).shape == (1, 1) and encoder.tokenize([]).shape == (0, 1)


def test_padding_does_not_change_the_embedding(encoder: SentencePieceEncoder) -> None:
    together = encoder.encode(PROMPTS)
    assert together.shape == (len(PROMPTS), 4, 128)
    for prompt, row in zip(PROMPTS, together, strict=True):
        torch.testing.assert_close(encoder.encode([prompt])[0], row, rtol=0, atol=1e-6)
    pieces = encoder.tokenize(PROMPTS)
    wider = torch.nn.functional.pad(pieces, (0, 64 - pieces.shape[1]), value=PADDING)
    torch.testing.assert_close(encoder(wider), together, rtol=0, atol=1e-6)


def test_the_empty_prompt_is_the_null_embedding(encoder: SentencePieceEncoder) -> None:
    embeddings = encoder.encode(["", " ?! ", "rain"])
    assert torch.equal(embeddings[:2], encoder.null(2)) and not torch.allclose(embeddings[2], encoder.null(1)[0])


def test_gradients_stay_finite_beside_an_empty_prompt(encoder: SentencePieceEncoder) -> None:
    def gradients(prompts: list[str]) -> dict[str, torch.Tensor]:
        encoder.zero_grad(set_to_none=False)
        encoder.encode(prompts)[: 1 if prompts[0] else None].square().mul(torch.arange(128.0)).sum().backward()
        return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}

    alone, beside = gradients(["rain"]), gradients(["rain", ""])
    for name, gradient in beside.items():
        torch.testing.assert_close(gradient, alone[name], rtol=1e-4, atol=1e-3, msg=name)
    empty = gradients([""])
    assert empty["head.null_table.weight"].abs().max() > 0 and empty["piece_table.weight"].abs().max() == 0


def test_word_order_counts(encoder: SentencePieceEncoder) -> None:
    a, b = encoder.encode(["snow after rain", "rain after snow"])
    assert not torch.allclose(a, b, atol=1e-3)


def test_a_long_prompt_is_cut_and_one_line_says_so(encoder: SentencePieceEncoder, caplog: pytest.LogCaptureFixture) -> None:
    long = "rain night " * 200
    with caplog.at_level(logging.WARNING):
        pieces = encoder.tokenize(["snow", long])
    (record,) = caplog.records
    assert pieces.shape == (2, 64) and "64" in record.message and "rain night" in record.message and "\n" not in record.message
    assert torch.equal(encoder.tokenize([long + "snow"])[0], pieces[1])


def test_an_encoder_without_its_pieces_says_so() -> None:
    with pytest.raises(ValueError, match="set_proto"):
        SentencePieceEncoder(TextConfig()).tokenize(["rain"])
    with pytest.raises(ValueError, match="expected 0 bytes as in the config, got 3"):
        SentencePieceEncoder(TextConfig()).set_proto(b"abc")


def test_captions_of_no_words_give_bytes_and_too_many_letters_a_message(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config, proto = SentencePieceEncoder.fit(["", "?"], TextConfig())
    encoder = SentencePieceEncoder(config)
    encoder.set_proto(proto)
    assert len(caplog.records) == 1 and (encoder.tokenize(["rain"]) != PADDING).sum() >= 4
    with pytest.raises(UserError, match=r"text.vocab_size: .*512.* 600 captions") as told:
        SentencePieceEncoder.fit([chr(0x4E00 + i) for i in range(600)], TextConfig())
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("heads", 3, "expected a divisor of text.width = 128, got 3"),
        ("layers", 0, "at least 1, got 0"),
        ("encoder", "t5", "'hf:<id>', got 't5'"),
    ],
)
def test_bad_settings_name_their_field(field: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=rf"text\.{field}: .*{message}"):
        replace(TextConfig(), **{field: value})  # type: ignore[arg-type]


class HolderConfig(PretrainedConfig):
    model_type = "text-holder"

    def __init__(self, text: dict | None = None, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.text = text or {}


class Holder(PreTrainedModel):
    """The smallest model that carries a text encoder as the world model does."""

    config_class = HolderConfig

    def __init__(self, config: HolderConfig) -> None:
        super().__init__(config)
        self.text = build_text_encoder(TextConfig(**config.text))
        self.post_init()


def test_saving_and_loading_keeps_outputs_and_every_buffer(encoder: SentencePieceEncoder, tmp_path: Path) -> None:
    model = Holder(HolderConfig(text=vars(encoder.config)))
    model.text.load_state_dict(encoder.state_dict())
    model.save_pretrained(tmp_path)
    loaded = Holder.from_pretrained(tmp_path)
    assert {name for name, _ in loaded.named_buffers()} == set(loaded.state_dict()) - {name for name, _ in loaded.named_parameters()}
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(loaded.text.tokenize(PROMPTS), encoder.tokenize(PROMPTS))
    assert torch.equal(loaded.text.encode(PROMPTS), encoder.encode(PROMPTS))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_the_encoder_can_be_built_on_the_meta_device(encoder: SentencePieceEncoder) -> None:
    with torch.device("meta"):
        empty = SentencePieceEncoder(encoder.config)
    empty = empty.to_empty(device="cpu")
    empty.load_state_dict(encoder.state_dict())
    assert torch.equal(empty.encode(PROMPTS), encoder.encode(PROMPTS))
