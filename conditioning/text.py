"""Prompts -> embeddings. The default encoder is small and trained with the world model; frozen ones stand in frozen_text.py.

Encoding has two stages, so that a data set is tokenised once: `tokenize` (words to piece ids, pure) and `forward` (ids to
embeddings, differentiable). Pieces are int64 (B, L), padded with PADDING; a row of padding alone is the empty prompt.
Axes: B batch, L pieces, P prompt tokens, D width (D_text).
"""

import io
import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from conditioning.text_config import TextConfig
from conditioning.text_layers import PromptHead, QueryPool, TextBlock
from data.errors import UserError

PADDING = -1
SEGMENTATIONS, SMOOTHING = 8, 0.2
"""l and alpha of `sample_pieces`; alpha 0 would take all ways alike."""
logger = logging.getLogger(__name__)


class TextEncoder(Protocol):
    """What the world model asks of a text encoder (which is an nn.Module)."""

    prompt_tokens: int
    """P, embeddings a prompt."""
    width: int
    """D_text, the width of each."""

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """int64 (B, L) on the CPU, padded with PADDING; L is that of the longest prompt, at least 1."""
        ...

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """(B, P, D_text), on the encoder's device."""
        ...

    def null(self, batch: int) -> Tensor:
        """(B, P, D_text), the embedding of the empty prompt."""
        ...

    def __call__(self, pieces: Tensor) -> Tensor:
        """pieces (B, L) -> (B, P, D_text)."""
        ...


class SentencePieceEncoder(nn.Module):
    """A sentencepiece unigram model and a small transformer whose output P learned queries gather.

    The sentencepiece model travels in the buffer `proto`, so a checkpoint is whole with its weights and its config.
    """

    proto: Tensor

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.prompt_tokens = config.prompt_tokens
        self.width = config.width
        self.piece_table = nn.Embedding(config.vocab_size, config.width)
        self.position_table = nn.Embedding(config.max_pieces, config.width)
        self.blocks = nn.ModuleList(TextBlock(config.width, config.heads) for _ in range(config.layers))
        self.pool = QueryPool(config.prompt_tokens, config.width, config.heads)
        self.head = PromptHead(config.prompt_tokens, config.width)
        self.register_buffer("proto", torch.zeros(config.proto_bytes, dtype=torch.uint8))

    @staticmethod
    def fit(captions: Iterable[str], config: TextConfig) -> tuple[TextConfig, bytes]:
        """Learn the pieces from captions: the config with its sizes filled in, and the serialised sentencepiece model.

        The same set of captions gives the same bytes, whatever their order.
        """
        proto = _train_pieces(sorted({normalise(caption) for caption in captions} - {""}), config.vocab_size)
        return replace(config, vocab_size=_processor(proto).get_piece_size(), proto_bytes=len(proto)), proto

    def set_proto(self, proto: bytes) -> None:
        """Put the sentencepiece model that `fit` gave into a fresh encoder."""
        if len(proto) != self.config.proto_bytes:
            raise ValueError(f"proto: expected {self.config.proto_bytes} bytes as in the config, got {len(proto)}")
        self.proto.copy_(torch.frombuffer(bytearray(proto), dtype=torch.uint8))

    def tokenize(self, prompts: Sequence[str], sampled: Sequence[np.random.Generator | None] = ()) -> Tensor:
        """int64 (B, L), padded with PADDING; case, punctuation and spacing make no difference.

        A prompt with a generator in `sampled` is cut into pieces as that draws them, unless they are more than are read.
        """
        processor = _processor(self.proto.cpu().numpy().tobytes())
        texts = [normalise(prompt) for prompt in prompts]
        pieces = processor.encode(texts)
        for i, rng in enumerate(sampled):
            if rng is not None and len(drawn := sample_pieces(processor, texts[i], rng)) <= self.config.max_pieces:
                pieces[i] = drawn
        return pad_pieces(pieces, prompts, self.config.max_pieces)

    def forward(self, pieces: Tensor) -> Tensor:
        """pieces (B, L) -> (B, P, D)."""
        mask, present = attention_mask(pieces)
        x = self.piece_table(pieces.clamp(min=0)) + self.position_table.weight[: pieces.shape[1]]  # (B, L, D)
        # The words go past the transformer too, large from the start: else all prompts begin as nearly the same vector, and which
        # words there are is learned no sooner than how they stand together.
        count = mask.sum(1)[:, None, None]
        words = (self.piece_table(pieces.clamp(min=0)) * mask.unsqueeze(-1)).sum(1, keepdim=True) * (self.width / count) ** 0.5  # (B, 1, D)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.pool(x, mask) + words, present)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """(B, P, D)."""
        return self(self.tokenize(prompts).to(self.proto.device))

    def null(self, batch: int) -> Tensor:
        """(B, P, D), the embedding of the empty prompt."""
        return self.head.null(batch)


