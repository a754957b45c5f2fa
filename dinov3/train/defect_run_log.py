"""What a run leaves for people to look at: metrics.jsonl, TensorBoard, example pictures, curves."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import draw_segmentation_masks, make_grid
from tqdm import tqdm

from dinov3.data.defect_dataset import DefectDataset
from dinov3.data.defect_images import IGNORE_INDEX, class_color
from dinov3.data.defect_tile_dataset import DefectTileDataset
from dinov3.data.defect_transforms import Normalization
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier
from dinov3.models.defect_device import Precision
from dinov3.train.defect_curves import draw_curves


class RunLog:
    """Records one line, one set of scalars and one page of pictures per epoch in ``save_dir``.

    ``epochs_done``: a resumed run has its epochs after these again, so what an interrupted one left of them goes.
    Killed at any moment, it leaves every line of the epochs that a checkpoint knows.
    """

    def __init__(self, save_dir: Path, epochs_done: int):
        self.save_dir = save_dir
        self.path = save_dir / "metrics.jsonl"
        self.path.touch()
        lines = self.path.read_bytes().splitlines(keepends=True)
        os.truncate(self.path, sum(map(len, lines[:epochs_done])))  # in one go: written anew, it could be cut off
        self.writer = SummaryWriter(save_dir / "tensorboard", purge_step=epochs_done)

    def add_epoch(self, epoch: int, epochs: int, result: dict[str, Any], page: Tensor | None) -> None:
        """Log epoch ``epoch`` (from 0) of ``epochs``; ``page`` is (3, H, W) uint8."""
        record = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in result.items()}
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps({"epoch": epoch + 1} | record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for name, value in result.items():
            if isinstance(value, (int, float)):
                self.writer.add_scalar(name, value, epoch)
        if page is not None:
            self.writer.add_image("val_examples", page, epoch)
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
        draw_curves(self.path, self.save_dir / "curves.png")


@torch.inference_mode()
def example_page(
    model: AttentionGuidedDefectClassifier,
    dataset: DefectDataset | DefectTileDataset,
    precision: Precision,
    normalization: Normalization,
    count: int = 8,
) -> Tensor | None:
    """(3, H, W) uint8 page of defect images from all over the dataset, each with its true mask and, to the right of
    it, with the predicted one; None if there is no readable defect image."""
    rows = np.flatnonzero(dataset.labels > 0)
    chosen = (
        rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))] if len(rows) else []
    )
    items = [item for item in (dataset[int(i)] for i in chosen) if not item["error"]]
    if not items:
        return None
    images = torch.stack([item["image"] for item in items])
    model.eval()
    with precision.autocast():
        outputs = model(normalization(images.to(precision.device)))
    probability, channel = outputs["segmentation"].float().sigmoid().max(dim=1)
    predicted = torch.where(probability >= 0.5, channel + 1, 0).cpu()
    pictures = [
        _overlay(item["image"], m) for item, mask in zip(items, predicted, strict=True) for m in (item["mask"], mask)
    ]
    return make_grid(pictures, nrow=4)


def _overlay(image: Tensor, mask: Tensor) -> Tensor:
    """``image`` with its mask of class indices in the colours of the classes."""
    present = [int(value) for value in mask.unique() if value not in (0, IGNORE_INDEX)]
    if not present:
        return image
    layers = torch.stack([mask == value for value in present])
    return draw_segmentation_masks(image, layers, alpha=0.5, colors=[class_color(value) for value in present])
