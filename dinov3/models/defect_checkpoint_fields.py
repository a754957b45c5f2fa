"""What the fields of a checkpoint may hold: verdicts rest on them, so each is checked before it is believed."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3.defect_errors import DefectError

LARGEST_IMAGE = 16384  # pixels a side that a network may ask for; one such image takes 3 GiB
MOST_CLASSES = 254  # of masks: 0 is background and 255 ignored
# What sets a limit that no image reaches: halfway from 1 to the next value that calibration takes for above it.
UNREACHABLE = 1 + 1e-6

Check = tuple[Callable[[Any], bool], str]  # whether a value is right, and what is expected


def _is_int(low: int, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Integral) and not isinstance(value, bool) and low <= value <= high


def _is_number(low: float, high: float) -> Callable[[Any], bool]:
    """NaN is in no range."""
    return lambda value: isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high


def _is_names(least: int, most: float) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        named = isinstance(value, list) and all(isinstance(name, str) and name for name in value)
        return named and least <= len(value) <= most and len(set(value)) == len(value)

    return check


def _is_triple(low: float, high: float) -> Callable[[Any], bool]:
    number = _is_number(low, high)
    return lambda value: isinstance(value, (list, tuple)) and len(value) == 3 and all(map(number, value))


def _is_state(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    return all(isinstance(key, str) and isinstance(item, Tensor) and _is_plain(item) for key, item in value.items())


def _is_plain(value: Tensor) -> bool:
    """Numbers in memory: not sparse, quantized, or a shape without values."""
    return value.layout == torch.strided and not value.is_quantized and value.device.type == "cpu"


def _is_scores(value: Any) -> bool:
    tables = value.values() if isinstance(value, dict) else [None]
    return all(isinstance(table, dict) and all(isinstance(item, Real) for item in table.values()) for table in tables)


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


_TEXT: Check = (lambda value: isinstance(value, str) and bool(value), "a text")
_FLAG: Check = (_is(bool), "true or false")
_TABLE: Check = (_is(dict), "a table")
_LIMIT: Check = (_is_number(0, UNREACHABLE), "a number from 0 to 1")

_FIELDS: dict[str, Check] = {
    "model": (_is_state, "a table of weights, each a tensor"),
    "config": _TABLE,
    "config.dropout": (_is_number(0, 1), "a number from 0 to 1"),
    "config.decoder": (lambda value: value in ("multiscale", "light"), "multiscale or light"),
    "config.guidance": (lambda value: value in ("mask", "none"), "mask or none"),
    "backbone": _TEXT,
    "classes": (_is_names(2, math.inf), "a list of two or more different names"),
    "mask_classes": (_is_names(1, MOST_CLASSES), f"a list of 1 to {MOST_CLASSES} different names"),
    "image_size": (_is_int(1, LARGEST_IMAGE), f"a whole number of pixels from 1 to {LARGEST_IMAGE}"),
    "normalization": _TABLE,
    "normalization.mean": (_is_triple(-1e6, 1e6), "three numbers"),
    "normalization.std": (_is_triple(1e-6, 1e6), "three numbers above 0"),
    "thresholds": _TABLE,
    "thresholds.classification": _LIMIT,
    "thresholds.mask": _LIMIT,
}
_OPTIONAL: dict[str, Check] = {  # None is as good as not there
    "config.mask_evidence": _FLAG,
    "config.score_fusion": _FLAG,
    "official": _FLAG,
    "flips": _FLAG,
    "tile_size": (_is_int(0, 2**31 - 1), "a whole number of pixels, or 0 for whole images"),
    "tile_overlap": (_is_number(0, 0.75), "a number from 0 to 0.75"),
    "thresholds.review": (_is_number(0, UNREACHABLE), "a number from 0 to 1"),
    "thresholds.temperature": (lambda value: _is_number(0, 1e9)(value) and value > 0, "a number above 0"),
    "novelty": _TABLE,
    "calibration": _TABLE,
    **{f"calibration.{name}": (_is_int(0, math.inf), "a whole number") for name in ("images", "defects", "parts")},
    **{f"calibration.ece_{name}": (_is_number(0, 1), "a number from 0 to 1") for name in ("before", "after")},
    "white_level": (_is_int(1, 65535), "a whole number from 1 to 65535"),
    "epoch": (_is_int(0, math.inf), "a whole number"),
    "manifest": _TEXT,
    "progress": (_is(list), "a list"),
    "best": (_is_scores, "a table of files, each with its numbers"),
    **{name: _TABLE for name in "metrics optimizer criterion scaler guard early_stopping training_state".split()},
}


def check_fields(content: Mapping[str, Any], source: Path | str) -> None:
    """Refuse the content of a checkpoint that holds what no training writes.

    Raises:
        DefectError: names ``source``, the field, what it holds and what is expected.
    """
    for name, check in (_FIELDS | _OPTIONAL).items():
        place, _, part = name.rpartition(".")
        table = content.get(place, {}) if place else content
        if not isinstance(table, Mapping):
            continue  # optional, and not there
        value = table.get(part)
        if name in _OPTIONAL and value is None:
            continue
        if part not in table:
            raise DefectError(f"{source}: incomplete, {name} missing; use another checkpoint")
        _expect(check, value, name, source)
    check_thresholds(content["thresholds"], source)
    if content.get("novelty") is not None:
        _check_novelty(content["novelty"], source)


@contextmanager
def restoring(source: Path | str) -> Iterator[None]:
    """For taking over the state of a run that ``source`` holds: what was changed in it shows only then, in as many ways
    as there are parts.

    Raises:
        DefectError: the state is damaged; the weights may still be good.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        told = " ".join(str(error).split())[:200]
        raise DefectError(
            f"{source}: its training state is damaged ({type(error).__name__}: {told}), so the run cannot go on; start "
            "another one in a new --save_dir, with --init_from best_iou.pth if its weights are to be used"
        ) from None


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
        if value is not None or full in _FIELDS:
            _expect((_FIELDS | _OPTIONAL)[full], value, full, source)
    review = values.get("review")
    if review is not None and review > values["classification"]:
        raise DefectError(
            f"{source}: thresholds.review is {review}, above thresholds.classification, {values['classification']}; "
            "expected at most that; calibrate again, or use another checkpoint"
        )


