"""Measure a trained model on a split it was not chosen on.

python examples/evaluate_defect_model.py --checkpoint checkpoints/stage3_uncertainty/best_accuracy.pth \
    --data_root data/demo --split test --report_dir reports/demo
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dinov3.data.defect_tiles import Tiling
from dinov3.defect_cli import (
    Fraction,
    NonNegativeInt,
    PositiveInt,
    PrecisionName,
    device_flag,
    engine_flag,
    flag,
    make_parser,
    parse,
    precision_flag,
    threads_flag,
)
from dinov3.defect_commands.part_flags import SplitPartFlags, regrouped
from dinov3.defect_display import on_a_line
from dinov3.defect_errors import DefectError, run_script
from dinov3.defect_evaluation.bootstrap import SplitMetrics, measure, resample_parts
from dinov3.defect_evaluation.findings import Findings
from dinov3.defect_evaluation.image_results import ImageResults
from dinov3.defect_evaluation.parts import PartVerdicts
from dinov3.defect_evaluation.scoring import read_split, score
from dinov3.defect_evaluation.thresholds import VERDICTS, Thresholds, limit_text
from dinov3.defect_folder_kinds import expect_own_file, is_json_with
from dinov3.inference.parts import calibrated_views
from dinov3.inference.predictor import DefectPredictor
from dinov3.models.defect_engines import EngineName, open_engine


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(SplitPartFlags):
    """What can be set."""

    checkpoint: Path = flag(help=".pth file from train_defect_model.py, or .onnx from export_defect_model.py")
    data_root: Path = flag(help="dataset folder")
    split: Literal["train", "val", "test"] = flag("test", "which rows of the manifest")
    threshold: Fraction | None = flag(None, "defect probability from which on to reject (default: the checkpoint's)")
    mask_threshold: Fraction | None = flag(None, "mask probability from which on a pixel is defect (likewise)")
    output: Path | None = flag(None, "JSON file for the metrics")
    report_dir: Path | None = flag(
        None, "folder for report.html, metrics.json, per_image.csv, regions.csv and pictures"
    )
    resamples: NonNegativeInt = flag(500, "of the bootstrap; 0: no intervals")
    batch_size: PositiveInt = flag(16, "images, or tiles of an image, at a time")
    num_workers: NonNegativeInt = flag(2, "threads that read images")
    dinov3_repo: Path | None = flag(None, "official checkout, if the model was trained on one")
    mixed_precision: PrecisionName = precision_flag()
    engine: EngineName | None = engine_flag()
    threads: PositiveInt | None = threads_flag()
    device: str = device_flag()


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    return make_parser(EvaluateConfig, __doc__)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    config = parse(EvaluateConfig, build_parser(), argv)
    open_outputs(config)
    told = config.told(config.data_root, config.split)
    engine = open_engine(
        config.checkpoint,
        config.engine,
        device=config.device,
        precision=config.mixed_precision,
        threads=config.threads,
        dinov3_repo=config.dinov3_repo,
    )
    rows = regrouped(read_split(engine.facts, config.checkpoint, config.data_root, config.split), told)
    thresholds = Thresholds.of(engine.facts.to_table(), config.threshold, config.mask_threshold)
    weights = resample_parts(rows.parts, config.resamples)
    results = ImageResults(len(rows.classes), thresholds.mask, weights=weights)
    options = {"batch_size": config.batch_size, "num_workers": config.num_workers}
    score(engine, rows, results, description=config.split, **options)
    metrics, findings = measure(results, thresholds, rows.parts), Findings(results, rows, thresholds)
    tiling = Tiling.of(engine.facts.to_table())
    tiles = f" by tiles of {tiling} px" if tiling else ""
    calibration = engine.facts.calibration if config.threshold is None else None  # it speaks of its own limits
    review = "" if thresholds.review is None else f"{limit_text(thresholds.review)} (review), "
    limits = f"thresholds {review}{limit_text(thresholds.classification)} and {limit_text(thresholds.mask)} (mask)"
    print(f"{config.checkpoint} on {len(rows)} images ({config.split}){tiles}, {limits}:")
    print_table(metrics, findings)
    parts = judge_parts(config, findings, calibration)
    if parts is not None:
        print_parts(parts)
    for name in ("target", "promise"):
        if calibration and calibration.get(name):
            print(f"  {name}: {calibration[name]}")
    if config.output is not None:
        config.output.write_text(json.dumps(flat_record(metrics, parts), indent=2), encoding="utf-8")
    if config.report_dir is not None:
        facts = {
            "checkpoint": str(config.checkpoint),
            "data_root": str(config.data_root),
            "split": config.split,
            "images": len(rows),
            "defect_images": int((rows.labels > 0).sum()),
            "parts": len(set(rows.parts.tolist())),
            "skipped": int(((results.labels < 0) & ~results.images["has_mask"]).sum()),
            **({"tile_size": engine.facts.tile_size} if tiling else {}),
            "date": date.today().isoformat(),
        }
        limits_in_use = {"threshold": thresholds.classification, "mask_threshold": thresholds.mask}
        predictor = DefectPredictor(engine, **limits_in_use)
        from dinov3.inference.reports.evaluation import Evaluation, write_report  # with matplotlib

        evaluation = Evaluation(metrics, findings, facts, calibration, parts)
        write_report(config.report_dir, evaluation, lambda path: predictor(path).mask)
        print(f"{config.report_dir / 'report.html'}: figures, misses and pictures")
    return 0


def open_outputs(config: EvaluateConfig) -> None:
    """Make what is to hold the results: an unusable path is better known before the work than after."""
    expect_own_file(config.output, "--output", is_json_with("intervals", "confusion"))
    if config.report_dir is not None:
        from dinov3.inference.reports.evaluation import expect_own_report

        expect_own_report(config.report_dir)
    try:
        if config.output is not None:
            config.output.parent.mkdir(parents=True, exist_ok=True)
            config.output.open("a").close()
        if config.report_dir is not None:
            config.report_dir.mkdir(parents=True, exist_ok=True)
            (config.report_dir / "report.html").open("a").close()
    except OSError as error:
        raise DefectError(f"{error.filename}: cannot be written ({error.strerror}); choose another path") from None


def print_table(metrics: SplitMetrics, findings: Findings) -> None:
    """Metrics with 95% intervals, confusion, verdicts and regions found."""
    for name, estimate in metrics.estimates.items():
        print(f"  {name:<16} {estimate}")
    classes = list(map(on_a_line, findings.rows.classes))
    width = max(map(len, classes))
    print(f"  {'true':<{width}}  taken for: {', '.join(classes)}")
    for name, line in zip(classes, metrics.confusion.tolist(), strict=True):
        print(f"  {name:<{width}}  " + " ".join(f"{count:>6}" for count in line))
    print(f"  {'true':<{width}}  verdicts: {', '.join(VERDICTS)}")
    for name, verdicts in zip(classes, findings.verdict_counts().values(), strict=True):
        print(f"  {name:<{width}}  " + " ".join(f"{count:>6}" for count in verdicts.values()))
    for kind, rates in findings.hit_rates().items():
        for name, rate in rates:
            print(f"  regions found, {on_a_line(name if kind == 'all' else f'{kind} {name}')}: {rate}")


def judge_parts(config: EvaluateConfig, findings: Findings, calibration: dict[str, Any] | None) -> PartVerdicts | None:
    """Verdicts on parts, if flags or the model's calibration ask for them."""
    views = config.views_to_reject or calibrated_views(calibration)
    if views is None and not config.wanted:
        return None
    known, limits = findings.images["label"] >= 0, findings.thresholds
    scores, defective = findings.score[known].astype(np.float64), findings.images["label"][known] > 0
    edges = (limits.classification, limits.review)
    images = findings.rows.columns["image"][known]
    return PartVerdicts.of(scores, defective, findings.parts[known], images, views or 1, edges)


def print_parts(parts: PartVerdicts) -> None:
    """What becomes of parts."""
    print(f"  {parts}")
    for name, rate in (("miss rate of parts", parts.miss), ("overkill of parts", parts.overkill)):
        if rate is not None:
            print(f"  {name:<18} {rate}")


def flat_record(metrics: SplitMetrics, parts: PartVerdicts | None = None) -> dict[str, object]:
    """Metric name to value, ``intervals`` and ``confusion``, and ``parts`` if they were judged; None for NaN."""
    values = {name: None if math.isnan(e.value) else e.value for name, e in metrics.estimates.items()}
    intervals = {name: [e.low, e.high] for name, e in metrics.estimates.items() if not math.isnan(e.low)}
    more = {} if parts is None else {"parts": parts.record()}
    return values | {"intervals": intervals, "confusion": metrics.confusion.tolist()} | more


def console() -> None:
    """The command ``defect-evaluate``."""
    run_script(main)
