"""An engine's answers on the images of a split, and how two engines' answers on the same images compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torchmetrics.functional.classification import binary_average_precision

from dinov3.data.defect_manifest import Manifest
from dinov3.defect_deployment.gate import inspection_pixels, read_crops, thresholds_of
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.targets import Target
from dinov3.defect_evaluation.temperature import Calibration, calibrate
from dinov3.models.defect_engines import Engine
from dinov3.models.defect_facts import ModelFacts


@dataclass(frozen=True)
class Scored:
    """Of the N images that could be read and are labelled.

    Attributes:
        class_prob: (N, K) float32 at temperature 1, of the worst tile where there are several.
        masks: of each, the marked pixels of all its crops at the network's size, packed to bits.
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


def score(engine: Engine, rows: Manifest, batch_size: int) -> Scored:
    """Run an engine over the labelled images of ``rows``, behind the resize of inspection.

    Raises:
        DefectError: none can be read.
    """
    rows = rows.subset(rows.labels >= 0)
    probabilities: list[np.ndarray | None] = [None] * len(rows)
    masks: list[list[np.ndarray]] = [[] for _ in range(len(rows))]
    limit = engine.facts.thresholds["mask"]
    for numbers, batch in _batches(rows, engine.facts, batch_size):
        output = engine.run(batch)
        for number, prob, mask in zip(numbers, output.class_prob, output.mask_prob, strict=True):
            worst = probabilities[number]
            if worst is None or prob[0] < worst[0]:
                probabilities[number] = prob
            masks[number].append(np.packbits(mask.max(0) >= limit))
    known = [i for i, prob in enumerate(probabilities) if prob is not None]
    if not known:
        raise DefectError(f"{rows.root}: none of its images can be read; give another --data_root")
    class_prob = np.stack([probabilities[i] for i in known])
    return Scored(class_prob, [np.concatenate(masks[i]) for i in known], rows.labels[known], rows.parts[known])


def training_batches(rows: Manifest, facts: ModelFacts, count: int, batch_size: int) -> Iterator[np.ndarray]:
    """(B, H, W, 3) uint8 of ``count`` training images, evenly from all; of an image by tiles, all its tiles."""
    chosen = np.zeros(len(rows), bool)
    chosen[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)] = True
    return (batch for _, batch in _batches(rows.subset(chosen), facts, batch_size))


def _batches(rows: Manifest, facts: ModelFacts, batch_size: int) -> Iterator[tuple[list[int], np.ndarray]]:
    """Numbers of images, and crops of these; images that cannot be read are said and skipped."""
    numbers: list[int] = []
    crops: list[np.ndarray] = []
    for number, found in enumerate(_read_ahead(rows, facts)):
        for crop in found:
            numbers.append(number)
            crops.append(crop)
            if len(crops) == batch_size:
                yield numbers, np.stack(crops)
                numbers, crops = [], []
    if crops:
        yield numbers, np.stack(crops)


def _read_ahead(rows: Manifest, facts: ModelFacts, ahead: int = 32) -> Iterator[list[np.ndarray]]:
    """The crops of each image, at the network's size."""
    names = rows.columns["image"].tolist()

    def read(name: str) -> list[np.ndarray]:
        try:
            return [inspection_pixels(crop, facts) for crop in read_crops(rows.root / name, facts)]
        except DefectError as error:
            print(f"skipped: {error}")
            return []

    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(names), ahead):
            yield from pool.map(read, names[start : start + ahead])


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


def evenly(items: Sequence, count: int) -> list:
    """``count`` of the items, evenly from all; all if there are no more."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]
