"""The metrics of one run of ``accuracy.py``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from accuracy_runs import Run
from torchmetrics.functional.classification import binary_average_precision

OVERKILL = 0.05
# A metric takes how often each image (N,) counts: once, or as often as its part is drawn.


def image_ap(run: Run, weight: np.ndarray) -> float:
    """Average precision of the verdict's defect probability."""
    return _ap(run, run["images"]["score"], weight)


def mask_ap(run: Run, weight: np.ndarray) -> float:
    """Average precision of a score that needs no class head: the mask's strongest pixel."""
    return _ap(run, run["images"]["peak"], weight)


def _ap(run: Run, score: np.ndarray, weight: np.ndarray) -> float:
    drawn = np.repeat(np.arange(len(score)), weight.astype(int))
    labels = torch.from_numpy(is_bad(run)[drawn]).long()
    if labels.all():
        return np.nan  # nothing to tell apart
    return float(binary_average_precision(torch.from_numpy(score[drawn]), labels, validate_args=False))


def accuracy(run: Run, weight: np.ndarray) -> float:
    """At the threshold with the best accuracy on validation."""
    if is_bad(run).all():
        return np.nan
    right = (run["images"]["score"] >= run["threshold"]) == is_bad(run)
    return float(np.average(right, weights=weight))


def misses(run: Run, weight: np.ndarray) -> float:
    """Share of the defect images that pass where 5% of the good ones are rejected."""
    score, bad = run["images"]["score"], is_bad(run)
    if not weight[~bad].any() or not weight[bad].any():
        return np.nan
    order = np.argsort(-score[~bad])
    rejected = np.cumsum(weight[~bad][order]) / weight[~bad].sum()
    within = rejected <= OVERKILL
    cut = score[~bad][order][within.sum()] if not within.all() else -np.inf  # the first good image that has to pass
    return float(np.average(score[bad] <= cut, weights=weight[bad]))


def best_threshold(run: Run) -> float:
    """The score from which on an image is rejected, so that most verdicts are right: between two scores."""
    score, bad = run["images"]["score"], is_bad(run)
    cuts = np.append(np.unique(score), np.inf)
    best = int(((score >= cuts[:, None]) == bad).sum(1).argmax())
    return float(cuts[best] + cuts[best - 1]) / 2 if 0 < best < len(cuts) - 1 else float(cuts[best])


def pixel_iou(run: Run, weight: np.ndarray) -> float:
    """IoU of the defect pixels of all images."""
    tp, fp, fn = (float((run["images"][name] * weight).sum()) for name in ("tp", "fp", "fn"))
    return tp / (tp + fp + fn) if tp + fp + fn else np.nan


def pixel_miou(run: Run, weight: np.ndarray) -> float:
    """Mean of the defect pixels' IoU and the background's."""
    tn, fp, fn = (float((run["images"][name] * weight).sum()) for name in ("tn", "fp", "fn"))
    return (pixel_iou(run, weight) + tn / (tn + fp + fn)) / 2


def mean_iou_defect(run: Run, weight: np.ndarray) -> float:
    """IoU of each defect image, averaged."""
    images = run["images"]
    defective = images["tp"] + images["fn"] > 0
    iou = images["tp"] / np.maximum(images["tp"] + images["fp"] + images["fn"], 1)
    return float(np.average(iou[defective], weights=weight[defective])) if weight[defective].any() else np.nan


METRICS: dict[str, Callable[[Run, np.ndarray], float]] = {
    "image AP": image_ap,
    "mask's AP": mask_ap,
    "accuracy": accuracy,
    "misses at 5% overkill": misses,
    "pixel IoU": pixel_iou,
    "pixel mIoU": pixel_miou,
    "IoU per defect image": mean_iou_defect,
}


def is_bad(run: Run) -> np.ndarray:
    """(N,) bool: the images that show a defect."""
    return run["images"]["label"] > 0
