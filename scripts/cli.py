"""What every script shares: settings from presets, YAML and flags; and errors told in one line.

A script imports this module before any package of ours, and is a frozen dataclass of settings, with a docstring below every field, and a
function that takes it:

    if __name__ == "__main__":
        cli.main(lambda: run(cli.parse(Settings)))
"""

import contextlib
import dataclasses
import inspect
import io
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, cast

# Scripts run from any folder, with the packages beside them installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.errors import UserError
from data.folder import is_disk_full, read_json

# transformers draws a bar for every file that it reads or writes, amid ours; read when it is first imported.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# Waiting threads sleep: by default they spin, and where another program needs a core, training then takes up to ten times as long.
# A tenth of a millisecond they do spin: on an idle machine that makes a training step a tenth faster.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

Settings = TypeVar("Settings")


def main(function: Callable[[], object]) -> NoReturn:
    """Call `function` and leave with status 0; what the user can mend is one line on stderr and status 2, Ctrl-C status 130."""
    try:
        function()
    except KeyboardInterrupt:
        _leave("interrupted", 130)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except UserError as error:
        _leave(f"error: {error}", 2)
    except Exception as error:
        message = _explain(error)
        if message is None:
            raise
        _leave(f"error: {message}", 2)
    sys.exit(0)


def parse(
    settings: type[Settings],
    *,
    presets: Mapping[str, Settings] | None = None,
    default_preset: str | Callable[[], str] | None = None,
    argv: Sequence[str] | None = None,
    prog: str | None = None,
) -> Settings:
    """Settings from, in rising order of weight: defaults, `--preset NAME`, `--config FILE.yaml`, flags (`--model.width 512`).

    Presets are whole instances; without `--preset`, `default_preset` is taken (a function is called only then, and not for `--help`, so
    that it may look for a GPU), or plain defaults where that is None. Where `settings` has a field `from_run`, `--from-run FOLDER` takes
    the place of the preset: the settings of the training in that folder. A nested field may go by its last name where only one has it
    (`--width 512`). The docstring of `settings` heads the `--help`.
    UserError for an unknown flag, field or value; `--help` exits with 0.
    """
    argv = _lengthened(list(sys.argv[1:] if argv is None else argv), settings)
    presets = presets or {}
    asks_help = "-h" in argv or "--help" in argv
    name, config = _peek(argv, "preset") if presets else None, _peek(argv, "config")
    run = _peek(argv, "from-run") if "from_run" in {field.name for field in dataclasses.fields(cast(Any, settings))} else None
    if name is not None and run is not None:
        raise UserError("--preset and --from-run: expected at most one of the two")
    if name is None and run is None and default_preset is not None:
        name = default_preset if isinstance(default_preset, str) else None if asks_help else default_preset()
    if name is not None and name not in presets:
        raise UserError(f"--preset: expected one of {', '.join(presets)}, got {name!r}")
    default = presets[name] if name else next(iter(presets.values())) if asks_help and presets else _blank(settings)
    if run is not None:
        default = settings_of_run(settings, Path(run))
    if config is not None:
        default = override(default, read_yaml(Path(config)), source=config)
    return _run_tyro(settings, default, argv, presets, prog)


def parse_command(commands: Mapping[str, type], *, about: str, argv: Sequence[str] | None = None) -> Any:
    """Settings of the command named by the first argument: `script.py COMMAND [flags]`, each command a dataclass of its own."""
    argv = list(sys.argv[1:] if argv is None else argv)
    prog = Path(sys.argv[0]).name
    if argv and argv[0] in ("-h", "--help"):
        print(f"usage: {prog} {{{','.join(commands)}}} [flags]\n\n{about}\n")
        for name, command in commands.items():
            print(f"  {name:12} {(command.__doc__ or '').splitlines()[0]}")
        print(f"\n{prog} COMMAND --help explains the flags.")
        sys.exit(0)
    if not argv or argv[0] not in commands:
        raise UserError(f"expected one of {', '.join(commands)} first, got {argv[0] if argv else 'nothing'!r}; --help explains them")
    return parse(commands[argv[0]], argv=argv[1:], prog=f"{prog} {argv[0]}")


