"""What the facts about a model may be, wherever they are stored: verdicts rest on them, so each is checked before it is
believed. Without torch."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from dinov3.defect_errors import DefectError

LARGEST_IMAGE = 16384  # pixels a side that a network may ask for; one such image takes 3 GiB
MOST_CLASSES = 254  # of masks: 0 is background and 255 ignored
# What sets a limit that no image reaches: halfway from 1 to the next value that calibration takes for above it.
UNREACHABLE = 1 + 1e-6

Check = tuple[Callable[[Any], bool], str]  # whether a value is right, and what is expected


def is_int(low: int, high: float) -> Callable[[Any], bool]:
    """Whether a value is a whole number from ``low`` to ``high``."""
    return lambda value: isinstance(value, Integral) and not isinstance(value, bool) and low <= value <= high


def is_number(low: float, high: float) -> Callable[[Any], bool]:
    """Whether a value is a number from ``low`` to ``high``; NaN is in no range."""
    return lambda value: isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high


def is_a(*kinds: type) -> Callable[[Any], bool]:
    """Whether a value is of one of these types."""
    return lambda value: isinstance(value, kinds)


def _is_names(least: int, most: float) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        named = isinstance(value, list) and all(isinstance(name, str) and name for name in value)
        return named and least <= len(value) <= most and len(set(value)) == len(value)

    return check


def _is_triple(low: float, high: float) -> Callable[[Any], bool]:
    number = is_number(low, high)
    return lambda value: isinstance(value, (list, tuple)) and len(value) == 3 and all(map(number, value))


def _is_target(value: Any) -> bool:
    if not isinstance(value, dict) or ("cost_miss" in value) != ("cost_overkill" in value):
        return False
    return all(name == "target" or is_number(0, math.inf)(item) for name, item in value.items())


def _is_promises(value: Any) -> bool:
    """Whether these are promises as :mod:`dinov3.defect_evaluation.calibration_texts` lists them."""
    share, count = is_number(0, 1), is_int(0, math.inf)
    return isinstance(value, list) and all(
        isinstance(promise, dict)
        and promise.get("rate_name") in ("miss rate", "overkill")
        and all(share(promise.get(name)) for name in ("asked", "rate"))
        and all(count(promise.get(name)) for name in ("images", "parts", "needed"))
        and all(name in promise and (promise[name] is None or share(promise[name])) for name in ("confidence", "kept"))
        for promise in value
    )


is_side = is_int(1, LARGEST_IMAGE)  # of an image that a network takes


def is_pair(value: Any) -> bool:
    """Whether a value is such a height and width."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_side, value))


TEXT: Check = (lambda value: isinstance(value, str) and bool(value), "a text")
FLAG: Check = (is_a(bool), "true or false")
TABLE: Check = (is_a(dict), "a table")
_LIMIT: Check = (is_number(0, UNREACHABLE), "a number from 0 to 1")

FACTS: dict[str, Check] = {
    "backbone": TEXT,
    "classes": (_is_names(2, math.inf), "a list of two or more different names"),
    "mask_classes": (_is_names(1, MOST_CLASSES), f"a list of 1 to {MOST_CLASSES} different names"),
    "image_size": (
        lambda value: is_side(value) or is_pair(value),
        f"a whole number of pixels from 1 to {LARGEST_IMAGE}, or two: height and width",
    ),
    "normalization": TABLE,
    "normalization.mean": (_is_triple(-1e6, 1e6), "three numbers"),
    "normalization.std": (_is_triple(1e-6, 1e6), "three numbers above 0"),
    "thresholds": TABLE,
    "thresholds.classification": _LIMIT,
    "thresholds.mask": _LIMIT,
}
OPTIONAL_FACTS: dict[str, Check] = {  # None is as good as not there
    "flips": FLAG,
    "tile_size": (is_int(0, 2**31 - 1), "a whole number of pixels, or 0 for whole images"),
    "tile_overlap": (is_number(0, 0.75), "a number from 0 to 0.75"),
    "thresholds.review": (is_number(0, UNREACHABLE), "a number from 0 to 1"),
    "thresholds.temperature": (lambda value: is_number(0, 1e9)(value) and value > 0, "a number above 0"),
    "calibration": TABLE,
    "calibration.target_values": (_is_target, "a table of rates or costs"),
    "calibration.promises": (_is_promises, "a list of promises"),
    **{f"calibration.{name}": (is_int(0, math.inf), "a whole number") for name in ("images", "defects", "parts")},
    **{f"calibration.ece_{name}": (is_number(0, 1), "a number from 0 to 1") for name in ("before", "after")},
    "white_level": (is_int(1, 65535), "a whole number from 1 to 65535"),
}


def check_table(
    content: Mapping[str, Any], required: Mapping[str, Check], optional: Mapping[str, Check], source: Path | str
) -> None:
    """Refuse fields that hold what nothing here writes; ``a.b`` is field b of the table a.

    Raises:
        DefectError: names ``source``, the field, what it holds and what is expected.
    """
    for name, check in {**required, **optional}.items():
        place, _, part = name.rpartition(".")
        table = content.get(place, {}) if place else content
        if not isinstance(table, Mapping):
            continue  # optional, and not there
        value = table.get(part)
        if name in optional and value is None:
            continue
        if part not in table:
            raise DefectError(f"{source}: incomplete, {name} missing; use another checkpoint")
        expect(check, value, name, source)


def check_thresholds(values: Mapping[str, Any], source: Path | str) -> None:
    """Refuse limits that would accept or reject whatever comes.

    Args:
        values: ``classification``, ``mask`` and, unless None, ``review`` and ``temperature``.
        source: where they are from, for the message.

    Raises:
        DefectError: one is not a number in its range, or review lies above classification.
    """
    for name in ("classification", "mask", "review", "temperature"):
        full, value = f"thresholds.{name}", values.get(name)
        if value is not None or full in FACTS:
            expect((FACTS | OPTIONAL_FACTS)[full], value, full, source)
    review = values.get("review")
    if review is not None and review > values["classification"]:
        raise DefectError(
            f"{source}: thresholds.review is {review}, above thresholds.classification, {values['classification']}; "
            "expected at most that; calibrate again, or use another checkpoint"
        )


def expect(check: Check, value: Any, name: str, source: Path | str) -> None:
    """Raises DefectError unless ``value`` passes ``check``; names ``source``, the field ``name``, and what it holds."""
    is_right, expected = check
    try:
        right = bool(is_right(value))
    except (TypeError, ValueError, RuntimeError):  # such as a tensor where a text should be
        right = False
    if not right:
        plain = isinstance(value, (str, bytes, int, float, list, tuple, set, type(None)))
        found = reprlib.repr(value) if plain else f"a {type(value).__name__}"
        raise DefectError(
            f"{source}: {name} is {found}; expected {expected}; the file is damaged or was changed, use another"
        )
