"""Calibrating a checkpoint: a pass over the validation images, and where its results go."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.evaluate import View, evaluate, evaluation_loader
from dinov3.defect_evaluation.image_results import ImageResults
from dinov3.defect_evaluation.reliability_diagram import draw_reliability
from dinov3.defect_evaluation.targets import Target
from dinov3.defect_evaluation.temperature import Calibration, calibrate
from dinov3.defect_evaluation.thresholds import limit_text
from dinov3.models.defect_checkpoint import load_checkpoint, restore_model, save_checkpoint
from dinov3.models.defect_device import Precision
from dinov3.train.defect_checkpointer import BEST


@dataclass(frozen=True)
class ScoredImages:
    """The labeled, readable images of a pass: class probabilities (N, K), labels (N,) and groups (N,); and the results
    of all its ``rows``."""

    class_prob: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    results: ImageResults
    rows: Manifest


def score_validation(
    content: dict[str, Any],
    source: Path,
    data_root: Path,
    *,
    precision: Precision,
    batch_size: int,
    num_workers: int,
    dinov3_repo: Path | None = None,
) -> ScoredImages:
    """Run a checkpoint over the val split of a dataset folder, in one process.

    Args:
        content, source: the checkpoint, and its path for messages.

    Raises:
        DefectError: no such images, or other classes than the checkpoint's.
    """
    rows = read_manifest(data_root).select("val")
    if len(rows) == 0:
        raise DefectError(f"{data_root}: no images in the val split; organize again with --val_split")
    if rows.classes != content["classes"]:
        raise DefectError(f"{source}: its classes are {content['classes']}, the dataset's {rows.classes}")
    device = precision.device
    model = restore_model(content, source, dinov3_repo).to(device, memory_format=torch.channels_last)
    results = ImageResults(len(rows.classes), content["thresholds"]["mask"])
    view = View.of(content)
    loader = evaluation_loader(rows, view, batch_size, num_workers=num_workers, device=device)
    evaluate(model, loader, results, view, batch_size=batch_size, precision=precision, description="calibrate")
    known = results.labels >= 0
    return ScoredImages(results.class_prob[known], results.labels[known], rows.parts[known], results, rows)


def store_calibration(path: Path, content: dict[str, Any], calibration: Calibration) -> None:
    """Write thresholds and calibration into the checkpoint at ``path``, whose content is ``content``, in one step;
    nothing else in it changes. Beside it, go NAME.calibration.json and NAME.reliability.png."""
    facts, thresholds = calibration.facts(), calibration.thresholds(content["thresholds"])
    record = {"checkpoint": path.name, "thresholds": thresholds, **facts}
    text = json.dumps(record, indent=2, ensure_ascii=False)
    path.with_suffix(".calibration.json").write_text(text + "\n", encoding="utf-8")
    draw_reliability(calibration, path.with_suffix(".reliability.png"))
    # The checkpoint comes last: with its calibration, the files are there too.
    save_checkpoint(path, content | {"thresholds": thresholds, "calibration": facts})


def calibrate_best(save_dir: Path, data_root: Path, **options: Any) -> ScoredImages | None:
    """Calibrate the best files of a run that ended, for the best F1; those that are calibrated already stay.

    For one process, outside of any group of processes. A validation set that does not allow it is said, and the files
    stay as they are.

    Args:
        options: those of :func:`score_validation`.

    Returns:
        The pass of ``best_accuracy.pth``, if one was made.
    """
    passes: dict[int, ScoredImages] = {}  # by epoch: the best files are often of the same
    of_best = None
    for path in (save_dir / file for file in BEST):
        content = load_checkpoint(path) if path.is_file() else {"calibration": {}}
        if "calibration" in content:
            continue
        epoch = content["epoch"]
        try:
            if epoch not in passes:
                passes[epoch] = score_validation(content, path, data_root, **options)
            images = passes[epoch]
            of_best = images if path.name == "best_accuracy.pth" else of_best
            calibration = calibrate(images.class_prob, images.labels, images.groups, Target())
        except DefectError as error:
            print(f"{path}: not calibrated; {error}")
            continue
        store_calibration(path, content, calibration)
        print(f"{path}: {summary(calibration)}")
    return of_best


def summary(calibration: Calibration) -> str:
    """One line."""
    limits = calibration.limits
    review = "" if limits.review is None else f", reviewed from {limit_text(limits.review)}"
    return (
        f"calibrated on {len(calibration.defective)} validation images: temperature {calibration.temperature:.2f}, "
        f"rejected from {limit_text(limits.classification)}{review} ({calibration.target}); "
        f"misses {calibration.miss.count} of {calibration.miss.images} defects, "
        f"overkill {calibration.overkill.count} of {calibration.overkill.images}"
    )


def table(calibration: Calibration) -> str:
    """All there is to know, in lines."""
    limits, facts = calibration.limits, calibration.facts()
    temperature, fitted = calibration.temperature, calibration.fitted_temperature
    kept = "" if temperature == fitted else f"; {fitted:.3f} suits these images, but not parts that are held out"
    of_parts = f" of {facts['parts']} parts" if facts["parts"] < facts["images"] else ""
    rows = {
        "images": f"{facts['images']}{of_parts}; {facts['defects']} show a defect",
        "temperature": f"{temperature:.3f}{kept}",
        "calibration error": "{ece_before:.4f} before, {ece_after:.4f} after, {ece_cross_validated:.4f} cross-validated"
        "".format(**facts),
        "target": facts["target"],
        "rejected from": limit_text(limits.classification),
        "reviewed from": "" if limits.review is None else f"{limit_text(limits.review)}; {facts['review']} images",
        "miss rate": f"{calibration.miss} on these images",
        "overkill": f"{calibration.overkill} on these images",
    }
    lines = [f"  {name:<18} {text}" for name, text in rows.items() if text]
    if not limits.promises:
        lines.append("  nothing is promised of other images; --max_miss_rate and --max_overkill do that")
    for promise in limits.promises:
        lines.append(f"  {'promise' if promise.is_possible else 'warning'}: {promise}")
    return "\n".join(lines)
