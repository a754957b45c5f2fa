"""The training report: how a run went, and what its best checkpoint makes of the validation images."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from dinov3.defect_evaluation.bootstrap import measure
from dinov3.defect_evaluation.calibrate import ScoredImages
from dinov3.defect_evaluation.figures import CHINESE, epochs_figure, metric_figures, read_log, save_figure
from dinov3.defect_evaluation.findings import Findings
from dinov3.defect_evaluation.thresholds import Thresholds, limit_text
from dinov3.inference.predictor import DefectPredictor
from dinov3.inference.reports.evaluation import (
    STYLE,
    choose_pictures,
    curves_section,
    metric_cards,
    picture_section,
    verdict_section,
)
from dinov3.inference.reports.html import both, figure_svg, page, table
from dinov3.inference.reports.pair_pictures import draw_sheet
from dinov3.models.defect_checkpoint import load_checkpoint, restore_model

PICTURES = {"missed": 6, "overkill": 6, "worst masks": 6}  # at most
EPOCH_COLUMNS = (
    ("epoch", "epoch", "轮次"),
    ("train_total_loss", "training loss", "训练损失"),
    ("val_total_loss", "validation loss", "验证损失"),
    ("alpha", "weight of the class loss", "分类损失权重"),
    ("beta", "weight of the mask loss", "掩码损失权重"),
    ("lr_heads", "learning rate of the heads", "头部学习率"),
    ("image_accuracy", "accuracy", "准确率"),
    ("image_ap", "image AP", "图像 AP"),
    ("pixel_iou", "pixel IoU", "像素 IoU"),
    ("mean_iou_defect", "IoU per defect image", "每张缺陷图像的 IoU"),
    ("images_per_second", "images/s", "图像/秒"),
)


def report_is_current(save_dir: Path) -> bool:
    """Whether a run's report was written after its last epoch."""
    report, log = save_dir / "report.html", save_dir / "metrics.jsonl"
    return report.is_file() and log.is_file() and report.stat().st_mtime >= log.stat().st_mtime


def report_training(best: Path, scored: ScoredImages, *, device: str, dinov3_repo: Path | None = None) -> None:
    """Write the report of a run beside its best checkpoint; ``scored`` is a pass of that over the validation images."""
    content = load_checkpoint(best)
    model = restore_model(content, best, dinov3_repo)
    predictor = DefectPredictor(model, content, device=device, mixed_precision="off")
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
    sections = [
        _summary(content, findings, records) + f"{metric_cards(metrics.estimates)}</section>",
        _epochs(records),
        curves_section(figures, findings.thresholds.classification),
        verdict_section(findings),
        *(picture_section(kind, pairs) for kind, pairs in pictures.items()),
    ]
    for name, figure in figures.items():
        save_figure(figure, save_dir / f"{name}.png")
    worst = [pair for pairs in pictures.values() for pair in pairs]
    draw_sheet("Missed, overkill and worst masks (validation): true | predicted", worst, save_dir / "worst.png")
    unfinished = save_dir / ".report.html-unfinished"  # a run that is cut off here has no report, and makes up for it
    html = page(("Training report", "训练报告"), "\n".join(sections), style=STYLE)
    unfinished.write_text(html, encoding="utf-8")
    unfinished.replace(save_dir / "report.html")


def _summary(content: dict[str, Any], findings: Findings, records: list[dict[str, Any]]) -> str:
    limits, calibration = findings.thresholds, content.get("calibration") or {}
    rows = [
        (("backbone", "主干网络"), f"{content['backbone']}, {content['image_size']} px"),
        (("epochs", "训练轮数"), f"{len(records)}"),
        (("best epoch", "最佳轮次"), f"{content['epoch']}"),
        (("validation images", "验证图像"), f"{len(findings.rows)}"),
        (("reject from (defect probability)", "判不合格阈值（缺陷概率）"), limit_text(limits.classification)),
        (("review from", "复检阈值"), "–" if limits.review is None else limit_text(limits.review)),
        (("temperature", "温度"), f"{limits.temperature:.3g}"),
        (("mask threshold", "掩码阈值"), limit_text(limits.mask)),
        (("thresholds chosen for", "阈值目标"), str(calibration.get("target", "–"))),
    ]
    facts = table([], [[both(*words), escape(value)] for words, value in rows])
    note = both(
        "best_accuracy.pth on the validation images, which chose the checkpoint and its thresholds: expect somewhat "
        "less of new images. evaluate_defect_model.py measures that on the test split.",
        "best_accuracy.pth 在验证集上的结果。检查点与阈值都由验证集选定，新图像上的结果通常略差；"
        "请用 evaluate_defect_model.py 在测试集上评估。",
    )
    return f"<section><h2>{both('This run', '本次训练')}</h2>{facts}</section><section><h2>" + (
        f"{both('Validation metrics of the best checkpoint', '最佳检查点的验证指标')}</h2><p class='soft'>{note}</p>"
    )


def _epochs(records: list[dict[str, Any]]) -> str:
    header = [both(*words) for _, *words in EPOCH_COLUMNS]
    rows = [[_number(record.get(key)) for key, *_ in EPOCH_COLUMNS] for record in records]
    figure = figure_svg(epochs_figure(records), chinese=CHINESE)
    numbers = table(header, rows, range(len(header)))
    return (
        f"<section><h2>{both('Epochs', '各轮结果')}</h2>{figure}"
        f"<details><summary>{both('all numbers', '全部数据')}</summary>{numbers}</details></section>"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
