"""One answer for a large image from a model that sees tiles: validation and inspection share it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dinov3.data.defect_dataset import as_tensor
from dinov3.data.defect_tiles import Tiling, cut_tile
from dinov3.data.defect_transforms import Normalization, eval_transform
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier
from dinov3.models.defect_device import Precision

# Called with a batch's outputs and the top left corners of its tiles.
Watcher = Callable[[dict[str, Tensor], list[tuple[int, int]]], None]


@dataclass(frozen=True)
class LargeImageOutput:
    """What the model says of one image of H x W pixels, on the CPU."""

    class_prob: Tensor  # (K,) float32, of the tile with the highest defect probability
    mask_prob: Tensor  # (H, W) float32, blended over the tiles, of the strongest mask channel
    mask_channel: Tensor  # (H, W) uint8, which channel that is
    attention: Tensor  # (h, w) float32 pooling weights of all tiles, which add up to 1


@torch.inference_mode()
def slide_window(
    model: AttentionGuidedDefectClassifier,
    image: np.ndarray,
    tiling: Tiling,
    image_size: int,
    *,
    batch_size: int,
    precision: Precision,
    normalization: Normalization,
    watch: Watcher | None = None,
) -> LargeImageOutput:
    """Predict an (H, W, 3) uint8 image of any size tile by tile.

    The verdict is that of the tile with the highest defect probability: one defective tile makes a defective part.
    Mask probabilities are blended with weights that fall towards a tile's border. An image of exactly one tile gives
    what the model gives without tiles. Memory on the model's device does not grow with the image's height; here it
    is the image and 5 bytes per pixel.

    Args:
        model: in eval mode.
        image_size: pixels a side the model sees; tiles are resized to it.
        batch_size: tiles at a time.
    """
    height, width = image.shape[:2]
    tops, lefts = tiling.starts(height), tiling.starts(width)
    row_weights, column_weights = (torch.from_numpy(tiling.weights(n)).to(precision.device) for n in (height, width))
    resize = eval_transform(image_size)
    places = list(product(range(len(tops)), range(len(lefts))))
    result = _Canvas(height, width, tiling.size, tops, lefts)
    for first in range(0, len(places), batch_size):
        batch = places[first : first + batch_size]
        corners = [(tops[row], lefts[column]) for row, column in batch]
        cuts = [np.ascontiguousarray(cut_tile(image, top, left, tiling.size)) for top, left in corners]
        tiles = torch.stack([resize(as_tensor(cut).permute(2, 0, 1)) for cut in cuts])
        with precision.autocast():
            outputs = model(normalization(tiles.to(precision.device)), return_attention=True)
        if watch is not None:
            watch(outputs, corners)
        mask_prob = outputs["segmentation"].float().sigmoid()
        if tiling.size != image_size:
            mask_prob = F.interpolate(mask_prob, (tiling.size, tiling.size), mode="bilinear")
        for (row, column), prob in zip(batch, mask_prob, strict=True):
            result.add(row, column, prob * row_weights[row][:, None] * column_weights[column])
        result.add_class(outputs["classification"].float().softmax(1))
        for corner, attention in zip(corners, outputs["attention_map"].float().cpu(), strict=True):
            result.add_attention(corner, attention[0])
    return result.finish()


class _Canvas:
    """Collects tiles, row after row from the top; holds all mask channels of one row of tiles alone."""

    def __init__(self, height: int, width: int, size: int, tops: list[int], lefts: list[int]):
        self.height, self.width, self.size, self.tops, self.lefts = height, width, size, tops, lefts
        self.mask_prob = torch.empty(height, width)
        self.mask_channel = torch.empty(height, width, dtype=torch.uint8)
        self.row = 0
        self.band: Tensor | None = None  # (S, size, W) sums from the top of the row of tiles on
        self.class_prob: Tensor | None = None
        self.attention: Tensor | None = None

    def add(self, row: int, column: int, weighted: Tensor) -> None:
        """Add (S, size, size) probabilities times their weights."""
        if self.band is None:
            self.band = weighted.new_zeros(len(weighted), self.size, max(self.width, self.size))
        if row != self.row:
            done = self.tops[row] - self.tops[self.row]  # rows of pixels that no later tile reaches
            self._write(done)
            self.band = torch.cat([self.band[:, done:], torch.zeros_like(self.band[:, :done])], dim=1)
            self.row = row
        left = self.lefts[column]
        self.band[:, :, left : left + self.size] += weighted

    def _write(self, rows: int) -> None:
        top = self.tops[self.row]
        rows = min(rows, self.height - top)
        prob, channel = self.band[:, :rows, : self.width].max(dim=0)
        self.mask_prob[top : top + rows] = prob.cpu()
        self.mask_channel[top : top + rows] = channel.cpu()

    def add_class(self, class_prob: Tensor) -> None:
        """Add (B, K) probabilities."""
        found = class_prob.cpu() if self.class_prob is None else torch.cat([self.class_prob[None], class_prob.cpu()])
        self.class_prob = found[found[:, 0].argmin()]  # of the worst tile; NaN counts as the least, so it is not lost

    def add_attention(self, corner: tuple[int, int], attention: Tensor) -> None:
        """Add (h, w) weights; where tiles overlap, the larger counts."""
        cells = attention.shape  # per tile; the canvas has cells of the same size
        y, x = (round(c / self.size * n) for c, n in zip(corner, cells, strict=True))
        if self.attention is None:
            last = zip((self.tops[-1], self.lefts[-1]), cells, strict=True)
            self.attention = torch.zeros([round(c / self.size * n) + n for c, n in last])
        view = self.attention[y : y + cells[0], x : x + cells[1]]
        torch.maximum(view, attention, out=view)

    def finish(self) -> LargeImageOutput:
        """Everything, once all tiles are in."""
        self._write(self.size)
        # An image smaller than a tile was mirrored at its border: that part goes.
        shares = (min(side / self.size, 1.0) for side in (self.height, self.width))
        rows, columns = (max(round(n * share), 1) for n, share in zip(self.attention.shape, shares, strict=True))
        attention = self.attention[:rows, :columns]
        return LargeImageOutput(self.class_prob, self.mask_prob, self.mask_channel, attention / attention.sum())
