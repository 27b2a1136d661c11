"""All blocks of a model in one call of compiled code: a pass of few positions is then no longer a thousand small operations.

On a CPU a pass over one position spends most of its time between operations. `fused.cpp` makes the same sums in one call, float32 or with
weights rounded to int8. It is compiled once on each machine, by the C++ compiler that is there, and kept in the user's cache; where
there is none, torch's own operations do the work and a line says so.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data.errors import UserNotice
from worldgpt.product import Weights, rounded

if TYPE_CHECKING:
    from worldgpt.kv_cache import RingCache

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-Wno-psabi")
"""Where vectors are wider than the processor's, compilers warn of how functions pass them: they stay among our own."""
MATRICES = ("qkv", "mix", "gate_up", "down")
"""A block's, in the order of their use: query, key and value below one another; out; gate and up; down."""
FOURS = 4
"""int8 inputs that are multiplied together."""


def _fields(pointers: Sequence[str], numbers: Sequence[str]) -> list[tuple[str, type]]:
    return [*((name, ctypes.c_void_p) for name in pointers), *((name, ctypes.c_int64) for name in numbers)]


class _Matrix(ctypes.Structure):
    _fields_ = _fields(("weights", "rounded", "scales", "sums"), ("out", "in"))


class _Block(ctypes.Structure):
    _fields_ = [(name, _Matrix) for name in MATRICES]


class _Cache(ctypes.Structure):
    _fields_ = _fields(("raw_keys", "keys", "values"), ("a_block", "room", "filled"))


class FusedBlocks:
    """The blocks of a model, each given by its MATRICES (out, in)."""

    def __init__(self, library: ctypes.CDLL, blocks: Sequence[Sequence[Tensor]], heads: int, sharpness: float, weights: Weights) -> None:
        self._run, self._kept, self.heads, self.sharpness = library.worldgpt_blocks, [], heads, ctypes.c_float(sharpness)
        panel = library.worldgpt_panel()
        self._blocks = (_Block * len(blocks))()
        for block, matrices in zip(self._blocks, blocks, strict=True):
            for name, matrix in zip(MATRICES, matrices, strict=True):
                setattr(block, name, self._laid_out(matrix, panel, weights))

    def _laid_out(self, matrix: Tensor, panel: int, weights: Weights) -> _Matrix:
        out, inputs = matrix.shape
        more = -out % panel
        padded = torch.nn.functional.pad(matrix, (0, 0, 0, more)).unflatten(0, (-1, panel))  # (panels, PANEL, in)
        if weights == "float":
            laid = self._keep(padded.transpose(1, 2))
            return _Matrix(laid.data_ptr(), None, None, None, out, inputs)
        whole, scales = rounded(padded)
        laid = self._keep(whole.unflatten(2, (-1, FOURS)).transpose(1, 2))
        sums = self._keep(whole.int().sum(2, dtype=torch.int32))
        return _Matrix(None, laid.data_ptr(), self._keep(scales).data_ptr(), sums.data_ptr(), out, inputs)

    def _keep(self, tensor: Tensor) -> Tensor:
        self._kept.append(tensor.contiguous())
        return self._kept[-1]

    def __call__(self, x: Tensor, by: Tensor, sees: Tensor, cache: "RingCache") -> Tensor:
        """Hidden states (B, n, D) -> (B, n, D), the last norm included; by (1, 1, n, d / 2) complex64; sees (n,): how many of the
        cache's first positions, the new ones among them, each new one sees. The cache gets their keys and values."""
        worlds, new, _ = x.shape
        found, turns, seen = x.clone(memory_format=torch.contiguous_format), by.contiguous(), sees.contiguous()
        if not (cache.raw_keys.is_contiguous() and cache.keys.is_contiguous() and cache.values.mT.is_contiguous()):
            raise ValueError("expected a cache as it was made for a CPU")
        room = cache.keys.shape[3]
        assert found.dtype == torch.float32 and turns.dtype == torch.complex64 and by.shape[:2] == (1, 1) and cache.filled + new <= room
        stores = (store.data_ptr() for store in (cache.raw_keys, cache.keys, cache.values))
        place = _Cache(*stores, cache.keys.stride(0), room, cache.filled)
        pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (found, turns, seen))
        sizes = map(ctypes.c_int64, (worlds, new, self.heads))
        self._run(self._blocks, ctypes.c_int64(len(self._blocks)), ctypes.byref(place), *pointers, *sizes, self.sharpness)
        return found


def turn_keys(raw: Tensor, keys: Tensor, by: Tensor, filled: int) -> bool:
    """Turn the first `filled` of `raw` (L, B, H, N, d) into `keys`, by (B or 1, 1, filled, d / 2) complex64; False, and nothing done, where
    that is no work for compiled code: on a GPU, on several threads, in other numbers."""
    plain = raw.dtype == torch.float32 and raw.is_contiguous() and keys.is_contiguous() and by.dtype == torch.complex64
    if raw.device.type != "cpu" or not plain or torch.get_num_threads() > 1 or (compiled := library()) is None:
        return False
    turns = by.contiguous()
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (raw, turns, keys))
    compiled.worldgpt_turn(*pointers, *map(ctypes.c_int64, (*raw.shape, filled, len(by))))
    return True


@cache
def library() -> ctypes.CDLL | None:
    """The compiled code; None, and a line that says so, where it cannot be had."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return _without("no C++ compiler was found (c++, or the one that CXX names)")
    try:
        return ctypes.CDLL(str(_built(compiler)))
    except subprocess.CalledProcessError as error:
        return _without(f"{compiler} could not compile {SOURCE.name}: {(error.stderr.strip() or str(error)).splitlines()[0]}")
    except OSError as error:
        return _without(f"{SOURCE.name} could not be built: {error}")


def _built(compiler: str) -> Path:
    """The library of this source, compiler and processor, compiled if it is not there yet."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    told = "\n".join([SOURCE.read_text(encoding="utf-8"), *FLAGS, version, platform.machine(), _processor()])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "worldgpt"
    path = folder / f"fused-{hashlib.sha256(told.encode()).hexdigest()[:16]}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / path.name
            subprocess.run([compiler, *FLAGS, "-o", str(made), str(SOURCE)], capture_output=True, text=True, check=True)
            made.replace(path)
    return path


def _processor() -> str:
    """What the processor can do: a library made for one may not run on another that shares the folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _without(reason: str) -> None:
    warnings.warn(f"{reason}: a CPU draws tokens by torch's own operations, which takes about twice as long", UserNotice, stacklevel=2)
