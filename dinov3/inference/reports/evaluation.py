"""The evaluation report: every metric of a split with its interval, what was missed, and pictures; one HTML file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dinov3.defect_evaluation.bootstrap import Estimate, SplitMetrics
from dinov3.defect_evaluation.calibration_texts import calibration_texts
from dinov3.defect_evaluation.figures import chinese_texts, metric_figures, save_figure, thin
from dinov3.defect_evaluation.findings import (
    HIT_RULE,
    OUTCOMES,
    REGION_COLUMNS,
    Findings,
    image_columns,
)
from dinov3.defect_evaluation.image_results import HIT_SHARE
from dinov3.defect_evaluation.parts import COLUMNS as PART_COLUMNS
from dinov3.defect_evaluation.parts import PartVerdicts
from dinov3.defect_evaluation.thresholds import limit_text
from dinov3.defect_folder_kinds import expect_no_dataset, expect_no_training, expect_none_of, is_json_with
from dinov3.defect_pages.html import render
from dinov3.defect_tables import write_table
from dinov3.inference.reasons import VERDICT_NAMES
from dinov3.inference.reports.figure_svg import figure_svg
from dinov3.inference.reports.pair_pictures import Pair, draw_pair, draw_sheet

PICTURES = {"missed": 12, "overkill": 12, "worst masks": 12, "best masks": 8}  # at most
FILES = "report.html metrics.json per_image.csv regions.csv pr.png roc.png pixel_pr.png pro.png confusion.png".split()
FILES += ["parts.csv", "worst.png", "best.png"]
MOST_MISSES = 100  # in the page; regions.csv has all

TEMPLATE = Path(__file__).parent / "templates" / "evaluation.html"


@dataclass(frozen=True)
class Evaluation:
    """Everything the report is made of.

    Attributes:
        facts: what was measured on what, for the reader: label to text.
        calibration: that of the checkpoint, if any.
        parts: verdicts on parts, if they were asked for.
    """

    metrics: SplitMetrics
    findings: Findings
    facts: dict[str, Any]
    calibration: dict[str, Any] | None = None
    parts: PartVerdicts | None = None


def write_report(folder: Path, evaluation: Evaluation, predict: Callable[[Path], np.ndarray]) -> None:
    """Write ``report.html``, ``metrics.json``, ``per_image.csv``, ``regions.csv``, a PNG of each figure and sheet.

    Args:
        predict: an image file to its predicted mask, (H, W) uint8 of mask classes; for the pictures.
    """
    findings, metrics = evaluation.findings, evaluation.metrics
    classes = findings.rows.classes
    write_table(folder / "per_image.csv", findings.image_rows(), image_columns(classes))
    write_table(folder / "regions.csv", findings.region_rows(), REGION_COLUMNS)
    if evaluation.parts is not None:
        write_table(folder / "parts.csv", evaluation.parts.rows(), PART_COLUMNS)
    text = json.dumps(report_record(evaluation), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    figures = metric_figures(metrics, classes, findings.thresholds.classification)
    pictures = choose_pictures(findings, predict, PICTURES)
    missed = np.flatnonzero(~findings.found)
    missed = missed[np.argsort(-findings.side[missed], kind="stable")]
    html = render(
        TEMPLATE,
        **common_values(metrics, findings, figures, pictures, evaluation.calibration),
        facts=evaluation.facts,
        parts=evaluation.parts,
        wrong_parts=wrong_parts(evaluation.parts),
        hit_rates=findings.hit_rates(),
        hit_share=HIT_SHARE,
        missed=list(findings.region_rows(missed[:MOST_MISSES])),
        missed_total=len(missed),
        bins=findings.results.bins,
    )
    (folder / "report.html").write_text(html, encoding="utf-8")
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    worst = [pair for kind in ("missed", "overkill", "worst masks") for pair in pictures[kind]]
    draw_sheet("Missed, overkill and worst masks: true | predicted", worst, folder / "worst.png")
    draw_sheet("Best masks: true | predicted", pictures["best masks"], folder / "best.png")


def wrong_parts(parts: PartVerdicts | None) -> list[dict[str, Any]]:
    """Rows of the parts that were missed or overkill, the first ones."""
    rows = () if parts is None else parts.rows()
    return list(islice((row for row in rows if row["outcome"] in ("missed", "overkill")), MOST_MISSES))


def expect_own_report(folder: Path) -> None:
    """Refuse a ``--report_dir`` in which something would be lost.

    Raises:
        DefectError: it is or lies in a dataset, is that of a training, or holds files of these names that no
            evaluation made.
    """
    expect_no_dataset(folder, "--report_dir")
    expect_no_training(folder, "--report_dir")
    made = is_json_with("metrics", "hit_rule")
    if not ((folder / "metrics.json").is_file() and made(folder / "metrics.json")):
        full = [name for name in FILES if not _is_empty(folder / name)]
        expect_none_of(folder, full, "--report_dir", "evaluation")


def _is_empty(path: Path) -> bool:
    """An evaluation that was cut off leaves a page without anything in it."""
    return path.is_file() and path.stat().st_size == 0


def report_record(evaluation: Evaluation) -> dict[str, Any]:
    """The report as JSON: NaN is null, curves have at most 400 points."""
    metrics, findings = evaluation.metrics, evaluation.findings
    limits = findings.thresholds
    curves = {name: thin(getattr(metrics, name)) for name in ("pr", "roc", "pixel_pr", "pro")}
    return {
        **evaluation.facts,
        **({} if evaluation.parts is None else {"part_verdicts": evaluation.parts.record()}),
        "thresholds": vars(limits),
        "calibration": evaluation.calibration,
        "metrics": {name: estimate_record(estimate) for name, estimate in metrics.estimates.items()},
        "classes": findings.rows.classes,
        "confusion": metrics.confusion.tolist(),
        "verdicts": findings.verdict_counts(),
        "hit_rule": HIT_RULE,
        "hit_rate": {
            kind: {name: rate.record() for name, rate in rates} for kind, rates in findings.hit_rates().items()
        },
        "curves": {
            name: {axis: [None if math.isnan(v) else round(v, 6) for v in values.tolist()]
                   for axis, values in zip("xy", curve, strict=True)}
            for name, curve in curves.items()
        },
    }  # fmt: skip


def estimate_record(estimate: Estimate) -> dict[str, float | None]:
    """Value, low and high, with None for NaN."""
    return {name: None if math.isnan(value) else value for name, value in estimate._asdict().items()}


def choose_pictures(
    findings: Findings, predict: Callable[[Path], np.ndarray], most: Mapping[str, int]
) -> dict[str, list[Pair]]:
    """Pictures to look at, by kind (those of :meth:`Findings.ranked`) with at most so many of each."""
    chosen: dict[str, list[Pair]] = {}
    for kind, limit in most.items():
        pairs = (
            draw_pair(findings.rows, n, _note(findings, n), predict) for n in findings.ranked(kind, limit).tolist()
        )
        chosen[kind] = [pair for pair in pairs if pair is not None]
    return chosen


def _note(findings: Findings, n: int) -> tuple[str, str]:
    image, score = findings.images[n], findings.score[n]
    label, taken = findings.class_names[image["label"]], findings.class_names[findings.predicted[n]]
    known = image["tp"] + image["fn"]
    iou = f"IoU {image['tp'] / (known + image['fp']):.2f}" if known else ""
    english = ", ".join(filter(None, (label, f"taken for {taken}", f"p {score:.3f}", iou)))
    return english, "，".join(filter(None, (label, f"判为 {taken}", f"p {score:.3f}", iou)))


def common_values(
    metrics: SplitMetrics,
    findings: Findings,
    figures: Mapping[str, Figure],
    pictures: Mapping[str, Sequence[Pair]],
    calibration: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the templates of the evaluation and the training report both need."""
    outcomes = np.bincount(findings.outcome[findings.outcome >= 0], minlength=len(OUTCOMES))
    chinese = chinese_texts(findings.thresholds.classification)
    return {
        "metrics": {name: _estimate_texts(estimate) for name, estimate in metrics.estimates.items()},
        "thresholds": findings.thresholds,
        "limit_text": limit_text,
        "calibration_texts": calibration_texts(calibration),
        "verdict_names": VERDICT_NAMES,
        "verdict_counts": findings.verdict_counts(),
        "outcomes": dict(zip(OUTCOMES, outcomes.tolist(), strict=True)),
        "figures": [figure_svg(figure, chinese) for figure in figures.values()],
        "pictures": pictures,
    }


def _estimate_texts(estimate: Estimate) -> tuple[str, str]:
    """The value and its interval, each "" if there is none."""
    value, low, high = estimate
    return "" if math.isnan(value) else f"{value:.3f}", "" if math.isnan(low) else f"{low:.3f} – {high:.3f}"
