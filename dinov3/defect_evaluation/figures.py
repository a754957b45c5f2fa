"""The figures of the evaluation and the training report, and of a run's TensorBoard."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from dinov3.data.defect_drawing import CJK_FONTS, INK, LINE, SOFT_INK, hex_color
from dinov3.defect_display import in_figure, on_a_line
from dinov3.defect_evaluation.bootstrap import Estimate, SplitMetrics
from dinov3.defect_evaluation.curves import AUPRO_LIMIT, Curve
from dinov3.defect_evaluation.thresholds import limit_text

BLUE, ORANGE, GREEN, PINK = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
)  # Okabe and Ito (2008), for colour-blind people too
LOSSES = {"train_total_loss": "train", "val_total_loss": "validation"}
VALIDATION_METRICS = {
    "image_accuracy": "accuracy",
    "image_ap": "image AP",
    "pixel_iou": "pixel IoU",
    "mean_iou_defect": "IoU per defect image",
}
MOST_POINTS = 400  # of a drawn curve

CHINESE = {
    "Recall": "召回率",
    "Precision": "精确率",
    "False-positive rate": "误报率",
    "True-positive rate": "检出率",
    "Overlap per region": "每个缺陷区域的重叠率",
    "Images: precision and recall": "图像：精确率与召回率",
    "Images: ROC": "图像：ROC",
    "Pixels: precision and recall": "像素：精确率与召回率",
    "Pixels: overlap per region (PRO)": "像素：区域重叠曲线（PRO）",
    "Confusion": "混淆矩阵",
    "taken for": "判为",
    "true": "真实",
    "nothing to draw": "无数据",
    "Loss": "损失",
    "Validation metrics": "验证指标",
    "epoch": "轮次",
    "train": "训练",
    "validation": "验证",
    "accuracy": "准确率",
    "image AP": "图像 AP",
    "pixel IoU": "像素 IoU",
    "IoU per defect image": "每张缺陷图像的 IoU",
}


def chinese_texts(threshold: float) -> dict[str, str]:
    """For :func:`~dinov3.inference.reports.figure_svg.figure_svg`: the figures' texts in Chinese."""
    return CHINESE | {_mark(threshold): f"阈值 {limit_text(threshold)}"}


def _mark(threshold: float) -> str:
    return f"threshold {limit_text(threshold)}"


def metric_figures(metrics: SplitMetrics, classes: Sequence[str], threshold: float) -> dict[str, Figure]:
    """File name without suffix to figure: ``pr``, ``roc``, ``pixel_pr``, ``pro`` and ``confusion``."""
    e = metrics.estimates
    confusion = metrics.confusion
    hit, false = confusion[1:, 1:].sum(), confusion[0, 1:].sum()
    defects, normals = confusion[1:].sum(), confusion[0].sum()
    recall, rate = hit / max(defects, 1), false / max(normals, 1)
    point = {"pr": (recall, hit / max(hit + false, 1)), "roc": (rate, recall)} if defects and normals else {}
    figures = {
        "pr": _curve_figure(
            "Images: precision and recall", "Recall", "Precision", metrics.pr, f"AP {_short(e['image_ap'])}", steps=True
        ),
        "roc": _curve_figure(
            "Images: ROC", "False-positive rate", "True-positive rate", metrics.roc,
            f"AUROC {_short(e['image_auroc'])}",
        ),
        "pixel_pr": _curve_figure(
            "Pixels: precision and recall", "Recall", "Precision", metrics.pixel_pr, f"AP {_short(e['pixel_ap'])}"
        ),
        "pro": _curve_figure(
            "Pixels: overlap per region (PRO)", "False-positive rate", "Overlap per region", metrics.pro,
            f"AUPRO {_short(e['pixel_aupro'])}",
        ),
    }  # fmt: skip
    for name, (x, y) in point.items():
        axes = figures[name].axes[0]
        axes.plot([x], [y], "o", color=ORANGE, markersize=7, label=_mark(threshold), zorder=4, clip_on=False)
        axes.legend(frameon=False, loc="lower right" if name == "roc" else "lower left")
    limit = figures["pro"].axes[0]
    limit.set_xlim(0, AUPRO_LIMIT)  # what AUPRO integrates
    for line in limit.lines:
        line.set_clip_on(True)
    return figures | {"confusion": confusion_figure(confusion, classes)}


