"""What is said of one image in the end."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from dinov3.inference.reasons import Cause, reason_text
from dinov3.inference.regions import Region
from dinov3.inference.verdict import NovelPlace


@dataclass(frozen=True)
class Prediction:
    """What the model, and the rules if there are any, say of one image."""

    verdict: str  # accept, review or reject
    predicted_class: str  # normal if accepted, else the likeliest defect class
    probabilities: dict[str, float]  # per class, calibrated, adding up to 1
    defect_probability: float  # 1 minus the probability of normal
    threshold: float  # from which on the classifier rejects
    mask: np.ndarray  # (H, W) uint8 at original size: 0, or the mask class
    attention: np.ndarray  # (h, w) float32: the classifier's pooling weights, which add up to 1
    regions: list[Region]  # largest first
    milliseconds: float  # network and post-processing, its share of the batch
    decided_by: list[Cause] = field(default_factory=list)  # what decided, with its numbers: dinov3.inference.reasons
    disagrees: bool = False  # whether the mask contradicts the classifier
    review_threshold: float | None = None  # from which on a person is to look; None: no such band
    novel: NovelPlace | None = None  # of a model calibrated with --novelty
    embedding: np.ndarray | None = None  # (D,) float32: the network's own description of the image

    @property
    def reason(self) -> str:
        """What decided, such as ``defect probability 0.93 >= 0.41``."""
        return reason_text(self.decided_by)

    @property
    def mask_area_fraction(self) -> float:
        """Share of the image's pixels that are marked as defect, 0 to 1."""
        return cv2.countNonZero(self.mask) / self.mask.size
