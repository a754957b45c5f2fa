"""Verdicts on the parts of a split, with their rates and a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.part_scores import PartScores
from dinov3.defect_evaluation.temperature import Rate
from dinov3.defect_evaluation.thresholds import VERDICTS, same_side

COLUMNS = "part truth verdict outcome images reject review accept defect_probability image".split()


def expect_whole_parts(flag: str, split: str, here: np.ndarray, elsewhere: np.ndarray) -> None:
    """
    Raises:
        DefectError: a part of the ``split`` is among those ``elsewhere`` too, so that it was known to the model.

    Args:
        flag: that told the parts.
        here, elsewhere: names of the parts of the images of the split, and of all others.
    """
    torn = np.intersect1d(here, elsewhere)
    if len(torn):
        raise DefectError(
            f"{flag}: {len(torn)} parts have images in the {split} split and in another one, such as {torn[0]}; a part "
            "must be in one split: organize with --group_csv or --group_regex"
        )


@dataclass(frozen=True)
class PartVerdicts:
    """Parts of a split judged by limits.

    Attributes:
        verdict: (P,) index in ``VERDICTS``.
        views: (P, 3) images of each part by their own verdict.
        views_to_reject: images that must be rejected to reject a part.
        limits: to reject from on, and to review from on or None.
        images: (N,) names of the images.
    """

    scores: PartScores
    verdict: np.ndarray
    views: np.ndarray
    views_to_reject: int
    limits: tuple[float, float | None]
    images: np.ndarray

    @classmethod
    def of(
        cls,
        scores: np.ndarray,
        defective: np.ndarray,
        parts: np.ndarray,
        images: np.ndarray,
        views_to_reject: int,
        limits: tuple[float, float | None],
    ) -> PartVerdicts:
        """As :meth:`PartScores.of`, of the images of these names, by ``limits``."""
        found = PartScores.of(scores, defective, parts, views_to_reject)
        classification, review = limits
        lower = classification if review is None else review
        single = np.where(scores >= classification, 2, np.where(scores >= lower, 1, 0))
        views = np.bincount(found.of_image * 3 + single, minlength=len(found.names) * 3).reshape(-1, 3)
        return cls(found, found.verdicts(classification, review), views, views_to_reject, limits, images)

    @property
    def miss(self) -> Rate | None:
        """Share of defective parts that are accepted; None without any."""
        return self._rate(self.scores.defective, 0)

    @property
    def overkill(self) -> Rate | None:
        """Share of good parts that are rejected; None without any."""
        return self._rate(~self.scores.defective, 2)

    @property
    def review(self) -> int:
        """Parts for review."""
        return int((self.verdict == 1).sum())

    def __str__(self) -> str:
        counts = dict(zip(VERDICTS, np.bincount(self.verdict, minlength=3).tolist(), strict=True))
        told = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
        defective = int(self.scores.defective.sum())
        views = f"rejected by {self.views_to_reject} of their images"
        return f"{len(self.verdict)} parts, {defective} defective; {views}: {told}"

    def _rate(self, kind: np.ndarray, verdict: int) -> Rate | None:
        return Rate.of(self.verdict[kind] == verdict, self.scores.names[kind]) if kind.any() else None

    def record(self) -> dict[str, Any]:
        """For JSON."""
        rates = {"miss_rate": self.miss, "overkill": self.overkill}
        return {
            "parts": len(self.verdict),
            "defective": int(self.scores.defective.sum()),
            "views_to_reject": self.views_to_reject,
            **{name: None if rate is None else rate.record() for name, rate in rates.items()},
            "review": self.review,
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row per part: missed ones first, then overkill, then the others, each by falling defect probability."""
        scores = self.scores
        wrong = np.where(scores.defective, self.verdict == 0, 2 * (self.verdict == 2))
        order = np.lexsort((-scores.highest, np.where(wrong == 0, 3, wrong)))
        strongest = np.lexsort((-scores.image_scores, scores.of_image))
        first = strongest[np.searchsorted(scores.of_image[strongest], np.arange(len(scores.names)))]
        for place in order.tolist():
            outcome = ("review" if self.verdict[place] == 1 else "right", "missed", "overkill")[int(wrong[place])]
            reject, review, accept = self.views[place, ::-1].tolist()
            yield {
                "part": scores.names[place],
                "truth": "defective" if scores.defective[place] else "good",
                "verdict": VERDICTS[self.verdict[place]],
                "outcome": outcome,
                "images": reject + review + accept,
                "reject": reject,
                "review": review,
                "accept": accept,
                "defect_probability": same_side(float(scores.highest[place]), 6, *self.limits),
                "image": self.images[first[place]],
            }
