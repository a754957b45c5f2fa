"""One answer for a large image from a model that sees tiles: validation and inspection share it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np

from dinov3.data.defect_resize import resize_image
from dinov3.data.defect_tiles import Tiling, cut_tile
from dinov3.models.defect_engines.base import EngineOutput, Started

# Called with a batch of resized tiles (B, h, w, 3) uint8 and their top left corners.
Look = Callable[[np.ndarray, list[tuple[int, int]]], Started]


@dataclass(frozen=True)
class LargeImageOutput:
    """What the model says of one image of H x W pixels."""

    class_prob: np.ndarray  # (K,) float32, of the tile with the highest defect probability
    mask_prob: np.ndarray  # (H, W) float32, blended over the tiles, of the strongest mask channel
    mask_channel: np.ndarray  # (H, W) uint8, which channel that is
    attention: np.ndarray  # (h, w) float32 pooling weights of all tiles, which add up to 1
    embedding: np.ndarray | None  # (D,) float32, the mean of those of the tiles, if the model has any


def slide_window(
    look: Look, image: np.ndarray, tiling: Tiling, image_size: tuple[int, int], *, batch_size: int
) -> LargeImageOutput:
    """Predict an (H, W, 3) uint8 image of any size tile by tile.

    The verdict is that of the tile with the highest defect probability: one defective tile makes a defective part.
    Mask probabilities are blended with weights that fall towards a tile's border. An image of exactly one tile gives
    what the model gives without tiles. Memory on the model's device does not grow with the image; here it is the image
    and 5 bytes per pixel.

    Args:
        look: the model; what it answers to one batch is taken when the next is under way.
        image_size: height and width the model sees; tiles are resized to it.
        batch_size: tiles at a time.
    """
    height, width = image.shape[:2]
    canvas = _Canvas((height, width), tiling)
    tops, lefts = canvas.tops, canvas.lefts
    places = list(product(range(len(tops)), range(len(lefts))))
    under_way: tuple[list[tuple[int, int]], Started] | None = None
    for first in range(0, len(places), batch_size):
        batch = places[first : first + batch_size]
        corners = [(tops[row], lefts[column]) for row, column in batch]
        tiles = np.stack([resize_image(cut_tile(image, *corner, tiling.shape), image_size) for corner in corners])
        started = look(tiles, corners)
        if under_way is not None:
            canvas.add(under_way[0], under_way[1].wait()[0])
        under_way = batch, started
    canvas.add(under_way[0], under_way[1].wait()[0])
    return canvas.finish()


class _Canvas:
    """Collects tiles, row after row from the top; holds all mask channels of one row of tiles alone."""

    def __init__(self, shape: tuple[int, int], tiling: Tiling):
        self.height, self.width = shape
        self.tile, (down, across) = tiling.shape, tiling.grid(shape)
        self.tops, self.lefts = down.starts(), across.starts()
        self.row_weights, self.column_weights = down.weights(), across.weights()
        self.mask_prob = np.empty(shape, np.float32)
        self.mask_channel = np.empty(shape, np.uint8)
        self.row = 0
        self.band: np.ndarray | None = None  # (S, h, W) sums from the top of the row of tiles on
        self.class_prob: np.ndarray | None = None
        self.attention: np.ndarray | None = None
        self.embedding: np.ndarray | None = None  # sum of the tiles'

    def add(self, batch: list[tuple[int, int]], output: EngineOutput) -> None:
        """Add the answers for the tiles at these rows and columns."""
        for place, prob, attention in zip(batch, output.mask_prob, output.attention, strict=True):
            self._add_mask(*place, prob)
            self._add_attention(*place, attention[0])
        if output.embedding is not None:
            sums = output.embedding.sum(0)
            self.embedding = sums if self.embedding is None else self.embedding + sums
        found = output.class_prob if self.class_prob is None else np.vstack([self.class_prob, output.class_prob])
        self.class_prob = found[found[:, 0].argmin()]  # of the worst tile; NaN counts as the least, so it is not lost

    def _add_mask(self, row: int, column: int, mask_prob: np.ndarray) -> None:
        """Add (S, h, w) probabilities times their weights."""
        if self.band is None:
            self.band = np.zeros((len(mask_prob), self.tile[0], max(self.width, self.tile[1])), np.float32)
        if row != self.row:
            done = self.tops[row] - self.tops[self.row]  # rows of pixels that no later tile reaches
            self._write(done)
            self.band = np.concatenate([self.band[:, done:], np.zeros_like(self.band[:, :done])], axis=1)
            self.row = row
        weights = self.row_weights[row][:, None] * self.column_weights[column]
        left = self.lefts[column]
        for sums, prob in zip(self.band, mask_prob, strict=True):
            large = cv2.resize(prob, self.tile[::-1], interpolation=cv2.INTER_LINEAR)
            sums[:, left : left + self.tile[1]] += large * weights

    def _write(self, rows: int) -> None:
        top = self.tops[self.row]
        rows = min(rows, self.height - top)
        band = self.band[:, :rows, : self.width]
        if len(band) == 1:
            self.mask_prob[top : top + rows], self.mask_channel[top : top + rows] = band[0], 0
        else:
            self.mask_prob[top : top + rows], self.mask_channel[top : top + rows] = band.max(0), band.argmax(0)

    def _add_attention(self, row: int, column: int, attention: np.ndarray) -> None:
        """Add (h, w) weights; where tiles overlap, the larger counts."""
        cells = attention.shape  # per tile; the canvas has cells of the same size
        corner = self.tops[row], self.lefts[column]
        y, x = (round(c / side * n) for c, side, n in zip(corner, self.tile, cells, strict=True))
        if self.attention is None:
            last = zip((self.tops[-1], self.lefts[-1]), self.tile, cells, strict=True)
            self.attention = np.zeros([round(c / side * n) + n for c, side, n in last], np.float32)
        view = self.attention[y : y + cells[0], x : x + cells[1]]
        np.maximum(view, attention, out=view)

    def finish(self) -> LargeImageOutput:
        """Everything, once all tiles are in."""
        self._write(self.tile[0])
        # An image smaller than a tile was mirrored at its border: that part goes.
        shares = (min(n / side, 1.0) for n, side in zip((self.height, self.width), self.tile, strict=True))
        rows, columns = (max(round(n * share), 1) for n, share in zip(self.attention.shape, shares, strict=True))
        attention = self.attention[:rows, :columns]
        attention /= attention.sum()
        embedding = None if self.embedding is None else self.embedding / (len(self.tops) * len(self.lefts))
        return LargeImageOutput(self.class_prob, self.mask_prob, self.mask_channel, attention, embedding)
