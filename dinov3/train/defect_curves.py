"""A picture of how a run went: losses and validation metrics per epoch."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure

LOSSES = {"train_total_loss": "train", "val_total_loss": "validation"}
METRICS = {
    "image_accuracy": "accuracy",
    "image_ap": "image AP",
    "pixel_iou": "pixel IoU",
    "mean_iou_defect": "IoU per defect image",
}


def draw_curves(log: Path, picture: Path) -> None:
    """Draw the ``metrics.jsonl`` at ``log`` into the PNG ``picture``."""
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    epochs = [record["epoch"] for record in records]
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, title, series in zip(panels, ("Loss", "Validation metrics"), (LOSSES, METRICS), strict=True):
        for key, label in series.items():
            values = [float("nan") if record[key] is None else record[key] for record in records]
            axes.plot(epochs, values, marker="o", markersize=3, label=label)
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    panels[1].set_ylim(0, 1)
    figure.savefig(picture, dpi=120)
