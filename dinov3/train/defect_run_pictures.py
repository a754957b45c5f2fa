"""Pictures of how a run goes: defects with their masks and where the model looks."""

from __future__ import annotations

import matplotlib
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import draw_segmentation_masks, make_grid

from dinov3.data.defect_dataset import DefectDataset
from dinov3.data.defect_drawing import class_color
from dinov3.data.defect_masks import defect_pixels
from dinov3.data.defect_tile_dataset import DefectTileDataset
from dinov3.data.defect_transforms import Normalization
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier
from dinov3.models.defect_device import Precision


@torch.inference_mode()
def example_page(
    model: AttentionGuidedDefectClassifier,
    dataset: DefectDataset | DefectTileDataset,
    precision: Precision,
    normalization: Normalization,
    count: int = 8,
) -> Tensor | None:
    """(3, H, W) uint8 page of defect images from all over the dataset, each three times: with its true mask, with the
    predicted one, and with where the classifier looks, dark to bright; None if there is no readable defect image."""
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
        outputs = model(normalization(images.to(precision.device)), return_attention=True)
    probability, channel = outputs["segmentation"].float().sigmoid().max(dim=1)
    predicted = torch.where(probability >= 0.5, channel + 1, 0).cpu()
    pictures = []
    for item, mask, attention in zip(items, predicted, outputs["attention_map"].float().cpu(), strict=True):
        pictures += [_overlay(item["image"], item["mask"]), _overlay(item["image"], mask)]
        pictures.append(_heat(item["image"], attention, model.pad_multiple))
    return make_grid(pictures, nrow=6)


def _overlay(image: Tensor, mask: Tensor) -> Tensor:
    """``image`` with its mask of class indices in the colours of the classes."""
    present = mask[defect_pixels(mask)].unique().tolist()
    if not present:
        return image
    layers = torch.stack([mask == value for value in present])
    return draw_segmentation_masks(image, layers, alpha=0.5, colors=[class_color(value) for value in present])


def _heat(image: Tensor, attention: Tensor, multiple: int) -> Tensor:
    """``image`` (3, H, W) uint8 mixed with colors for its ``attention`` (1, h, w), which belongs to the image padded to
    a ``multiple``."""
    height, width = image.shape[-2:]
    padded = (height + -height % multiple, width + -width % multiple)
    strength = F.interpolate(attention[None], padded, mode="bilinear")[0, 0, :height, :width]
    colors = matplotlib.colormaps["viridis"]((strength / strength.max()).numpy())[..., :3]  # (H, W, 3), 0 to 1
    return (0.5 * image + 127.5 * torch.from_numpy(colors).permute(2, 0, 1)).to(torch.uint8)