def normalise(prompt: str) -> str:
    """One spelling for prompts that mean the same: NFKC, no case, a space for each run of punctuation, spaces and controls.

    A point between digits stays. Symbols and emoji stay too: they may mean something.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", prompt).casefold())
    folded = re.sub(r"(?<!\d)\.|\.(?!\d)", " ", folded)
    return " ".join("".join(c if c == "." or unicodedata.category(c)[0] not in "PZC" else " " for c in folded).split())


def sample_pieces(processor: Any, text: str, rng: np.random.Generator) -> list[int]:
    """Ids of a normalised text, each word cut in one of its SEGMENTATIONS likeliest ways, drawn by p ** SMOOTHING.

    Subword regularisation (Kudo 2018, arXiv:1804.10959, section 3.2); sentencepiece's own draws from a generator that cannot be handed in.
    """
    pieces: list[int] = []
    for word in text.split():
        ways = processor.nbest_encode(word, nbest_size=SEGMENTATIONS)
        logs = SMOOTHING * np.array([sum(processor.get_score(i) for i in ids) for ids in ways])
        shares = np.exp(logs - logs.max())
        pieces += ways[int(rng.choice(len(ways), p=shares / shares.sum()))]
    return pieces


def pad_pieces(pieces: Sequence[Sequence[int]], prompts: Sequence[str], max_pieces: int) -> Tensor:
    """Piece ids of each prompt -> int64 (B, L); prompts of more than max_pieces are cut, and one line says so."""
    lengths = [len(ids) for ids in pieces]
    longest = max(lengths, default=0)
    if longest > max_pieces:
        text = prompts[lengths.index(longest)]
        cut = sum(length > max_pieces for length in lengths)
        logger.warning("%d prompt(s) cut to text.max_pieces = %d pieces; the longest has %d: %.40r...", cut, max_pieces, longest, text)
    table = torch.full((len(pieces), max(1, min(longest, max_pieces))), PADDING)
    for row, ids in zip(table, pieces, strict=True):
        kept = torch.tensor(ids[:max_pieces], dtype=torch.int64)
        row[: len(kept)] = kept
    return table


def attention_mask(pieces: Tensor) -> tuple[Tensor, Tensor]:
    """Where attention may look, bool (B, L), and which rows hold a prompt, bool (B,).

    An empty row may look at its first position: attention over nothing is NaN, and would spoil the gradients of the others.
    """
    mask = pieces != PADDING
    present = mask.any(dim=1)
    mask = mask.clone()
    mask[:, 0] |= ~present
    return mask, present


def fit_text_encoder(captions: Iterable[str], config: TextConfig) -> tuple[TextConfig, bytes]:
    """Fill in the sizes that only the captions or a frozen encoder's files can tell; the bytes are for `set_proto`, empty if frozen."""
    if config.encoder == "sentencepiece":
        return SentencePieceEncoder.fit(captions, config)
    from conditioning.frozen_text import FrozenTextEncoder

    return FrozenTextEncoder.fit(config), b""


def build_text_encoder(config: TextConfig) -> Any:
    """The encoder that the config names, with untrained weights: an nn.Module that is a TextEncoder. Loads nothing."""
    if config.encoder == "sentencepiece":
        return SentencePieceEncoder(config)
    from conditioning.frozen_text import FrozenTextEncoder

    return FrozenTextEncoder(config)


def _train_pieces(captions: Sequence[str], vocab_size: int) -> bytes:
    """Serialised unigram model; every text can be written with it, if need be byte by byte."""
    import sentencepiece

    if not captions:
        logger.warning("no captions to learn from: prompts will be read byte by byte")
        captions = ["drive"]
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(captions), model_writer=writer, model_type="unigram", vocab_size=vocab_size, hard_vocab_limit=False,
            byte_fallback=True, normalization_rule_name="identity", max_sentence_length=1 << 16, unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1,
            num_threads=1, minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"text.vocab_size: no sentencepiece model of {vocab_size} pieces for {len(captions)} captions: {reason}") from error
    return writer.getvalue()


@lru_cache(maxsize=8)
def _processor(proto: bytes) -> Any:
    import sentencepiece

    if not proto:
        raise ValueError("the text encoder holds no sentencepiece model: fit one and call set_proto, or load a checkpoint")
    return sentencepiece.SentencePieceProcessor(model_proto=proto)
