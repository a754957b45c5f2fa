"""The one way in which images are resized before a network sees them: torchvision's, bit for bit, without torch.

torchvision's antialiased bilinear resize of uint8 images goes along the rows, rounds to uint8, and goes along the
columns. Each new pixel is a weighted sum of old ones (a triangle filter, as wide as a new pixel when it shrinks), with
weights rounded to as many binary places as 16-bit integers hold. Such sums of integers are exact in float32 below 2^24,
and in float64 beyond, so a matrix product gives the same bits on any machine, at the speed of its BLAS.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

BLOCK = 8  # new lines per product: fewer make more calls, more multiply more zeros
CHUNK = 1 << 20  # values converted at a time
SINGLE_THREAD = 1 << 18  # multiplications in one product from which on OpenBLAS calls its threads, which only wait here


class _Block(NamedTuple):
    new: slice
    old: slice  # what the new lines are made of
    weights: np.ndarray  # (new, old)


def resize_image(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 to ``size`` (height, width), as ``torchvision.transforms.v2.functional.resize`` with
    ``antialias=True`` does; itself if it has that size."""
    height, width = pixels.shape[:2]
    if width != size[1]:
        columns = np.ascontiguousarray(cv2.transpose(np.ascontiguousarray(pixels))).reshape(width, -1)
        pixels = cv2.transpose(_resize_lines(columns, size[1]).reshape(size[1], height, 3))
    if height != size[0]:
        pixels = _resize_lines(pixels.reshape(height, -1), size[0]).reshape(*size, 3)
    return pixels


def _resize_lines(lines: np.ndarray, count: int) -> np.ndarray:
    """(L, N) uint8 to (count, N)."""
    length, total = lines.shape
    blocks = _weights(length, count)
    kind, widest = blocks[0].weights.dtype, max(block.weights.size for block in blocks)
    resized = np.empty((count, total), np.uint8)
    step = max(min(CHUNK // length, SINGLE_THREAD // widest), 64)
    before, after = np.empty((length, min(step, total)), kind), np.empty((count, min(step, total)), kind)
    for start in range(0, total, step):
        part = lines[:, start : start + step]
        source, sums = before[:, : part.shape[1]], after[:, : part.shape[1]]
        np.copyto(source, part)
        for new, old, weights in blocks:
            np.matmul(weights, source[old], out=sums[new])
        sums += 0.5
        np.copyto(resized[:, start : start + step], sums, casting="unsafe")  # downwards, so rounded
    return resized


@lru_cache(maxsize=256)
def _weights(length: int, count: int) -> tuple[_Block, ...]:
    """What makes ``count`` lines of ``length``."""
    scale = length / count
    support = max(scale, 1.0)
    centers = scale * (np.arange(count) + 0.5)
    first = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    taps = np.minimum((centers + support + 0.5).astype(np.int64), length) - first
    number = np.arange(taps.max())
    distance = (number + first[:, None] - centers[:, None] + 0.5) * min(1 / scale, 1.0)
    table = np.where(number < taps[:, None], np.maximum(1 - np.abs(distance), 0), 0)
    table /= table.sum(axis=1, keepdims=True)
    places = next((n for n in range(22) if int(0.5 + table.max() * 2 ** (n + 1)) >= 1 << 15), 22)
    whole = np.floor(table * 2**places + 0.5)
    kind = np.float32 if 255 * whole.sum(axis=1).max() + 2 ** (places - 1) < 2**24 else np.float64
    blocks = []
    for start in range(0, count, BLOCK):
        lines = range(start, min(start + BLOCK, count))
        low, high = int(first[lines[0]]), int((first + taps)[lines].max())
        weights = np.zeros((len(lines), high - low), kind)
        for row, line in zip(weights, lines, strict=True):
            place = first[line] - low
            row[place : place + taps[line]] = whole[line, : taps[line]] * 2.0**-places  # exact: powers of two
        blocks.append(_Block(slice(lines[0], lines[-1] + 1), slice(low, high), weights))
    return tuple(blocks)
