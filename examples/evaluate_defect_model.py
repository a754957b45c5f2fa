"""Measure a trained model on a split it was not chosen on.

python examples/evaluate_defect_model.py --checkpoint checkpoints/stage3_uncertainty/best_accuracy.pth \
    --data_root data/demo --split test
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import _bootstrap  # noqa: F401  puts the repository first on sys.path

from dinov3.data.defect_dataset import DefectDataset, make_loader
from dinov3.data.defect_manifest import SPLITS, read_manifest
from dinov3.data.defect_tile_dataset import WholeImages
from dinov3.data.defect_tiles import Tiling
from dinov3.data.defect_transforms import Normalization
from dinov3.defect_errors import DefectError, run_script
from dinov3.models.defect_device import resolve_device, resolve_precision
from dinov3.train.defect_checkpoint import load_checkpoint, restore_model
from dinov3.train.defect_config import fraction, non_negative_int, positive_int
from dinov3.train.defect_metrics import DefectMetrics
from dinov3.train.defect_tile_evaluation import evaluate_tiles
from dinov3.train.train_defect_classifier import evaluate


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help=".pth file from train_defect_model.py")
    add("--data_root", type=Path, required=True, help="dataset folder")
    add("--split", choices=SPLITS, default="test", help="which rows of the manifest")
    add("--threshold", type=fraction, help="defect probability from which on to reject (default: the checkpoint's)")
    add("--mask_threshold", type=fraction, help="mask probability from which on a pixel is defect (likewise)")
    add("--output", type=Path, help="JSON file for the metrics")
    add("--batch_size", type=positive_int, default=16, help="images, or tiles of an image, at a time")
    add("--num_workers", type=non_negative_int, default=2, help="processes that read images")
    add("--dinov3_repo", type=Path, help="official checkout, if the model was trained on one")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = build_parser().parse_args(argv)
    if args.output is not None:  # an unusable path is better known before the work than after
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.open("a").close()
    content = load_checkpoint(args.checkpoint)
    rows = read_manifest(args.data_root).select(args.split)
    if len(rows) == 0:
        raise DefectError(f"{args.data_root}: no images in the {args.split} split; organise with --{args.split}_split")
    if rows.classes != content["classes"]:
        raise DefectError(f"{args.checkpoint}: its classes are {content['classes']}, the dataset's {rows.classes}")
    device = resolve_device(args.device)
    model = restore_model(content, args.checkpoint, args.dinov3_repo).to(device)
    thresholds, normalization = content["thresholds"], content["normalization"]
    threshold = thresholds["classification"] if args.threshold is None else args.threshold
    mask_threshold = thresholds["mask"] if args.mask_threshold is None else args.mask_threshold
    metrics = DefectMetrics(len(rows.classes), threshold, mask_threshold)
    loader_options = {"num_workers": args.num_workers, "pin_memory": device.type == "cuda"}
    options = {
        "precision": resolve_precision("off", device),
        "normalization": Normalization(**normalization),
        "description": args.split,
    }
    tiling = Tiling.of(content)
    if tiling is None:
        loader = make_loader(DefectDataset(rows, content["image_size"]), args.batch_size, **loader_options)
        result = evaluate(model, loader, metrics, **options)
    else:
        loader = make_loader(WholeImages(rows), None, **loader_options)
        options |= {"tiling": tiling, "image_size": content["image_size"], "batch_size": args.batch_size}
        result = evaluate_tiles(model, loader, metrics, **options)
    tiles = f" by tiles of {tiling.size} px" if tiling else ""
    print(f"{args.checkpoint} on {len(rows)} images ({args.split}){tiles}, thresholds {threshold} and", end=" ")
    print(f"{mask_threshold} (mask):")
    del result["best_mask_threshold"]  # thresholds are chosen on validation images, in training
    confusion = result["confusion"]
    for name, value in result.items():
        if name != "confusion":
            print(f"  {name:<16} {value:.4f}")
    width = max(map(len, rows.classes))
    print(f"  {'true':<{width}}  taken for: {', '.join(rows.classes)}")
    for name, line in zip(rows.classes, confusion, strict=True):
        print(f"  {name:<{width}}  " + " ".join(f"{count:>6}" for count in line))
    if args.output is not None:
        record = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in result.items()}
        args.output.write_text(json.dumps(record, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_script(main)
