"""Flags with a YAML file behind them: the file sets defaults, flags win, an unknown key or wrong value fails."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml

from dinov3.defect_errors import DefectError


def positive_int(text: str) -> int:
    """argparse type: a whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: expected a whole number from 1")
    return value


def non_negative_int(text: str) -> int:
    """argparse type: a whole number from 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value}: expected a whole number from 0")
    return value


def non_negative_float(text: str) -> float:
    """argparse type: a number from 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value}: expected a number from 0")
    return value


def positive_float(text: str) -> float:
    """argparse type: a number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value}: expected a number above 0")
    return value


def fraction(text: str) -> float:
    """argparse type: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value}: expected a number from 0 to 1")
    return value


def below_one(text: str) -> float:
    """argparse type: a number from 0 to less than 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{value}: expected a number from 0 to less than 1")
    return value


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
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DefectError(f"{path}: no such file (--config)") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DefectError(f"{path}: --config is not readable YAML ({error})") from None
    if not isinstance(values, dict):
        raise DefectError(f"{path}: --config expects lines of 'flag: value'")
    actions = {a.dest: a for a in parser._actions if a.dest not in ("help", "config")}
    problems, defaults = [], {}
    for key, value in values.items():
        if key not in actions:
            problems.append(f"{key}: no such flag; known are {', '.join(sorted(actions))}")
            continue
        try:
            defaults[key] = _convert(actions[key], value)
        except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
            problems.append(f"{key}: {value!r} is not valid ({error})")
    if problems:
        raise DefectError("\n  ".join([f"{path}: {len(problems)} problems", *problems]))
    return defaults


def _convert(action: argparse.Action, value: object) -> object:
    """The value as the flag itself would have read it from the command line."""
    if value is None:  # a line left empty: as if it were not there
        return action.default
    if isinstance(action, argparse.BooleanOptionalAction) or action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError("expected true or false")
        return value
    if isinstance(value, bool) and action.choices:
        value = "on" if value else "off"  # YAML reads a bare on as true
    converted = action.type(str(value)) if action.type else str(value)
    if action.choices and converted not in action.choices:
        raise ValueError(f"expected one of {', '.join(map(str, action.choices))}")
    return converted
