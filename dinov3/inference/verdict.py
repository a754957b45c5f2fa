"""One verdict from the classifier, the mask and the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dinov3.defect_evaluation.thresholds import VERDICTS, Thresholds
from dinov3.inference.reasons import Cause, record_kinds
from dinov3.inference.regions import Region
from dinov3.inference.rules import RuleOutcome

OnDisagreement = Literal["classifier", "review", "reject"]


@dataclass(frozen=True)
class NovelPlace:
    """Where an image is least like good parts, to a model that has learned what those look like.

    Attributes:
        deviations: how far beyond the farthest places of good images, in their standard deviations.
        x, y: in pixels of the image.
    """

    deviations: float
    x: int
    y: int

    @classmethod
    def of(cls, deviations: float, place: int, shape: tuple[int, int], size: tuple[int, int]) -> NovelPlace:
        """At ``place`` in the flattened map of ``shape`` (height, width), of an image of ``size`` (likewise)."""
        row, column = divmod(place, shape[1])
        return cls(
            round(deviations, 2), int((column + 0.5) / shape[1] * size[1]), int((row + 0.5) / shape[0] * size[0])
        )

    @property
    def counts(self) -> bool:
        """Whether it raised the log-odds of a defect by about 1 or more."""
        return self.deviations >= 2


@dataclass(frozen=True)
class Verdict:
    """What becomes of an image.

    Attributes:
        verdict: ``accept``, ``review`` or ``reject``.
        decided_by: every cause of it, as :mod:`~dinov3.inference.reasons` describes them.
        disagrees: the mask contradicts the classifier's own verdict.
    """

    verdict: str
    decided_by: list[Cause]
    disagrees: bool


def decide(
    defect_probability: float,
    thresholds: Thresholds,
    regions: Sequence[Region],
    rules: RuleOutcome | None = None,
    on_disagreement: OnDisagreement = "classifier",
    novel: NovelPlace | None = None,
) -> Verdict:
    """Reconcile the three opinions on an image.

    1. The classifier compares the defect probability with the thresholds: accept, review or reject.
    2. Mask and classifier disagree if it accepts while the mask holds a region, or rejects while the mask holds none.
       In the review band they never disagree. ``on_disagreement`` says what then becomes of the image:

       ============== ====================== ======================
       policy         accepts, but a region  rejects, but no region
       ============== ====================== ======================
       ``classifier`` accept                 reject
       ``review``     review                 reject
       ``reject``     reject                 reject
       ============== ====================== ======================

    3. A rule that fired rejects. If the rules decide alone (``verdict: rules`` in their file), they give the verdict
       whatever the classifier and the policy say; disagreements are still counted.

    But for rules that decide alone, nothing here makes a verdict less cautious than the classifier's, so a miss rate
    promised for the classifier's thresholds still holds.

    Args:
        defect_probability: calibrated, 0 to 1.
        thresholds: the classifier's limits.
        regions: those that count, outside of ignore zones.
        rules: what they say of the image, if there are any.
        on_disagreement: the policy.
        novel: perhaps behind the classifier's verdict, and then told with it.
    """
    classifier = thresholds.verdict(defect_probability)
    disagrees = classifier == ("accept" if regions else "reject")
    limit = "reject" if classifier == "reject" or thresholds.review is None else "review"
    threshold = thresholds.review if limit == "review" else thresholds.classification
    compared: Cause = {"probability": defect_probability, "threshold": threshold, "limit": limit}
    opinions: list[tuple[str, Cause]] = [(classifier, {"kind": "probability"} | compared)]
    if classifier != "accept" and novel is not None and novel.counts:
        opinions.append((classifier, {"kind": "novelty"} | asdict(novel)))
    if disagrees and classifier == "accept" and on_disagreement != "classifier":
        opinions.append((on_disagreement, {"kind": "disagreement", "regions": len(regions)} | compared))
    fired = [("reject", cause) for cause in rules.fired] if rules is not None else []
    if rules is not None and rules.alone:
        opinions = fired or [("accept", {"kind": "no_rule_fired"})]
    else:
        opinions += fired
    verdict = max((opinion for opinion, _ in opinions), key=VERDICTS.index)
    return Verdict(verdict, [cause for opinion, cause in opinions if opinion == verdict], disagrees)


def verdict_bounds(record: Mapping[str, Any], thresholds: Thresholds) -> tuple[int, int]:
    """The mildest and the strictest verdict that thresholds other than these could give a record of
    ``predictions.json``, as places in ``VERDICTS``.

    A rule rejects at any thresholds, and rules that decide alone also accept; what a disagreement of mask and
    classifier raised stays raised.
    """
    given = VERDICTS.index(record["verdict"])
    by_probability = VERDICTS.index(thresholds.verdict(record["defect_probability"]))
    kinds = record_kinds(record)
    mildest = given if kinds & {"rule", "nothing_left"} or given > by_probability else 0
    strictest = given if "no_rule_fired" in kinds or given < by_probability else 2
    return mildest, strictest
