"""Scores of images as scores of parts, that is physical workpieces of which several images were taken.

A part is rejected if so many of its images are, and accepted only if all of them are; between, it is for review
(:mod:`dinov3.inference.parts` says the same of an inspection).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PartScores:
    """The images of each part, in the order of ``names``, which is ascending.

    Attributes:
        names: (P,) of the parts.
        of_image: (N,) place in ``names`` of each image's part.
        image_scores: (N,) defect probabilities.
        defective: (P,) bool: one image or more shows a defect.
        highest: (P,) the highest score of a part's images: accepted below the limit.
        rejecting: (P,) the score that decides whether a part is rejected: the ``views_to_reject``-th highest; -1, which
            is below each limit, where a part has fewer images.
        sizes: (P,) images of each.
    """

    names: np.ndarray
    of_image: np.ndarray
    image_scores: np.ndarray
    defective: np.ndarray
    highest: np.ndarray
    rejecting: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, defective: np.ndarray, parts: np.ndarray, views_to_reject: int) -> PartScores:
        """From (N,) scores of images, whether each shows a defect, and the part that it shows."""
        names, place = np.unique(parts, return_inverse=True)
        order = np.lexsort((-scores, place))
        first = np.searchsorted(place[order], np.arange(len(names)))
        sizes = np.bincount(place, minlength=len(names))
        ranked = scores[order].astype(np.float64)
        wanted = np.where(
            sizes >= views_to_reject, ranked[np.minimum(first + views_to_reject - 1, len(order) - 1)], -1.0
        )
        is_bad = np.bincount(place, defective, len(names)) > 0
        return cls(names, place, scores, is_bad, ranked[first], wanted, sizes)

    @property
    def deciding(self) -> np.ndarray:
        """(P,) the score by which each may fare ill: a defective part is missed below a limit, a good one is overkill
        from it on."""
        return np.where(self.defective, self.highest, self.rejecting.clip(0))

    def verdicts(self, classification: float, review: float | None) -> np.ndarray:
        """(P,) index in ``VERDICTS``."""
        lower = classification if review is None else review
        return np.where(self.rejecting >= classification, 2, np.where(self.highest < lower, 0, 1))
