"""Metrics of a split and their intervals, against scikit-learn, against definitions written out, and in memory."""

from __future__ import annotations

import math
import tracemalloc

import cv2
import numpy as np
import pytest
import torch
from helpers.scoring import add_all
from torch import Tensor

from dinov3.defect_evaluation.bootstrap import SplitMetrics, image_iou, measure, resample_parts
from dinov3.defect_evaluation.image_results import ImageResults
from dinov3.defect_evaluation.metrics import DefectMetrics
from dinov3.defect_evaluation.thresholds import Thresholds

K, COUNT, SIDE = 4, 60, 48


def made_up(count: int = COUNT, spread: float = 4.0, seed: int = 0) -> tuple[Tensor, ...]:
    """What a confident model may say of ``count`` images: class_prob, mask_prob, labels, masks, has_mask.

    Scores of images come in steps, so that some are equal; nearly all pixels are close to 0 or 1, as a trained
    model's are; one verdict and one mask are unknown, and some pixels are ignored.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, count)
    logits = rng.normal(0, 1, (count, K)).round(1)
    logits[np.arange(count), labels] += 1.5
    masks = np.zeros((count, SIDE, SIDE), np.uint8)
    for mask, label in zip(masks, labels, strict=True):
        for _ in range(rng.integers(1, 4) if label else 0):
            y, x = rng.integers(0, SIDE - 12, 2)
            mask[y : y + rng.integers(2, 12), x : x + rng.integers(2, 12)] = label
    pixels = rng.normal(-2 * spread, spread, masks.shape) + 2.5 * spread * (masks > 0) * rng.random((count, 1, 1))
    masks[:, 0, :5] = 255
    has_mask = torch.ones(count, dtype=torch.bool)
    if count > 7:
        labels[3], has_mask[7] = -1, False
    prob = torch.from_numpy(logits).float().softmax(1), torch.from_numpy(pixels).float().sigmoid()
    return *prob, torch.from_numpy(labels), torch.from_numpy(masks), has_mask


def run(data: tuple[Tensor, ...], limits: Thresholds, parts: np.ndarray | None = None, **options) -> SplitMetrics:
    results = ImageResults(data[0].shape[1], limits.mask, **options)
    for start in range(0, len(data[0]), 7):
        add_all(results, *(values[start : start + 7] for values in data))
    return measure(results, limits, np.arange(len(data[0])).astype(str) if parts is None else parts)


def values(metrics: SplitMetrics) -> dict[str, float]:
    return {name: estimate.value for name, estimate in metrics.estimates.items()}


def known_pixels(data: tuple[Tensor, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Scores and truth of the pixels that count."""
    _, mask_prob, _, masks, has_mask = data
    keep = (masks != 255) & has_mask[:, None, None]
    return mask_prob[keep].numpy(), (masks[keep] > 0).numpy()


def test_image_and_pixel_metrics_agree_with_scikit_learn() -> None:
    sk = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    data, limits = made_up(), Thresholds(0.6, 0.3)
    metrics = run(data, limits)
    found = values(metrics)
    class_prob, _, labels, _, _ = data
    known = (labels >= 0).numpy()
    score, label = 1 - class_prob[known, 0].numpy(), labels[known].numpy()
    predicted = np.where(score >= limits.classification, class_prob[known, 1:].numpy().argmax(1) + 1, 0)
    assert found["image_accuracy"] == pytest.approx(sk.accuracy_score(label, predicted))
    assert found["image_precision"] == pytest.approx(sk.precision_score(label > 0, predicted > 0))
    assert found["image_recall"] == pytest.approx(sk.recall_score(label > 0, predicted > 0))
    assert found["image_f1"] == pytest.approx(sk.f1_score(label > 0, predicted > 0))
    assert found["image_ap"] == pytest.approx(sk.average_precision_score(label > 0, score))
    assert found["image_auroc"] == pytest.approx(sk.roc_auc_score(label > 0, score))
    assert np.array_equal(metrics.confusion, sk.confusion_matrix(label, predicted, labels=range(K)))
    precision, recall, _ = sk.precision_recall_curve(label > 0, score)
    assert metrics.pr.x == pytest.approx(recall[-2::-1]) and metrics.pr.y == pytest.approx(precision[-2::-1])
    rate, hit, _ = sk.roc_curve(label > 0, score, drop_intermediate=False)
    assert metrics.roc.x == pytest.approx(rate) and metrics.roc.y == pytest.approx(hit)
    pixels, truth = known_pixels(data)
    assert found["pixel_iou"] == pytest.approx(sk.jaccard_score(truth, pixels >= limits.mask))
    assert found["pixel_miou"] == pytest.approx(sk.jaccard_score(truth, pixels >= limits.mask, average="macro"))
    assert found["pixel_dice"] == pytest.approx(sk.f1_score(truth, pixels >= limits.mask))
    assert found["pixel_ap"] == pytest.approx(sk.average_precision_score(truth, pixels), abs=1e-3)


