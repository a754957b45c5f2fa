"""From class probabilities to a verdict: the temperature and the limits that calibration found on validation images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dinov3.defect_errors import NotFiniteError
from dinov3.models.defect_field_checks import check_thresholds

VERDICTS = ("accept", "review", "reject")


def expect_finite(class_prob: np.ndarray, mask_prob: np.ndarray) -> None:
    """No limit tells NaN from a good image; it shows in the maximum of the probabilities.

    Raises:
        NotFiniteError: there is one.
    """
    if not (math.isfinite(class_prob.max()) and math.isfinite(mask_prob.max())):
        raise NotFiniteError("the network's answer is not finite; try --mixed_precision off, or another checkpoint")


def limit_text(limit: float) -> str:
    """Such as ``0.4362``; a limit close to 0 or 1 is not rounded to it, as 1 rejects what 1.000001 does not."""
    digits = next((n for n in range(4, 17) if limit in (0, 1) or float(f"{limit:.{n}g}") not in (0, 1)), 17)
    return f"{limit:.{digits}g}"


def same_side(value: float, digits: int, *limits: float | None) -> float:
    """``value`` rounded to ``digits`` places, or to as many more as it takes to stay below the limits that it is below,
    and at or above the others."""
    known = [limit for limit in limits if limit is not None]
    for places in range(digits, 18):
        rounded = round(value, places)
        if all((rounded >= limit) == (value >= limit) for limit in known):
            return rounded
    return value


@dataclass(frozen=True)
class Thresholds:
    """What decides an image and its mask.

    Attributes:
        classification: defect probability, 0 to 1, from which on an image is rejected.
        mask: mask probability, 0 to 1, from which on a pixel is defect.
        review: defect probability from which on an image goes to a person, at most ``classification``; None: no such
            band.
        temperature: what the class logits are divided by before the softmax (Guo et al. 2017, arXiv 1706.04599).

    Raises:
        DefectError: one is not finite or out of its range, or ``review`` lies above ``classification``.
    """

    classification: float
    mask: float
    review: float | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_thresholds(asdict(self), "limits of the verdict")

    @classmethod
    def of(
        cls, checkpoint: dict[str, Any], classification: float | None = None, mask: float | None = None
    ) -> Thresholds:
        """Those of a checkpoint, or what the user asks for instead; a limit of the user's own ends the review band."""
        stored = checkpoint["thresholds"]
        return cls(
            stored["classification"] if classification is None else classification,
            stored["mask"] if mask is None else mask,
            stored.get("review") if classification is None else None,
            stored.get("temperature", 1.0),
        )

    def calibrated(self, class_prob: np.ndarray) -> np.ndarray:
        """(..., K) class probabilities at this temperature, from those at temperature 1; in their own precision."""
        if self.temperature == 1.0:
            return class_prob
        logits = np.log(np.maximum(class_prob, 1e-12)) / self.temperature
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return odds / odds.sum(axis=-1, keepdims=True)

    def verdict(self, defect_probability: float) -> str:
        """``accept``, ``review`` or ``reject``; NaN, which is below no limit, is rejected."""
        if not defect_probability < self.classification:
            return "reject"
        return "review" if self.review is not None and defect_probability >= self.review else "accept"
