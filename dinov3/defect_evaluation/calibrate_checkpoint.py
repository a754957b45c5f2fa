"""Calibrating checkpoints, which are read and written with torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.calibrate import ScoredImages, score_validation, store_calibration, summary
from dinov3.defect_evaluation.targets import Target
from dinov3.defect_evaluation.temperature import Calibration
from dinov3.models.defect_checkpoint import REMEDY, load_checkpoint, restore_model, save_checkpoint
from dinov3.models.defect_device import PrecisionName
from dinov3.models.defect_engines.torch_engine import TorchEngine
from dinov3.models.defect_facts import ModelFacts


def score_checkpoint(
    content: dict[str, Any],
    source: Path,
    data_root: Path,
    *,
    device: str,
    precision: PrecisionName,
    batch_size: int,
    num_workers: int,
    threads: int | None = None,
    dinov3_repo: Path | None = None,
) -> ScoredImages:
    """Run the checkpoint ``content``, read from ``source``, over the val split of a dataset folder.

    Raises:
        DefectError: no such images, or other classes than the checkpoint's.
    """
    model = restore_model(content, source, dinov3_repo)
    options = {"device": device, "precision": precision, "threads": threads}
    engine = TorchEngine(model, ModelFacts.of_checkpoint(content), **options)
    return score_validation(engine, source, data_root, batch_size=batch_size, num_workers=num_workers)


def store_in_checkpoint(path: Path, content: dict[str, Any], calibration: Calibration, remedy: str = REMEDY) -> None:
    """Write thresholds and calibration into the checkpoint at ``path``, whose content is ``content``; nothing else in
    it changes (:func:`~dinov3.defect_evaluation.calibrate.store_calibration`)."""
    store_calibration(path, content, calibration, lambda changed: save_checkpoint(path, content | changed, remedy))


def calibrate_for_best_f1(paths: Iterable[Path], data_root: Path, **options: Any) -> dict[Path, ScoredImages]:
    """Calibrate the best files of a run that ended, for the best F1; those that are calibrated already stay.

    For one process, outside of any group of processes. A validation set that does not allow it is said, and the files
    stay as they are.

    Args:
        paths: of the files; those that do not exist are skipped.
        options: those of :func:`score_checkpoint`.

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
                by_epoch[epoch] = score_checkpoint(content, path, data_root, **options)
            passes[path] = by_epoch[epoch]
            calibration = passes[path].calibration(Target())
        except DefectError as error:
            print(f"{path}: not calibrated; {error}")
            continue
        store_in_checkpoint(path, content, calibration)
        print(f"{path}: {summary(calibration)}")
    return passes
