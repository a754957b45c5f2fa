"""The inspection report's frame: what its template is told, and the texts that its script writes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dinov3.data.defect_drawing import class_color, hex_color
from dinov3.defect_evaluation.calibration_texts import calibration_texts
from dinov3.defect_evaluation.thresholds import VERDICTS, Thresholds, limit_text
from dinov3.defect_pages.html import stream
from dinov3.inference.reasons import VERDICT_NAMES
from dinov3.inference.visualize import NORMAL_COLOR

TEMPLATE = Path(__file__).parent / "templates" / "inspection.html"

# English, Chinese
TEXTS = VERDICT_NAMES | {
    "bin": ("{from} to {to}: {n} images", "{from} 至 {to}：{n} 张"),
    "alt": ("{name}: {verdict}, {class}, defect probability {p}", "{name}：{verdict}，{class}，缺陷概率 {p}"),
    "area": ("{share} in {n} region(s)", "{share}，{n} 个区域"),
    "no_region": ("no defect region", "无缺陷区域"),
    "no_picture": ("no picture", "无图像"),
    "found": ("{n} of {of} images", "{n} / {of} 张图像"),
    "nothing": ("No image fits these filters.", "没有符合筛选条件的图像。"),
    "printed": ("The first {n} of {of} images are printed.", "共 {of} 张图像，打印前 {n} 张。"),
    "why": ("Reason", "判定依据"),
    "with_new_limits": ("With the moved thresholds", "按调整后的阈值"),
    "class": ("Class", "类别"),
    "defect_probability": ("Defect probability", "缺陷概率"),
    "marked": ("Marked as defect", "标出的缺陷"),
    "disagreement": ("Mask and classifier disagree", "掩码与分类结果不一致"),
    "milliseconds": ("Time", "耗时"),
    "yes": ("yes", "是"),
    "no": ("no", "否"),
    "more_regions": ("and {n} smaller", "另有 {n} 个较小区域"),
    "search": ("Search name, class, reason", "搜索文件名、类别、依据"),
    "all_verdicts": ("All verdicts", "全部判定"),
    "changed": ("Would change", "判定会改变"),
    "all_classes": ("All classes", "全部类别"),
    "order_suspicious": ("Most suspicious first", "最可疑的在前"),
    "order_probability": ("Probability, high to low", "概率从高到低"),
    "order_probability_up": ("Probability, low to high", "概率从低到高"),
    "order_nearest": ("Nearest a threshold", "最接近阈值"),
    "order_name": ("Name", "文件名"),
    "order_area": ("Defect area, large to small", "缺陷面积从大到小"),
    "order_input": ("Order of inspection", "检测顺序"),
    "filters": ("Filters", "筛选"),
    "verdict": ("Verdict", "判定"),
    "order": ("Order", "排序"),
    "previous": ("Previous image (left arrow key)", "上一张（左方向键）"),
    "next": ("Next image (right arrow key)", "下一张（右方向键）"),
    "close": ("Close (Esc)", "关闭（Esc）"),
    "review_limit": ("Review from probability", "复检阈值（概率）"),
    "reject_limit": ("Reject from probability", "不合格阈值（概率）"),
    "histogram": ("Histogram of the defect probabilities of all images", "全部图像缺陷概率的直方图"),
}
ORDERS = [key.removeprefix("order_") for key in TEXTS if key.startswith("order_")]


def report_page(
    images: Iterator[str],
    *,
    title: str,
    checkpoint: str,
    source: str,
    calibration: Mapping[str, Any] | None,
    classes: Sequence[str],
    thresholds: Thresholds,
    counts: Mapping[str, int],
    disagreements: int,
    bound: int,
    errors: Sequence[tuple[str, str]],
    images_shown: int,
    has_panels: bool,
    block: int,
    drift: Mapping[str, Any] | None,
    drift_reference: str,
) -> Iterator[str]:
    """The page piece by piece; ``images``: HTML elements that hold them, taken one by one.

    The other arguments are those of ``ReportWriter`` and what ``Summary`` says; ``has_panels``: the four-panel pictures
    are in ``visualizations/`` beside the page; ``block``: pictures per element.
    """
    inspected = sum(counts.get(v, 0) for v in VERDICTS)
    facts = {
        "classes": list(classes),
        "colors": [hex_color(NORMAL_COLOR if i == 0 else class_color(i)) for i in range(len(classes))],
        "review": thresholds.classification if thresholds.review is None else thresholds.review,
        "reject": thresholds.classification,
        "counts": {v: counts.get(v, 0) for v in VERDICTS},
        "panels": "visualizations" if has_panels else "",
        "block": block,
    }
    return stream(
        TEMPLATE,
        texts=TEXTS,
        heading=title,
        written=time.strftime("%Y-%m-%d %H:%M"),
        verdicts=VERDICT_NAMES,
        orders=ORDERS,
        inspected=inspected,
        hidden=inspected - images_shown,
        errors=[(name, reason.partition(f"{name}: ")[2] or reason) for name, reason in errors],
        checkpoint=checkpoint,
        source=source,
        calibration=calibration,
        calibration_texts=calibration_texts(calibration),
        classes=classes,
        thresholds=thresholds,
        limit_text=limit_text,
        counts=counts,
        disagreements=disagreements,
        bound=bound,
        facts=facts,
        images=images,
        drift=drift,
        drift_reference=drift_reference,
    )
