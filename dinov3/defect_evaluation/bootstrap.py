"""Every metric of a split with its confidence interval, from the results of each image.

The intervals are those of a bootstrap over parts: photographs of one part are drawn or skipped together, as they are
no independent evidence (Davison and Hinkley 1997, section 3.8).
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dinov3.defect_evaluation.curves import Curve, area_below, binned_average_precision, pro_curve, share
from dinov3.defect_evaluation.image_results import ImageResults
from dinov3.defect_evaluation.thresholds import Thresholds

MOST_VALUES = 2**22  # of a table of resamples by images that is in memory at a time


class Estimate(NamedTuple):
    """A metric with the limits of its 95% interval; NaN where there is nothing to measure it on."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "not measurable"
        return f"{self.value:.4f}" + ("" if math.isnan(self.low) else f"  ({self.low:.3f} to {self.high:.3f})")


@dataclass(frozen=True)
class SplitMetrics:
    """What :func:`measure` finds.

    Attributes:
        estimates: by the names of ``DefectMetrics``.
        confusion: (K, K) images of a class (row) taken for a class (column).
        pr, roc: of the defect probability, over images: recall and precision, false-positive and true-positive rate.
        pixel_pr, pro: of the mask probability, over pixels: recall and precision, false-positive rate and overlap per
            region.
    """

    estimates: dict[str, Estimate]
    confusion: np.ndarray
    pr: Curve
    roc: Curve
    pixel_pr: Curve
    pro: Curve


def resample_parts(parts: np.ndarray, replicates: int, seed: int = 0) -> np.ndarray:
    """(replicates + 1, N) uint8: how often each image is drawn. Row 0 is the split itself, all 1.

    Args:
        parts: (N,) names of the physical parts.
    """
    names, number = np.unique(parts, return_inverse=True)
    rng = np.random.default_rng(seed)
    rows = [np.ones(len(parts), np.uint8)]
    for _ in range(replicates):
        drawn = rng.integers(len(names), size=len(names))
        rows.append(np.bincount(drawn, minlength=len(names)).clip(max=255).astype(np.uint8)[number])
    return np.stack(rows)


