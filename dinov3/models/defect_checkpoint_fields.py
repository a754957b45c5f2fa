"""What the fields of a checkpoint may hold, beside the facts about its model (``defect_field_checks``)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3.defect_errors import DefectError
from dinov3.models.defect_field_checks import (
    FACTS,
    FLAG,
    OPTIONAL_FACTS,
    TABLE,
    TEXT,
    Check,
    check_table,
    check_thresholds,
    is_a,
    is_int,
    is_number,
)


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


_FIELDS: dict[str, Check] = {
    "model": (_is_state, "a table of weights, each a tensor"),
    "config": TABLE,
    "config.dropout": (is_number(0, 1), "a number from 0 to 1"),
    "config.decoder": (lambda value: value in ("full", "multiscale", "light"), "full, multiscale or light"),
    "config.guidance": (lambda value: value in ("mask", "none"), "mask or none"),
}
_OPTIONAL: dict[str, Check] = {  # None is as good as not there
    "config.mask_evidence": FLAG,
    "config.score_fusion": FLAG,
    "official": FLAG,
    "novelty": TABLE,
    "epoch": (is_int(0, math.inf), "a whole number"),
    "manifest": TEXT,
    "progress": (is_a(list), "a list"),
    "best": (_is_scores, "a table of files, each with its numbers"),
    **{name: TABLE for name in "metrics optimizer criterion scaler guard early_stopping training_state".split()},
}


def check_fields(content: Mapping[str, Any], source: Path | str) -> None:
    """Refuse the content of a checkpoint that holds what no training writes.

    Raises:
        DefectError: names ``source``, the field, what it holds and what is expected.
    """
    check_table(content, _FIELDS | FACTS, _OPTIONAL | OPTIONAL_FACTS, source)
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
