"""Where tiles lie on an image: the overlapping grid that inspection slides over, and the walk that training takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from dinov3.defect_errors import DefectError

MAX_OVERLAP = 0.75  # the windows of a pixel grow with 1 / (1 - overlap) squared: 16 here


@dataclass(frozen=True)
class Tiling:
    """Square tiles of ``size`` pixels of the original image; neighbours share ``overlap`` (0 to 0.75) of a side.

    Raises:
        DefectError: a size below 16 pixels, or an overlap out of range.
    """

    size: int
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if self.size < 16:
            raise DefectError(f"--tile_size {self.size}: expected at least 16 pixels, or 0 for whole images")
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise DefectError(f"--tile_overlap {self.overlap}: expected a share of the tile from 0 to {MAX_OVERLAP}")

    @classmethod
    def of(cls, checkpoint: dict[str, Any], size: int | None = None, overlap: float | None = None) -> Tiling | None:
        """The tiles to inspect with: those a checkpoint was trained with, unless others are asked for; None for whole
        images (size 0)."""
        size = checkpoint.get("tile_size", 0) if size is None else size
        if not size and overlap is not None:
            raise DefectError(f"--tile_overlap {overlap}: whole images have no tiles; drop it or give --tile_size")
        overlap = checkpoint.get("tile_overlap", cls.overlap) if overlap is None else overlap
        return cls(size, overlap) if size else None

    @property
    def stride(self) -> int:
        """Pixels from one tile to the next."""
        return max(round(self.size * (1 - self.overlap)), 1)

    def starts(self, length: int) -> list[int]:
        """First pixel of each tile along a side of ``length`` pixels; the last tile ends at the border."""
        last = max(length - self.size, 0)
        return [*range(0, last, self.stride), last]

    def weights(self, length: int) -> np.ndarray:
        """(number of tiles, size) float32 blending weights along a side: ramps over the overlap that add up to 1 at
        every pixel, so that equal predictions stay equal and a tile's border, where context is missing, counts least.
        """
        ramp = np.arange(1, self.size + 1)
        ramp = np.minimum(np.minimum(ramp, ramp[::-1]), max(self.size - self.stride, 1)).astype(np.float64)
        starts, total = self.starts(length), np.zeros(max(length, self.size))
        for start in starts:
            total[start : start + self.size] += ramp
        return np.stack([ramp / total[start : start + self.size] for start in starts]).astype(np.float32)


def walk_length(shape: tuple[int, int], size: int) -> int:
    """Steps in which :func:`walk_step` reaches every pixel of an image of ``shape`` (height, width)."""
    return math.prod(_walk_steps(length, size) for length in shape)


def walk_step(shape: tuple[int, int], size: int, seed: tuple[int, ...], step: int) -> tuple[int, int]:
    """Top left corner of the tile at ``step`` (from 0) of an endless walk over an image.

    Each round visits all tiles of a grid in random order and so reaches every pixel; the next round has another
    order and shifts the grid by another amount, so that tile borders fall elsewhere. A function of its arguments.
    """
    counts = [_walk_steps(length, size) for length in shape]
    lap, position = divmod(step, math.prod(counts))
    rng = np.random.default_rng((*seed, lap))
    shift = rng.integers(size, size=2)
    place = np.unravel_index(rng.permutation(math.prod(counts))[position], counts)
    # The first tile of a shifted grid sticks out by up to a tile; it and the last one are moved inside.
    corner = (int(s) + (int(p) - 1) * size for s, p in zip(shift, place, strict=True))
    top, left = (min(max(c, 0), max(length - size, 0)) for c, length in zip(corner, shape, strict=True))
    return top, left


def _walk_steps(length: int, size: int) -> int:
    return math.ceil((length - size) / size) + 2 if length > size else 1


def cut_tile(array: np.ndarray, top: int, left: int, size: int, outside: int | None = None) -> np.ndarray:
    """(size, size) or (size, size, 3) of an (H, W) or (H, W, 3) array.

    What lies outside the array mirrors what is inside, or is ``outside``.
    """
    inside = array[top : top + size, left : left + size]
    below, right = size - inside.shape[0], size - inside.shape[1]
    if below == right == 0:
        return inside
    mode = cv2.BORDER_REFLECT_101 if outside is None else cv2.BORDER_CONSTANT
    return cv2.copyMakeBorder(inside, 0, below, 0, right, mode, value=outside)
