"""Regions of a mask as outlines with few corners, which filled as their format fills them give the region back.

An outline is simplified (Douglas and Peucker 1973) as far as it stays within half a pixel of the region on average, and
keeps 98% of it (IoU). A hole is joined to the outline around it by a line there and back, as no format here has holes
in outlines. What no outline gives back, such as a single pixel in labelme, stays a bitmap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

TOLERANCES = (1.5, 1.0, 0.7, 0.5, 0.35, 0.0)  # pixels, tried in turn
MIN_IOU, MAX_DEVIATION = 0.98, 0.5  # the latter in pixels, on average along the outline

# (N, 2) corners in pixels and (height, width) to the (H, W) bool pixels that they mark.
Fill = Callable[[np.ndarray, int, int], np.ndarray]
Trace = Callable[[np.ndarray], list[np.ndarray]]


@dataclass(frozen=True)
class Outline:
    """One region.

    Attributes:
        label: its class.
        points: (N, 2) corners x, y in pixels of the image; None if no outline gives the region back.
        pixels: (h, w) bool, the region itself.
        x, y: where the top left pixel of ``pixels`` lies.
    """

    label: str
    points: np.ndarray | None
    pixels: np.ndarray
    x: int
    y: int


def outlines(mask: np.ndarray, labels: dict[int, str], trace: Trace, fill: Fill) -> Iterator[Outline]:
    """An outline of each connected region (8-neighbourhood).

    Args:
        mask: (H, W) uint8, 0 or the class.
        labels: its name by class.
        trace, fill: how the format traces and fills.
    """
    for value, label in labels.items():
        count, numbers, boxes, _ = cv2.connectedComponentsWithStats((mask == value).astype(np.uint8), connectivity=8)
        for number in range(1, count):
            x, y, width, height = boxes[number, :4].tolist()
            pixels = numbers[y : y + height, x : x + width] == number
            points = simplified(pixels, trace, fill)
            yield Outline(label, None if points is None else points + (x, y), pixels, x, y)


def simplified(pixels: np.ndarray, trace: Trace, fill: Fill) -> np.ndarray | None:
    """(N, 2) corners of one region (h, w) bool, as few as give it back; None if no outline does."""
    loops = trace(pixels)
    length = sum(len(loop) for loop in loops)
    for tolerance in TOLERANCES:
        corners = joined([_fewer(loop, tolerance) for loop in loops])
        filled = fill(corners, *pixels.shape)
        differing = np.count_nonzero(filled != pixels)
        if differing <= MAX_DEVIATION * length and differing <= (1 - MIN_IOU) * np.count_nonzero(filled | pixels):
            return corners
    return None


def _fewer(loop: np.ndarray, tolerance: float) -> np.ndarray:
    """At least three corners; at tolerance 0 those at which the loop turns."""
    if not tolerance:
        before, after = loop - np.roll(loop, 1, axis=0), np.roll(loop, -1, axis=0) - loop
        corners = loop[(before != after).any(axis=1)]
    else:
        if (np.abs(np.diff(loop, axis=0)).sum(axis=1) == 1).all():  # edges: through their middles a slope has no stairs
            loop = (loop + np.roll(loop, -1, axis=0)) / 2
        corners = cv2.approxPolyDP(loop.astype(np.float32)[:, None], tolerance, True)[:, 0]
    # A line there and back has two ends only, which labelme takes for no outline.
    return np.concatenate([corners, corners[-1:], corners[-1:]])[: max(len(corners), 3)].astype(np.float64)


def joined(loops: list[np.ndarray]) -> np.ndarray:
    """One closed outline of an outer one, which comes first, and holes: each joined where it is nearest."""
    whole, holes = loops[0], list(loops[1:])
    while holes:
        places = [_nearest(whole, hole) for hole in holes]
        first = min(range(len(holes)), key=lambda number: places[number][0])
        _, i, j = places[first]
        hole = holes.pop(first)
        whole = np.concatenate([whole[: i + 1], hole[j:], hole[: j + 1], whole[i:]])
    return whole


def _nearest(one: np.ndarray, other: np.ndarray) -> tuple[float, int, int]:
    """Squared distance of the nearest two corners, and which those are."""
    squares = ((one[:, None] - other[None]) ** 2).sum(axis=2)
    i, j = divmod(int(squares.argmin()), squares.shape[1])
    return float(squares[i, j]), i, j


def trace_centers(pixels: np.ndarray) -> list[np.ndarray]:
    """(N, 2) through the centres of the outermost pixels of one region, outside first, then around each hole; pixel
    centres are whole numbers. As labelme takes outlines, which marks the pixels that they run through."""
    found, tree = cv2.findContours(pixels.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    order = sorted(range(len(found)), key=lambda number: tree[0][number][3] >= 0)
    return [found[number][:, 0] for number in order]


def trace_edges(pixels: np.ndarray) -> list[np.ndarray]:
    """(N, 2) along the edges of the pixels of one region, outside first, then around each hole; whole numbers are the
    corners of pixels. As COCO's fill takes outlines."""
    padded = np.pad(pixels, 1)
    after: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    # With the region at the right hand, by where its neighbour is missing: above, right, below, left.
    for (dy, dx), start, end in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (1, 1)),
        ((1, 0), (1, 1), (0, 1)),
        ((0, -1), (0, 1), (0, 0)),
    ):
        edge = pixels & ~padded[1 + dy : 1 + dy + pixels.shape[0], 1 + dx : 1 + dx + pixels.shape[1]]
        for y, x in np.argwhere(edge).tolist():
            after[x + start[0], y + start[1]].append((x + end[0], y + end[1]))
    loops = []
    while after:
        first = min(after, key=lambda corner: (corner[1], corner[0])) if not loops else next(iter(after))
        loops.append(np.array(_walk(after, first)))
    return loops


def _walk(after: dict[tuple[int, int], list[tuple[int, int]]], first: tuple[int, int]) -> list[tuple[int, int]]:
    """The corners from ``first`` back to it, taken out of ``after``. Where two pixels touch at a corner, it turns left,
    into the other one, so that a region of such pixels has one outline."""
    loop, corner, step = [], first, (1, 0)
    while not loop or corner != first:
        choices = after[corner]
        left = corner[0] + step[1], corner[1] - step[0]
        following = left if len(choices) > 1 and left in choices else choices[0]
        choices.remove(following)
        if not choices:
            del after[corner]
        loop.append(corner)
        step = following[0] - corner[0], following[1] - corner[1]
        corner = following
    return loop
