import dataclasses
import errno
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cli
import pytest

from data.errors import DiskFullError, UserError


@dataclass(frozen=True)
class Model:
    """Sizes."""

    width: int = 64
    """Width in channels."""
    rate: float = 0.5
    """Rate, a share."""


@dataclass(frozen=True)
class Train:
    """Train something."""

    model: Model = field(default_factory=Model)
    """Its sizes."""
    steps: int = 100
    """Updates."""
    output: Path = Path("runs/x")
    """Where to."""
    size: tuple[int, int] = (64, 128)
    """Height and width in pixels."""
    kind: Literal["fsq", "vq"] = "fsq"
    """Which quantizer."""
    name: str | None = None
    """What it is called."""
    names: tuple[str, ...] = ()
    """What else it is called."""
    resume: bool = False
    """Go on."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"steps: expected 1 or more, got {self.steps}")


PRESETS = {"demo": Train(), "large": Train(model=Model(512), steps=9000)}


def parse(*argv: str, **options: object) -> Train:
    return cli.parse(Train, presets=PRESETS, argv=argv, prog="train.py", **options)  # type: ignore[arg-type]


def test_defaults_then_preset_then_file_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("steps: 7\nmodel: {width: 3}\n")
    assert parse() == Train()
    assert parse("--preset", "large") == PRESETS["large"]
    assert parse("--preset=large", "--config", str(file)) == Train(model=Model(3), steps=7)
    assert parse("--preset", "large", "--config", str(file), "--model.width", "5") == Train(model=Model(5), steps=7)
    assert parse("--model.rate", "0.25", "--resume", "--kind", "vq") == Train(model=Model(rate=0.25), resume=True, kind="vq")


def test_the_default_preset_is_asked_for_when_none_is_given() -> None:
    def never() -> str:
        raise AssertionError("looked for a GPU without need")

    assert parse(default_preset=lambda: "large") == PRESETS["large"]
    assert parse(default_preset="large") == PRESETS["large"]
    assert parse("--preset", "demo", default_preset=never) == Train()
    with pytest.raises(SystemExit) as left:
        parse("--help", default_preset=never)
    assert left.value.code == 0


def test_every_type_comes_from_yaml(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("output: b/c\nsize: [32, 64]\nkind: vq\nname: x\nnames: [a, b]\nresume: true\nmodel: {rate: 1}\n")
    expected = Train(Model(rate=1.0), output=Path("b/c"), size=(32, 64), kind="vq", name="x", names=("a", "b"), resume=True)
    assert parse("--config", str(file)) == expected
    file.write_text("name: null\n")
    assert parse("--config", str(file)) == Train()


@pytest.mark.parametrize(
    "text, message",
    [
        ("stops: 3", "unknown field 'stops'; expected one of model, steps"),
        ("model: {hight: 3}", r"unknown field 'model\.hight'; expected one of width, rate"),
        ("steps: many", "field 'steps' expected int, got 'many'"),
        ("steps: 1.5", "field 'steps' expected int, got 1.5"),
        ("steps: true", "field 'steps' expected int, got True"),
        ("resume: 1", "field 'resume' expected bool, got 1"),
        ("model: 3", "field 'model' expected Model, got 3"),
        ("size: [1, 2, 3]", "field 'size' expected 2 values, got"),
        ("size: 64x128", "field 'size' expected tuple"),
        ("kind: lfq", r"field 'kind' expected Literal\['fsq', 'vq'\], got 'lfq'"),
        ("- a", "expected a mapping of settings, got list"),
        ("a: [", "expected YAML, got"),
        ("steps: 0", "steps: expected 1 or more, got 0"),
    ],
)
def test_a_bad_file_is_named_with_its_field(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        parse("--config", str(file))
    assert "\n" not in str(caught.value)
    assert text == "steps: 0" or str(file) in str(caught.value)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--stps", "3"], "Unrecognized options: --stps"),
        (["--steps", "many"], "--steps: invalid literal"),
        (["--steps"], "--steps"),
        (["--steps", "0"], "steps: expected 1 or more, got 0"),
        (["--kind", "lfq"], "'lfq' for argument '--kind'"),
        (["--preset", "huge"], "--preset: expected one of demo, large, got 'huge'"),
        (["--config", "/none.yaml"], "/none.yaml: cannot be read"),
    ],
)
def test_a_bad_flag_is_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value) and "│" not in str(caught.value)


def test_a_field_without_default_is_asked_for() -> None:
    @dataclass(frozen=True)
    class Source:
        input: Path
        """The file."""

    assert cli.parse(Source, argv=["--input", "a"]) == Source(Path("a"))
    with pytest.raises(UserError, match="--input PATH"):
        cli.parse(Source, argv=[])


def test_commands_have_settings_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    commands = {"train": Train, "model": Model}
    assert cli.parse_command(commands, about="Two things.", argv=["model", "--width", "3"]) == Model(3)
    for argv in ([], ["modle"], ["--width", "3"]):
        with pytest.raises(UserError, match="expected one of train, model first"):
            cli.parse_command(commands, about="", argv=argv)
    with pytest.raises(SystemExit):
        cli.parse_command(commands, about="Two things.", argv=["--help"])
    assert "Train something." in capsys.readouterr().out


def test_help_explains_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    said = capsys.readouterr().out
    for text in ("--preset", "--config", "--model.width", "Width in channels", "Updates", "Where to", "Which quantizer", "Go on"):
        assert text in said


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


def fail(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


@pytest.mark.parametrize(
    "error, status, message",
    [
        (UserError("clip.mp4: truncated"), 2, "error: clip.mp4: truncated\n"),
        (DiskFullError("disk full: x"), 2, "error: disk full: x\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: disk full: free some space"),
        (MemoryError(), 2, "error: out of memory: lower the batch size"),
        (OutOfMemoryError("CUDA out of memory.\nTried"), 2, "error: out of memory: lower the batch size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), 2, "error: out of memory"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "error: /x: Permission denied\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_the_user_can_mend_is_one_line(error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(fail(error))
    said = capsys.readouterr().err
    assert left.value.code == status and said.startswith(message) and said.count("\n") == 1


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        cli.main(lambda: 1 / 0)
    with pytest.raises(SystemExit) as left:
        cli.main(lambda: None)
    assert left.value.code == 0


def test_parsing_needs_no_heavy_package() -> None:
    heavy = "torch transformers pyarrow av datasets highway_env accelerate vector_quantize_pytorch matplotlib"
    code = f"import cli, sys; print(sorted(set('{heavy}'.split()) & set(sys.modules)))"
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], cwd=Path(cli.__file__).parent, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert time.perf_counter() - start < 3


# -- short names, and trainings made again ----------------------------------------------------------------------------------------


def test_a_nested_field_goes_by_its_last_name_where_that_is_enough() -> None:
    assert parse("--width", "512", "--rate=0.25").model == Model(512, 0.25)
    assert parse("--model.width", "512", "--width", "256").model.width == 256

    @dataclass(frozen=True)
    class Inner:
        """Inside."""

        steps: int = 1
        """Hidden by a field of the same name at the top."""
        width: int = 1
        """One of two widths."""
        exact: bool = False
        """A switch."""
        off: bool = True
        """A switch that is on."""

    @dataclass(frozen=True)
    class Outer:
        """Outside."""

        model: Model = field(default_factory=Model)
        """Has a width too."""
        inner: Inner = field(default_factory=Inner)
        """Inside."""
        steps: int = 2
        """At the top."""

    def outer(*argv: str) -> Outer:
        return cli.parse(Outer, argv=argv, prog="x.py")

    assert (outer("--steps", "7").steps, outer("--steps", "7").inner.steps) == (7, 1)
    assert outer("--exact").inner.exact
    assert not outer("--no-off").inner.off
    with pytest.raises(UserError, match="--width"):
        outer("--width", "3")


@dataclass(frozen=True)
class Repeatable:
    """A training that can be made again."""

    from_run: str | None = None
    """Which one."""
    output: str = "runs/x"
    """Where to."""
    resume: bool = False
    """Go on."""
    overwrite: bool = False
    """Replace."""
    model: Model = field(default_factory=Model)
    """Its sizes."""
    names: tuple[str, ...] = ()
    """Some names."""


def repeat(*argv: str) -> Repeatable:
    return cli.parse(Repeatable, presets={"demo": Repeatable(), "large": Repeatable(model=Model(9))}, default_preset="large", argv=argv)


def test_a_training_is_made_again_from_its_record(tmp_path: Path) -> None:
    run = Repeatable(output="runs/first", resume=True, model=Model(7, 0.125), names=("a", "b"))
    (tmp_path / "run.json").write_text(json.dumps({"config": dataclasses.asdict(run), "precision": "no"}))
    again = repeat("--from-run", str(tmp_path), "--output", "runs/second", "--rate", "0.5")
    assert again == Repeatable(from_run=str(tmp_path), output="runs/second", model=Model(7, 0.5), names=("a", "b"))
    assert repeat().model == Model(9)


@pytest.mark.parametrize(
    "record, expected",
    [
        (None, "run.json: no such file"),
        ("[1]", "run.json: expected the record of a training, with its settings under 'config'"),
        ('{"config": {"models": 1}}', "unknown field 'models'"),
        ('{"config": {"model": {"width": "wide"}}}', "field 'model.width' expected int, got 'wide'"),
    ],
)
def test_a_record_that_is_none_is_told(tmp_path: Path, record: str | None, expected: str) -> None:
    if record is not None:
        (tmp_path / "run.json").write_text(record)
    with pytest.raises(UserError, match=expected):
        repeat("--from-run", str(tmp_path))


def test_a_preset_and_a_training_to_repeat_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--preset and --from-run: expected at most one of the two"):
        repeat("--from-run", str(tmp_path), "--preset", "demo")