def test_metrics_agree_with_those_of_training() -> None:
    data, limits = made_up(), Thresholds(0.6, 0.3)
    reference = DefectMetrics(K, limits.classification, limits.mask)
    reference.update(*data)
    expected, metrics = reference.compute(), run(data, limits)
    assert metrics.confusion.tolist() == expected.pop("confusion")
    del expected["best_mask_threshold"]  # chosen in training alone
    found = values(metrics)
    assert set(found) == set(expected)
    for name in set(found) - {"pixel_ap", "pixel_aupro"}:
        assert found[name] == pytest.approx(expected[name], abs=1e-6), name
    for name in ("pixel_ap", "pixel_aupro"):  # coarser in training
        assert found[name] == pytest.approx(expected[name], abs=0.02), name


def exact_pixel_ap(score: np.ndarray, truth: np.ndarray) -> float:
    """Average precision with every distinct score as threshold."""
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.diff(score[order]) != 0, True)
    true = np.cumsum(truth[order])[ends]
    precision = true / (np.flatnonzero(ends) + 1)
    return float((np.diff(true, prepend=0) * precision).sum() / truth.sum())


def exact_aupro(data: tuple[Tensor, ...], limit: float = 0.3) -> float:
    """Bergmann et al. 2021, section 6.2, as written: at each threshold the mean over all connected components of the
    share that is marked, against the share of normal pixels that is; integrated up to the limit and divided by it."""
    _, mask_prob, _, masks, has_mask = data
    shares, normal = [], []
    for prob, mask in zip(mask_prob[has_mask].numpy(), masks[has_mask].numpy(), strict=True):
        normal.append(prob[mask == 0])
        count, regions = cv2.connectedComponents(((mask > 0) & (mask != 255)).astype(np.uint8))
        shares += [np.sort(prob[regions == number]) for number in range(1, count)]
    normal = np.sort(np.concatenate(normal))
    thresholds = np.unique(np.concatenate([normal, *shares]))[::-1]
    rate = 1 - np.searchsorted(normal, thresholds) / len(normal)
    overlap = np.mean([1 - np.searchsorted(one, thresholds) / len(one) for one in shares], axis=0)
    rate, overlap = np.append(0.0, rate), np.append(0.0, overlap)
    grid = np.union1d(rate[rate <= limit], [limit])
    low = np.interp(grid, rate, overlap)
    steps = np.searchsorted(rate, grid, side="right") - 1  # the upper end where the curve rises straight up
    high = np.where(np.isclose(rate[steps], grid), overlap[steps], low)
    return float((np.diff(grid) * (high[:-1] + low[1:]) / 2).sum() / limit)


@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0, 8.0])
def test_pixel_ap_and_aupro_come_within_a_thousandth_of_the_exact_ones(spread: float) -> None:
    """However confident the model is: the pixels' log-odds go up to +-2, 10, 20, 40."""
    data = made_up(spread=spread)
    found = values(run(data, Thresholds(0.5, 0.5)))
    assert found["pixel_ap"] == pytest.approx(exact_pixel_ap(*known_pixels(data)), abs=1e-3)
    assert found["pixel_aupro"] == pytest.approx(exact_aupro(data), abs=1e-3)


