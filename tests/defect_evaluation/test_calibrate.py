"""Calibrated probabilities and the limits of the verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.reliability_diagram import draw_reliability
from dinov3.defect_evaluation.targets import Target
from dinov3.defect_evaluation.temperature import calibrate, calibration_error, defect_scores, fit_temperature
from dinov3.defect_evaluation.thresholds import Thresholds


def model_outputs(
    rng: np.random.Generator, count: int, classes: int = 2, sharpness: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, K) that are exact at sharpness 1 and overconfident above, and labels: half normal."""
    labels = np.where(np.arange(count) % 2 == 0, 0, rng.integers(1, classes, count))
    features = rng.normal(0, 1, (count, classes))
    features[np.arange(count), labels] += 2.0
    prior = np.where(np.arange(classes) == 0, 0.5, 0.5 / (classes - 1))
    prob = np.exp(sharpness * (2.0 * features + np.log(prior)))
    return prob / prob.sum(axis=1, keepdims=True), labels


def test_two_rates_give_three_outcomes_and_keep_both() -> None:
    rng = np.random.default_rng(10)
    prob, labels = model_outputs(rng, 400)
    result = calibrate(prob, labels, np.arange(400), Target(max_miss_rate=0.03, max_overkill=0.02))
    review, reject = result.limits.review, result.limits.classification
    assert 0 < review < reject < 1
    thresholds = Thresholds.of({"thresholds": result.thresholds({"classification": 0.5, "mask": 0.3})})
    verdicts = np.array([thresholds.verdict(float(score)) for score in result.scores_after])
    assert (verdicts[labels > 0] == "accept").sum() == result.miss.count <= 0.03 * 200
    assert (verdicts[labels == 0] == "reject").sum() == result.overkill.count <= 0.02 * 200
    assert (verdicts == "review").sum() == result.review > 0
    assert thresholds.mask == 0.3
    # With easy rates one limit keeps to both, and nobody has to review.
    easy = calibrate(prob, labels, np.arange(400), Target(max_miss_rate=0.3, max_overkill=0.3))
    assert easy.limits.review is None and len(easy.limits.promises) == 2
    assert easy.miss.count <= 0.3 * 200 and easy.overkill.count <= 0.3 * 200


def test_scores_of_zero_and_one() -> None:
    """A rate that forbids rejecting images of probability 1 rejects none; a miss of probability 0 accepts none."""
    scores, defective = np.repeat([0.0, 1.0], 10), np.tile([False, True], 10)
    assert Target(max_overkill=0.1).limits(scores, defective, np.arange(20)).classification > 1
    assert Target(max_miss_rate=0.1).limits(scores, defective, np.arange(20)).classification == 0


@pytest.mark.parametrize("seed", range(5))
def test_best_f1_and_lowest_cost_are_the_best_there_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random(40).round(1 if seed < 2 else 6)  # with ties and without
    defective = scores + rng.normal(0, 0.4, 40) > 0.6
    groups = np.arange(40)

    def counts(limit: float) -> tuple[int, int, int]:
        rejected = scores >= limit
        return (rejected & defective).sum(), (~rejected & defective).sum(), (rejected & ~defective).sum()

    def f1(limit: float) -> float:
        found, missed, overkill = counts(limit)
        return 2 * found / (2 * found + missed + overkill)

    def cost(limit: float) -> float:
        _, missed, overkill = counts(limit)
        return 7 * missed + 2 * overkill

    everything = np.append(np.unique(scores), 1.1)
    assert f1(Target().limits(scores, defective, groups).classification) == max(map(f1, everything))
    cheapest = Target(cost_miss=7, cost_overkill=2).limits(scores, defective, groups).classification
    assert cost(cheapest) == min(map(cost, everything))


def test_separated_images_are_parted_in_the_middle() -> None:
    scores = np.array([0.1, 0.2, 0.9, 0.8])
    defective = np.array([False, False, True, True])
    for target in (Target(), Target(max_miss_rate=0.4), Target(cost_miss=9, cost_overkill=1)):
        assert target.limits(scores, defective, np.arange(4)).classification == pytest.approx(0.5)


@pytest.mark.parametrize("classes", [2, 5])
def test_temperature_recovers_a_known_one_and_the_error_falls(classes: int) -> None:
    rng = np.random.default_rng(11)
    for known in (0.5, 1.0, 3.0):
        prob, labels = model_outputs(rng, 8000, classes, sharpness=known)
        assert fit_temperature(prob, labels) == pytest.approx(known, rel=0.06)
    result = calibrate(prob, labels, np.arange(8000), Target())
    assert result.ece_after < 0.02 < 0.05 < result.ece_before
    assert result.ece_cross_validated == pytest.approx(result.ece_after, abs=0.01)


@pytest.mark.parametrize(
    ("prob", "labels"),
    [
        ([[0.9, 0.1], [0.1, 0.9]], [0, 1]),
        ([[1.0, 0.0], [0.0, 1.0]] * 50, [0, 1] * 50),
        ([[1.0, 0.0], [0.0, 1.0]] * 50, [1, 0] * 50),
        ([[0.5, 0.5]] * 4, [0, 1, 1, 0]),
        ([[0.999, 0.001]] * 4, [0, 1, 0, 0]),
        ([[0.2, 0.5, 0.3]], [1]),
    ],
)
def test_temperature_is_sane_where_the_images_say_little(prob: list, labels: list[int]) -> None:
    temperature = fit_temperature(np.array(prob, np.float32), np.array(labels))
    assert 0.05 <= temperature <= 20.001
    assert np.isfinite(defect_scores(np.array(prob), temperature)).all()
    if len(labels) <= 2:  # next to no evidence moves it little
        assert 0.5 < temperature < 2


def test_calibration_error_of_written_out_scores() -> None:
    scores = np.array([0.01, 0.01, 0.01, 0.01, 0.99, 0.99])
    assert calibration_error(scores, np.array([0, 0, 0, 1, 1, 1]) > 0) == pytest.approx((4 * 0.24 + 2 * 0.01) / 6)


def test_one_kind_of_image_is_refused() -> None:
    with pytest.raises(DefectError, match="3 labeled validation images, all normal: calibration needs both kinds"):
        calibrate(np.full((3, 2), 0.5), np.zeros(3, int), np.arange(3), Target())


def test_picture_is_drawn(tmp_path: Path) -> None:
    prob, labels = model_outputs(np.random.default_rng(12), 60)
    for number, target in enumerate((Target(), Target(max_miss_rate=0.05, max_overkill=0.05))):
        draw_reliability(calibrate(prob, labels, np.arange(60), target), tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")
