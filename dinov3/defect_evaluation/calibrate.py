"""Calibrating a checkpoint: a pass over the validation images, and where its results go."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinov3.data.defect_manifest import Manifest
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.evaluate import View, evaluate, evaluation_loader, read_split
from dinov3.defect_evaluation.image_results import ImageResults
from dinov3.defect_evaluation.reliability_diagram import draw_reliability
from dinov3.defect_evaluation.targets import Target
from dinov3.defect_evaluation.temperature import Calibration, calibrate
from dinov3.defect_evaluation.thresholds import limit_text
from dinov3.defect_interrupts import signals_held
from dinov3.models.defect_checkpoint import REMEDY, load_checkpoint, restore_model, save_checkpoint
from dinov3.models.defect_device import Precision


@dataclass(frozen=True)
class ScoredImages:
    """A finished pass: the ``results`` of ``rows``, in their order. Its arrays are of the labelled, readable ones."""

    results: ImageResults
    rows: Manifest

    @property
    def class_prob(self) -> np.ndarray:
        """(N, K) class probabilities at temperature 1."""
        return self.results.class_prob[self.results.labels >= 0]

    @property
    def labels(self) -> np.ndarray:
        """(N,) class indices."""
        return self.results.labels[self.results.labels >= 0]

    @property
    def parts(self) -> np.ndarray:
        """(N,) names of the physical parts."""
        return self.rows.parts[self.results.labels >= 0]

    def calibration(self, target: Target) -> Calibration:
        """The temperature, and the limits that reach ``target``."""
        return calibrate(self.class_prob, self.labels, self.parts, target)


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
    rows, device = read_split(content, source, data_root, "val"), precision.device
    model = restore_model(content, source, dinov3_repo).to(device, memory_format=torch.channels_last)
    results, view = ImageResults(len(rows.classes), content["thresholds"]["mask"]), View.of(content)
    loader = evaluation_loader(rows, view, batch_size, num_workers=num_workers, device=device)
    evaluate(model, loader, results, view, batch_size=batch_size, precision=precision, description="calibrate")
    return ScoredImages(results, rows)


def store_calibration(path: Path, content: dict[str, Any], calibration: Calibration, remedy: str = REMEDY) -> None:
    """Write thresholds and calibration into the checkpoint at ``path``, whose content is ``content``, in one step;
    nothing else in it changes. Beside it, go NAME.calibration.json and NAME.reliability.png.

    Args:
        remedy: what to do if that cannot be done.

    Raises:
        DefectError: the checkpoint cannot be written; the files beside it then are as they were, too.
    """
    facts, thresholds = calibration.facts(), calibration.thresholds(content["thresholds"])
    text = json.dumps({"checkpoint": path.name, "thresholds": thresholds, **facts}, indent=2, ensure_ascii=False)
    record, picture = path.with_suffix(".calibration.json"), path.with_suffix(".reliability.png")
    new = [file.with_name(f".{file.name}.unfinished") for file in (record, picture)]
    try:
        new[0].write_text(text + "\n", encoding="utf-8")
        draw_reliability(calibration, new[1])
        with signals_held():  # what the files say must be what the checkpoint does
            save_checkpoint(path, content | {"thresholds": thresholds, "calibration": facts}, remedy)
            for made, place in zip(new, (record, picture), strict=True):
                made.replace(place)
    finally:
        for file in new:
            file.unlink(missing_ok=True)


def calibrate_for_best_f1(paths: Iterable[Path], data_root: Path, **options: Any) -> dict[Path, ScoredImages]:
    """Calibrate the best files of a run that ended, for the best F1; those that are calibrated already stay.

    For one process, outside of any group of processes. A validation set that does not allow it is said, and the files
    stay as they are.

    Args:
        paths: of the files; those that do not exist are skipped.
        options: those of :func:`score_validation`.

    Returns:
        The passes that were made, by path.
    """
    by_epoch: dict[int, ScoredImages] = {}  # the best files are often of the same
    passes = {}
    for path in paths:
        content = load_checkpoint(path) if path.is_file() else {"calibration": {}}
        if "calibration" in content:
            continue
        epoch = content["epoch"]
        try:
            if epoch not in by_epoch:
                by_epoch[epoch] = score_validation(content, path, data_root, **options)
            passes[path] = by_epoch[epoch]
            calibration = passes[path].calibration(Target())
        except DefectError as error:
            print(f"{path}: not calibrated; {error}")
            continue
        store_calibration(path, content, calibration)
        print(f"{path}: {summary(calibration)}")
    return passes


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
