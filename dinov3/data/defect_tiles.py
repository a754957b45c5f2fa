"""Where tiles lie on an image: the overlapping grid that inspection slides over, and the walk that training takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from dinov3.defect_errors import DefectError
from dinov3.defect_size import ImageSize, height_width, size_text

SHORTEST_SIDE = 16  # of a tile, in pixels
MAX_OVERLAP = 0.75  # the windows of a pixel grow with 1 / (1 - overlap) squared: 16 here


@dataclass(frozen=True)
class Tiling:
    """Tiles whose longer side is ``size`` pixels of the original image; neighbours share ``overlap`` (0 to 0.75) of a
    side. They are squares unless ``proportions`` (height to width) says otherwise.

    Raises:
        DefectError: a side below 16 pixels, or an overlap out of range.
    """

    size: int
    overlap: float = 0.25
    proportions: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        if min(self.shape) < SHORTEST_SIDE:
            made = "" if self.proportions == (1, 1) else f" (tiles of {self} pixels)"
            raise DefectError(
                f"--tile_size {self.size}{made}: expected at least {SHORTEST_SIDE} pixels a side, or 0 for whole images"
            )
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise DefectError(f"--tile_overlap {self.overlap}: expected a share of the tile from 0 to {MAX_OVERLAP}")

    def __str__(self) -> str:
        return size_text(self.shape)

    @classmethod
    def for_size(cls, image_size: ImageSize, size: int, overlap: float = 0.25) -> Tiling:
        """Tiles of the shape of ``image_size``, so that resizing them to it does not distort them."""
        height, width = height_width(image_size)
        divisor = math.gcd(height, width)
        return cls(size, overlap, (height // divisor, width // divisor))

    @classmethod
    def of(cls, checkpoint: dict[str, Any], size: int | None = None, overlap: float | None = None) -> Tiling | None:
        """The tiles to inspect with: those a checkpoint was trained with, unless others are asked for; None for whole
        images (size 0)."""
        size = checkpoint.get("tile_size", 0) if size is None else size
        if not size and overlap is not None:
            raise DefectError(f"--tile_overlap {overlap}: whole images have no tiles; drop it or give --tile_size")
        overlap = checkpoint.get("tile_overlap", cls.overlap) if overlap is None else overlap
        return cls.for_size(checkpoint["image_size"], size, overlap) if size else None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a tile, in pixels of the original image."""
        longer = max(self.proportions)
        height, width = (round(self.size * side / longer) for side in self.proportions)
        return height, width

    def grid(self, shape: tuple[int, int]) -> tuple[TileRow, TileRow]:
        """The tiles over an image of ``shape`` (height, width), from top to bottom and from left to right."""
        down, across = (TileRow(n, side, self.overlap) for n, side in zip(shape, self.shape, strict=True))
        return down, across


class TileRow:
    """Tiles along one side of an image, of ``length`` pixels; each takes ``size``, and neighbours share ``overlap``."""

    def __init__(self, length: int, size: int, overlap: float):
        self.length, self.size = length, size
        self.stride = max(round(size * (1 - overlap)), 1)  # pixels from one tile to the next

    def starts(self) -> list[int]:
        """First pixel of each tile; the last tile ends at the border."""
        last = max(self.length - self.size, 0)
        return [*range(0, last, self.stride), last]

    def weights(self) -> np.ndarray:
        """(number of tiles, size) float32 blending weights: ramps over the overlap that add up to 1 at every pixel, so
        that equal predictions stay equal and a tile's border, where context is missing, counts least."""
        ramp = np.arange(1, self.size + 1)
        ramp = np.minimum(np.minimum(ramp, ramp[::-1]), max(self.size - self.stride, 1)).astype(np.float64)
        starts, total = self.starts(), np.zeros(max(self.length, self.size))
        for start in starts:
            total[start : start + self.size] += ramp
        return np.stack([ramp / total[start : start + self.size] for start in starts]).astype(np.float32)


def walk_length(shape: tuple[int, int], tile: tuple[int, int]) -> int:
    """Steps in which :func:`walk_step` reaches every pixel of an image of ``shape`` (height, width)."""
    return math.prod(map(_walk_steps, shape, tile))


def walk_step(shape: tuple[int, int], tile: tuple[int, int], seed: tuple[int, ...], step: int) -> tuple[int, int]:
    """Top left corner of the ``tile`` (height, width) at ``step`` (from 0) of an endless walk over an image.

    Each round visits all tiles of a grid in random order and so reaches every pixel; the next round has another
    order and shifts the grid by another amount, so that tile borders fall elsewhere. A function of its arguments.
    """
    counts = list(map(_walk_steps, shape, tile))
    lap, position = divmod(step, math.prod(counts))
    rng = np.random.default_rng((*seed, lap))
    shift = rng.integers(tile)
    place = np.unravel_index(rng.permutation(math.prod(counts))[position], counts)
    # The first tile of a shifted grid sticks out by up to a tile; it and the last one are moved inside.
    corner = (int(s) + (int(p) - 1) * side for s, p, side in zip(shift, place, tile, strict=True))
    top, left = (min(max(c, 0), max(n - side, 0)) for c, n, side in zip(corner, shape, tile, strict=True))
    return top, left


def _walk_steps(length: int, size: int) -> int:
    return math.ceil((length - size) / size) + 2 if length > size else 1


def cut_tile(array: np.ndarray, top: int, left: int, tile: tuple[int, int], outside: int | None = None) -> np.ndarray:
    """(h, w) or (h, w, 3), with h and w those of ``tile``, of an (H, W) or (H, W, 3) array.

    What lies outside the array mirrors what is inside, or is ``outside``.
    """
    inside = array[top : top + tile[0], left : left + tile[1]]
    below, right = tile[0] - inside.shape[0], tile[1] - inside.shape[1]
    if below == right == 0:
        return inside
    mode = cv2.BORDER_REFLECT_101 if outside is None else cv2.BORDER_CONSTANT
    return cv2.copyMakeBorder(inside, 0, below, 0, right, mode, value=outside)
