"""Checkpoints of our models, from a folder or the Hub: looked at first, and only then loaded by transformers.

A checkpoint may come from anybody. So nothing in it is believed before it is checked against the bytes that are there: names and sizes of
files, fields and numbers of config.json, and names and shapes of all weights against the model that config.json describes, which is built
without memory for that. Only JSON and safetensors are read; code that a checkpoint brings never runs.
"""

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from data.errors import UserError
from data.hub import REPO
from data.hub_files import Access, cached_files
from tokenizer.weight_files import CONFIG, CONFIG_BYTES, Declared, declared_tensors, is_ours, read_limited, refuse_foreign

_OURS = "runs"
"""First part of the paths that our scripts write to by default: a missing runs/worldgpt is no repository of a user called runs."""
_KEPT_BY_TRANSFORMERS = {"architectures", "dtype", "torch_dtype", "model_type", "transformers_version"}
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_REFUSED = (
    "variant",
    "gguf_file",
    "quantization_config",
    "state_dict",
    "key_mapping",
    "trust_remote_code",
    "use_kernels",
    "allow_all_kernels",
)
"""Options of transformers by which something else would be loaded than what was looked at."""
LARGEST = 1 << 16
"""Largest number in a config.json, if the model's `limits` name no other for its field."""
_LONGEST = 4096
"""Most characters of a text, and entries of a list or mapping, in a config.json."""
_ANY_ACCESS = Access()
Model = TypeVar("Model", bound="SafePretrained")


class SafePretrained(PreTrainedModel):
    """A transformers model whose `from_pretrained` looks before it loads; a subclass says what it is."""

    kind: ClassVar[str] = "a model"
    """As in "expected a tokenizer"."""
    trained_by: ClassVar[str] = ""
    """Script that makes one."""
    limits: ClassVar[Mapping[str, int]] = {}
    """Largest numbers by field of config.json, where it is not LARGEST."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **options: Any) -> Any:
        """As in transformers (`subfolder`, `revision`, `local_files_only`, `token`, `cache_dir`, `dtype`, `device_map`, ...).

        UserError where the Hub refuses, or what is found is not a whole, honest checkpoint of this class.
        """
        for name in _REFUSED:
            if options.pop(name, None):
                raise UserError(f"{name}: is not supported; {cls.kind} is loaded from {CONFIG} and safetensors as they are")
        if options.pop("use_safetensors", True) is False or options.pop("weights_only", True) is False:
            raise UserError("use_safetensors, weights_only: expected True; nothing else than safetensors is ever read")
        subfolder = options.pop("subfolder", None) or ""
        access = Access(
            options.pop("revision", None),
            bool(options.pop("local_files_only", False)),
            options.pop("token", None),
            options.pop("cache_dir", None),
        )
        for name in ("force_download", "proxies", "_commit_hash", "adapter_kwargs"):
            options.pop(name, None)
        root = checkpoint_folder(pretrained_model_name_or_path, cls.kind, (subfolder,), access)
        folder = inside(root, subfolder)
        found = cls.read_config(folder)
        config = options.pop("config", None) or found
        cls.check_weights(folder, config)
        return super().from_pretrained(folder, *model_args, config=config, use_safetensors=True, local_files_only=True, **options)

    @classmethod
    def read_config(cls, folder: Path) -> PretrainedConfig:
        """The config in a folder; UserError where it is missing, another model's, or holds fields or numbers that it should not."""
        path = folder / CONFIG
        if not path.is_file():
            raise UserError(f"{folder}: expected {cls.kind}, found no {CONFIG}; train one with {cls.trained_by}")
        refuse_foreign([entry.name for entry in folder.iterdir()], str(folder))
        values = read_limited(path, CONFIG_BYTES)
        config_class = cast(Any, cls.config_class)
        if values.get("model_type") != config_class.model_type:
            raise UserError(f"{folder}: expected {cls.kind}, {CONFIG} is one of {values.get('model_type') or 'something else'!r:.80}")
        known = set(inspect.signature(config_class.__init__).parameters) - {"self", "kwargs"}
        unknown = sorted(set(values) - known - _KEPT_BY_TRANSFORMERS)
        if unknown:
            raise UserError(f"{path}: unknown field {unknown[0]!r:.80}; expected {', '.join(sorted(known))}")
        if values.get("dtype", "float32") not in _FLOATS:
            raise UserError(f"{path}: dtype expected one of {', '.join(_FLOATS)}, got {values['dtype']!r:.80}")
        check_numbers(values, cls.limits, path)
        with _described(path):
            return config_class(**{name: value for name, value in values.items() if name in known or name == "dtype"})

    @classmethod
    def check_weights(cls, folder: Path, config: PretrainedConfig) -> None:
        """UserError where names, shapes or types of the weights are not those of the model that `config` describes."""
        declared = declared_tensors(folder)
        cls.check_buffers(folder, config, declared)
        with _described(folder / CONFIG), torch.random.fork_rng(devices=[]), torch.device("meta"):
            expected: dict[str, Tensor] = cls(cast(Any, copy.deepcopy(config))).state_dict()
        wrong = sorted(set(expected) ^ set(declared))
        if wrong:
            told = "is missing" if wrong[0] in expected else "is not known"
            raise UserError(f"{folder}: the weights do not fit {CONFIG}, first at {wrong[0]!r:.80}, which {told}")
        for name, tensor in expected.items():
            there = declared[name]
            if there.shape != tuple(tensor.shape) or _is_float(there) != tensor.is_floating_point():
                told = f"expected {tuple(tensor.shape)}, got {there.dtype} {there.shape!s:.80}"
                raise UserError(f"{folder}: the weights do not fit {CONFIG}, first at {name!r}: {told}")

    @classmethod
    def check_buffers(cls, folder: Path, config: Any, declared: Mapping[str, Declared]) -> None:
        """UserError where building the model, even without memory for its weights, would take more than `declared` holds."""


