"""What a run leaves for people to look at: metrics.jsonl, TensorBoard, curves."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchmetrics.utilities.data import dim_zero_cat
from tqdm import tqdm

from dinov3.defect_evaluation.figures import confusion_figure, epochs_figure, read_log, save_figure
from dinov3.defect_evaluation.metrics import DefectMetrics

try:
    import resource
except ModuleNotFoundError:  # on Windows
    resource = None


class RunLog:
    """Records one line, one set of scalars and one page of pictures per epoch in ``save_dir``.

    ``classes`` are their names. ``epochs_done``: a resumed run has its epochs after these again, so what an interrupted
    one left of them goes.
    Killed at any moment, it leaves every line of the epochs that a checkpoint knows.
    """

    def __init__(self, save_dir: Path, epochs_done: int, classes: list[str]):
        self.save_dir, self.classes = save_dir, classes
        self.path = save_dir / "metrics.jsonl"
        self.path.touch()
        lines = self.path.read_bytes().splitlines(keepends=True)
        os.truncate(self.path, sum(map(len, lines[:epochs_done])))  # in one go: written anew, it could be cut off
        self.writer = SummaryWriter(save_dir / "tensorboard", purge_step=epochs_done)

    def add_epoch(
        self,
        epoch: int,
        epochs: int,
        result: dict[str, Any],
        page: Tensor | None = None,
        scores: tuple[Tensor, Tensor] | None = None,
        rates: dict[str, float] | None = None,
        memory: dict[str, float] | None = None,
    ) -> None:
        """Log epoch ``epoch`` (from 0) of ``epochs``; for TensorBoard alone ``page``, a picture (3, H, W) uint8,
        ``scores`` as :func:`image_scores` gives them, the ``rates`` of parameter groups, and :func:`peak_memory`."""
        record = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in result.items()}
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps({"epoch": epoch + 1} | record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        groups = {f"learning_rate/{name}": rate for name, rate in (rates or {}).items()}
        for name, value in (result | groups | (memory or {})).items():
            if isinstance(value, (int, float)):
                self.writer.add_scalar(name, value, epoch)
        if page is not None:
            self.writer.add_image("val_examples", page, epoch)
        if scores is not None:
            self.writer.add_pr_curve("val_defect", *scores, epoch)
        self.writer.add_figure("val_confusion", confusion_figure(np.array(result["confusion"]), self.classes), epoch)
        self.writer.flush()
        tqdm.write(
            f"epoch {epoch + 1}/{epochs}  loss {result['train_total_loss']:.3f}  "
            f"accuracy {result['image_accuracy']:.3f}  AP {result['image_ap']:.3f}  "
            f"pixel IoU {result['pixel_iou']:.3f}  defect IoU {result['mean_iou_defect']:.3f}  "
            f"({result['images_per_second']:.1f} images/s)"
        )

    def close(self) -> None:
        """Draw the curves and close the files."""
        self.writer.close()
        save_figure(epochs_figure(read_log(self.path)), self.save_dir / "curves.png")


def peak_memory(device: torch.device) -> dict[str, float]:
    """``peak_memory_gib``: the most that this process has held so far, of a CUDA device's memory or, training on the
    CPU, of the machine's; empty where the system does not tell."""
    if device.type == "cuda":
        return {"peak_memory_gib": torch.cuda.max_memory_reserved(device) / 2**30}
    if device.type != "cpu" or resource is None:
        return {}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}


def image_scores(metrics: DefectMetrics) -> tuple[Tensor, Tensor] | None:
    """Whether each validation image is defective (0, 1) and its defect probability, both (N,), over all processes, in
    all of which this is to be called; None without an image of known class."""
    precision = metrics.scores["image_ap"]
    with precision.sync_context():
        if not len(precision.target):
            return None
        return dim_zero_cat(precision.target).cpu(), dim_zero_cat(precision.preds).cpu()
