"""Metrics of a model over the images of a split."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from dinov3.data.defect_transforms import Normalization
from dinov3.defect_distributed import max_over_ranks, sum_over_ranks
from dinov3.defect_evaluation.image_results import ImageResults
from dinov3.defect_evaluation.metrics import DefectMetrics
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier, MultiTaskLoss
from dinov3.models.defect_device import Precision


def to_device(batch: dict[str, Any], device: torch.device, normalization: Normalization) -> tuple[Tensor, ...]:
    """Images (B, 3, H, W) normalised, labels (B,), masks (B, H, W), has_mask (B,), all on ``device``."""
    images, labels, masks, has_mask = (
        batch[name].to(device, non_blocking=True) for name in ("image", "label", "mask", "has_mask")
    )
    return normalization(images), labels, masks, has_mask


@torch.inference_mode()
def evaluate(
    model: AttentionGuidedDefectClassifier,
    loader: DataLoader,
    metrics: DefectMetrics | ImageResults,
    *,
    precision: Precision,
    normalization: Normalization,
    criterion: MultiTaskLoss | None = None,
    description: str = "evaluate",
    progress: bool = True,
) -> dict[str, Any]:
    """Metrics of ``model`` over ``loader``; with a ``criterion`` also ``val_total_loss`` and its parts.

    Unreadable images are reported and left out.
    """
    model.eval()
    # MPS has no float64, which the counts of pixels need.
    metrics_device = torch.device("cpu") if precision.device.type == "mps" else precision.device
    metrics.to(metrics_device)
    sums: list[Tensor] = []
    for batch in tqdm(loader, desc=description, unit="batch", disable=not progress, leave=False):
        report_unreadable(batch)
        images, labels, masks, has_mask = to_device(batch, precision.device, normalization)
        with precision.autocast():
            outputs = model(images)
        if criterion is not None:
            sums.append(torch.cat([criterion.sums(outputs, labels, masks, has_mask), labels.new_tensor([len(labels)])]))
        outputs = {name: value.to(metrics_device) for name, value in outputs.items()}
        metrics.update(outputs, *(value.to(metrics_device) for value in (labels, masks, has_mask)))
    return metrics.compute() | (mean_losses(criterion, sums) if criterion is not None else {})


def mean_losses(criterion: MultiTaskLoss, sums: list[Tensor]) -> dict[str, float]:
    """``val_total_loss`` and its parts, as means over the images of all processes, whose batches of the same number
    count as one.

    Args:
        sums: per batch, (N,) ``criterion.sums`` with the number of images behind them.
    """
    device = sums[0].device
    length = max_over_ranks([len(sums)], device)[0]
    missing = [torch.zeros_like(sums[0])] * (length - len(sums))
    table = sum_over_ranks(torch.stack([*sums, *missing]))
    losses = [criterion.combine(row[:-1]) for row in table]
    weights = table[:, -1] / table[:, -1].sum()
    return {
        f"val_{name}": float((weights * torch.stack([loss[name] for loss in losses])).sum())
        for name in ("total_loss", "cls_loss", "seg_loss")
    }


def report_unreadable(batch: dict[str, Any]) -> int:
    """Print why files of a batch could not be read, and count them."""
    problems = [error for error in batch["error"] if error]
    for problem in problems:
        tqdm.write(f"left out: {problem}")
    return len(problems)
