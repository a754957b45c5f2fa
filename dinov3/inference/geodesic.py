"""How far it is from end to end inside a region, along its bends."""

from __future__ import annotations

import math

import cv2
import numpy as np

# A region with a longer side of more cells, and more of them open, is measured on a coarser grid, which joins arms that
# are closer together than its cells are wide. A thin crack has few open cells, so that its grid stays fine.
GRID, CELLS = 128, 4096
_SOLID = 0.9  # share of its convex hull that a region fills, from which on the way through it is a straight line

# Steps to half of the 16 neighbours (dy, dx), and for a knight's step the two cells it passes between: it is open if
# the region holds one of them, so a path never jumps a gap.
_STEPS = [((0, 1), (0, 0), (0, 0)), ((1, 0), (0, 0), (0, 0)), ((1, 1), (0, 0), (0, 0)), ((1, -1), (0, 0), (0, 0))]
_STEPS += [((1, 2 * side), (0, side), (1, side)) for side in (1, -1)]
_STEPS += [((2, side), (1, 0), (1, side)) for side in (1, -1)]
_MOVES = np.array(_STEPS + [tuple((-dy, -dx) for dy, dx in step) for step in _STEPS])  # (16, 3, 2)
_COSTS = np.hypot(*_MOVES[:, 0].T).astype(np.float32)
# Paths of these steps are 0 to 2.7 % longer than the straight line, as the direction falls; this centres the error.
_MEAN_COST = 0.9866


class RegionPaths:
    """Collects regions, then measures them together: one wave runs through all of them at the same time."""

    def __init__(self) -> None:
        self._lengths: list[float] = []
        self._bent: list[tuple[int, np.ndarray, tuple[int, int], int]] = []  # number, cells, a cell at an end, scale

    def add(self, inside: np.ndarray, outline: np.ndarray, area: int) -> None:
        """A connected region (h, w) uint8 of 0 and 1, its outer outline (n, 2) of x and y, its number of pixels."""
        hull = cv2.convexHull(outline)[:, 0]
        distances = np.hypot(*(hull[:, None] - hull[None]).transpose(2, 0, 1))
        self._lengths.append(float(distances.max()) + 1)  # from centre to centre, and half a pixel at either end
        edges = hull - hull[np.arange(-1, len(hull) - 1)]
        filled = cv2.contourArea(hull) + np.gcd(*edges.T).sum() / 2 + 1  # pixels in the hull, by Pick's theorem
        if area >= _SOLID * filled:
            return
        coarsest = -(-max(inside.shape) // GRID)
        scale = min(math.ceil((area / CELLS) ** 0.5), coarsest)
        cells = _coarser(inside, scale)
        while scale < coarsest and np.count_nonzero(cells) > CELLS:
            scale += 1
            cells = _coarser(inside, scale)
        x, y = hull[distances.argmax() // len(hull)] // scale
        self._bent.append((len(self._lengths) - 1, np.pad(cells, 2), (y + 2, x + 2), scale))

    def lengths(self) -> list[float]:
        """Pixels, in the order of adding: the longest of the shortest ways between two places of a region."""
        if self._bent:
            numbers, grids, ends, scales = zip(*self._bent, strict=True)
            for number, cells, scale in zip(numbers, _longest_ways(grids, ends), scales, strict=True):
                self._lengths[number] = max(self._lengths[number], (float(cells) + 1) * scale)
        return self._lengths


def _coarser(inside: np.ndarray, scale: int) -> np.ndarray:
    """A cell is open if any of its ``scale`` x ``scale`` pixels is, which keeps the region in one piece."""
    if scale == 1:
        return inside
    return cv2.dilate(inside, np.ones((scale, scale), np.uint8), anchor=(0, 0))[::scale, ::scale]


def _longest_ways(grids: tuple[np.ndarray, ...], ends: tuple[tuple[int, int], ...]) -> np.ndarray:
    """(N,) cells: the farthest from an outermost place is one end of the way, the farthest from there the other."""
    strides = np.array([grid.shape[1] for grid in grids])
    sizes = np.array([grid.size for grid in grids])
    origins = np.cumsum(sizes) - sizes
    is_open = np.concatenate([grid.ravel() for grid in grids]).astype(bool)
    cells = np.flatnonzero(is_open)
    last = np.searchsorted(cells, origins + sizes) - 1
    region = np.repeat(np.arange(len(grids)), np.diff(last, prepend=-1))
    y, x = np.array(ends).T
    seeds = origins + y * strides + x
    for _ in range(2):
        distance = _spread(seeds, is_open, strides)[cells]
        farthest = np.lexsort((distance, region))[last]
        seeds = cells[farthest]
    return distance[farthest] * _MEAN_COST


def _spread(seeds: np.ndarray, is_open: np.ndarray, strides: np.ndarray) -> np.ndarray:
    """Length of the shortest way to each open cell from the seed of its region, by a front that moves outwards."""
    distance = np.full(len(is_open), np.inf, np.float32)
    distance[seeds] = 0
    offsets, via, other = (_MOVES[:, i, 0] * strides[:, None] + _MOVES[:, i, 1] for i in range(3))  # (N, 16)
    front, region = seeds, np.arange(len(seeds))
    while len(front):
        to = front[:, None] + offsets[region]  # (n, 16)
        length = distance[front][:, None] + _COSTS
        row, column = np.nonzero(is_open[to] & (length < distance[to] - 1e-3))
        start, area = front[row], region[row]
        passable = is_open[start + via[area, column]] | is_open[start + other[area, column]]
        row, column, area = row[passable], column[passable], area[passable]
        to, length = to[row, column], length[row, column]
        np.minimum.at(distance, to, length)
        best = length <= distance[to]
        front, kept = np.unique(to[best], return_index=True)
        region = area[best][kept]
    return distance
