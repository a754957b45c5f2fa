"""Class probabilities that mean what they say, and the limits set on them: from the scores of validation images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.calibration_texts import target_text
from dinov3.defect_evaluation.part_scores import PartScores
from dinov3.defect_evaluation.targets import Limits, Target
from dinov3.defect_evaluation.thresholds import Thresholds

ECE_BINS = 15  # as in Guo et al. 2017
SHARPEST, SOFTEST = 0.05, 20.0  # temperatures


@dataclass(frozen=True)
class Rate:
    """How many of some images something happened to, with a 95% interval of the rate behind it.

    The interval is Wilson's for as many independent images as these would be worth if all images of a part fared
    alike, the worst case: (sum of m)^2 / sum of m^2 for parts of m images. So it is wide rather than narrow.
    """

    count: int
    images: int
    low: float
    high: float

    @classmethod
    def of(cls, happened: np.ndarray, groups: np.ndarray) -> Rate:
        """From (N,) bool and the part of each image."""
        sizes = np.unique(groups, return_counts=True)[1]
        worth = len(groups) ** 2 / float((sizes.astype(np.float64) ** 2).sum())
        rate, z = float(happened.mean()), NormalDist().inv_cdf(0.975)
        center = (rate + z * z / (2 * worth)) / (1 + z * z / worth)
        half = z * math.sqrt(rate * (1 - rate) / worth + z * z / (4 * worth * worth)) / (1 + z * z / worth)
        return cls(
            int(happened.sum()), len(happened), max(0.0, round(center - half, 9)), min(1.0, round(center + half, 9))
        )

    def __str__(self) -> str:
        rate = self.count / self.images
        return f"{rate:.2%} ({self.count} of {self.images}; 95% interval {self.low:.2%} to {self.high:.2%})"

    def record(self) -> dict[str, float]:
        """For JSON."""
        return {"rate": self.count / self.images, **vars(self)}


@dataclass(frozen=True)
class Calibration:
    """What :func:`calibrate` found; rates are those of the images it was found on.

    Attributes:
        temperature, fitted_temperature: the one to use, and the likeliest one; see :func:`choose_temperature`.
        ece_before, ece_after: expected calibration error of the defect probability, without and with the temperature.
        ece_cross_validated: with each image at the temperature that other parts gave; as before if it stays 1.
        miss, overkill: defect images accepted, normal images rejected; of parts, with ``views_to_reject``.
        review: images, or parts, for review.
        scores_before, scores_after: (N,) defect probabilities without and with the temperature.
        defective: (N,) bool.
        groups: (N,) the part of each image.
        views_to_reject: images of a part that must be rejected to reject it; None: limits and rates are for images.
    """

    temperature: float
    fitted_temperature: float
    limits: Limits
    target: Target
    ece_before: float
    ece_after: float
    ece_cross_validated: float
    miss: Rate
    overkill: Rate
    review: int
    scores_before: np.ndarray
    scores_after: np.ndarray
    defective: np.ndarray
    groups: np.ndarray
    views_to_reject: int | None = None

    @property
    def target_values(self) -> dict[str, Any]:
        """The target, and whether it is about parts, as :mod:`~dinov3.defect_evaluation.calibration_texts` has it."""
        views = self.views_to_reject
        return self.target.record() | ({} if views is None else {"views_to_reject": views})

    def thresholds(self, stored: dict[str, float]) -> dict[str, float]:
        """The thresholds of a checkpoint with these in place of its own; the mask's stays."""
        values = {"classification": self.limits.classification, "mask": stored["mask"], "temperature": self.temperature}
        return values if self.limits.review is None else values | {"review": self.limits.review}

    def facts(self) -> dict[str, Any]:
        """What a checkpoint tells of its calibration: numbers, and the texts that earlier versions read."""
        return {
            "images": len(self.defective),
            "defects": int(self.defective.sum()),
            "parts": len(np.unique(self.groups)),
            "target": target_text(self.target_values),
            "target_values": self.target_values,
            "promise": "; ".join(map(str, self.limits.promises)),
            "promises": [promise.record() for promise in self.limits.promises],
            "promise_possible": all(promise.is_possible for promise in self.limits.promises),
            "fitted_temperature": self.fitted_temperature,
            "ece_before": self.ece_before,
            "ece_after": self.ece_after,
            "ece_cross_validated": self.ece_cross_validated,
            "miss_rate": self.miss.record(),
            "overkill": self.overkill.record(),
            "review": self.review,
        }


