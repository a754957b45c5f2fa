"""Calibrate a trained model on the validation images: probabilities that mean what they say, and the verdict's limits.

python examples/calibrate_defect_model.py --checkpoint checkpoints/stage3_uncertainty/best_accuracy.pth \
    --data_root data/demo --max_miss_rate 0.05
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dinov3.defect_cli import (
    NonNegativeInt,
    PositiveInt,
    PrecisionName,
    add_flags,
    device_flag,
    engine_flag,
    flag,
    from_namespace,
    make_parser,
    precision_flag,
    threads_flag,
)
from dinov3.defect_commands.part_flags import SplitPartFlags, regrouped
from dinov3.defect_errors import DefectError, run_script
from dinov3.defect_evaluation.calibrate import ScoredImages, score_validation, store_calibration, table
from dinov3.defect_evaluation.targets import Target
from dinov3.defect_evaluation.temperature import Calibration
from dinov3.defect_folders import FolderLock
from dinov3.models.defect_engines import EngineName, open_engine
from dinov3.models.defect_engines.onnx_file import write_facts


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(SplitPartFlags):
    """What can be set, beside the :class:`Target`."""

    checkpoint: Path = flag(
        help=".pth file from train_defect_model.py, or .onnx from export_defect_model.py; it is updated"
    )
    data_root: Path = flag(help="dataset folder, whose val split is used")
    batch_size: PositiveInt = flag(16, "images, or tiles of an image, at a time")
    num_workers: NonNegativeInt = flag(2, "threads that read images")
    dinov3_repo: Path | None = flag(None, "official checkout, if the model was trained on one")
    mixed_precision: PrecisionName = precision_flag()
    engine: EngineName | None = engine_flag()
    threads: PositiveInt | None = threads_flag()
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
    """Calibrate the model, whose folder no other command writes to meanwhile."""
    import dinov3.defect_evaluation.reliability_diagram  # noqa: F401  what it needs is better missed before the work

    if config.checkpoint.suffix.lower() == ".onnx":
        calibration, flips, novelty = calibrate_exported(config, target)
    else:
        calibration, flips, novelty = calibrate_checkpoint(config, target)
    print(f"{config.checkpoint}: calibrated on the validation images of {config.data_root}")
    if flips:
        print("  every answer, here and from now on, is the mean over four mirror images")
    if novelty:
        print("  what is unlike any good training image counts in every verdict")
    print(table(calibration))
    return 0


def calibrate_exported(config: CalibrateConfig, target: Target) -> tuple[Calibration, bool, bool]:
    """Calibrate an .onnx file; how, and whether it answers with ``flips`` and ``novelty``."""
    for name in ("flips", "novelty"):
        if getattr(config, name) is not None:
            raise DefectError(
                f"--{name}: {config.checkpoint} is an exported model, whose network stays as it is; calibrate its "
                "checkpoint with the flag, and export that"
            )
    options = {"device": config.device, "precision": config.mixed_precision, "threads": config.threads}
    engine = open_engine(config.checkpoint, config.engine, **options)
    facts, passes = engine.facts, {"batch_size": config.batch_size, "num_workers": config.num_workers}
    told = config.told(config.data_root, "val")
    scored = score_validation(engine, config.checkpoint, config.data_root, **passes)
    calibration = calibrate_passed(config, scored, told, target)

    def save(changed: dict[str, Any]) -> None:
        write_facts(config.checkpoint, replace(facts, **changed))

    store_calibration(config.checkpoint, facts.to_table(), calibration, save)
    return calibration, facts.flips, facts.novelty


def calibrate_passed(
    config: CalibrateConfig, scored: ScoredImages, told: dict[str, str] | None, target: Target
) -> Calibration:
    """The limits, for images or for parts as the flags ask."""
    views = (config.views_to_reject or 1) if config.wanted else None
    return replace(scored, rows=regrouped(scored.rows, told), views_to_reject=views).calibration(target)


def calibrate_checkpoint(config: CalibrateConfig, target: Target) -> tuple[Calibration, bool, bool]:
    """Calibrate a .pth file; how, and whether it answers with ``flips`` and ``novelty``."""
    from dinov3.defect_evaluation.calibrate_checkpoint import score_checkpoint, store_in_checkpoint  # with torch
    from dinov3.defect_evaluation.novelty import add_novelty
    from dinov3.models.defect_checkpoint import load_checkpoint
    from dinov3.models.defect_device import resolve_device, resolve_precision

    if config.engine not in (None, "torch"):
        raise DefectError(
            f"--engine {config.engine}: {config.checkpoint} is a checkpoint, for torch; leave the flag out"
        )
    told = config.told(config.data_root, "val")
    content = load_checkpoint(config.checkpoint)
    if config.flips is not None:
        content["flips"] = config.flips
    passes = {"batch_size": config.batch_size, "num_workers": config.num_workers, "dinov3_repo": config.dinov3_repo}
    if config.novelty:
        precision = resolve_precision(config.mixed_precision, resolve_device(config.device))
        add_novelty(content, config.checkpoint, config.data_root, precision=precision, **passes)
    elif config.novelty is not None:
        content.pop("novelty", None)
    options = {"device": config.device, "precision": config.mixed_precision, "threads": config.threads}
    scored = score_checkpoint(content, config.checkpoint, config.data_root, **passes, **options)
    calibration = calibrate_passed(config, scored, told, target)
    store_in_checkpoint(config.checkpoint, content, calibration)
    return calibration, bool(content.get("flips")), content.get("novelty") is not None


def console() -> None:
    """The command ``defect-calibrate``."""
    run_script(main)
