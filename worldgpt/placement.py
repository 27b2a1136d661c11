"""Where a loaded world model stands and in which numbers: `device`, `device_map` and `dtype` as transformers and diffusers take them."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from data.errors import UserError
from tokenizer.training_log import bf16_is_fast

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ANYWHERE = ("auto", "balanced", "balanced_low_0", "sequential")
"""Maps that leave the place to the library; a model that is never split goes to the first GPU, or to the CPU where there is none."""


def placed(device: str | torch.device | None, device_map: str | int | torch.device | Mapping[str, Any] | None) -> torch.device:
    """The one device that is meant; without either, a GPU where there is one. UserError where a map would split the model.

    >>> placed(None, {"": "cpu"}), placed("cpu", None)
    (device(type='cpu'), device(type='cpu'))
    """
    if device is not None and device_map is not None:
        raise UserError(f"device, device_map: expected one of them, got {device} and {device_map}")
    wanted = device if device is not None else device_map
    if isinstance(wanted, Mapping):
        places = set(map(str, wanted.values()))
        if len(places) != 1:
            raise UserError(f"device_map: a world model stays on one device, expected one, got {', '.join(sorted(places)) or 'none'}")
        wanted = next(iter(wanted.values()))
    if wanted is None or wanted in _ANYWHERE:
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(wanted)
    except RuntimeError as error:
        raise UserError(f"device: expected cpu, cuda, cuda:1, ..., got {wanted!r}") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device: expected one of {torch.cuda.device_count()} GPUs, got {found}")
    return found


def numbers(dtype: torch.dtype | str | None, device: torch.device, saved: torch.dtype) -> torch.dtype:
    """The dtype that is meant: by name or itself, "auto" as it was `saved`; None: bf16 on a GPU, float32 elsewhere.

    >>> numbers("float64", torch.device("cpu"), torch.float32), numbers(None, torch.device("cpu"), torch.bfloat16)
    (torch.float64, torch.float32)
    """
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype == "auto":
        return saved
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise UserError(f"dtype: expected one of {', '.join(DTYPES)} or auto, got {dtype}")
    return found


ONE_THREAD_WORLDS = 8
"""Up to so many worlds, a token is too little work to share among threads."""


def settle_threads(device: torch.device, worlds: int) -> None:
    """On a CPU, let a program that draws so many worlds at once take one thread where more would only wait for one another."""
    if device.type == "cpu" and worlds <= ONE_THREAD_WORLDS:
        torch.set_num_threads(1)


@cache
def draws_in_bf16(device: str) -> bool:
    """Whether pictures are decoded in bf16 on this type of device: off by a fifth of one of 255 levels in the mean, in half of the time
    where bf16 is fast."""
    return bf16_is_fast(torch.device(device))
