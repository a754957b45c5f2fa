"""The training report: how a run went, and what its best checkpoint makes of the validation images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dinov3.defect_evaluation.bootstrap import measure
from dinov3.defect_evaluation.calibrate import ScoredImages
from dinov3.defect_evaluation.figures import CHINESE, epochs_figure, metric_figures, read_log, save_figure
from dinov3.defect_evaluation.findings import Findings
from dinov3.defect_evaluation.thresholds import Thresholds
from dinov3.defect_pages.html import render
from dinov3.defect_size import size_text
from dinov3.inference.predictor import DefectPredictor
from dinov3.inference.reports.evaluation import choose_pictures, common_values
from dinov3.inference.reports.figure_svg import figure_svg
from dinov3.inference.reports.pair_pictures import draw_sheet
from dinov3.models.defect_checkpoint import load_checkpoint, restore_model
from dinov3.models.defect_engines.torch_engine import TorchEngine
from dinov3.models.defect_facts import ModelFacts

PICTURES = {"missed": 6, "overkill": 6, "worst masks": 6}  # at most
TEMPLATE = Path(__file__).parent / "templates" / "training.html"


def report_is_current(save_dir: Path) -> bool:
    """Whether a run's report was written after its last epoch."""
    report, log = save_dir / "report.html", save_dir / "metrics.jsonl"
    return report.is_file() and log.is_file() and report.stat().st_mtime >= log.stat().st_mtime


def report_training(best: Path, scored: ScoredImages, *, device: str, dinov3_repo: Path | None = None) -> None:
    """Write the report of a run beside its best checkpoint; ``scored`` is a pass of that over the validation images."""
    content = load_checkpoint(best)
    model = restore_model(content, best, dinov3_repo)
    engine = TorchEngine(model, ModelFacts.of_checkpoint(content), device=device, precision="off")
    predictor = DefectPredictor(engine)
    findings = Findings(scored.results, scored.rows, Thresholds.of(content))
    write_training_report(best.parent, content, findings, lambda path: predictor(path).mask)
    print(f"{best.parent / 'report.html'}: curves and pictures of this run")


def write_training_report(
    save_dir: Path, content: dict[str, Any], findings: Findings, predict: Callable[[Path], np.ndarray]
) -> None:
    """Write ``report.html`` and the PNGs ``pr``, ``roc``, ``pixel_pr``, ``pro``, ``confusion`` and ``worst``.

    Args:
        save_dir: of the run, with its ``metrics.jsonl``.
        content: of the best checkpoint.
        findings: of a pass of it over the validation images.
        predict: an image file to its predicted mask, (H, W) uint8 of mask classes; for the pictures.
    """
    metrics = measure(findings.results, findings.thresholds, findings.parts)
    figures = metric_figures(metrics, content["classes"], findings.thresholds.classification)
    pictures = choose_pictures(findings, predict, PICTURES)
    records = read_log(save_dir / "metrics.jsonl")
    for name, figure in figures.items():
        save_figure(figure, save_dir / f"{name}.png")
    worst = [pair for pairs in pictures.values() for pair in pairs]
    draw_sheet("Missed, overkill and worst masks (validation): true | predicted", worst, save_dir / "worst.png")
    unfinished = save_dir / ".report.html-unfinished"  # a run that is cut off here has no report, and makes up for it
    html = render(
        TEMPLATE,
        **common_values(metrics, findings, figures, pictures, content.get("calibration")),
        backbone=content["backbone"],
        image_size=size_text(content["image_size"]),
        best_epoch=content["epoch"],
        images=len(findings.rows),
        epochs=records,
        epochs_figure=figure_svg(epochs_figure(records), CHINESE),
    )
    unfinished.write_text(html, encoding="utf-8")
    unfinished.replace(save_dir / "report.html")
