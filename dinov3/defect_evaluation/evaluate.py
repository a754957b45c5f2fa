"""Metrics and losses of a model in training over the images of a split, which it sees whole or, if they are large, tile
by tile."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from tqdm import tqdm

from dinov3.data.defect_dataset import DefectDataset, make_loader
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_masks import defect_pixels
from dinov3.data.defect_tile_dataset import WholeImages, tile_target
from dinov3.data.defect_tiles import Tiling
from dinov3.data.defect_transforms import Normalization, eval_transform
from dinov3.defect_display import on_a_line
from dinov3.defect_distributed import max_over_ranks, sum_over_ranks
from dinov3.defect_evaluation.metrics import DefectMetrics, probabilities
from dinov3.defect_size import ImageSize, height_width
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier, MultiTaskLoss
from dinov3.models.defect_device import Precision
from dinov3.models.defect_engines.base import Done, EngineOutput, Started
from dinov3.models.defect_sliding_window import slide_window

LOSSES = ("total_loss", "cls_loss", "seg_loss")


@dataclass(frozen=True)
class View:
    """How a model sees images: resized to ``image_size`` and normalised; with a ``tiling``, tile by tile."""

    image_size: ImageSize
    normalization: Normalization
    tiling: Tiling | None = None

    @classmethod
    def of(cls, checkpoint: dict[str, Any]) -> View:
        """As in training."""
        return cls(checkpoint["image_size"], Normalization(**checkpoint["normalization"]), Tiling.of(checkpoint))


def evaluation_loader(
    rows: Manifest,
    view: View,
    batch_size: int,
    *,
    num_workers: int,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader:
    """The images of ``rows`` in their order, for :func:`evaluate`: every ``world_size``-th, from number ``rank`` on.

    They come resized, ``batch_size`` at a time; to be seen by tiles, as they are and one by one.
    """
    tiles = view.tiling is not None
    return make_loader(
        WholeImages(rows) if tiles else DefectDataset(rows, view.image_size),
        None if tiles else batch_size,
        sampler=list(range(rank, len(rows), world_size)),
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
    )


@torch.inference_mode()
def evaluate(
    model: AttentionGuidedDefectClassifier,
    loader: Iterable[dict[str, Any]],
    metrics: DefectMetrics,
    view: View,
    *,
    batch_size: int,
    precision: Precision,
    criterion: MultiTaskLoss | None = None,
    description: str = "evaluate",
    progress: bool = True,
) -> dict[str, Any]:
    """Metrics of ``model`` over the images of ``loader``, an :func:`evaluation_loader` for this ``view``.

    By tiles, pixel metrics are taken at full resolution, and one image is held at a time, beside those that the loader
    reads ahead. Unreadable images are reported; they keep their place in ``metrics`` and count nowhere.

    Args:
        metrics: is filled.
        batch_size: tiles of an image at a time.
        criterion: adds ``val_total_loss`` and its parts: the means over all batches or, by tiles, those of all tiles
            as one batch, at the size the model sees.

    Returns:
        What ``metrics.compute()`` gives, and the losses.
    """
    model.eval()
    # MPS has no float64, which the counts of pixels need.
    metrics_device = torch.device("cpu") if precision.device.type == "mps" else precision.device
    metrics.to(metrics_device)
    if view.tiling is None:
        see = WholeImagePass(model, view, precision, criterion)
    else:
        see = TiledPass(model, view, precision, criterion, batch_size)
    unit = "batch" if view.tiling is None else "image"
    for batch in tqdm(loader, desc=description, unit=unit, disable=not progress, leave=False):
        report_unreadable(batch)
        metrics.update(**see(batch).to(metrics_device)._asdict())
    return metrics.compute() | see.losses()


class Seen(NamedTuple):
    """What the model makes of a batch, and what is true: the arguments of the metrics' ``update``."""

    class_prob: Tensor  # (B, K)
    mask_prob: Tensor  # (B, H, W), of the strongest mask channel
    labels: Tensor  # (B,) class indices, -1 unknown
    masks: Tensor  # (B, H, W) class indices
    has_mask: Tensor  # (B,) bool

    def to(self, device: torch.device) -> Seen:
        """All on ``device``."""
        return Seen(*(value.to(device) for value in self))


