"""The reliability diagram: how often images of each defect probability are defective, before and after calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dinov3.defect_evaluation.temperature import ECE_BINS, Calibration, Rate
from dinov3.defect_evaluation.thresholds import limit_text

NORMAL, DEFECT, REVIEW, INK = "#00825f", "#d55e00", "#e69f00", "#20242a"
EDGES = np.linspace(0, 1, ECE_BINS + 1)


def draw_reliability(calibration: Calibration, picture: Path) -> None:
    """Draw it into the PNG ``picture``, with the limits of the verdict."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
    after = f"After, temperature {calibration.temperature:.2f}: ECE {calibration.ece_after:.3f}"
    after += f" ({calibration.ece_cross_validated:.3f} cross-validated)"
    titles = (f"Before: ECE {calibration.ece_before:.3f}", after)
    scores = (calibration.scores_before, calibration.scores_after)
    for column, (title, values) in enumerate(zip(titles, scores, strict=True)):
        _draw_shares(axes[0, column], values, calibration)
        _draw_counts(axes[1, column], values, calibration.defective)
        axes[0, column].set_title(title, fontsize=11)
    _draw_limits(axes[0, 1], calibration)
    _draw_limits(axes[1, 1], calibration, named=False)
    axes[0, 0].set_ylabel("share of defect images")
    axes[1, 0].set_ylabel("images")
    shown = [axes[row, 1].get_legend_handles_labels() for row in (0, 1)]
    handles, labels = (first + second for first, second in zip(*shown, strict=True))
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.savefig(picture, dpi=120, format="png")


def _draw_shares(axes: Axes, scores: np.ndarray, calibration: Calibration) -> None:
    axes.plot([0, 1], [0, 1], "--", color=INK, linewidth=1, alpha=0.6, label="ideal")
    bins = np.digitize(scores, EDGES[1:-1])
    label = "images of a bin, with 95% interval"
    for number in np.unique(bins):
        inside = bins == number
        rate = Rate.of(calibration.defective[inside], calibration.groups[inside])
        center, share = scores[inside].mean(), rate.count / rate.images
        errors = [[share - rate.low], [rate.high - share]]
        axes.errorbar(center, share, np.abs(errors), fmt="o", color=DEFECT, capsize=3, label=label)
        side = -6 if center > 0.9 else 6
        place = {"xytext": (side, 4), "textcoords": "offset points", "ha": "right" if side < 0 else "left"}
        axes.annotate(str(rate.images), (center, share), fontsize=8, color=INK, **place)
        label = None
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.05, 1.08))
    axes.grid(alpha=0.3)


def _draw_counts(axes: Axes, scores: np.ndarray, defective: np.ndarray) -> None:
    groups, labels = [scores[~defective], scores[defective]], ["normal", "defect"]
    axes.hist(groups, EDGES, color=[NORMAL, DEFECT], label=labels)
    axes.set_yscale("symlog", linthresh=1)
    axes.set(xlabel="defect probability", ylim=(0, 3 * len(scores)))
    axes.grid(alpha=0.3)


def _draw_limits(axes: Axes, calibration: Calibration, named: bool = True) -> None:
    limits, lines = calibration.limits, {"rejected": (calibration.limits.classification, INK)}
    if limits.review is not None:
        lines["reviewed"] = (limits.review, REVIEW)
        axes.axvspan(limits.review, limits.classification, color=REVIEW, alpha=0.12, linewidth=0)
    for name, (value, color) in lines.items():
        axes.axvline(value, color=color, linewidth=1.5, label=f"{name} from {limit_text(value)}" if named else None)
