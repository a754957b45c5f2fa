"""Calibrate a trained model on the validation images: probabilities that mean what they say, and the verdict's limits.

python examples/calibrate_defect_model.py --checkpoint checkpoints/stage3_uncertainty/best_accuracy.pth \
    --data_root data/demo --max_miss_rate 0.05
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import _bootstrap  # noqa: F401  puts the repository first on sys.path

from dinov3.defect_cli import non_negative_int, positive_int
from dinov3.defect_errors import run_script
from dinov3.defect_evaluation.calibrate import score_validation, store_calibration, table
from dinov3.defect_evaluation.novelty import add_novelty
from dinov3.defect_evaluation.targets import add_target_flags, target_from_flags
from dinov3.defect_evaluation.temperature import calibrate
from dinov3.models.defect_checkpoint import load_checkpoint
from dinov3.models.defect_device import add_device_flags, resolve_device, resolve_precision


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help=".pth file from train_defect_model.py; it is updated")
    add("--data_root", type=Path, required=True, help="dataset folder, whose val split is used")
    add("--batch_size", type=positive_int, default=16, help="images, or tiles of an image, at a time")
    add("--num_workers", type=non_negative_int, default=2, help="processes that read images")
    add("--dinov3_repo", type=Path, help="official checkout, if the model was trained on one")
    add_device_flags(add)
    add(
        "--flips",
        action=argparse.BooleanOptionalAction,
        help="from now on, have this checkpoint answer with the mean over an image's mirror images, at four times the "
        "work (default: as it does now)",
    )
    add(
        "--novelty",
        action=argparse.BooleanOptionalAction,
        help="from now on, have what is unlike any good training image count in this checkpoint's verdicts, "
        "for defects of kinds that were never in training (default: as it is now)",
    )
    add_target_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Calibrate, print and store."""
    args = build_parser().parse_args(argv)
    target = target_from_flags(args)
    content = load_checkpoint(args.checkpoint)
    if args.flips is not None:
        content["flips"] = args.flips
    options = {
        "precision": resolve_precision(args.mixed_precision, resolve_device(args.device)),
        "batch_size": args.batch_size,
        "num_workers": args.num_workers,
        "dinov3_repo": args.dinov3_repo,
    }
    if args.novelty:
        add_novelty(content, args.checkpoint, args.data_root, **options)
    elif args.novelty is not None:
        content.pop("novelty", None)
    images = score_validation(content, args.checkpoint, args.data_root, **options)
    calibration = calibrate(images.class_prob, images.labels, images.groups, target)
    store_calibration(args.checkpoint, content, calibration)
    print(f"{args.checkpoint}: calibrated on the validation images of {args.data_root}")
    if content.get("flips", False):
        print("  every answer, here and from now on, is the mean over four mirror images")
    if content.get("novelty") is not None:
        print("  what is unlike any good training image counts in every verdict")
    print(table(calibration))
    return 0


if __name__ == "__main__":
    run_script(main)