def calibrate(
    class_prob: np.ndarray, labels: np.ndarray, groups: np.ndarray, target: Target, views_to_reject: int | None = None
) -> Calibration:
    """Temperature and limits from the validation images.

    Args:
        class_prob: (N, K) class probabilities of the model; class 0 is normal.
        labels: (N,) class indices, 0 to K - 1.
        groups: (N,) the part that each image shows.
        target: what the limits are to reach.
        views_to_reject: reach it for parts, of which so many images must be rejected to reject them and all accepted to
            accept them; None: for images.

    Raises:
        DefectError: no normal or no defect image, or part.
    """
    defective = labels > 0
    if defective.all() or not defective.any():
        kind = "defect" if defective.any() else "normal"
        raise DefectError(f"{len(labels)} labeled validation images, all {kind}: calibration needs both kinds")
    fitted = fit_temperature(class_prob, labels)
    temperature, held_out = choose_temperature(class_prob, labels, groups, fitted)
    before, after = defect_scores(class_prob), defect_scores(class_prob, temperature)
    if views_to_reject is None:
        kinds, units = defective, groups
        limits = target.limits(after, defective, groups)
        rejected, lowest = after, after
    else:
        parts = PartScores.of(after, defective, groups, views_to_reject)
        kinds, units = parts.defective, parts.names
        if kinds.all():
            raise DefectError(f"{len(kinds)} parts, all defective: calibration for parts needs good ones too")
        limits = target.limits(parts.deciding, kinds, units, parts.sizes)
        rejected, lowest = parts.rejecting, parts.highest
    rejected = rejected >= limits.classification
    accepted = ~rejected & (lowest < (limits.classification if limits.review is None else limits.review))
    return Calibration(
        temperature,
        fitted,
        limits,
        target,
        calibration_error(before, defective),
        calibration_error(after, defective),
        calibration_error(held_out, defective),
        Rate.of(accepted[kinds], units[kinds]),
        Rate.of(rejected[~kinds], units[~kinds]),
        int((~accepted & ~rejected).sum()),
        before,
        after,
        defective,
        groups,
        views_to_reject,
    )


def fit_temperature(class_prob: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of the highest likelihood (Guo et al. 2017, arXiv 1706.04599), from 0.05 to 20.

    Few or perfectly separated images say little about it: their likelihood may rise for ever as the temperature falls.
    So 1 / temperature has a Gamma(2, 1) prior, which is highest at 1 and weighs about as much as one image. What is
    minimized is convex in 1 / temperature; its slope is bisected.

    Args:
        class_prob: (N, K) at temperature 1.
        labels: (N,) class indices.
    """
    logits = np.log(class_prob.astype(np.float64).clip(min=1e-12))
    logits -= logits.max(axis=1, keepdims=True)
    true = logits[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        weights = np.exp(logits * inverse)
        expected = (weights * logits).sum(axis=1) / weights.sum(axis=1)
        return float((expected - true).sum()) + 1 - 1 / inverse

    low, high = 1 / SOFTEST, 1 / SHARPEST
    for _ in range(25):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return round(1 / math.sqrt(low * high), 4)


def choose_temperature(
    class_prob: np.ndarray, labels: np.ndarray, groups: np.ndarray, fitted: float, folds: int = 5
) -> tuple[float, np.ndarray]:
    """``fitted`` or 1, whichever is likelier to serve other images, and the (N,) defect probabilities to judge it by.

    Many images of few parts can ask for a temperature that suits these parts alone. So each of ``folds`` shares of the
    parts is tried with the temperature that the others give: unless the labels become likelier than they are at 1, it
    stays 1. The defect probabilities are those of the images held out.
    """
    names, part = np.unique(groups, return_inverse=True)
    fold = np.random.default_rng(0).permutation(len(names))[part] % folds
    held_out, gain = defect_scores(class_prob), 0.0
    plain = held_out.copy()
    for number in np.unique(fold) if len(names) > 1 else ():
        out = fold == number
        temperature = fit_temperature(class_prob[~out], labels[~out])
        held_out[out] = defect_scores(class_prob[out], temperature)
        gain += log_likelihood(class_prob[out], labels[out], temperature)
        gain -= log_likelihood(class_prob[out], labels[out], 1.0)
    return (fitted, held_out) if gain > 0 else (1.0, plain)


def log_likelihood(class_prob: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Of the labels (N,), added up, under class probabilities (N, K) at a temperature."""
    logits = np.log(class_prob.astype(np.float64).clip(min=1e-12)) / temperature
    return float((logits[np.arange(len(labels)), labels] - np.logaddexp.reduce(logits, axis=1)).sum())


def defect_scores(class_prob: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """(N,) defect probabilities at a temperature, from (N, K) class probabilities; computed as predictions are."""
    prob = np.asarray(class_prob, np.float32)
    return (1 - Thresholds(0.5, 0.5, temperature=temperature).calibrated(prob)[:, 0]).clip(0, 1).astype(np.float64)


def calibration_error(scores: np.ndarray, defective: np.ndarray) -> float:
    """Expected calibration error: the distance between mean defect probability and share of defects in 15 equal bins,
    weighted by their images."""
    bins = np.ceil(scores * ECE_BINS).clip(1, ECE_BINS).astype(int)
    gaps = np.bincount(bins, scores) - np.bincount(bins, defective)
    return float(np.abs(gaps).sum() / len(scores))