def _short(estimate: Estimate) -> str:
    return "–" if np.isnan(estimate.value) else f"{estimate.value:.3f}"


def _curve_figure(title: str, x: str, y: str, curve: Curve, label: str, steps: bool = False) -> Figure:
    figure = Figure(figsize=(4.8, 3.7), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1.02))
    if np.isnan(curve.x).all() or np.isnan(curve.y).all():
        axes.text(0.5, 0.5, "nothing to draw", ha="center", color=hex_color(SOFT_INK), transform=axes.transAxes)
    else:
        some = thin(curve)
        kind = "steps-pre" if steps else "default"
        axes.plot(np.append(0 if steps else some.x[0], some.x), some.y[[0, *range(len(some.y))]], drawstyle=kind)
        axes.lines[0].set(color=BLUE, linewidth=2, label=label, clip_on=False)
        axes.legend(frameon=False, loc="lower right" if "rate" in x else "lower left")
    _clean(axes)
    return figure


def _clean(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(11)
    for spine in axes.spines.values():
        spine.set_color(hex_color(LINE))
    axes.tick_params(colors=hex_color(SOFT_INK), labelsize=9)


def thin(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """The curve with at most ``most`` points, spread along its length so that no bend is lost."""
    if len(curve.x) <= most:
        return curve
    length = np.cumsum(np.hypot(np.diff(curve.x, prepend=curve.x[0]), np.diff(curve.y, prepend=curve.y[0])))
    keep = np.searchsorted(length, np.linspace(0, length[-1], most)).clip(max=len(length) - 1)
    keep = np.unique(np.append(keep, [0, len(length) - 1]))
    return Curve(curve.x[keep], curve.y[keep])


def confusion_figure(confusion: np.ndarray, classes: Sequence[str]) -> Figure:
    """(K, K) counts as a picture, shaded by the share of the true class."""
    count = len(classes)
    side = min(2.4 + 0.62 * count, 12)
    figure = Figure(figsize=(max(side + 0.6, 4.2), max(side, 3.7)), layout="constrained")
    axes = figure.subplots()
    share = confusion / confusion.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1.15)
    for row in range(count):
        for column in range(count):
            color = "white" if share[row, column] > 0.6 else hex_color(INK)
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=color)
    labels = [in_figure(name if len(name) <= 16 else name[:15] + "…") for name in map(on_a_line, classes)]
    turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if max(map(len, labels)) * count > 24 else {}
    axes.set_xticks(range(count), labels, **turned)
    axes.set_yticks(range(count), labels)
    axes.set(title="Confusion", xlabel="taken for", ylabel="true")
    axes.title.set_fontsize(11)
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    return figure


def read_log(log: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``, one per epoch; None stands for NaN."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def epochs_figure(records: list[dict[str, Any]]) -> Figure:
    """Losses and validation metrics over the epochs of :func:`read_log`."""
    epochs = [record["epoch"] for record in records]
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, title, series in zip(panels, ("Loss", "Validation metrics"), (LOSSES, VALIDATION_METRICS), strict=True):
        for (key, label), color in zip(series.items(), (BLUE, ORANGE, GREEN, PINK), strict=False):
            values = [float("nan") if record[key] is None else record[key] for record in records]
            axes.plot(epochs, values, marker="o", markersize=3, label=label, color=color)
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    panels[1].set_ylim(0, 1)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """As PNG; class names in Chinese, Japanese or Korean in one of the system's fonts, or as boxes if it has none."""
    texts = [text for text in figure.findobj(Text) if any(ord(character) > 0x2E7F for character in text.get_text())]
    if texts:
        files = {Path(name).name: name for name in font_manager.findSystemFonts()}
        for name in CJK_FONTS:
            if name in files:  # matplotlib's own list may be older than the font
                font_manager.fontManager.addfont(files[name])
                family = font_manager.FontProperties(fname=files[name]).get_name()
                for text in texts:
                    text.set_fontfamily(["DejaVu Sans", family])
                break
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(path, dpi=120)
