"""Orders in which a step's tokens come: their names, and the layouts that they stand for."""

from dataclasses import replace

from data.errors import UserError
from worldgpt.layout import Layout

RASTER = "raster"
"""One token after the other."""
ROWS = "rows"
"""rows: all codes of a row in one pass; rows:k: in k passes, each of neighbouring codes. Channels come in one pass or few."""
DIAGONAL = "diagonal"
"""diagonal:w: a code of every row in one pass, each row w codes behind the one above it, so that a code knows its left neighbour and those
above, w - 1 to the right among them (diagonal decoding, Ye et al. 2025, arXiv:2503.14070). Channels come one by one."""


DRAFT = "draft"
"""Raster order, with guesses checked several at once: draft, or draft:k for at most k guesses a pass. The tokens are raster's."""
DRAFT_TOKENS, DRAFT_WORLDS = 16, 2
"""Guesses a pass where no number is given, and up to how many worlds a CPU is quicker with them (about even at
worst, with two kinds of guidance)."""


def draft_tokens(decode: str) -> int:
    """Guesses a pass that the name asks for; 0 where it is no draft. UserError where the number is none.

    >>> [draft_tokens(name) for name in ("raster", "draft", "draft:4")]
    [0, 16, 4]
    """
    name, colon, number = decode.partition(":")
    if name != DRAFT:
        return 0
    if colon and (not number.isdecimal() or not 1 <= int(number) <= 256):
        raise UserError(f"--decode: expected draft, or draft:k with k from 1 to 256, got {decode!r}")
    return int(number) if colon else DRAFT_TOKENS


def decoded(layout: Layout, decode: str) -> Layout:
    """The layout in an order; UserError where the name is unknown or does not fit the grid.

    >>> layout = Layout.build({"front": (8, 16)}, 256, (), (), prompt_tokens=4)
    >>> [len(decoded(layout, name).schedule) - 1 for name in ("raster", "rows", "rows:2", "diagonal:1", "diagonal:2")]
    [128, 8, 16, 23, 30]
    """
    if decode == RASTER:
        return replace(layout, together=1, slope=0)
    name, colon, number = decode.partition(":")
    columns, given = _columns(layout), int(number) if number.isdecimal() else 0 if colon else 1
    if name == ROWS and columns and given and columns % given == 0:
        return replace(layout, together=columns // given, slope=0)
    narrowest = min((s.columns for s in layout.of_kind("frame")), default=0)
    if name == DIAGONAL and 1 <= given <= narrowest:
        return replace(layout, together=1, slope=given)
    orders = f"rows, rows:k where k divides {columns} columns, or diagonal:w with w up to {narrowest}"
    orders = orders if columns else "for want of frames nothing else"
    raise UserError(f"--decode: expected raster, {orders}, got {decode!r}")


def order_of(layout: Layout) -> str:
    """The name of a layout's order."""
    if layout.slope:
        return f"{DIAGONAL}:{layout.slope}"
    if layout.causal:
        return RASTER
    passes = _columns(layout) // layout.together
    return ROWS if passes == 1 else f"{ROWS}:{passes}"


def check_order(layout: Layout, decode: str) -> None:
    """UserError where a checkpoint with this layout is to be decoded in an order that it was not trained for."""
    if draft_tokens(decode):
        return  # the rollout itself refuses a draft for another order than raster
    decoded(layout, decode)
    if decode != order_of(layout):
        raise UserError(
            f"--decode {decode}: the checkpoint was trained for {order_of(layout)}; "
            f"train_worldgpt.py --init-from CHECKPOINT --finetune-decode {decode} makes one that was trained for it"
        )


def _columns(layout: Layout) -> int:
    frames = layout.of_kind("frame")
    return frames[0].columns if frames else 0
