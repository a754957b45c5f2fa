"""Measure a trained model on a split it was not chosen on.

python examples/evaluate_defect_model.py --checkpoint checkpoints/stage3_uncertainty/best_accuracy.pth \
    --data_root data/demo --split test --report_dir reports/demo
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import _bootstrap  # noqa: F401  puts the repository first on sys.path

from dinov3.data.defect_manifest import SPLITS, read_manifest
from dinov3.defect_cli import fraction, non_negative_int, positive_int
from dinov3.defect_errors import DefectError, run_script
from dinov3.defect_evaluation.bootstrap import SplitMetrics, measure, resample_parts
from dinov3.defect_evaluation.evaluate import View, evaluate, evaluation_loader
from dinov3.defect_evaluation.findings import Findings
from dinov3.defect_evaluation.image_results import ImageResults
from dinov3.defect_evaluation.thresholds import VERDICTS, Thresholds, limit_text
from dinov3.inference.predictor import DefectPredictor
from dinov3.inference.reports.evaluation import Evaluation, write_report
from dinov3.models.defect_checkpoint import load_checkpoint, restore_model
from dinov3.models.defect_device import add_device_flags, resolve_device, resolve_precision


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
    add("--report_dir", type=Path, help="folder for report.html, metrics.json, per_image.csv, regions.csv and pictures")
    add("--resamples", type=non_negative_int, default=500, help="of the bootstrap; 0: no intervals")
    add("--batch_size", type=positive_int, default=16, help="images, or tiles of an image, at a time")
    add("--num_workers", type=non_negative_int, default=2, help="processes that read images")
    add("--dinov3_repo", type=Path, help="official checkout, if the model was trained on one")
    add_device_flags(add)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = build_parser().parse_args(argv)
    open_outputs(args)
    content = load_checkpoint(args.checkpoint)
    rows = read_manifest(args.data_root).select(args.split)
    if len(rows) == 0:
        raise DefectError(f"{args.data_root}: no images in the {args.split} split; organise with --{args.split}_split")
    if rows.classes != content["classes"]:
        raise DefectError(f"{args.checkpoint}: its classes are {content['classes']}, the dataset's {rows.classes}")
    device = resolve_device(args.device)
    model = restore_model(content, args.checkpoint, args.dinov3_repo).to(device)
    thresholds = Thresholds.of(content, args.threshold, args.mask_threshold)
    weights = resample_parts(rows.parts, args.resamples)
    results = ImageResults(len(rows.classes), thresholds.mask, weights=weights)
    view = View.of(content)
    loader = evaluation_loader(rows, view, args.batch_size, num_workers=args.num_workers, device=device)
    precision = resolve_precision(args.mixed_precision, device)
    evaluate(model, loader, results, view, batch_size=args.batch_size, precision=precision, description=args.split)
    metrics, findings = measure(results, thresholds, rows.parts), Findings(results, rows, thresholds)
    tiles = f" by tiles of {view.tiling.size} px" if view.tiling else ""
    calibration = content.get("calibration") if args.threshold is None else None  # it speaks of its own limits
    review = "" if thresholds.review is None else f"{limit_text(thresholds.review)} (review), "
    limits = f"thresholds {review}{limit_text(thresholds.classification)} and {limit_text(thresholds.mask)} (mask)"
    print(f"{args.checkpoint} on {len(rows)} images ({args.split}){tiles}, {limits}:")
    print_table(metrics, findings)
    for name in ("target", "promise"):
        if calibration and calibration.get(name):
            print(f"  {name}: {calibration[name]}")
    if args.output is not None:
        args.output.write_text(json.dumps(flat_record(metrics), indent=2), encoding="utf-8")
    if args.report_dir is not None:
        facts = {
            "checkpoint": str(args.checkpoint),
            "data_root": str(args.data_root),
            "split": args.split,
            "images": len(rows),
            "defect_images": int((rows.labels > 0).sum()),
            "parts": len(set(rows.parts.tolist())),
            "left_out": int(((results.labels < 0) & ~results.images["has_mask"]).sum()),
            **({"tile_size": view.tiling.size} if view.tiling else {}),
            "date": date.today().isoformat(),
        }
        limits = {"threshold": thresholds.classification, "mask_threshold": thresholds.mask}
        predictor = DefectPredictor(model, content, device=args.device, mixed_precision=args.mixed_precision, **limits)
        evaluation = Evaluation(metrics, findings, facts, calibration)
        write_report(args.report_dir, evaluation, lambda path: predictor(path).mask)
        print(f"{args.report_dir / 'report.html'}: figures, misses and pictures")
    return 0


def open_outputs(args: argparse.Namespace) -> None:
    """Make what is to hold the results: an unusable path is better known before the work than after."""
    try:
        if args.output is not None:
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.open("a").close()
        if args.report_dir is not None:
            args.report_dir.mkdir(parents=True, exist_ok=True)
            (args.report_dir / "report.html").open("a").close()
    except OSError as error:
        raise DefectError(f"{error.filename}: cannot be written ({error.strerror}); choose another path") from None


def print_table(metrics: SplitMetrics, findings: Findings) -> None:
    """Metrics with 95% intervals, confusion, verdicts and regions found."""
    for name, estimate in metrics.estimates.items():
        print(f"  {name:<16} {estimate}")
    classes = findings.rows.classes
    width = max(map(len, classes))
    print(f"  {'true':<{width}}  taken for: {', '.join(classes)}")
    for name, line in zip(classes, metrics.confusion.tolist(), strict=True):
        print(f"  {name:<{width}}  " + " ".join(f"{count:>6}" for count in line))
    print(f"  {'true':<{width}}  verdicts: {', '.join(VERDICTS)}")
    for name, verdicts in findings.verdict_counts().items():
        print(f"  {name:<{width}}  " + " ".join(f"{count:>6}" for count in verdicts.values()))
    for kind, rates in findings.hit_rates().items():
        for name, rate in rates:
            print(f"  regions found, {name if kind == 'all' else f'{kind} {name}'}: {rate}")


def flat_record(metrics: SplitMetrics) -> dict[str, object]:
    """Metric name to value, ``intervals`` and ``confusion``; None for NaN."""
    values = {name: None if math.isnan(e.value) else e.value for name, e in metrics.estimates.items()}
    intervals = {name: [e.low, e.high] for name, e in metrics.estimates.items() if not math.isnan(e.low)}
    return values | {"intervals": intervals, "confusion": metrics.confusion.tolist()}


if __name__ == "__main__":
    run_script(main)