class WholeImagePass:
    """Runs batches of resized images, and keeps their losses if there is a ``criterion``."""

    def __init__(
        self,
        model: AttentionGuidedDefectClassifier,
        view: View,
        precision: Precision,
        criterion: MultiTaskLoss | None,
    ):
        self.model, self.view, self.precision, self.criterion = model, view, precision, criterion
        self.sums: list[Tensor] = []  # per batch, (N,) ``criterion.sums`` with the number of images behind them

    def __call__(self, batch: dict[str, Any]) -> Seen:
        images, labels, masks, has_mask = to_device(batch, self.precision.device, self.view.normalization)
        with self.precision.autocast():
            outputs = self.model(images)
        if self.criterion is not None:
            sums = self.criterion.sums(outputs, labels, masks, has_mask)
            self.sums.append(torch.cat([sums, labels.new_tensor([len(labels)])]))
        class_prob, mask_prob = probabilities(outputs)
        return Seen(class_prob, mask_prob, labels, masks, has_mask)

    def losses(self) -> dict[str, float]:
        """Means over the images of all processes, whose batches of the same number count as one."""
        if self.criterion is None:
            return {}
        device = self.sums[0].device
        length = max_over_ranks([len(self.sums)], device)[0]
        missing = [torch.zeros_like(self.sums[0])] * (length - len(self.sums))
        table = sum_over_ranks(torch.stack([*self.sums, *missing]))
        losses = [self.criterion.combine(row[:-1]) for row in table]
        weights = table[:, -1] / table[:, -1].sum()
        return {f"val_{name}": float((weights * torch.stack([loss[name] for loss in losses])).sum()) for name in LOSSES}


class TiledPass:
    """Slides over one large image after the other, and keeps the losses of all tiles of all images as if they were one
    batch."""

    def __init__(
        self,
        model: AttentionGuidedDefectClassifier,
        view: View,
        precision: Precision,
        criterion: MultiTaskLoss | None,
        batch_size: int,
    ):
        self.model, self.view, self.precision, self.criterion = model, view, precision, criterion
        self.batch_size, self.resize = batch_size, eval_transform(view.image_size)
        self.sums: Tensor | None = None

    def __call__(self, item: dict[str, Any]) -> Seen:
        facts = {
            "labels": torch.tensor([item["label"]]),
            "masks": item["mask"][None],
            "has_mask": torch.tensor([item["has_mask"]]),
        }
        if item["error"]:
            return Seen(torch.full((1, 1), torch.nan), torch.zeros(facts["masks"].shape), **facts)
        size = height_width(self.view.image_size)
        look = partial(self.look, item, bool(defect_pixels(item["mask"]).any()))
        output = slide_window(look, item["image"].numpy(), self.view.tiling, size, batch_size=self.batch_size)
        return Seen(torch.from_numpy(output.class_prob)[None], torch.from_numpy(output.mask_prob)[None], **facts)

    def look(
        self, item: dict[str, Any], is_located: bool, tiles: np.ndarray, corners: list[tuple[int, int]]
    ) -> Started:
        """The model's answers for tiles (B, h, w, 3) uint8 of an image; their losses are added."""
        images = torch.from_numpy(tiles).to(self.precision.device).permute(0, 3, 1, 2)
        with self.precision.autocast():
            outputs = self.model(self.view.normalization(images), return_attention=True)
        if self.criterion is not None:
            self.add_losses(item, is_located, outputs, corners)
        answers = (
            outputs["classification"].float().softmax(1),
            outputs["segmentation"].float().sigmoid(),
            outputs["attention_map"].float(),
        )
        return Done(EngineOutput(*(values.cpu().numpy() for values in answers)), 0.0)

    def add_losses(
        self, item: dict[str, Any], is_located: bool, outputs: dict[str, Tensor], corners: list[tuple[int, int]]
    ) -> None:
        """Add the losses of the tiles at these corners of an image."""
        mask, label, has_mask = item["mask"].numpy(), item["label"], item["has_mask"]
        targets = [tile_target(mask, label, is_located, *corner, self.view.tiling.shape) for corner in corners]
        masks = torch.stack([self.resize(tv_tensors.Mask(target.mask)) for target in targets])
        labels = torch.tensor([target.label for target in targets], device=self.precision.device)
        known = torch.full_like(labels, has_mask, dtype=torch.bool)
        sums = self.criterion.sums(outputs, labels, masks.to(self.precision.device), known)
        self.sums = sums if self.sums is None else self.sums + sums

    def losses(self) -> dict[str, float]:
        """Over the tiles of all processes."""
        if self.criterion is None:
            return {}
        length = max_over_ranks([0 if self.sums is None else len(self.sums)], self.precision.device)[0]
        # None where this process could read no image; if none could, the sums of one mask channel do
        sums = torch.zeros(length or 10, device=self.precision.device) if self.sums is None else self.sums
        losses = self.criterion.combine(sum_over_ranks(sums))
        return {f"val_{name}": losses[name].item() for name in LOSSES}


def to_device(batch: dict[str, Any], device: torch.device, normalization: Normalization) -> tuple[Tensor, ...]:
    """Images (B, 3, H, W) normalised, labels (B,), masks (B, H, W), has_mask (B,), all on ``device``."""
    images, labels, masks, has_mask = (
        batch[name].to(device, non_blocking=True) for name in ("image", "label", "mask", "has_mask")
    )
    return normalization(images), labels, masks, has_mask


def report_unreadable(batch: dict[str, Any]) -> int:
    """Print why files of a batch, or the file of a single item, could not be read, and count them."""
    errors = [batch["error"]] if isinstance(batch["error"], str) else batch["error"]
    problems = [error for error in errors if error]
    for problem in problems:
        tqdm.write(on_a_line(f"skipped: {problem}"))
    return len(problems)
