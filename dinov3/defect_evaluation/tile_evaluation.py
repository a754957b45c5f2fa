"""Metrics of a model over whole large images, by sliding its tile over each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from tqdm import tqdm

from dinov3.data.defect_masks import defect_pixels
from dinov3.data.defect_tile_dataset import tile_target
from dinov3.data.defect_tiles import Tiling
from dinov3.data.defect_transforms import Normalization, eval_transform
from dinov3.defect_distributed import max_over_ranks, sum_over_ranks
from dinov3.defect_evaluation.image_results import ImageResults
from dinov3.defect_evaluation.metrics import DefectMetrics
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier, MultiTaskLoss
from dinov3.models.defect_device import Precision
from dinov3.models.defect_sliding_window import Watcher, slide_window


@torch.inference_mode()
def evaluate_tiles(
    model: AttentionGuidedDefectClassifier,
    loader: DataLoader,
    metrics: DefectMetrics | ImageResults,
    *,
    tiling: Tiling,
    image_size: int,
    batch_size: int,
    precision: Precision,
    normalization: Normalization,
    criterion: MultiTaskLoss | None = None,
    description: str = "evaluate",
    progress: bool = True,
) -> dict[str, Any]:
    """As ``evaluate``, over a loader of single ``WholeImages`` items.

    Pixel metrics are taken at full resolution, losses (of all tiles as one batch) at ``image_size``. One image is held
    at a time, beside those that the loader reads ahead.
    """
    model.eval()
    # MPS has no float64, which the counts of pixels need.
    device = torch.device("cpu") if precision.device.type == "mps" else precision.device
    metrics.to(device)
    losses = TileLosses(criterion, tiling, image_size, precision.device) if criterion is not None else None
    for item in tqdm(loader, desc=description, unit="image", disable=not progress, leave=False):
        facts = (torch.tensor(item["label"]), item["mask"], torch.tensor(item["has_mask"]))
        if item["error"]:
            tqdm.write(f"left out: {item['error']}")
            blank = (torch.full((1,), torch.nan), torch.zeros(item["mask"].shape))  # keeps its place, counts nowhere
            metrics.update_probabilities(*(value[None].to(device) for value in (*blank, *facts)))
            continue
        output = slide_window(
            model,
            item["image"].numpy(),
            tiling,
            image_size,
            batch_size=batch_size,
            precision=precision,
            normalization=normalization,
            watch=losses.watch(item) if losses is not None else None,
        )
        values = (output.class_prob, output.mask_prob, *facts)
        metrics.update_probabilities(*(value[None].to(device) for value in values))
    return metrics.compute() | (losses.values() if losses is not None else {})


class TileLosses:
    """The validation losses of all tiles of all images, as if they were one batch."""

    def __init__(self, criterion: MultiTaskLoss, tiling: Tiling, image_size: int, device: torch.device):
        self.criterion, self.tiling, self.device = criterion, tiling, device
        self.resize = eval_transform(image_size)
        self.sums: Tensor | None = None

    def watch(self, item: dict[str, Any]) -> Watcher:
        """What to call with the outputs and corners of each batch of tiles of this image."""
        mask, label, has_mask = item["mask"].numpy(), item["label"], item["has_mask"]
        is_located = bool(defect_pixels(mask).any())

        def add(outputs: dict[str, Tensor], corners: list[tuple[int, int]]) -> None:
            targets = [tile_target(mask, label, is_located, *corner, self.tiling.size) for corner in corners]
            masks = torch.stack([self.resize(tv_tensors.Mask(target)) for target, _ in targets]).to(self.device)
            labels = torch.tensor([label for _, label in targets], device=self.device)
            known = torch.full_like(labels, has_mask, dtype=torch.bool)
            sums = self.criterion.sums(outputs, labels, masks, known)
            self.sums = sums if self.sums is None else self.sums + sums

        return add

    def values(self) -> dict[str, float]:
        """``val_total_loss`` and its parts, over all processes."""
        length = max_over_ranks([0 if self.sums is None else len(self.sums)], self.device)[0]
        # None where this process could read no image; if none could, the sums of one mask channel do
        sums = torch.zeros(length or 10, device=self.device) if self.sums is None else self.sums
        losses = self.criterion.combine(sum_over_ranks(sums))
        return {f"val_{name}": value.item() for name, value in losses.items() if name.endswith("_loss")}