def settings_of_run(settings: type[Settings], folder: Path) -> Settings:
    """The settings that the training in `folder` was made with, and the precision that it found best; UserError where there is none."""
    path = folder / "run.json"
    run = read_json(path)
    if not isinstance(run, dict) or not isinstance(run.get("config"), dict):
        raise UserError(f"{path}: expected the record of a training, with its settings under 'config'")
    values = {**run["config"], "resume": False, "overwrite": False}
    if isinstance(values.get("loop"), dict) and "precision" in run:
        values["loop"] = {**values["loop"], "precision": "bf16" if run["precision"] == "bf16" else "fp32"}
    return override(_blank(settings), values, source=str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; UserError where it is missing or is none."""
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected YAML, got {' '.join(str(error).split())}") from error
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{path}: expected a mapping of settings, got {type(value).__name__}")
    return value or {}


def override(settings: Settings, values: Mapping[str, Any], *, source: str, prefix: str = "") -> Settings:
    """A copy of a dataclass with the fields in `values` (nested mappings for nested dataclasses) replaced.

    UserError, naming `source` and the field, for a field that does not exist or a value of another type.
    """
    hints = typing.get_type_hints(type(settings))
    fields = [field.name for field in dataclasses.fields(cast(Any, settings))]
    changes: dict[str, Any] = {}
    for key, value in values.items():
        name, path = str(key).replace("-", "_"), f"{prefix}{key}"
        if name not in fields:
            raise UserError(f"{source}: unknown field {path!r}; expected one of {', '.join(fields)}")
        current = getattr(settings, name)
        if dataclasses.is_dataclass(current) and isinstance(value, Mapping):
            changes[name] = override(current, value, source=source, prefix=f"{path}.")
            continue
        try:
            changes[name] = _convert(hints[name], value)
        except TypeError as error:
            raise UserError(f"{source}: field {path!r} expected {error}, got {value!r}") from error
    return dataclasses.replace(cast(Any, settings), **changes)


def _blank(settings: type[Settings]) -> Settings:
    """Defaults, with a mark at the fields that have none: tyro asks for these by name."""
    import tyro

    hints = typing.get_type_hints(settings)
    values = {}
    for item in dataclasses.fields(cast(Any, settings)):
        if item.default is item.default_factory is dataclasses.MISSING:
            values[item.name] = _blank(hints[item.name]) if dataclasses.is_dataclass(hints[item.name]) else tyro.MISSING
    return settings(**values)


def _convert(hint: Any, value: Any) -> Any:
    """A YAML value as the type `hint`; TypeError, saying what was expected, where it is none."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _convert(arguments[0], value)
    if origin in (typing.Union, types.UnionType):
        for choice in arguments:
            with contextlib.suppress(TypeError):
                return _convert(choice, value)
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin in (tuple, list) and isinstance(value, list):
        return _convert_items(origin, arguments, value)
    elif hint is Any or (hint is type(None) and value is None):
        return value
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise TypeError(getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint).replace("typing.", ""))


def _convert_items(origin: type, arguments: tuple[Any, ...], values: list[Any]) -> Any:
    if origin is list or arguments[-1] is Ellipsis:
        return origin(_convert(arguments[0], value) for value in values)
    if len(values) != len(arguments):
        raise TypeError(f"{len(arguments)} values")
    return tuple(_convert(hint, value) for hint, value in zip(arguments, values, strict=True))


def _lengthened(argv: list[str], settings: type) -> list[str]:
    """`--width` as `--model.width` where `width` is the last name of one nested field alone, and of no field at the top."""
    paths: dict[str, list[str]] = {}
    for path in _paths(settings):
        paths.setdefault(path.rpartition(".")[2], []).append(path)
    lengthened = []
    for argument in argv:
        flag, equals, value = argument.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        positive = name.removeprefix("no_")
        found = paths.get(name) or paths.get(positive, [])
        if flag.startswith("--") and len(found) == 1 and "." in found[0]:
            nested = found[0].rpartition(".")[0]
            flag = f"--{nested}.{name}".replace("_", "-")
        lengthened.append(f"{flag}{equals}{value}")
    return lengthened


def _paths(settings: type, prefix: str = "") -> list[str]:
    """Names of all fields as flags know them: nested ones with their path, less what is annotated with an empty name."""
    found, hints = [], typing.get_type_hints(settings, include_extras=True)
    for field in dataclasses.fields(settings):
        hint = hints[field.name]
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
        unnamed = any(getattr(mark, "name", None) == "" for mark in getattr(hint, "__metadata__", ()))
        below = prefix if unnamed else f"{prefix}{field.name}."
        found += _paths(cast(type, inner), below) if dataclasses.is_dataclass(inner) else [f"{prefix}{field.name}"]
    return found


def _peek(argv: Sequence[str], name: str) -> str | None:
    """The value of `--name VALUE` or `--name=VALUE`, the last one given."""
    found = None
    for index, argument in enumerate(argv):
        if argument == f"--{name}" and index + 1 < len(argv):
            found = argv[index + 1]
        elif argument.startswith(f"--{name}="):
            found = argument.partition("=")[2]
    return found


def _run_tyro(settings: type[Settings], default: Settings, argv: list[str], presets: Mapping[str, Settings], prog: str | None) -> Settings:
    """Let tyro read the flags; `--preset` and `--config` stand among them for the sake of `--help`, and are read already."""
    import tyro

    fields: list[Any] = []
    if presets:
        choice = Literal[tuple(presets)] | None  # type: ignore[valid-type]
        text = "Starting point for all the fields below; which one is taken by default depends on the machine."
        fields.append(("preset", Annotated[choice, tyro.conf.arg(help=text)], None))
    text = "YAML file with values for any of the fields below, nested as they are; flags override it."
    fields.append(("config", Annotated[Path | None, tyro.conf.arg(help=text)], None))
    fields.append(("settings", Annotated[settings, tyro.conf.arg(name="")], dataclasses.field(default=default)))
    everything = dataclasses.make_dataclass("Everything", fields)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return cast(Any, tyro.cli(everything, args=argv, prog=prog, description=inspect.cleandoc(settings.__doc__ or ""))).settings
    except SystemExit as exit:
        if not exit.code:
            raise
        raise UserError(_short(errors.getvalue())) from None


def _short(boxed: str) -> str:
    """The message inside tyro's box, which holds the error, a rule, then advice."""
    message: list[str] = []
    for line in boxed.splitlines()[1:]:
        text = line.strip("│ ")
        if text.startswith(("─", "╰")):
            break
        message.append(text)
    return f"{' '.join(message)}; --help explains the flags"


def _explain(error: Exception) -> str | None:
    """One line for an error of the machine rather than of the code, or None."""
    text = " ".join(str(error).split())
    if is_disk_full(error):
        return f"disk full: free some space, or give another --output ({text})"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return f"out of memory: lower the batch size, the frame size or --workers, or take a smaller --preset ({text or 'MemoryError'})"
    if isinstance(error, PermissionError):
        return f"{error.filename}: {error.strerror}"
    return None


def _leave(message: str, status: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(status)