def test_perfect_and_blind_masks() -> None:
    data = made_up()
    truth = ((data[3] > 0) & (data[3] != 255)).float()
    perfect = values(run((data[0], truth, *data[2:]), Thresholds(0.5, 0.5)))
    assert perfect["pixel_ap"] == pytest.approx(1) and perfect["pixel_aupro"] == pytest.approx(1)
    assert perfect["pixel_iou"] == perfect["mean_iou_defect"] == 1
    blind = values(run((data[0], torch.full_like(truth, 0.5), *data[2:]), Thresholds(0.5, 0.5)))
    assert blind["pixel_aupro"] == pytest.approx(0.15)  # the diagonal: 0.3 / 2
    assert blind["pixel_ap"] == pytest.approx(known_pixels(data)[1].mean())


def test_what_cannot_be_measured_is_nan() -> None:
    data = made_up()
    normal = data[2] == 0
    metrics = run(tuple(part[normal] for part in data), Thresholds(0.5, 0.5))
    found = values(metrics)
    assert found.pop("image_accuracy") <= 1
    assert all(map(math.isnan, found.values())), found
    assert metrics.estimates["image_recall"].low is not None and metrics.confusion.sum() == normal.sum()
    nothing = tuple(part[:1] for part in data)
    nothing = (*nothing[:2], torch.tensor([-1]), nothing[3], torch.tensor([False]))
    assert all(map(math.isnan, values(run(nothing, Thresholds(0.5, 0.5))).values()))


def test_the_temperature_moves_the_verdicts() -> None:
    data = made_up()
    plain, soft = (run(data, Thresholds(0.9, 0.5, temperature=t)) for t in (1.0, 3.0))
    assert soft.estimates["image_recall"].value < plain.estimates["image_recall"].value


def test_a_limit_between_two_neighbours_parts_them_as_in_inspection() -> None:
    """Calibration puts limits halfway between scores, and those of a sure model are neighbours in float32."""
    _, mask_prob, _, masks, has_mask = made_up(2)
    class_prob = torch.tensor([[1.2e-7, 1 - 1.2e-7, 0], [6e-8, 1 - 6e-8, 0]])
    low, high = sorted((1 - class_prob[:, 0]).tolist())
    limits = Thresholds((low + high) / 2, 0.5)
    assert low < high and [limits.verdict(score) for score in (low, high)] == ["accept", "reject"]
    metrics = run((class_prob, mask_prob, torch.tensor([0, 1]), masks, has_mask), limits)
    assert metrics.confusion.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_a_part_is_drawn_as_a_whole() -> None:
    weights = resample_parts(np.array(["a", "b", "a", "c"]), 300)
    assert (weights[0] == 1).all()
    assert np.array_equal(weights[:, 0], weights[:, 2])
    assert (weights[1:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert weights[1:, 0].mean() == pytest.approx(1, abs=0.2)


def test_intervals_hold_what_they_say_and_widen_when_images_share_a_part() -> None:
    """95% of the intervals of splits drawn anew hold the true accuracy, up to the known optimism of the bootstrap."""
    held, widths = 0, {}
    for seed in range(40):
        data = made_up(60, seed=seed)
        parts = np.arange(60).astype(str)
        accuracy = run(data, Thresholds(0.5, 0.5), parts, weights=resample_parts(parts, 200)).estimates[
            "image_accuracy"
        ]
        held += accuracy.low <= ACCURACY <= accuracy.high
        widths[seed] = accuracy.high - accuracy.low
    assert 33 <= held <= 40
    twice = tuple(torch.cat([part] * 4) for part in made_up(60, seed=0))
    parts = np.tile(np.arange(60), 4).astype(str)
    same = run(twice, Thresholds(0.5, 0.5), parts, weights=resample_parts(parts, 200)).estimates["image_accuracy"]
    assert same.high - same.low == pytest.approx(widths[0], rel=0.25)
    alone = np.arange(240).astype(str)
    fooled = run(twice, Thresholds(0.5, 0.5), alone, weights=resample_parts(alone, 200)).estimates["image_accuracy"]
    assert fooled.high - fooled.low < 0.7 * widths[0]


ACCURACY = values(run(made_up(4000, seed=99), Thresholds(0.5, 0.5)))["image_accuracy"]


def test_pixel_metrics_have_intervals_too() -> None:
    data = made_up()
    parts = np.arange(COUNT).astype(str)
    metrics = run(data, Thresholds(0.8, 0.5), parts, weights=resample_parts(parts, 100))
    assert values(metrics) == pytest.approx(values(run(data, Thresholds(0.8, 0.5))))
    for name, (value, low, high) in metrics.estimates.items():
        assert low < value < high, name


def test_no_miss_among_few_parts_is_no_certainty() -> None:
    class_prob = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.2, 0.8]])
    masks = torch.zeros(5, 8, 8, dtype=torch.uint8)
    data = class_prob, masks.float(), torch.tensor([0, 1, 1, 1, 1]), masks, torch.ones(5, dtype=torch.bool)
    parts = np.array(["a", "b", "c", "d", "d"])
    recall = run(data, Thresholds(0.5, 0.5), parts, weights=resample_parts(parts, 50)).estimates["image_recall"]
    assert recall.value == recall.high == 1
    assert recall.low == pytest.approx(0.025 ** (1 / 3))  # three parts show a defect: Clopper and Pearson 1934


