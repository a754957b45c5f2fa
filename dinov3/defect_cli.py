"""One frozen dataclass per script says what can be set: parser, YAML file and checkpoint record all come from it.

A field is written once, with its type, default and help::

    @dataclass(frozen=True, kw_only=True)
    class TrainConfig:
        config: Path | None = flag(None, "YAML file with defaults for these flags")
        data_root: Path = flag(help="dataset folder")
        epochs: PositiveInt = flag(30, "passes over the training set", group="optimization")
        decoder: Literal["multiscale", "light"] = flag("multiscale", "mask at stride 4, or one value per patch")
        freeze_batch_norm: bool | None = flag(None, "...", aliases=("rest_norms",))

    config = parse(TrainConfig, make_parser(TrainConfig, __doc__), argv)
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from dinov3.defect_errors import DefectError
from dinov3.defect_text import decode_text, read_small
from dinov3.defect_yaml import LARGEST, load_yaml

Config = TypeVar("Config")
PrecisionName = Literal["auto", "bf16", "fp16", "tf32", "off"]


def _within(name: str, kind: type, accepts: Callable[[Any], bool], expected: str) -> Callable[[str], Any]:
    """An argparse type: a number of ``kind`` that it ``accepts``."""

    def convert(text: str) -> Any:
        value = kind(text)
        if not accepts(value):
            raise argparse.ArgumentTypeError(f"{value}: expected {expected}")
        return value

    convert.__name__ = name  # argparse names it when the text is no number at all
    return convert


positive_int = _within("positive_int", int, lambda v: v >= 1, "a whole number from 1")
non_negative_int = _within("non_negative_int", int, lambda v: v >= 0, "a whole number from 0")
non_negative_float = _within("non_negative_float", float, lambda v: 0 <= v < math.inf, "a number from 0")
positive_float = _within("positive_float", float, lambda v: 0 < v < math.inf, "a number above 0")
fraction = _within("fraction", float, lambda v: 0 <= v <= 1, "a number from 0 to 1")
open_fraction = _within("open_fraction", float, lambda v: 0 < v < 1, "a number between 0 and 1, such as 0.01")
below_one = _within("below_one", float, lambda v: 0 <= v < 1, "a number from 0 to less than 1")

PositiveInt = Annotated[int, positive_int]
NonNegativeInt = Annotated[int, non_negative_int]
PositiveFloat = Annotated[float, positive_float]
NonNegativeFloat = Annotated[float, non_negative_float]
Fraction = Annotated[float, fraction]
OpenFraction = Annotated[float, open_fraction]
BelowOne = Annotated[float, below_one]


def flag(
    default: Any = dataclasses.MISSING,
    help: str = "",  # noqa: A002  argparse's own word
    *,
    group: str = "",
    aliases: Sequence[str] = (),
    const: Any = None,
    metavar: str | None = None,
    either: str = "",
    positional: bool = False,
) -> Any:
    """A field of a configuration dataclass that is a flag ``--name`` and a key of the YAML file.

    The type decides how a value is read: ``int``, ``float``, ``str``, ``Path``, one of the ranges above such as
    ``PositiveInt`` (``Annotated`` with a function that reads the text, or with an argparse action whose ``value_of``
    takes what was read), a ``Literal`` of strings (choices), ``bool`` (a switch), a ``tuple[T, ...]`` (one value or
    more), each perhaps ``| None``.

    A switch can be negated (``--no-name``) if its default is not False or the dataclass reads a YAML file (has a field
    ``config``), which may have set it.

    Args:
        default: without one, the flag is required.
        help: one line for ``--help``.
        group: heading in ``--help`` for this flag and those after it, up to the next one with a group.
        aliases: former names, still accepted on the command line and in YAML files, and not shown.
        const: value of the flag without a value, such as a bare ``--mixed_precision``.
        metavar: how ``--help`` shows the value.
        either: exactly one of the flags that share this name must be given.
        positional: an argument without ``--``.
    """
    facts = {"help": help, "group": group, "aliases": tuple(aliases), "const": const}
    facts |= {"metavar": metavar, "either": either, "positional": positional}
    return dataclasses.field(default=default, metadata=facts)


def device_flag() -> Any:
    """``device: str``, for ``resolve_device``."""
    return flag("auto", "auto, cpu, cuda, cuda:N or mps")


def precision_flag() -> Any:
    """``mixed_precision: PrecisionName``, for ``resolve_precision`` and ``open_engine``."""
    text = "auto: bf16 or fp16 on CUDA, off elsewhere; tf32: float32 in CUDA's fast rounding; off: exact float32"
    return flag("auto", text, const="auto", aliases=("precision",))


def engine_flag() -> Any:
    """``engine: EngineName | None``, for ``open_engine``."""
    return flag(None, "what runs the model (default: torch for .pth, onnx, which is onnxruntime, for .onnx)")


def threads_flag() -> Any:
    """``threads: PositiveInt | None``, for ``open_engine``."""
    return flag(None, "CPU threads of the network (default: as the engine likes)")


def make_parser(config_type: type, description: str | None, *, epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser with a flag for each field of ``config_type``."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, epilog=epilog, formatter_class=form)
    add_flags(parser, config_type)
    return parser


def add_flags(parser: argparse.ArgumentParser, config_type: type) -> None:
    """Add a flag for each field of ``config_type``: for a parser of one command among several."""
    hints = typing.get_type_hints(config_type, include_extras=True)
    has_yaml = "config" in hints
    place: Any = parser
    alternatives: dict[str, Any] = {}
    for field in dataclasses.fields(config_type):
        facts = field.metadata
        if facts["group"]:
            place = parser.add_argument_group(facts["group"])
        if facts["either"] and facts["either"] not in alternatives:
            alternatives[facts["either"]] = place.add_mutually_exclusive_group(required=True)
        target = alternatives.get(facts["either"], place)
        options = _options(hints[field.name], field, has_yaml)
        if facts["positional"]:
            target.add_argument(field.name, help=facts["help"], **options)
            continue
        required = {"required": True} if field.default is dataclasses.MISSING else {"default": field.default}
        target.add_argument(f"--{field.name}", help=facts["help"], **options, **required)
        for alias in facts["aliases"]:
            hidden = {"dest": field.name, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
            target.add_argument(f"--{alias}", **options, **hidden)


def _options(hint: Any, field: dataclasses.Field, has_yaml: bool) -> dict[str, Any]:
    """argparse's keywords for a field of this type."""
    hint, facts = _without_none(hint), field.metadata
    if hint is bool:
        negatable = has_yaml or field.default is not False
        return {"action": argparse.BooleanOptionalAction if negatable else "store_true"}
    if typing.get_origin(hint) is Annotated and isinstance(hint.__metadata__[0], type):
        return {"action": hint.__metadata__[0]}
    options: dict[str, Any] = {}
    if typing.get_origin(hint) is tuple:
        hint, options["nargs"] = typing.get_args(hint)[0], "+"
    if facts["const"] is not None:
        options |= {"nargs": "?", "const": facts["const"]}
    if facts["metavar"]:
        options["metavar"] = facts["metavar"]
    if typing.get_origin(hint) is Literal:
        options["choices"] = typing.get_args(hint)
    elif typing.get_origin(hint) is Annotated:
        options["type"] = hint.__metadata__[0]
    elif hint is not str:
        options["type"] = hint
    return options


