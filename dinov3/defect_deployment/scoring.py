"""An engine's answers on the images of a split, and how two engines' answers on the same images compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torchmetrics.functional.classification import binary_average_precision

from dinov3.data.defect_manifest import Manifest
from dinov3.defect_deployment.gate import calibrated_prob, inspection_pixels, read_crops, thresholds_of
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation import scoring
from dinov3.defect_evaluation.image_results import ImageResults
from dinov3.defect_evaluation.targets import Target
from dinov3.defect_evaluation.temperature import Calibration, calibrate
from dinov3.models.defect_engines import Engine
from dinov3.models.defect_facts import ModelFacts


@dataclass(frozen=True)
class Scored:
    """Of the N images that could be read and are labelled.

    Attributes:
        class_prob: (N, K) float32 at temperature 1.
        masks: of each, the marked pixels, packed to bits.
        labels: (N,) class indices.
        parts: (N,) names of the physical parts.
    """

    class_prob: np.ndarray
    masks: list[np.ndarray]
    labels: np.ndarray
    parts: np.ndarray

    @property
    def average_precision(self) -> float:
        """Of the defect probability."""
        score, defective = torch.from_numpy(1 - self.class_prob[:, 0]), torch.from_numpy(self.labels > 0)
        return float(binary_average_precision(score, defective.long()))

    def calibrated(self, target: Target) -> Calibration:
        """The temperature, and the limits that reach ``target``."""
        return calibrate(self.class_prob, self.labels, self.parts, target)


class _Marked(ImageResults):
    """Keeps the marked pixels of each image besides."""

    def __init__(self, num_classes: int, mask_threshold: float):
        super().__init__(num_classes, mask_threshold)
        self.masks: list[np.ndarray] = []

    def add(self, class_prob: np.ndarray, mask_prob: np.ndarray, label: int, mask: np.ndarray, has_mask: bool) -> None:
        super().add(class_prob, mask_prob, label, mask, has_mask)
        self.masks.append(np.packbits(mask_prob >= self.mask_threshold))


def score(engine: Engine, rows: Manifest, batch_size: int, num_workers: int = 2) -> Scored:
    """Run an engine over the labelled images of ``rows``, behind the resize of inspection.

    Raises:
        DefectError: none can be read.
    """
    results = _Marked(len(rows.classes), engine.facts.thresholds["mask"])
    scoring.score(engine, rows, results, batch_size=batch_size, num_workers=num_workers, description="gate")
    known = results.labels >= 0
    if not known.any():
        raise DefectError(f"{rows.root}: none of its labelled images can be read; give another --data_root")
    masks = [mask for mask, use in zip(results.masks, known, strict=True) if use]
    return Scored(results.class_prob[known], masks, results.labels[known], rows.parts[known])


def training_batches(rows: Manifest, facts: ModelFacts, count: int, batch_size: int) -> Iterator[np.ndarray]:
    """(B, H, W, 3) uint8 of ``count`` training images, evenly from all; of an image by tiles, all its tiles. Files that
    cannot be read are said and skipped."""
    crops: list[np.ndarray] = []
    for name in evenly(rows.columns["image"].tolist(), count):
        try:
            found = read_crops(rows.root / name, facts)
        except DefectError as error:
            print(f"skipped: {error}")
            continue
        for crop in found:
            crops.append(inspection_pixels(crop, facts))
            if len(crops) == batch_size:
                yield np.stack(crops)
                crops = []
    if crops:
        yield np.stack(crops)


def mask_iou(a: Scored, b: Scored) -> float:
    """Intersection over union of the marked pixels of all images; 1 where neither marks any."""
    both = sum(_ones(x & y) for x, y in zip(a.masks, b.masks, strict=True))
    either = sum(_ones(x | y) for x, y in zip(a.masks, b.masks, strict=True))
    return both / either if either else 1.0


def _ones(bits: np.ndarray) -> int:
    return int(np.unpackbits(bits).sum())


def calibrated_facts(facts: ModelFacts, calibration: Calibration) -> ModelFacts:
    """A model's facts with limits that were found anew."""
    return replace(facts, thresholds=calibration.thresholds(facts.thresholds), calibration=calibration.facts())


def verdicts(calibration: Calibration, facts: ModelFacts) -> list[str]:
    """Of each image, by the limits that were found on them."""
    limits = thresholds_of(calibrated_facts(facts, calibration))
    return [limits.verdict(value) for value in calibration.scores_after]


def own_verdicts(scored: Scored, facts: ModelFacts) -> list[str]:
    """Of each image, by a model's own limits."""
    limits = thresholds_of(facts)
    return [limits.verdict(float(1 - prob[0])) for prob in calibrated_prob(scored.class_prob, facts)]


def evenly(items: Sequence, count: int) -> list:
    """``count`` of the items, evenly from all; all if there are no more."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]
