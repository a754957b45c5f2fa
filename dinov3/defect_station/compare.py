"""Two models on the same images: which verdicts differ, and whether that is more than chance.

Rates are over images; their differences have 95% intervals by a bootstrap over parts, in which both models see the same
parts each time. Whether one model misses, or rejects without need, more parts than the other is tested by McNemar's
exact test (McNemar 1947; the binomial distribution in place of its approximation): under the hypothesis that both are
alike, a part on which they differ is as likely to be right by one as by the other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from dinov3.data.defect_images import ImageReadError
from dinov3.defect_evaluation.bootstrap import Estimate, image_metrics, resample_parts
from dinov3.inference.pipeline import predict_files
from dinov3.inference.prediction import Prediction
from dinov3.inference.predictor import DefectPredictor
from dinov3.inference.reasons import Cause

RATES = ("miss_rate", "overkill", "review_share")  # the fewer, the better
SCORES = ("image_ap", "image_auroc")  # the more, the better; whatever the thresholds
KINDS = ("new miss", "new overkill", "miss found", "overkill spared", "changed")  # of flips, worst first


class Said(NamedTuple):
    """What a model says of one image."""

    verdict: str
    defect_probability: float
    predicted_class: str
    decided_by: list[Cause]
    milliseconds: float


@dataclass(frozen=True)
class Answers:
    """What one model says of all images.

    Attributes:
        said: of each image, None where it could not be inspected.
        errors: why, by the image's place.
        images_per_second: of the whole pass, reading included.
    """

    said: list[Said | None]
    errors: dict[int, str]
    images_per_second: float

    @property
    def milliseconds(self) -> float:
        """Median over the images; NaN without any."""
        times = [one.milliseconds for one in self.said if one is not None]
        return float(np.median(times)) if times else math.nan


@dataclass(frozen=True)
class McNemar:
    """Parts on which exactly one model is wrong, and how likely so uneven numbers are if both are alike."""

    new_alone: int
    old_alone: int

    @property
    def p(self) -> float:
        """Two-sided, exact."""
        n, least = self.new_alone + self.old_alone, min(self.new_alone, self.old_alone)
        return min(1.0, 2 * sum(math.comb(n, k) for k in range(least + 1)) / 2**n)


@dataclass(frozen=True)
class Flip:
    """An image whose verdict differs."""

    place: int
    kind: str
    old: Said
    new: Said


@dataclass(frozen=True)
class Comparison:
    """The outcome.

    Attributes:
        flips: worst kinds first.
        inspected: images that both models could inspect.
        metrics: by name of ``RATES`` and ``SCORES`` the old value, the new one, and new less old; empty if no image has
            a label.
        tests: ``miss`` and ``overkill``; likewise.
        defective, good: parts with a label that the tests are over.
    """

    flips: list[Flip]
    inspected: int
    metrics: dict[str, tuple[float, float, Estimate]]
    tests: dict[str, McNemar]
    defective: int
    good: int

    @property
    def new_misses(self) -> list[Flip]:
        """Images with a defect that the new model accepts and the old one did not."""
        return [flip for flip in self.flips if flip.kind == "new miss"]


def answers_of(
    predictor: DefectPredictor, paths: Sequence[Path], *, batch_size: int, num_workers: int, description: str
) -> Answers:
    """Inspect the files with one model, by its own thresholds."""
    said: list[Said | None] = []
    errors: dict[int, str] = {}

    def keep(path: Path, result: Prediction | ImageReadError, _: np.ndarray | None) -> Said | str:
        if isinstance(result, ImageReadError):
            return str(result)
        facts = result.verdict, result.defect_probability, result.predicted_class, result.decided_by
        return Said(*facts, result.milliseconds)

    begun = time.perf_counter()
    results = predict_files(predictor, paths, keep, batch_size=batch_size, num_workers=num_workers)
    for place, one in enumerate(tqdm(results, total=len(paths), desc=description, unit="image", leave=False)):
        if isinstance(one, str):
            errors[place] = one
        said.append(None if isinstance(one, str) else one)
    return Answers(said, errors, len(paths) / max(time.perf_counter() - begun, 1e-9))


def compare(
    old: Answers, new: Answers, labels: np.ndarray, parts: np.ndarray, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Compare the answers of two models to the same images.

    Args:
        labels: (N,) class indices, 0 is normal; -1: not known.
        parts: (N,) names of the physical parts.
        resamples: of the bootstrap; 0: no intervals.
    """
    both = np.array([a is not None and b is not None for a, b in zip(old.said, new.said, strict=True)], bool)
    flips = [
        Flip(place, _kind(old.said[place], new.said[place], int(labels[place])), old.said[place], new.said[place])
        for place in np.flatnonzero(both).tolist()
        if old.said[place].verdict != new.said[place].verdict
    ]
    flips.sort(key=lambda flip: (KINDS.index(flip.kind), -abs(flip.new[1] - flip.old[1])))
    known = np.flatnonzero(both & (labels >= 0))
    if not len(known):
        return Comparison(flips, int(both.sum()), {}, {}, 0, 0)
    defective, of_part = labels[known] > 0, parts[known]
    verdicts = [np.array([answers.said[n].verdict for n in known.tolist()]) for answers in (old, new)]
    scores = [np.array([answers.said[n].defect_probability for n in known.tolist()]) for answers in (old, new)]
    weights = resample_parts(of_part, resamples, seed).astype(np.float64)
    values = [_values(weights, *pair, defective) for pair in zip(verdicts, scores, strict=True)]
    metrics = {
        name: (float(values[0][name][0]), float(values[1][name][0]), _difference(values[1][name] - values[0][name]))
        for name in (*RATES, *SCORES)
    }
    missed = [_by_part(of_part[defective], verdict[defective] == "accept", all) for verdict in verdicts]
    rejected = [_by_part(of_part[~defective], verdict[~defective] == "reject", any) for verdict in verdicts]
    tests = {"miss": _mcnemar(*missed), "overkill": _mcnemar(*rejected)}
    return Comparison(flips, int(both.sum()), metrics, tests, len(missed[0]), len(rejected[0]))


