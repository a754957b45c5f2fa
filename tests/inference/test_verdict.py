"""The verdict of an image: who overrules whom, and what is said of it."""

from __future__ import annotations

import json
import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinov3.defect_evaluation.thresholds import VERDICTS, Thresholds, same_side
from dinov3.inference.reasons import LANGUAGES, Cause, reason_text
from dinov3.inference.regions import Region
from dinov3.inference.rules import RuleOutcome
from dinov3.inference.verdict import NovelPlace, OnDisagreement, Verdict, decide

REGION = Region("crack", (0, 0, 9, 1), [(0, 0), (8, 0)], 9, 9.0, 1.0, 0.8, 0.9)
LIMITS = Thresholds(classification=0.41, mask=0.5, review=0.2)
POLICIES = get_args(OnDisagreement)
LONG = {"kind": "rule", "rule": "max_length_mm", "class": None, "value": 2.6, "most": 2.0, "regions": 1}


def told(verdict: Verdict) -> tuple[str, str, bool]:
    """A verdict with its reason as text."""
    return verdict.verdict, reason_text(verdict.decided_by), verdict.disagrees


@pytest.mark.parametrize(
    ("probability", "regions", "policy", "expected"),
    [
        (0.93, [REGION], "classifier", ("reject", "defect probability 0.93 >= 0.41", False)),
        (0.41, [REGION], "classifier", ("reject", "defect probability 0.41 >= 0.41", False)),
        (0.3, [], "reject", ("review", "defect probability 0.30 >= 0.20 (review limit)", False)),
        (0.3, [REGION], "reject", ("review", "defect probability 0.30 >= 0.20 (review limit)", False)),
        (0.05, [], "reject", ("accept", "defect probability 0.05 < 0.20", False)),
        (0.1999, [], "reject", ("accept", "defect probability 0.1999 < 0.2000", False)),
        (0.05, [REGION], "classifier", ("accept", "defect probability 0.05 < 0.20", True)),
        (0.93, [], "classifier", ("reject", "defect probability 0.93 >= 0.41", True)),
        (0.93, [], "review", ("reject", "defect probability 0.93 >= 0.41", True)),
    ],
)
def test_classifier_and_mask(probability: float, regions: list[Region], policy: str, expected: tuple) -> None:
    assert told(decide(probability, LIMITS, regions, None, policy)) == expected


@pytest.mark.parametrize("policy", ["review", "reject"])
def test_a_region_on_an_accepted_image_follows_the_policy(policy: str) -> None:
    verdict = decide(0.05, LIMITS, [REGION] * 2, None, policy)
    reason = "mask and classifier disagree: 2 regions, but defect probability 0.05 < 0.20"
    assert told(verdict) == (policy, reason, True)
    cause = {"kind": "disagreement", "regions": 2, "probability": 0.05, "threshold": 0.2, "limit": "review"}
    assert verdict.decided_by == [cause]
    assert reason_text(verdict.decided_by, "zh") == "掩码与分类结果不一致：有 2 个缺陷区域，但缺陷概率 0.05 < 0.20"


def test_a_rule_that_fired_rejects_and_says_which() -> None:
    rule = LONG | {"class": "crack"}
    fired = RuleOutcome(False, [rule])
    verdict = decide(0.05, LIMITS, [REGION], fired)
    assert verdict == decide(0.05, LIMITS, [REGION], fired, "review") == Verdict("reject", [rule], True)
    assert reason_text(verdict.decided_by) == "rule max_length_mm crack: 2.6 > 2.0"
    assert reason_text(verdict.decided_by, "zh") == "规则 max_length_mm crack：2.6 > 2.0"
    both = decide(0.93, LIMITS, [REGION], fired).decided_by
    assert reason_text(both) == "defect probability 0.93 >= 0.41; rule max_length_mm crack: 2.6 > 2.0"
    assert reason_text(both, "zh") == "缺陷概率 0.93 >= 0.41；规则 max_length_mm crack：2.6 > 2.0"


