"""Settings of the text encoder and of what training does to captions; free of torch, so that `--help` stays quick."""

from dataclasses import dataclass

from data.errors import UserError


@dataclass(frozen=True)
class TextConfig:
    """Which encoder reads the prompts, and its size.

    Sizes that only fitting can tell stand here too, so that a model can be built before its checkpoint fills it.
    """

    encoder: str = "sentencepiece"
    """`sentencepiece` (trained with the world model), or frozen: `hf:<Hub id or folder>` (as in hf:google/t5-v1_1-small), `minilm`."""
    vocab_size: int = 512
    """Most sentencepiece pieces, 256 of them for single bytes; after fitting, the number there is. Unused by frozen encoders."""
    width: int = 128
    """Width of an embedding that comes out (D_text), and of the trained encoder inside."""
    layers: int = 2
    """Transformer layers of the trained encoder. Unused by frozen encoders."""
    heads: int = 4
    """Attention heads; must divide width."""
    max_pieces: int = 64
    """Pieces of a prompt that are read; a longer prompt is cut, and a line says so."""
    prompt_tokens: int = 4
    """Embeddings that a prompt becomes (P): the positions that it takes in every step of the world model."""
    proto_bytes: int = 0
    """Bytes of the serialised sentencepiece model; set by fitting."""
    frozen_width: int = 0
    """Width of a frozen encoder's hidden states; set by fitting."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "layers", "heads", "max_pieces", "prompt_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"text.{name}: expected at least 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise UserError(f"text.heads: expected a divisor of text.width = {self.width}, got {self.heads}")
        if self.encoder not in ("sentencepiece", "minilm") and not self.encoder.startswith("hf:"):
            raise UserError(f"text.encoder: expected 'sentencepiece', 'minilm' or 'hf:<id>', got {self.encoder!r}")


@dataclass(frozen=True)
class WordingConfig:
    """How training words its captions anew, so that prompts may be worded freely; each is drawn by itself, for every caption of a batch."""

    typos: float = 0.1
    """Share of the captions in which some words get a typo: a letter left out, doubled, exchanged, or swapped with the next."""
    order: float = 0.2
    """Share of the captions whose clauses, apart by commas, stand in another order."""
    pieces: float = 0.1
    """Share of the captions that are cut into other sentencepiece pieces than the likeliest (Kudo 2018). Unused by frozen encoders."""

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            if not 0 <= share <= 1:
                raise UserError(f"wording.{name}: expected a share from 0 to 1, got {share}")
