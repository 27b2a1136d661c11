"""Starting from another checkpoint: what matches by name and shape is loaded, the rest starts fresh."""

from dataclasses import replace

import torch

from conditioning.text_config import TextConfig
from worldgpt.model import WorldGPT

FITTED = ("vocab_size", "proto_bytes", "frozen_width")
"""Fields of the text encoder that fitting fills in."""


def text_of(source: WorldGPT, asked: TextConfig) -> tuple[TextConfig, bytes] | None:
    """The source's text encoder, fitted as it is there, if it is of the kind and size that is asked for; else None."""
    theirs = TextConfig(**source.config.text)
    if theirs != replace(asked, **{name: getattr(theirs, name) for name in FITTED}):
        return None
    proto = source.text.proto.cpu().numpy().tobytes() if theirs.proto_bytes else b""
    return theirs, proto


@torch.no_grad()
def load_matching(model: WorldGPT, source: WorldGPT) -> str:
    """Copy what fits from `source` into `model`; returns one line that says how much was loaded and what starts fresh.

    Weights are keyed by the names of cameras and channels. A channel with other bins or another range and pieces of another text model
    mean something else, so they start fresh even where their shapes match.
    """
    weights, skipped = source.state_dict(), _changed_meaning(model, source)
    fresh, taken, total = [], 0, 0
    for name, tensor in model.state_dict().items():
        total += tensor.numel()
        if name in weights and weights[name].shape == tensor.shape and not name.startswith(skipped):
            tensor.copy_(weights[name])
            taken += tensor.numel()
        elif name != "text.proto":
            fresh.append(name)
    line = f"{taken / total:.0%} of the weights loaded; fresh: {', '.join(fresh) or 'nothing'}"
    if source.config.tokenizer_hash != model.config.tokenizer_hash:
        line += "; the tokenizer is another one, so the codes may mean something else"
    return line


def _changed_meaning(model: WorldGPT, source: WorldGPT) -> tuple[str, ...]:
    """Beginnings of the names of weights whose ids mean something else in the source."""
    theirs = {*source.telemetry.specs, *source.actions.specs}
    changed = [spec.name for spec in (*model.telemetry.specs, *model.actions.specs) if spec not in theirs]
    prefixes = [f"embedding.{table}.{name}." for name in changed for table in ("tables", "token_in", "hint_in", "motion_in")]
    ours, others = (m.text.state_dict().get("proto") for m in (model, source))
    if ours is not None and (others is None or not torch.equal(ours.cpu(), others.cpu())):
        prefixes += ["text.piece_table", "text.proto"]
    return tuple(prefixes)
