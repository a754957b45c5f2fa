"""Calibrate a trained model on the validation images: probabilities that mean what they say, and the verdict's limits.

python examples/calibrate_defect_model.py --checkpoint checkpoints/stage3_uncertainty/best_accuracy.pth \
    --data_root data/demo --max_miss_rate 0.05
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import _bootstrap  # noqa: F401  puts the repository first on sys.path

from dinov3.defect_cli import (
    NonNegativeInt,
    PositiveInt,
    add_flags,
    device_flag,
    flag,
    from_namespace,
    make_parser,
    precision_flag,
)
from dinov3.defect_errors import run_script
from dinov3.defect_evaluation.calibrate import score_validation, store_calibration, table
from dinov3.defect_evaluation.novelty import add_novelty
from dinov3.defect_evaluation.targets import Target
from dinov3.defect_folders import FolderLock
from dinov3.models.defect_checkpoint import load_checkpoint
from dinov3.models.defect_device import PrecisionName, resolve_device, resolve_precision


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """What can be set, beside the :class:`Target`."""

    checkpoint: Path = flag(help=".pth file from train_defect_model.py; it is updated")
    data_root: Path = flag(help="dataset folder, whose val split is used")
    batch_size: PositiveInt = flag(16, "images, or tiles of an image, at a time")
    num_workers: NonNegativeInt = flag(2, "processes that read images")
    dinov3_repo: Path | None = flag(None, "official checkout, if the model was trained on one")
    mixed_precision: PrecisionName = precision_flag()
    device: str = device_flag()
    flips: bool | None = flag(
        None,
        "from now on, have this checkpoint answer with the mean over an image's mirror images, at four times the work "
        "(default: as it does now)",
    )
    novelty: bool | None = flag(
        None,
        "from now on, have what is unlike any good training image count in this checkpoint's verdicts, for defects of "
        "kinds that were never in training (default: as it is now)",
    )


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = make_parser(CalibrateConfig, __doc__)
    add_flags(parser, Target)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Calibrate, print and store."""
    flags = build_parser().parse_args(argv)
    config, target = from_namespace(CalibrateConfig, flags), from_namespace(Target, flags)
    lock = FolderLock(config.checkpoint.parent, "calibrate_defect_model.py")
    with lock if config.checkpoint.is_file() else nullcontext():  # else reading it says what is wrong
        return calibrate(config, target)


def calibrate(config: CalibrateConfig, target: Target) -> int:
    """Calibrate the checkpoint, whose folder no other command writes to meanwhile."""
    content = load_checkpoint(config.checkpoint)
    if config.flips is not None:
        content["flips"] = config.flips
    options = {
        "precision": resolve_precision(config.mixed_precision, resolve_device(config.device)),
        "batch_size": config.batch_size,
        "num_workers": config.num_workers,
        "dinov3_repo": config.dinov3_repo,
    }
    if config.novelty:
        add_novelty(content, config.checkpoint, config.data_root, **options)
    elif config.novelty is not None:
        content.pop("novelty", None)
    images = score_validation(content, config.checkpoint, config.data_root, **options)
    calibration = images.calibration(target)
    store_calibration(config.checkpoint, content, calibration)
    print(f"{config.checkpoint}: calibrated on the validation images of {config.data_root}")
    if content.get("flips", False):
        print("  every answer, here and from now on, is the mean over four mirror images")
    if content.get("novelty") is not None:
        print("  what is unlike any good training image counts in every verdict")
    print(table(calibration))
    return 0


if __name__ == "__main__":
    run_script(main)
