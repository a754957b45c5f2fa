"""Limits with a promise for images yet to come: conformal risk control, and its form with a stated confidence.

A limit loses the images that score below it. It is chosen on calibration images, and the promise is about new ones, as
long as they come from the same line, camera and kinds of defect: calibration and new parts must be exchangeable.

The unit is the part, not the photograph: several photographs of one part resemble each other and hold less evidence
than as many parts. A part's loss is the share of its images that the limit loses; where every part has one image, it
is 0 or 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dinov3.defect_evaluation.calibration_texts import promise_text


@dataclass(frozen=True)
class Promise:
    """What a limit promises of new images.

    Attributes:
        rate_name: ``miss rate`` (defect images that are accepted) or ``overkill`` (normal images that are rejected).
        asked: the largest rate that was asked for, between 0 and 1.
        confidence: probability over calibration sets with which this one keeps to it; None: it holds on average over
            calibration sets.
        images, parts: how many there are of the kind that the rate is about.
        unit: ``image``, or ``part`` if the rate is that of parts, each judged by all its images.
    """

    rate_name: str
    asked: float
    confidence: float | None
    images: int
    parts: int
    unit: Literal["image", "part"] = "image"

    @property
    def needed(self) -> int:
        """Parts that the rate asked for takes."""
        return parts_needed(self.asked, self.confidence)

    @property
    def is_possible(self) -> bool:
        """Whether there are enough parts for what was asked."""
        return self.parts >= self.needed

    @property
    def rate(self) -> float:
        """The rate that is promised: the one asked for or, with too few parts, the lowest possible."""
        return self.asked if self.is_possible else lowest_rate(self.parts, self.confidence)

    def __str__(self) -> str:
        return promise_text(self.record())

    @property
    def kept(self) -> float | None:
        """Share of calibration sets that keep to an average; None with a confidence, and if parts have several
        images that count one by one."""
        if self.confidence is not None or (self.unit == "image" and self.parts < self.images):
            return None
        return 1 - float(binomial_cdf(self.parts, self.rate)[allowed_losses(self.parts, self.rate, None)])

    def record(self) -> dict[str, Any]:
        """Plain values, as :mod:`~dinov3.defect_evaluation.calibration_texts` lists them."""
        return {**vars(self), "rate": self.rate, "kept": self.kept, "needed": self.needed}


def parts_needed(rate: float, confidence: float | None) -> int:
    """The fewest parts with which ``rate`` can be promised: 1/rate - 1 on average, and with a confidence the smallest
    n with (1 - rate)^n <= 1 - confidence."""
    if confidence is None:
        return math.ceil(1 / rate - 1 - 1e-9)
    return math.ceil(math.log(1 - confidence) / math.log1p(-rate) - 1e-9)


def lowest_rate(parts: int, confidence: float | None) -> float:
    """The lowest rate that ``parts`` parts can promise, by a limit that loses none of them."""
    return 1 / (parts + 1) if confidence is None else 1 - (1 - confidence) ** (1 / parts)


def allowed_losses(parts: int, rate: float, confidence: float | None) -> int:
    """How many of ``parts`` calibration parts of one image each the limit may lose; -1 if ``rate`` takes more parts.

    On average: the largest k with (k + 1) / (n + 1) <= rate (Angelopoulos et al., arXiv 2208.02814, whose B is 1).
    With a confidence: the largest k whose Clopper-Pearson upper bound is at most ``rate``, which makes the limit a
    distribution-free tolerance limit.
    """
    if confidence is None:
        return math.floor(rate * (parts + 1) + 1e-9) - 1
    return int(np.count_nonzero(binomial_cdf(parts, rate) <= 1 - confidence + 1e-12)) - 1


def binomial_cdf(trials: int, probability: float) -> np.ndarray:
    """(trials + 1,) probabilities of at most 0, 1, ... successes; ``probability`` lies between 0 and 1."""
    successes = np.arange(trials)
    odds = math.log(probability) - math.log1p(-probability)
    steps = np.log((trials - successes) / (successes + 1)) + odds
    return np.exp(trials * math.log1p(-probability) + np.append(0.0, np.cumsum(steps))).cumsum().clip(max=1.0)


def controlled_limit(scores: np.ndarray, groups: np.ndarray, rate: float, confidence: float | None) -> float:
    """The highest limit that keeps to ``rate``; with too few parts for it, the highest that loses no image.

    On average, the limit is the largest at which (sum of the parts' losses + 1) / (parts + 1) <= rate. With a
    confidence a part counts as lost as soon as one of its images is: the binomial needs losses of 0 or 1, and so the
    share of the images keeps to the rate all the more.

    Args:
        scores: (N,) of the images not to lose, N >= 1; any finite numbers.
        groups: (N,) the part that each image shows.
        rate: of images lost, between 0 and 1.
        confidence: over calibration sets, between 0 and 1; None: on average.

    Returns:
        One of ``scores``: images below it are lost, it and those that equal it are not.
    """
    _, part, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if confidence is None:
        weights = 1 / sizes[part]
        budget = rate * (len(sizes) + 1) - 1
    else:
        lowest = np.full(len(sizes), np.inf)
        np.minimum.at(lowest, part, scores)
        scores, weights = lowest, np.ones(len(sizes))
        budget = allowed_losses(len(sizes), rate, confidence)
    order = np.argsort(scores)
    lost = np.cumsum(weights[order])
    first_kept = np.searchsorted(lost, max(budget, 0) + 1e-9, side="right")
    return float(scores[order][min(first_kept, len(order) - 1)])
