"""Image and pixel metrics under the names that every output uses, built on torchmetrics.

They stream: pixel scores go into histograms of 1/1000 steps, so memory does not grow with the number of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    BinaryAUROC,
    BinaryAveragePrecision,
    BinaryF1Score,
    BinaryJaccardIndex,
    BinaryPrecision,
    BinaryRecall,
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassJaccardIndex,
)

from dinov3.data.defect_masks import IGNORE_INDEX, defect_pixels
from dinov3.defect_evaluation.curves import AUPRO_LIMIT, area_below, binned_average_precision, pro_curve


def pieces(pixels: Tensor) -> Sequence[Tensor]:
    """All pixels in pieces of a million, so that what is computed from them on the way stays small."""
    return pixels.flatten().split(2**20)


class MeanDefectIoU(Metric):
    """IoU of each defect image, averaged. Images without a defect pixel in the true mask don't take part: an empty
    prediction on a normal image is right, but no evidence of a good outline."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """(B, H, W) predictions of 0 and 1, and masks of 0, 1 and 255."""
        truth = target == 1
        predicted = (predicted == 1) & (target != IGNORE_INDEX)
        union = (predicted | truth).sum(dim=(1, 2))
        iou = (predicted & truth).sum(dim=(1, 2)) / union.clamp_min(1)
        defective = truth.any(dim=2).any(dim=1)
        self.total += iou[defective].sum()
        self.count += defective.sum()

    def compute(self) -> Tensor:
        return self.total / self.count  # NaN without any defect


class PixelCurves(Metric):
    """``pixel_ap``, ``pixel_aupro`` and ``best_mask_threshold`` from histograms of the pixel scores.

    AUPRO is the area under the per-region-overlap curve up to a false-positive rate of ``limit``, over ``limit``
    (Bergmann et al. 2021, MVTec AD, IJCV 129): the overlap of the prediction with each connected region
    (8-neighbourhood) of the true masks, averaged over all regions, against the share of normal pixels flagged.
    torchmetrics has no AUPRO, and its binned average precision goes over the pixels once per threshold; here one
    pass serves all. The bins are even because the best threshold is one of their edges; evaluation computes the same
    from bins that are finer where most pixels are (``ImageResults``).

    The best threshold is that between 0.05 and 0.95 nearest to 0.5 at which ``pixel_iou`` reaches 98% of its maximum:
    the curve is flat around it, and what is gained beyond would be chance.
    """

    full_state_update = False

    def __init__(self, limit: float = AUPRO_LIMIT, bins: int = 1000):
        super().__init__()
        self.limit, self.bins = limit, bins
        for name in ("positive", "negative", "region"):
            self.add_state(name, torch.zeros(bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probability: Tensor, target: Tensor) -> None:
        """(B, H, W) probabilities and masks of 0, 1 and 255."""
        for prob, truth in zip(pieces(probability), pieces(target), strict=True):
            scores = self._scores(prob)
            self.negative += torch.bincount(scores[truth == 0], minlength=self.bins)
            self.positive += torch.bincount(scores[truth == 1], minlength=self.bins)
        for prob, mask in zip(probability, target == 1, strict=True):
            if not mask.any():
                continue
            count, regions = cv2.connectedComponents(mask.byte().cpu().numpy())
            defect_score, defect_region = self._scores(prob[mask]).cpu().numpy(), regions[mask.cpu().numpy()]
            for number in range(1, count):
                histogram = np.bincount(defect_score[defect_region == number], minlength=self.bins)
                self.region += torch.from_numpy(histogram / histogram.sum()).to(self.region)

    def _scores(self, probability: Tensor) -> Tensor:
        return (probability * self.bins).long().clamp(0, self.bins - 1)

    def compute(self) -> dict[str, Tensor]:
        histograms = (self.negative, self.positive, self.region)
        negative, positive, region = (histogram.flip(0).cpu().numpy() for histogram in histograms)
        ap = binned_average_precision(negative[None], positive[None])[0]
        aupro = area_below(pro_curve(negative, region), self.limit)
        # Cumulated from the strictest threshold to the loosest.
        true, false = self.positive.flip(0).cumsum(0), self.negative.flip(0).cumsum(0)
        iou = (true / (true[-1] + false)).flip(0)  # (bins,), at threshold i / bins
        thresholds = torch.arange(self.bins, device=iou.device) / self.bins
        iou[(thresholds < 0.05) | (thresholds > 0.95)] = 0
        good = thresholds[iou >= 0.98 * iou.max()]
        best = good[(good - 0.5).abs().argmin()] if iou.max() > 0 else thresholds.new_tensor(0.5)
        return {"pixel_ap": best.new_tensor(ap), "pixel_aupro": best.new_tensor(aupro), "best_mask_threshold": best}


class DefectMetrics(torch.nn.Module):
    """All metrics of one pass over a split; ``threshold`` is the verdict's, ``mask_threshold`` the mask's."""

    def __init__(self, num_classes: int, threshold: float = 0.5, mask_threshold: float = 0.5):
        super().__init__()
        self.threshold, self.mask_threshold = threshold, mask_threshold
        self.scores = MetricCollection({"image_ap": BinaryAveragePrecision(), "image_auroc": BinaryAUROC()})
        self.verdicts = MetricCollection(
            {
                "image_precision": BinaryPrecision(),
                "image_recall": BinaryRecall(),
                "image_f1": BinaryF1Score(),
            }
        )
        self.classes = MetricCollection(
            {
                "image_accuracy": MulticlassAccuracy(num_classes, average="micro"),
                "confusion": MulticlassConfusionMatrix(num_classes),
            }
        )
        self.masks = MetricCollection(
            {
                # Validating means sorting all pixels: half a minute for 20 megapixels.
                "pixel_iou": BinaryJaccardIndex(ignore_index=IGNORE_INDEX, validate_args=False),
                # The mean of background and defect IoU: what much published code calls mIoU, or plain IoU.
                "pixel_miou": MulticlassJaccardIndex(2, ignore_index=IGNORE_INDEX, validate_args=False),
                "pixel_dice": BinaryF1Score(ignore_index=IGNORE_INDEX, validate_args=False),
            }
        )
        self.mean_iou = MeanDefectIoU()
        self.curves = PixelCurves()

    def update(self, class_prob: Tensor, mask_prob: Tensor, labels: Tensor, masks: Tensor, has_mask: Tensor) -> None:
        """Add a batch: class probabilities (B, K), each pixel's defect probability (B, H, W), labels (B,), masks
        (B, H, W) of class indices, has_mask (B,).

        An image of label -1 (verdict unknown, or unreadable) counts in the pixel metrics alone, one without a mask
        in the image metrics alone.
        """
        known = labels >= 0
        if known.any():
            class_prob, labels = class_prob[known], labels[known]
            predicted, defective = predicted_class(class_prob, self.threshold), (labels > 0).long()
            self.scores.update(1 - class_prob[:, 0], defective)
            self.verdicts.update((predicted > 0).long(), defective)
            self.classes.update(predicted, labels)
        mask_prob = mask_prob[has_mask]  # (b, H, W)
        truth = masks[has_mask].to(torch.uint8)
        truth[defect_pixels(truth)] = 1
        if len(truth):
            predicted = mask_prob >= self.mask_threshold
            self.mean_iou.update(predicted, truth)
            self.curves.update(mask_prob, truth)
            for part in zip(pieces(predicted), pieces(truth), strict=True):
                self.masks.update(*(pixels.long() for pixels in part))

    def compute(self) -> dict[str, float | list[list[int]]]:
        """Metric name to value; NaN where the split has nothing to measure it on (no defect or no normal image, no
        defect pixel). ``confusion[i][j]`` counts images of class i taken for class j."""
        values = self.classes.compute()
        confusion = values.pop("confusion").tolist()
        normal, total = sum(confusion[0]), sum(map(sum, confusion))
        if total:
            values |= self.scores.compute() | self.verdicts.compute()
        values |= self.masks.compute() | {"mean_iou_defect": self.mean_iou.compute()} | self.curves.compute()
        result = {name: float(value) for name, value in values.items()}
        if normal in (0, total):
            result |= dict.fromkeys(("image_ap", "image_auroc"), math.nan)
        if not total:
            result |= dict.fromkeys(("image_accuracy", *self.verdicts), math.nan)
        if math.isnan(result["mean_iou_defect"]):
            result |= dict.fromkeys((*self.masks, "pixel_ap", "pixel_aupro", "best_mask_threshold"), math.nan)
        return result | {"confusion": confusion}


def probabilities(outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Class probabilities (B, K) and each pixel's defect probability (B, H, W) of a model's outputs."""
    return outputs["classification"].float().softmax(1), outputs["segmentation"].float().sigmoid().amax(dim=1)


def predicted_class(class_prob: Tensor, threshold: float) -> Tensor:
    """(B,) class: normal unless 1 - P(normal) reaches the threshold, else the likeliest defect type."""
    return torch.where(1 - class_prob[:, 0] >= threshold, class_prob[:, 1:].argmax(1) + 1, 0)
