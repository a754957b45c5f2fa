"""Whether a run learned anything, and the likely reasons if it did not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from dinov3.train.defect_config import TrainConfig


def learned_nothing(best: dict[str, dict[str, Any]], log: Path, config: TrainConfig) -> str:
    """A line of warning if the best of a run, or its last epoch, from which the next stage starts, is no better than a
    constant answer, with likely reasons; else an empty text.

    Args:
        best: as ``fit`` returns it, with the epoch of each best file.
        log: the ``metrics.jsonl`` of the run.
        config: of the run.
    """
    history = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    by_epoch = {record["epoch"]: record for record in history}
    verdict, mask = (by_epoch.get(best[file]["epoch"]) for file in ("best_accuracy.pth", "best_iou.pth"))
    constant, record = constant_answers(verdict, mask), history[-1]
    if not constant:
        lost = constant_answers(record, record)
        if not lost:
            return ""
        return (
            f"warning: {' and '.join(lost)} of the last epoch, from which the next stage starts, are no better than "
            "the same answer for every image, though they were before: lower --lr\n"
        )
    reasons = {
        "the backbone is frozen and its weights are random: give --weights, or drop --freeze_backbone": (
            config.freeze_backbone and config.weights == "none" and config.init_from is None
        ),
        "--lr is 0": config.lr == 0,
        "no training image has a mask": record["masks_seen"] == 0,
        "no training image has a verdict": record["verdicts_seen"] == 0,
        "many training images could not be read": record["unreadable"] > 0.2 * record["verdicts_seen"],
        "batches were skipped because of their loss: lower --lr": record["skipped_batches"] > 0,
        "it was short: raise --epochs": len(history) < 5,
        "the training loss did not fall: change --lr, up or down, by a factor of 10": (
            record["train_total_loss"] > 0.9 * history[0]["train_total_loss"]
        ),
    }
    likely = [reason for reason, holds in reasons.items() if holds] or [
        "defects may be too small at this --image_size, masks wrong, or defects rare: run prepare_defect_data.py "
        "check, try a larger --image_size, --tile_size or --class_weights balanced"
    ]
    return (
        f"warning: this stage learned nothing: {' and '.join(constant)} are no better than the same answer for every "
        f"image. {'; '.join(likely)}\n"
    )


def constant_answers(verdict: dict[str, Any] | None, mask: dict[str, Any] | None) -> list[str]:
    """What of these epochs' metrics is that of a constant answer."""
    constant = ["the verdicts"] if verdict and is_constant_verdict(verdict) else []
    return constant + (["the masks"] if mask and is_constant_mask(mask) else [])


def is_constant_verdict(metrics: dict[str, Any]) -> bool:
    """Whether accuracy is at most that of always naming the commonest class, and the AUROC within two standard errors
    of chance (Mann-Whitney)."""
    rows = [sum(row) for row in metrics["confusion"]]
    total, normal = sum(rows), rows[0]
    defective = total - normal
    if not normal or not defective:
        return False  # nothing to tell apart
    error = math.sqrt((total + 1) / (12 * normal * defective))
    return metrics["image_accuracy"] <= max(rows) / total and metrics["image_auroc"] <= 0.5 + 2 * error


def is_constant_mask(metrics: dict[str, Any]) -> bool:
    """Whether no defect pixel was found, or everything was called defective (then the IoU of the background is 0 and
    the mean of both half of the defect's)."""
    iou = metrics["pixel_iou"]
    if iou is None:
        return False  # no defect to find
    return iou == 0 or math.isclose(metrics["pixel_miou"], iou / 2, rel_tol=1e-6)