def _without_none(hint: Any) -> Any:
    """``T`` of ``T | None``."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (one for one in typing.get_args(hint) if one is not type(None))
    return hint


def parse(config_type: type[Config], parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> Config:
    """Read flags, with the YAML file behind them that ``--config`` names: the file sets defaults, flags win.

    Raises:
        DefectError: the file cannot be read, or has unknown keys or wrong values; all of them are named.
    """
    return from_namespace(config_type, parse_with_config(parser, argv))


def from_namespace(config_type: type[Config], args: argparse.Namespace) -> Config:
    """The fields of ``config_type`` among what a parser read."""
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(config_type)}
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return config_type(**values | lists)


def to_record(config: Any) -> dict[str, Any]:
    """A configuration as plain values, for YAML and checkpoints; paths become texts."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(one) for one in value]
        return str(value) if isinstance(value, Path) else value

    return {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def with_today_names(config_type: type, record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of :func:`to_record` by any version: former names replaced, fields newer than it at their defaults."""
    renamed = {alias: f.name for f in dataclasses.fields(config_type) for alias in f.metadata["aliases"]}
    defaults = {f.name: f.default for f in dataclasses.fields(config_type) if f.default is not dataclasses.MISSING}
    return defaults | {renamed.get(name, name): value for name, value in record.items()}


def parse_with_config(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse flags whose defaults come from the YAML file that ``--config`` names, if it does.

    Raises:
        DefectError: the file cannot be read, or has unknown keys or wrong values; all of them are named.
    """
    pre = argparse.ArgumentParser(add_help=False)
    pre.add_argument("--config", type=Path)
    path = pre.parse_known_args(argv)[0].config
    if path is not None:
        parser.set_defaults(**_read_config(path, parser))
        for action in parser._actions:
            action.required = action.required and parser.get_default(action.dest) is None
    return parser.parse_args(argv)


def _read_config(path: Path, parser: argparse.ArgumentParser) -> dict[str, object]:
    try:
        values, problems = load_yaml(decode_text(read_small(path, LARGEST)))
    except FileNotFoundError:
        raise DefectError(f"{path}: no such file (--config)") from None
    except OSError as error:
        raise DefectError(f"{path}: --config cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DefectError(f"{path}: --config is not readable YAML ({error})") from None
    if not isinstance(values, dict):
        raise DefectError(f"{path}: --config expects lines of 'flag: value'")
    actions = {a.dest: a for a in parser._actions if a.dest not in ("help", "config") and a.help != argparse.SUPPRESS}
    known = sorted(actions)
    former = [a for a in parser._actions if a.help == argparse.SUPPRESS and a.dest in actions]
    actions |= {name[2:]: a for a in former for name in a.option_strings if not name.startswith("--no-")}
    defaults: dict[str, object] = {}
    for key, value in values.items():
        if key not in actions:
            problems.append(f"{key}: no such flag; known are {', '.join(known)}")
            continue
        if value is None:  # a line left empty: as if it were not there
            continue
        try:
            defaults[actions[key].dest] = _convert(actions[key], value)
        except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
            problems.append(f"{key}: {value!r} is not valid ({error})")
    if problems:
        raise DefectError("\n  ".join([f"{path}: {len(problems)} problems", *problems]))
    return defaults


def _convert(action: argparse.Action, value: object) -> object:
    """The value as the flag itself would have read it from the command line."""
    if action.nargs == "+":
        values = [_convert_one(action, one) for one in (value if isinstance(value, list) else [value])]
        return action.value_of(values) if hasattr(action, "value_of") else values
    if isinstance(action, argparse.BooleanOptionalAction) or action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError("expected true or false")
        return value
    return _convert_one(action, value)


def _convert_one(action: argparse.Action, value: object) -> object:
    if isinstance(value, bool) and action.choices:
        value = "on" if value else "off"  # YAML reads a bare on as true
    converted = action.type(str(value)) if action.type else str(value)
    if action.choices and converted not in action.choices:
        raise ValueError(f"expected one of {', '.join(map(str, action.choices))}")
    return converted