def _check_novelty(state: Mapping[str, Any], source: Path | str) -> None:
    """A square table of as many channels as the mean has, all finite, and a deviation above 0."""
    expected = "mean (C,), whitening (C, C) and usual (2,), finite, with a deviation above 0"
    shapes = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}
    channels = shapes.get("mean", (0,))[:1]
    right = shapes == {"mean": channels, "whitening": channels * 2, "usual": (2,)} and _is_state(state)
    if not right or not_finite(state) or state["usual"][1] <= 0:
        raise DefectError(f"{source}: novelty is damaged; expected {expected}; use another checkpoint")


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold NaN or infinity.

    A sum tells nearly all of them in a tenth of the time that looking at each value takes; it overflows only where
    values are large enough to ask for that look.
    """
    floats = {name: value for name, value in state.items() if value.is_floating_point()}
    with torch.no_grad():
        doubtful = [name for name, value in floats.items() if not torch.isfinite(value.sum())]
        return [name for name in doubtful if not torch.isfinite(floats[name]).all()]


def _expect(check: Check, value: Any, name: str, source: Path | str) -> None:
    is_right, expected = check
    try:
        right = bool(is_right(value))
    except (TypeError, ValueError, RuntimeError):  # such as a tensor where a text should be
        right = False
    if not right:
        found = reprlib.repr(value) if not isinstance(value, (Mapping, Tensor)) else f"a {type(value).__name__}"
        raise DefectError(
            f"{source}: {name} is {found}; expected {expected}; the file is damaged or was changed, use another"
        )
