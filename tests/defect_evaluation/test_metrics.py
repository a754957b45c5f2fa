"""Metrics against values worked out by hand or by another route."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision

from dinov3.defect_evaluation.metrics import DefectMetrics, PixelCurves, probabilities


def outputs(defect_probability: list[float], mask_probability: Tensor) -> dict[str, Tensor]:
    """Model outputs with these probabilities; masks (B, H, W)."""
    p = torch.tensor(defect_probability)
    return {
        "classification": torch.stack([1 - p, p], dim=1).log(),
        "segmentation": torch.logit(mask_probability.clamp(1e-6, 1 - 1e-6))[:, None],
    }


def measure(out: dict[str, Tensor], labels: list[int], masks: Tensor, **options: float) -> dict:
    metrics = DefectMetrics(2, **options)
    target = torch.tensor(labels)
    metrics.update(*probabilities(out), target, masks, torch.ones(len(target), dtype=torch.bool))
    return metrics.compute()


def test_a_small_case_by_hand() -> None:
    masks = torch.zeros(4, 4, 4, dtype=torch.uint8)
    masks[2, 0] = 1  # 4 pixels
    masks[3, 0, 0] = 1
    predicted = torch.zeros(4, 4, 4)
    predicted[2, :2] = 0.9  # 8 pixels, 4 of them right: IoU 0.5
    predicted[1, 3, 3] = 0.8  # a false pixel on a normal image
    result = measure(outputs([0.1, 0.7, 0.9, 0.4], predicted), [0, 0, 1, 1], masks)
    assert result["confusion"] == [[1, 1], [1, 1]]
    assert result["image_accuracy"] == 0.5
    assert result["image_precision"] == result["image_recall"] == result["image_f1"] == 0.5
    assert result["image_ap"] == pytest.approx((1 + 2 / 3) / 2)
    assert result["image_auroc"] == 0.75
    assert result["pixel_iou"] == pytest.approx(4 / (4 + 4 + 1 + 1))
    assert result["pixel_dice"] == pytest.approx(8 / 14)
    assert result["mean_iou_defect"] == pytest.approx((0.5 + 0) / 2)


def test_a_normal_image_with_an_empty_prediction_does_not_move_the_defect_iou() -> None:
    masks = torch.zeros(2, 4, 4, dtype=torch.uint8)
    masks[0, 0] = 1
    predicted = masks.float()
    assert measure(outputs([1.0, 0.0], predicted), [1, 0], masks)["mean_iou_defect"] == 1
    predicted[0, 0, 2:] = 0
    assert measure(outputs([1.0, 0.0], predicted), [1, 0], masks)["mean_iou_defect"] == 0.5


def test_thresholds_and_ignored_pixels() -> None:
    masks = torch.zeros(1, 4, 4, dtype=torch.uint8)
    masks[0, 0], masks[0, 1] = 1, 255
    predicted = torch.full((1, 4, 4), 0.1)
    predicted[0, :2] = 0.45
    assert measure(outputs([0.4], predicted), [1], masks)["pixel_iou"] == 0
    low = measure(outputs([0.4], predicted), [1], masks, threshold=0.35, mask_threshold=0.35)
    assert low["pixel_iou"] == 1 and low["image_recall"] == 1


def test_what_cannot_be_measured_is_nan() -> None:
    masks = torch.zeros(2, 4, 4, dtype=torch.uint8)
    result = measure(outputs([0.2, 0.3], torch.zeros(2, 4, 4)), [0, 0], masks)
    assert all(math.isnan(result[name]) for name in ("image_ap", "image_auroc", "mean_iou_defect", "pixel_aupro"))
    assert result["image_accuracy"] == 1


def test_several_types_are_right_only_as_the_right_type() -> None:
    metrics = DefectMetrics(3)
    logits = torch.tensor([[0.2, 0.5, 0.3], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]).log()
    out = {"classification": logits, "segmentation": torch.full((3, 2, 4, 4), -5.0)}
    metrics.update(*probabilities(out), torch.tensor([1, 2, 0]), torch.zeros(3, 4, 4), torch.ones(3, dtype=torch.bool))
    result = metrics.compute()
    assert result["image_accuracy"] == pytest.approx(2 / 3)
    assert result["image_f1"] == 1
    assert result["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]


def scores_and_masks() -> tuple[Tensor, Tensor]:
    """Scores that go with the masks, loosely; two or three regions each."""
    rng = np.random.default_rng(0)
    masks = torch.zeros(6, 40, 40, dtype=torch.long)
    for mask in masks[:5]:
        for _ in range(3):
            y, x = rng.integers(0, 30, 2)
            mask[y : y + 8, x : x + rng.integers(2, 9)] = 1
    noise = torch.from_numpy(rng.normal(0, 0.25, masks.shape)).float()
    return (0.3 + 0.3 * masks + noise).clamp(0, 1), masks


def test_pixel_ap_agrees_with_the_exact_one() -> None:
    scores, masks = scores_and_masks()
    curves = PixelCurves()
    curves.update(scores[:4], masks[:4])
    curves.update(scores[4:], masks[4:])
    exact = binary_average_precision(scores.flatten(), masks.flatten())
    assert curves.compute()["pixel_ap"].item() == pytest.approx(exact.item(), abs=2e-3)


def test_aupro_agrees_with_the_definition() -> None:
    scores, masks = scores_and_masks()
    curves = PixelCurves()
    curves.update(scores, masks)
    regions = []
    for score, mask in zip(scores, masks, strict=True):
        count, labels = cv2.connectedComponents(mask.numpy().astype(np.uint8))
        regions += [score[torch.from_numpy(labels == i)] for i in range(1, count)]
    normal = scores[masks == 0]
    points = []
    for threshold in torch.linspace(1.001, 0, 2001):
        rate = (normal >= threshold).float().mean().item()
        points.append((rate, torch.stack([(r >= threshold).float().mean() for r in regions]).mean().item()))
    rate, overlap = np.array(points).T
    grid = np.linspace(0, 0.3, 3001)
    expected = np.interp(grid, rate, overlap).mean()  # over 0.3, times 0.3
    assert curves.compute()["pixel_aupro"].item() == pytest.approx(expected, abs=3e-3)


def test_the_best_mask_threshold_is_where_the_overlap_is_largest() -> None:
    masks = torch.zeros(1, 10, 100, dtype=torch.long)
    masks[:, :5] = 1
    scores = torch.full((1, 10, 100), 0.01)
    scores[:, :5] = 0.2  # the defect, timidly
    scores[:, 9] = 0.15  # a shadow
    curves = PixelCurves()
    curves.update(scores, masks)
    assert curves.compute()["best_mask_threshold"].item() == pytest.approx(0.2)  # 0.151 to 0.2 are as good
    curves = PixelCurves()
    curves.update(torch.full((1, 10, 100), 0.001), masks)
    assert curves.compute()["best_mask_threshold"].item() == 0.5  # nothing to choose from


def test_aupro_of_a_perfect_and_of_a_blind_score() -> None:
    _, masks = scores_and_masks()
    perfect, blind = PixelCurves(), PixelCurves()
    perfect.update(masks.float(), masks)
    blind.update(torch.full(masks.shape, 0.5), masks)
    assert perfect.compute()["pixel_aupro"].item() == pytest.approx(1)
    assert blind.compute()["pixel_aupro"].item() == pytest.approx(0.15)  # the diagonal: 0.3 / 2


def test_each_image_counts_where_it_can() -> None:
    """One without a verdict in the pixel metrics alone, one without a mask in the image metrics alone."""
    masks = torch.zeros(3, 8, 8, dtype=torch.uint8)
    masks[:2, :4] = 1
    logits = torch.full((3, 1, 8, 8), -9.0)
    logits[1, 0, :2] = 9.0  # half of the defect of the second image; nothing of the first
    outputs = {"segmentation": logits, "classification": torch.tensor([[0.0, 5.0], [5.0, 0.0], [5.0, 0.0]])}
    metrics = DefectMetrics(2)
    metrics.update(*probabilities(outputs), torch.tensor([1, -1, 0]), masks, torch.tensor([False, True, True]))
    result = metrics.compute()
    assert result["confusion"] == [[1, 0], [0, 1]]
    assert result["pixel_iou"] == pytest.approx(0.5)
    metrics = DefectMetrics(2)
    metrics.update(*probabilities(outputs), torch.tensor([-1, -1, -1]), masks, torch.ones(3, dtype=torch.bool))
    result = metrics.compute()
    assert math.isnan(result["image_ap"]) and result["pixel_iou"] == pytest.approx(0.25)
    assert result["pixel_miou"] == pytest.approx((0.25 + 128 / 176) / 2)  # of background and defect


def test_pixel_metrics_of_a_large_image_count_every_pixel() -> None:
    rng = np.random.default_rng(0)
    prob = rng.random((1, 1100, 1300), np.float32)
    truth = rng.integers(0, 3, (1, 11, 13), dtype=np.uint8).repeat(100, axis=1).repeat(100, axis=2)
    truth[truth == 2] = 255
    metrics = DefectMetrics(2)
    facts = (torch.tensor([1]), torch.from_numpy(truth), torch.tensor([True]))
    metrics.update(torch.tensor([[0.2, 0.8]]), torch.from_numpy(prob), *facts)
    result, predicted = metrics.compute(), prob >= 0.5
    overlap, union = (predicted & (truth == 1)).sum(), ((predicted & (truth == 0)) | (truth == 1)).sum()
    assert result["pixel_iou"] == pytest.approx(overlap / union, abs=1e-5)
    assert result["mean_iou_defect"] == pytest.approx(overlap / union, abs=1e-5)
    assert metrics.curves.positive.sum() == (truth == 1).sum() and metrics.curves.negative.sum() == (truth == 0).sum()
