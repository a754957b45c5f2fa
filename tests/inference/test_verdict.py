"""The verdict of an image: who overrules whom, and what is said of it."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinov3.defect_evaluation.thresholds import VERDICTS, Thresholds
from dinov3.inference.regions import Region
from dinov3.inference.rules import RuleOutcome
from dinov3.inference.verdict import NovelPlace, OnDisagreement, Verdict, decide

REGION = Region("crack", (0, 0, 9, 1), [(0, 0), (8, 0)], 9, 9.0, 1.0, 0.8, 0.9)
LIMITS = Thresholds(classification=0.41, mask=0.5, review=0.2)
POLICIES = get_args(OnDisagreement)


@pytest.mark.parametrize(
    ("probability", "regions", "policy", "expected"),
    [
        (0.93, [REGION], "classifier", Verdict("reject", "defect probability 0.93 >= 0.41", False)),
        (0.41, [REGION], "classifier", Verdict("reject", "defect probability 0.41 >= 0.41", False)),
        (0.3, [], "reject", Verdict("review", "defect probability 0.30 >= 0.20 (review limit)", False)),
        (0.3, [REGION], "reject", Verdict("review", "defect probability 0.30 >= 0.20 (review limit)", False)),
        (0.05, [], "reject", Verdict("accept", "defect probability 0.05 < 0.20", False)),
        (0.1999, [], "reject", Verdict("accept", "defect probability 0.1999 < 0.2000", False)),
        (0.05, [REGION], "classifier", Verdict("accept", "defect probability 0.05 < 0.20", True)),
        (0.93, [], "classifier", Verdict("reject", "defect probability 0.93 >= 0.41", True)),
        (0.93, [], "review", Verdict("reject", "defect probability 0.93 >= 0.41", True)),
    ],
)
def test_classifier_and_mask(probability: float, regions: list[Region], policy: str, expected: Verdict) -> None:
    assert decide(probability, LIMITS, regions, None, policy) == expected


@pytest.mark.parametrize("policy", ["review", "reject"])
def test_a_region_on_an_accepted_image_follows_the_policy(policy: str) -> None:
    reason = "mask and classifier disagree: 2 regions, but defect probability 0.05 < 0.20"
    assert decide(0.05, LIMITS, [REGION] * 2, None, policy) == Verdict(policy, reason, True)


def test_a_rule_that_fired_rejects_and_says_which() -> None:
    fired = RuleOutcome(False, ["max_length_mm crack: 2.6 > 2.0"])
    expected = Verdict("reject", "rule max_length_mm crack: 2.6 > 2.0", True)
    assert decide(0.05, LIMITS, [REGION], fired) == decide(0.05, LIMITS, [REGION], fired, "review") == expected
    both = "defect probability 0.93 >= 0.41; rule max_length_mm crack: 2.6 > 2.0"
    assert decide(0.93, LIMITS, [REGION], fired).reason == both
    many = RuleOutcome(False, [f"max_count {i}: 1 > 0" for i in range(5)])
    assert decide(0.3, LIMITS, [REGION], many).reason == "rule max_count 0: 1 > 0; rule max_count 1: 1 > 0; and 3 more"


@pytest.mark.parametrize("policy", POLICIES)
def test_rules_may_decide_alone(policy: str) -> None:
    passed, failed = RuleOutcome(True, [], alone=True), RuleOutcome(False, ["max_count: 1 > 0"], alone=True)
    assert decide(0.93, LIMITS, [], passed, policy) == Verdict("accept", "no rule fired", True)
    assert decide(0.05, LIMITS, [REGION], passed, policy) == Verdict("accept", "no rule fired", True)
    assert decide(0.93, LIMITS, [REGION], failed, policy) == Verdict("reject", "rule max_count: 1 > 0", False)


@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.none() | st.floats(0, 1),
    st.integers(0, 3),
    st.none() | st.lists(st.just("max_count: 1 > 0"), max_size=4),
    st.sampled_from(POLICIES),
)
def test_nothing_makes_a_verdict_less_cautious_than_the_classifiers(
    probability: float, reject: float, review: float | None, count: int, fired: list[str] | None, policy: str
) -> None:
    limits = Thresholds(reject, 0.5, None if review is None else min(review, reject))
    rules = None if fired is None else RuleOutcome(not fired, fired)
    verdict = decide(probability, limits, [REGION] * count, rules, policy)
    assert VERDICTS.index(verdict.verdict) >= VERDICTS.index(limits.verdict(probability))
    assert verdict.verdict == "reject" or not fired
    assert verdict.reason and "\n" not in verdict.reason
    if policy == "classifier" and not fired:
        assert verdict.verdict == limits.verdict(probability)


def test_a_verdict_that_comes_from_an_unusual_place_says_where() -> None:
    def reason(probability: float, deviations: float) -> str:
        return decide(probability, LIMITS, [], novel=NovelPlace(deviations, 120, 88)).reason

    assert reason(0.93, 6.1) == "defect probability 0.93 >= 0.41, unlike good parts at (120,88)"
    assert reason(0.3, 6.1) == "defect probability 0.30 >= 0.20 (review limit), unlike good parts at (120,88)"
    assert reason(0.93, 1.9) == "defect probability 0.93 >= 0.41"
    assert reason(0.05, 6.1) == "defect probability 0.05 < 0.20"