def test_of_many_causes_the_text_has_two_and_the_data_all() -> None:
    counts = [LONG | {"rule": f"max_count {i}", "value": 3.0, "most": 1.0, "regions": i} for i in range(1, 6)]
    causes = decide(0.3, LIMITS, [REGION], RuleOutcome(False, counts)).decided_by
    assert causes == counts
    assert reason_text(causes) == "rule max_count 1: 3 > 1; rule max_count 2: 3 > 1 (2 regions); and 3 more"
    assert reason_text(causes, "zh") == "规则 max_count 1：3 > 1；规则 max_count 2：3 > 1（2 个区域）；另有 3 项"


@pytest.mark.parametrize("policy", POLICIES)
def test_rules_may_decide_alone(policy: str) -> None:
    passed, failed = RuleOutcome(True, [], alone=True), RuleOutcome(False, [LONG], alone=True)
    assert told(decide(0.93, LIMITS, [], passed, policy)) == ("accept", "no rule fired", True)
    assert told(decide(0.05, LIMITS, [REGION], passed, policy)) == ("accept", "no rule fired", True)
    assert told(decide(0.93, LIMITS, [REGION], failed, policy)) == ("reject", "rule max_length_mm: 2.6 > 2.0", False)


@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.none() | st.floats(0, 1),
    st.integers(0, 3),
    st.none() | st.lists(st.just(LONG), max_size=4),
    st.sampled_from(POLICIES),
)
def test_nothing_makes_a_verdict_less_cautious_than_the_classifiers(
    probability: float, reject: float, review: float | None, count: int, fired: list[Cause] | None, policy: str
) -> None:
    limits = Thresholds(reject, 0.5, None if review is None else min(review, reject))
    rules = None if fired is None else RuleOutcome(not fired, fired)
    verdict = decide(probability, limits, [REGION] * count, rules, policy)
    assert VERDICTS.index(verdict.verdict) >= VERDICTS.index(limits.verdict(probability))
    assert verdict.verdict == "reject" or not fired
    assert json.loads(json.dumps(verdict.decided_by)) == verdict.decided_by
    for lang in LANGUAGES:
        assert reason_text(verdict.decided_by, lang) and "\n" not in reason_text(verdict.decided_by, lang)
    if policy == "classifier" and not fired:
        assert verdict.verdict == limits.verdict(probability)


def test_a_verdict_that_comes_from_an_unusual_place_says_where() -> None:
    def reason(probability: float, deviations: float) -> str:
        return reason_text(decide(probability, LIMITS, [], novel=NovelPlace(deviations, 120, 88)).decided_by)

    assert reason(0.93, 6.1) == "defect probability 0.93 >= 0.41, unlike good parts at (120,88)"
    assert reason(0.3, 6.1) == "defect probability 0.30 >= 0.20 (review limit), unlike good parts at (120,88)"
    assert reason(0.93, 1.9) == "defect probability 0.93 >= 0.41"
    assert reason(0.05, 6.1) == "defect probability 0.05 < 0.20"
    both = decide(0.93, LIMITS, [], novel=NovelPlace(6.1, 120, 88)).decided_by
    assert [cause["kind"] for cause in both] == ["probability", "novelty"]
    assert both[1] == {"kind": "novelty", "deviations": 6.1, "x": 120, "y": 88}
    assert reason_text(both, "zh") == "缺陷概率 0.93 >= 0.41，与良品不相似，位置 (120,88)"


@given(
    limit=st.floats(0, 1 + 1e-6),
    steps=st.integers(-3, 3),
    near=st.sampled_from([0.0, 1e-7, 4e-7, 1e-5]),
    digits=st.sampled_from([4, 6]),
)
def test_a_rounded_number_is_on_its_own_side_of_every_limit(limit: float, steps: int, near: float, digits: int) -> None:
    value = limit + near * steps
    for _ in range(abs(steps)):
        value = math.nextafter(value, math.copysign(math.inf, steps))
    told = same_side(value, digits, limit, None, 0.5)
    assert (told >= limit, told >= 0.5) == (value >= limit, value >= 0.5)
    assert abs(told - value) <= 0.5 * 10**-digits


def test_a_number_far_from_its_limits_is_short() -> None:
    assert same_side(0.123456789, 6, 0.5, 0.2) == 0.123457 and same_side(1 / 3, 4) == 0.3333