def _kind(old: Said, new: Said, label: int) -> str:
    if label > 0 and "accept" in (old.verdict, new.verdict):
        return "new miss" if new.verdict == "accept" else "miss found"
    if label == 0 and "reject" in (old.verdict, new.verdict):
        return "new overkill" if new.verdict == "reject" else "overkill spared"
    return "changed"


def _values(
    weights: np.ndarray, verdicts: np.ndarray, scores: np.ndarray, defective: np.ndarray
) -> dict[str, np.ndarray]:
    """(R,) of each metric, NaN where there is nothing to measure it on."""
    label = defective.astype(np.int64)
    of_scores = image_metrics(weights, scores, label, (verdicts == "reject").astype(np.int64))

    def rate(kind: np.ndarray, of: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ (kind & of)) / (weights @ of)

    return {
        "miss_rate": rate(verdicts == "accept", defective),
        "overkill": rate(verdicts == "reject", ~defective),
        "review_share": rate(verdicts == "review", np.ones(len(verdicts), bool)),
    } | {name: of_scores[name] for name in SCORES}


def _difference(values: np.ndarray) -> Estimate:
    """New less old, with the interval of its resamples; without one where these are all alike."""
    value, rest = float(values[0]), values[1:][~np.isnan(values[1:])]
    if math.isnan(value) or not len(rest):
        return Estimate(value, math.nan, math.nan)
    low, high = (float(limit) for limit in np.percentile(rest, (2.5, 97.5)))
    return Estimate(value, math.nan, math.nan) if low == high else Estimate(value, low, high)


def _by_part(parts: np.ndarray, wrong: np.ndarray, how: Any) -> dict[str, bool]:
    """Whether a model is wrong on each part: ``all`` or ``any`` of its images."""
    return {str(part): bool(how(wrong[parts == part])) for part in np.unique(parts)}


def _mcnemar(old: dict[str, bool], new: dict[str, bool]) -> McNemar:
    return McNemar(sum(new[part] > old[part] for part in old), sum(new[part] < old[part] for part in old))
