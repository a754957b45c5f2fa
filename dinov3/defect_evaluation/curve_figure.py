"""A picture of how a run went: losses and validation metrics per epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

LOSSES = {"train_total_loss": "train", "val_total_loss": "validation"}
METRICS = {
    "image_accuracy": "accuracy",
    "image_ap": "image AP",
    "pixel_iou": "pixel IoU",
    "mean_iou_defect": "IoU per defect image",
}
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito (2008)


def draw_curves(log: Path, picture: Path) -> None:
    """Draw the ``metrics.jsonl`` at ``log`` into the PNG ``picture``."""
    curves_figure(read_log(log)).savefig(picture, dpi=120)


def read_log(log: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``, one per epoch; None stands for NaN."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def curves_figure(records: list[dict[str, Any]]) -> Figure:
    """Losses and validation metrics over the epochs."""
    epochs = [record["epoch"] for record in records]
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, title, series in zip(panels, ("Loss", "Validation metrics"), (LOSSES, METRICS), strict=True):
        for (key, label), color in zip(series.items(), COLORS, strict=False):
            values = [float("nan") if record[key] is None else record[key] for record in records]
            axes.plot(epochs, values, marker="o", markersize=3, label=label, color=color)
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    panels[1].set_ylim(0, 1)
    return figure
