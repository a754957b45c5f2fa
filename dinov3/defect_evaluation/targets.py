"""What a verdict's limits are to reach, and the limits that reach it on scored images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dinov3.defect_cli import NonNegativeFloat, OpenFraction, flag
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.calibration_texts import target_text
from dinov3.defect_evaluation.risk_control import Promise, controlled_limit


@dataclass(frozen=True)
class Limits:
    """Defect probabilities from which on an image goes to a person (``review``; None: no such band) and is rejected.

    ``classification`` may exceed 1 by a millionth: nothing is rejected.
    """

    classification: float
    review: float | None = None
    promises: tuple[Promise, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the limits are to reach: the best F1 if nothing is given, rates that are not exceeded, or the lowest cost.

    A miss is a defect image that is accepted, overkill a normal image that is rejected; one to review is neither.

    Attributes:
        max_miss_rate, max_overkill: between 0 and 1. With one of them, it sets the one limit; with both, images below
            the first one's limit are accepted, from the second one's on rejected, and those between are for review.
        cost_miss, cost_overkill: of one image each, in any unit. The costs on the images are added up, so that their
            share of defects counts.
        confidence: of the rates (see :class:`Promise`).

    Raises:
        DefectError: two targets, or half of one.
    """

    target: Literal["best_f1"] | None = flag(
        None, "the best F1 on the validation images (default)", group="target, one of"
    )
    max_miss_rate: OpenFraction | None = flag(
        None, "largest share of defect images to be accepted, such as 0.01; a promise"
    )
    max_overkill: OpenFraction | None = flag(
        None, "largest share of normal images to be rejected; with both, a review band"
    )
    cost_miss: NonNegativeFloat | None = flag(None, "cost of a defect image accepted, with --cost_overkill")
    cost_overkill: NonNegativeFloat | None = flag(None, "cost of a normal image rejected, in the same unit")
    confidence: OpenFraction | None = flag(None, "keep the rates with this confidence, such as 0.95; else on average")

    def __post_init__(self) -> None:
        has_rate = self.max_miss_rate is not None or self.max_overkill is not None
        costs = [value for value in (self.cost_miss, self.cost_overkill) if value is not None]
        if (self.target is not None) + has_rate + bool(costs) > 1:
            raise DefectError(
                "--target best_f1, --max_miss_rate (with or without --max_overkill) and --cost_miss with "
                "--cost_overkill are different targets; choose one"
            )
        if len(costs) == 1 or (costs and sum(costs) == 0):
            raise DefectError("--cost_miss and --cost_overkill go together, and one of them must be above 0")
        if self.confidence is not None and not has_rate:
            raise DefectError("--confidence belongs to --max_miss_rate and --max_overkill; drop it or give one of them")

    def __str__(self) -> str:
        return target_text(self.record())

    def record(self) -> dict[str, Any]:
        """What was given, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def limits(
        self, scores: np.ndarray, defective: np.ndarray, groups: np.ndarray, images: np.ndarray | None = None
    ) -> Limits:
        """The limits that reach it on these images, or parts; they lie halfway between the scores that they part.

        Args:
            scores: (N,) defect probabilities.
            defective: (N,) bool, with at least one image of each kind.
            groups: (N,) the part that each image shows.
            images: (N,) how many images each of N parts has, where the rates are those of parts; None: of images.
        """
        values, cuts = possible_cuts(scores)
        promises, lower, upper = [], None, None
        if self.max_miss_rate is not None:
            kept, parts = scores[defective], groups[defective]
            first = controlled_limit(kept, parts, self.max_miss_rate, self.confidence)
            lower = cuts[np.searchsorted(values, first)]
            promises.append(self._promise("miss rate", self.max_miss_rate, parts, images, defective))
        if self.max_overkill is not None:
            kept, parts = scores[~defective], groups[~defective]
            first = -controlled_limit(-kept, parts, self.max_overkill, self.confidence)
            upper = cuts[np.searchsorted(values, first) + 1]
            promises.append(self._promise("overkill", self.max_overkill, parts, images, ~defective))
        if lower is not None and upper is not None:
            if lower < upper:
                return Limits(float(upper), float(lower), tuple(promises))
            return Limits(float((lower + upper) / 2), None, tuple(promises))  # all between keep to both
        if promises:
            return Limits(float(upper if lower is None else lower), None, tuple(promises))
        return Limits(self._best_cut(cuts, scores, defective))

    def _promise(
        self, name: str, rate: float, parts: np.ndarray, images: np.ndarray | None, kind: np.ndarray
    ) -> Promise:
        if images is not None:
            return Promise(name, rate, self.confidence, int(images[kind].sum()), len(parts), "part")
        return Promise(name, rate, self.confidence, len(parts), len(np.unique(parts)))

    def _best_cut(self, cuts: np.ndarray, scores: np.ndarray, defective: np.ndarray) -> float:
        """The cut of highest F1 or lowest cost; of equals, the one nearest to what perfect probabilities ask for."""
        misses = np.searchsorted(np.sort(scores[defective]), cuts)
        overkill = np.count_nonzero(~defective) - np.searchsorted(np.sort(scores[~defective]), cuts)
        if self.cost_miss is not None:
            value = -(self.cost_miss * misses + self.cost_overkill * overkill)
            ideal = self.cost_overkill / (self.cost_miss + self.cost_overkill)  # Elkan 2001
        else:
            found = np.count_nonzero(defective) - misses
            value, ideal = 2 * found / (2 * found + misses + overkill), 0.5
        best = cuts[np.isclose(value, value.max(), rtol=1e-9)]
        return float(best[np.abs(best - ideal).argmin()])


def possible_cuts(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct scores (M,) in ascending order, and the M + 1 limits that part them: ``cuts[i]`` lies halfway below
    ``values[i]``, and the last one above all of them."""
    values = np.unique(scores.astype(np.float64))
    edges = np.concatenate([[0.0], values, [1 + 2e-6 if values[-1] == 1 else 1.0]])
    return values, (edges[:-1] + edges[1:]) / 2