def load_checkpoint(model: type[Model], name: str | Path, **options: Any) -> Model:
    """`from_pretrained`, in evaluation mode, with everything that can go wrong told in one line."""
    try:
        loaded = model.from_pretrained(name, **options)
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers and safetensors raise many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{name}: could not be read as {model.kind}: {reason}") from error
    return loaded.eval()


def checkpoint_folder(name: str | Path, kind: str, subfolders: Sequence[str], access: Access = _ANY_ACCESS) -> Path:
    """The folder `name`, or, where it is user/name, one of the Hub's cache with the checkpoints in `subfolders` ("": the root).

    The first subfolder must be there, the others may. UserError where there is neither, or the repository holds what may not be loaded.
    """
    text = str(name)
    if Path(name).is_dir() or not is_repository(text):
        if access.revision not in (None, "main") and Path(name).is_dir():
            raise UserError(f"revision: {name} is a folder, which has none; got {access.revision!r}")
        return Path(name)
    wanted = {f"{sub}/" if sub else "" for sub in subfolders}

    def choose(sizes: Mapping[str, int]) -> list[str]:
        chosen = []
        for file, size in sizes.items():
            place, _, base = file.rpartition("/")
            if f"{place}/" in wanted or (not place and "" in wanted):
                refuse_foreign([base], text)
                chosen += [file] if is_ours(base) else []
                if base == CONFIG and size > CONFIG_BYTES:
                    raise UserError(f"{text}: {file} expected at most {CONFIG_BYTES:,} bytes, got {size:,}")
        first = f"{subfolders[0]}/{CONFIG}".lstrip("/")
        if first not in sizes:
            raise UserError(f"{text}: expected {kind}, the repository holds no {first}")
        return chosen

    return cached_files(text, f"{subfolders[0]}/{CONFIG}".lstrip("/"), choose, access)


def is_repository(name: str) -> bool:
    """Whether a name that is no folder is one of the Hub: user/name, unless a folder called user stands here."""
    first = name.partition("/")[0]
    return REPO.fullmatch(name) is not None and first != _OURS and not Path(first).is_dir()


def inside(root: Path, subfolder: str) -> Path:
    """A folder in a checkpoint; UserError where it leads out."""
    folder = root / subfolder
    if not folder.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{folder}: leads out of the checkpoint {root}; expected a folder inside")
    return folder


def check_numbers(value: Any, limits: Mapping[str, int], path: Path, name: str = "", limit: int = LARGEST) -> None:
    """UserError where a JSON value holds a number beyond its field's limit, or texts and lists without end."""
    if isinstance(value, dict):
        for key, item in value.items():
            check_numbers(item, limits, path, f"{name}.{key}".lstrip("."), limits.get(key, LARGEST))
    elif isinstance(value, list):
        for item in value:
            check_numbers(item, limits, path, name, limit)
    elif isinstance(value, (int, float)) and not -limit <= value <= limit:  # NaN too
        raise UserError(f"{path}: {name:.80} expected at most {limit:,}, got {value!s:.40}")
    if isinstance(value, (dict, list, str)) and len(value) > _LONGEST:
        raise UserError(f"{path}: {name:.80} expected at most {_LONGEST:,} entries or letters, got {len(value):,}")


@contextmanager
def _described(path: Path) -> Iterator[None]:
    """Whatever building from a config raises is the config's fault."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: describes no model that can be built ({type(error).__name__}: {reason})") from error


def _is_float(declared: Declared) -> bool:
    return declared.dtype in ("F16", "BF16", "F32", "F64")
