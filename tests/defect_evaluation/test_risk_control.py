"""Promised rates: by simulation, over 1,000 calibration draws each."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_calibrate import model_outputs

from dinov3.defect_evaluation.risk_control import Promise, allowed_losses, binomial_cdf, controlled_limit, parts_needed
from dinov3.defect_evaluation.targets import Target
from dinov3.defect_evaluation.temperature import calibrate, defect_scores, fit_temperature

DRAWS = 1000
NOISE = 3 / math.sqrt(DRAWS)  # three standard errors of a mean, per standard deviation


def draw(rng: np.random.Generator, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of ``count`` images of each kind for calibration, and of all the others."""
    picked = [rng.choice(np.flatnonzero((labels > 0) == kind), count, replace=False) for kind in (False, True)]
    chosen = np.concatenate(picked)
    return chosen, np.setdiff1d(np.arange(len(labels)), chosen)


@pytest.mark.parametrize(("kind", "classes"), [("max_miss_rate", 2), ("max_miss_rate", 4), ("max_overkill", 3)])
def test_a_promised_rate_holds_on_average_over_calibration_draws(kind: str, classes: int) -> None:
    """Temperature and limits are found anew from each draw; the rate is counted on the images not drawn."""
    rng = np.random.default_rng(5)
    prob, labels = model_outputs(rng, 600, classes, sharpness=1.7)
    target, rates = Target(**{kind: 0.05}), []
    for _ in range(DRAWS):
        chosen, rest = draw(rng, labels, 40)
        temperature = fit_temperature(prob[chosen], labels[chosen])
        scores = defect_scores(prob, temperature)
        limits = target.limits(scores[chosen], labels[chosen] > 0, chosen)
        rejected = scores[rest] >= limits.classification
        defective = labels[rest] > 0
        rates.append(1 - rejected[defective].mean() if kind == "max_miss_rate" else rejected[~defective].mean())
    assert np.mean(rates) <= 0.05 + NOISE * np.std(rates)
    assert np.mean(rates) >= 0.02  # and it is of use


def test_the_limit_is_as_high_as_the_promise_allows() -> None:
    """Without ties the expected loss is floor(rate * (n + 1)) / (n + 1), which the +1 of the method brings about."""
    rng = np.random.default_rng(6)
    for count, rate in ((19, 0.05), (40, 0.05), (58, 0.1)):
        limits = [controlled_limit(rng.random(count), np.arange(count), rate, None) for _ in range(4 * DRAWS)]
        expected = math.floor(rate * (count + 1)) / (count + 1)  # of uniform scores the limit is its own loss
        assert np.mean(limits) == pytest.approx(expected, abs=NOISE / 2 * np.std(limits))


@pytest.mark.parametrize(("count", "rate"), [(100, 0.05), (59, 0.05), (150, 0.03)])
def test_a_promise_with_confidence_holds_in_so_many_draws(count: int, rate: float) -> None:
    rng = np.random.default_rng(7)
    limits = [controlled_limit(rng.random(count), np.arange(count), rate, 0.95) for _ in range(DRAWS)]
    assert np.mean(np.array(limits) <= rate) >= 0.95 - NOISE * math.sqrt(0.95 * 0.05)
    on_average = [controlled_limit(rng.random(count), np.arange(count), rate, None) for _ in range(DRAWS)]
    assert np.mean(np.array(on_average) <= rate) < 0.9  # the other form promises less


def parts_of_images(rng: np.random.Generator, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose images of a part resemble each other, and the part of each image."""
    groups = np.repeat(np.arange(parts), rng.integers(1, 12, parts))
    return rng.random(parts)[groups] + rng.normal(0, 0.005, len(groups)), groups


def mean_loss(scores: np.ndarray, groups: np.ndarray, limit: float) -> float:
    """Share of a part's images that are lost, averaged over the parts."""
    return float((np.bincount(groups, scores < limit) / np.bincount(groups)).mean())


def test_photographs_of_one_part_count_as_one() -> None:
    rng = np.random.default_rng(8)
    new, new_groups = parts_of_images(rng, 3000)
    honest, naive, sure = [], [], []
    for _ in range(DRAWS):
        scores, groups = parts_of_images(rng, 24)
        honest.append(mean_loss(new, new_groups, controlled_limit(scores, groups, 0.08, None)))
        naive.append(mean_loss(new, new_groups, controlled_limit(scores, np.arange(len(scores)), 0.08, 0.95)))
        sure.append(mean_loss(new, new_groups, controlled_limit(scores, groups, 0.12, 0.95)))
    assert np.mean(honest) <= 0.08 + NOISE * np.std(honest)
    assert np.mean(np.array(sure) <= 0.12) >= 0.95 - NOISE * math.sqrt(0.95 * 0.05)
    assert np.mean(np.array(naive) <= 0.08) < 0.85  # what counting images would have promised for 0.95


def test_scores_that_are_equal_are_kept_together() -> None:
    scores = np.repeat([0.1, 0.4, 0.9], [2, 10, 30])
    limit = controlled_limit(scores, np.arange(42), 0.1, None)  # 3 may be lost: not all that equal 0.4
    assert limit == 0.4 and (scores < limit).sum() == 2
    assert controlled_limit(np.zeros(50), np.arange(50), 0.5, None) == 0.0


def test_how_many_parts_a_promise_takes() -> None:
    assert parts_needed(0.01, None) == 99 and parts_needed(0.05, None) == 19
    assert parts_needed(0.01, 0.95) == 299 and parts_needed(0.05, 0.95) == 59
    for rate in (0.01, 0.037, 0.2):
        for confidence in (None, 0.9, 0.95):
            needed = parts_needed(rate, confidence)
            assert allowed_losses(needed, rate, confidence) == 0
            assert allowed_losses(needed - 1, rate, confidence) == -1
    exact = [sum(math.comb(20, k) * 0.3**k * 0.7 ** (20 - k) for k in range(most + 1)) for most in range(21)]
    assert binomial_cdf(20, 0.3) == pytest.approx(exact)


def test_too_few_defects_are_said_and_get_the_best_promise() -> None:
    rng = np.random.default_rng(9)
    prob, labels = model_outputs(rng, 60)
    result = calibrate(prob, labels, np.arange(60), Target(max_miss_rate=0.01))
    assert result.miss.count == 0 and not result.facts()["promise_possible"]
    text = result.facts()["promise"]
    assert "1.00% cannot be promised: it takes 99 defect images, and there are 30" in text
    assert "miss rate at most 3.23% on average" in text  # 1 in 31
    pairs = calibrate(prob, labels, np.arange(60) // 4, Target(max_miss_rate=0.01, confidence=0.9))
    assert "it takes 230 defect parts, and there are 15" in pairs.facts()["promise"]
    assert "at most 14.23% with 90% confidence, from 30 defect images of 15 parts" in pairs.facts()["promise"]
    enough = str(Promise("miss rate", 0.05, None, 40, 40))
    assert "at most 5.00% on average" in enough and "it takes 19" in enough and "kept in 60% of them" in enough