def test_no_interval_without_width() -> None:
    """Resamples of one part, or of perfectly ranked ones, are all alike, which is no certainty."""
    class_prob = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.1, 0.6, 0.2, 0.1]])
    data = (class_prob, made_up(12)[1][:2], torch.tensor([0, 1]), *(part[:2] for part in made_up(12)[3:]))
    for parts in (np.array(["a", "b"]), np.array(["a", "a"])):
        found = run(data, Thresholds(0.5, 0.5), parts, weights=resample_parts(parts, 60)).estimates
        assert found["image_auroc"].value == 1
        for name, (value, low, high) in found.items():
            assert low < high or math.isnan(low) or math.isnan(value), name
    parts = np.arange(8).astype(str)
    prob = torch.tensor([[0.9, 0.1]] * 5 + [[0.2, 0.8]] * 3)
    masks = torch.zeros(8, 8, 8, dtype=torch.uint8)
    eight = prob, masks.float(), torch.tensor([0] * 5 + [1] * 3), masks, torch.ones(8, dtype=torch.bool)
    auroc = run(eight, Thresholds(0.5, 0.5), parts, weights=resample_parts(parts, 60)).estimates["image_auroc"]
    assert auroc == (1, pytest.approx(0.025 ** (1 / 3)), 1)  # three pairs of parts that share none


def test_results_of_each_image_and_region() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.uint8)
    masks[1, 0, :4], masks[1, 4:6, 4:6] = 2, 1
    masks[1, 7] = 255
    prob = torch.zeros(2, 8, 8)
    prob[1, 0, :2], prob[1, 7], prob[0, 3, 3] = 0.9, 0.9, 0.6
    results = ImageResults(2)
    add_all(
        results, torch.tensor([[0.8, 0.2], [0.3, 0.7]]), prob, torch.tensor([0, 1]), masks, torch.tensor([True, True])
    )
    images, regions = results.images, results.regions
    assert images["label"].tolist() == [0, 1] and images["class_prob"][1].tolist() == pytest.approx([0.3, 0.7])
    assert [images[name].tolist() for name in ("tp", "fp", "fn", "tn")] == [[0, 2], [1, 0], [0, 6], [63, 48]]
    assert image_iou(images)[1] == 0.25
    assert regions["image"].tolist() == [1, 1]
    assert regions["mask_class"].tolist() == [2, 1] and regions["area"].tolist() == [4, 4]
    assert regions["box"].tolist() == [[0, 0, 4, 1], [4, 4, 2, 2]]
    assert regions["coverage"].tolist() == [0.5, 0] and regions["peak"].tolist() == pytest.approx([0.9, 0])


def test_memory_does_not_grow_with_pixels() -> None:
    """A thousand images may add a few hundred bytes each, whatever their size."""
    parts = np.arange(1300).astype(str)
    results = ImageResults(K, weights=resample_parts(parts, 50))
    data = made_up(50)
    for _ in range(6):
        add_all(results, *data)
    tracemalloc.start()
    for _ in range(20):
        add_all(results, *data)
    assert results.histograms.shape == (51, 3, results.bins)  # none waits to be added
    grown, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(results) == 1300
    assert grown < 1000 * 400  # bytes; the pixels would be 1000 * 48 * 48 * 4
    assert peak < 8e6  # what one batch and one block of histograms need