def measure(results: ImageResults, thresholds: Thresholds, parts: np.ndarray) -> SplitMetrics:
    """Metrics of a finished pass, whose ``results`` were made with the weights of :func:`resample_parts`, or with
    none: then without intervals.

    A metric that ``DefectMetrics`` has too is the same, but for ``pixel_ap`` and ``pixel_aupro``, whose finer
    histograms come nearer to the exact values (within 0.001 where pixels are many), and for precision, recall and F1
    without any defect image, which are NaN here.

    Args:
        parts: (N,) names of the physical parts.
    """
    images = results.images
    class_prob = thresholds.calibrated(images["class_prob"])
    known = images["label"] >= 0
    # As inspection compares it: a limit halfway between two neighbours in float32 is neither's there.
    score, label = (1 - class_prob[known, 0]).astype(np.float64), images["label"][known].astype(np.int64)
    predicted = np.where(score >= thresholds.classification, class_prob[known, 1:].argmax(1) + 1, 0)
    weights = np.ones((1, len(images)), np.uint8) if results.weights is None else results.weights
    step = max(MOST_VALUES // max(len(images), 1), 1)
    tables = []
    for start in range(0, len(weights), step):
        block = weights[start : start + step].astype(np.float64)
        tables.append(image_metrics(block[:, known], score, label, predicted) | _mask_metrics(block, images))
    values = {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}
    normal, defect, region = results.histograms.transpose(1, 0, 2)[:, :, ::-1]  # each (R, bins), strictest first
    values["pixel_ap"] = binned_average_precision(normal, defect)
    values["pixel_aupro"] = np.array([area_below(pro_curve(*pair)) for pair in zip(normal, region, strict=True)])
    units = _units(parts, images, label, predicted)
    classes = results.num_classes
    confusion = np.bincount(label * classes + predicted, minlength=classes**2).reshape(classes, classes)
    return SplitMetrics(
        {name: _estimate(value, units[name]) for name, value in values.items()},
        confusion,
        *_image_curves(score, label > 0),
        _pixel_pr(normal[0], defect[0]),
        pro_curve(normal[0], region[0]),
    )


def _units(parts: np.ndarray, images: np.ndarray, label: np.ndarray, predicted: np.ndarray) -> dict[str, int]:
    """How many independent parts each metric rests on: for a rate those it is the rate of; for a curve as many pairs of
    a defective and a good part as share none; for a mask those with a defect in it.

    Args:
        parts: (N,) of all images.
        images: (N,) their results.
        label, predicted: (M,) classes of those with a known label.
    """
    of_known = parts[images["label"] >= 0]
    count = {"known": len(np.unique(of_known))}
    for name, kind in (("defect", label > 0), ("good", label == 0), ("rejected", predicted > 0)):
        count[name] = len(np.unique(of_known[kind]))
    masked = len(np.unique(parts[images["tp"] + images["fn"] > 0]))
    pairs = min(count["defect"], count["good"])
    either = len(np.unique(of_known[(label > 0) | (predicted > 0)]))
    units = {"image_accuracy": count["known"], "image_recall": count["defect"], "image_precision": count["rejected"]}
    units |= {"image_f1": either, "image_ap": pairs, "image_auroc": pairs}
    return defaultdict(lambda: masked, units)


def _estimate(values: np.ndarray, units: int) -> Estimate:
    """From the values of the split and of its resamples, for a metric that rests on so many independent ``units``.

    At 0 or 1, where all or none of the units count, every resample says the same, which is no certainty; the limit is
    then the exact one of Clopper and Pearson (1934). Where resamples are all alike elsewhere, as those of one part are,
    there is no interval.
    """
    value, rest = float(values[0]), values[1:][~np.isnan(values[1:])]
    if len(rest) == 0 or math.isnan(value):
        return Estimate(value, math.nan, math.nan)
    low, high = (float(limit) for limit in np.percentile(rest, (2.5, 97.5)))
    if units and value in (0.0, 1.0):
        slack = 1 - 0.025 ** (1 / units)
        low, high = (1 - slack, 1.0) if value == 1 else (0.0, slack)
    if low == high:
        low = high = math.nan
    return Estimate(value, low, high)


def image_metrics(w: np.ndarray, score: np.ndarray, label: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Name to (R,) values for (R, N) weights of images with scores, labels and predicted classes (N,)."""
    defective, rejected = label > 0, predicted > 0
    tp, fp, fn = (w @ kind for kind in (defective & rejected, ~defective & rejected, defective & ~rejected))
    order, ends = _descending(score)
    true = np.cumsum(w[:, order] * defective[order], axis=1)[:, ends]  # (R, thresholds)
    false = np.cumsum(w[:, order] * ~defective[order], axis=1)[:, ends]
    found, precision = np.diff(true, axis=1, prepend=0), share(true, true + false, 0.0)
    defects, normals = w @ defective, w @ ~defective
    both = np.where(normals > 0, defects, 0.0)
    area = (np.diff(false, axis=1, prepend=0) * (true - found / 2)).sum(axis=1)
    return {
        "image_accuracy": share(w @ (predicted == label), w.sum(axis=1)),
        "image_precision": np.where(defects > 0, share(tp, tp + fp, 0.0), math.nan),
        "image_recall": share(tp, tp + fn),
        "image_f1": np.where(defects > 0, share(2 * tp, 2 * tp + fp + fn), math.nan),
        "image_ap": share((found * precision).sum(axis=1), both),
        "image_auroc": share(area, both * normals),
    }


def _mask_metrics(w: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
    """The same for the masks, from the counts of pixels of each image; NaN without any defect pixel."""
    tp, fp, fn, tn = (w @ images[name].astype(np.float64) for name in ("tp", "fp", "fn", "tn"))
    some = np.where(tp + fn > 0, 1.0, math.nan)
    iou = share(tp, tp + fp + fn)
    defective = images["tp"] + images["fn"] > 0
    return {
        "pixel_iou": some * iou,
        "pixel_miou": some * (iou + share(tn, tn + fp + fn, 1.0)) / 2,
        "pixel_dice": some * share(2 * tp, 2 * tp + fp + fn),
        "mean_iou_defect": share(w[:, defective] @ image_iou(images[defective]), w @ defective),
    }


def image_iou(images: np.ndarray) -> np.ndarray:
    """(N,) IoU of marked and true defect pixels of each image, NaN where neither has any."""
    tp, fp, fn = (images[name].astype(np.float64) for name in ("tp", "fp", "fn"))
    return share(tp, tp + fp + fn)


def _descending(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of falling scores, and the places in it where one ends: equal ones are passed together."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True)) if len(score) else np.zeros(0, np.int64)
    return order, ends


def _image_curves(score: np.ndarray, defective: np.ndarray) -> tuple[Curve, Curve]:
    order, ends = _descending(score)
    true, false = (np.append(0.0, np.cumsum(kind[order])[ends]) for kind in (defective, ~defective))
    recall, rate = share(true, defective.sum()), share(false, (~defective).sum())
    return Curve(recall[1:], share(true, true + false)[1:]), Curve(rate, recall)


def _pixel_pr(normal: np.ndarray, defect: np.ndarray) -> Curve:
    true, false = np.cumsum(defect), np.cumsum(normal)
    some = true + false > 0
    return Curve(share(true, true[-1])[some], share(true, true + false)[some])
