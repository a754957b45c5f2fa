"""Connected defect regions of an image's mask, each with its outline, its size and how sure the model is of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from dinov3.inference.geodesic import RegionPaths


@dataclass(frozen=True)
class Region:
    """A connected defect area (8-neighbourhood) of one class, in pixels of the original image.

    Attributes:
        class_name: one of the mask classes.
        box: x, y, width, height.
        polygon: corners (x, y) of the outer outline, through the outermost pixels; holes are not part of it, so it
            may enclose more than ``area``.
        area: number of pixels, without holes.
        length: the longest way through the region along its bends: a crack from end to end, the diameter of a disc,
            the diagonal of a rectangle (geodesic diameter; Lantuejoul and Maisonneuve 1984, Geodesic methods in
            quantitative image analysis). Of a crack that forks, its longest way. Within about 2 %, less about the
            width at each sharp bend, whose corner the way cuts. Much less where a crack winds so tightly that its arms
            lie closer than a 128th of its longer side, and covers so much that the finer grid would take too long.
        width: diameter of the largest disc that fits inside: a crack at its thickest.
        score: mean mask probability inside, 0 to 1.
        peak: highest mask probability inside, 0 to 1.
    """

    class_name: str
    box: tuple[int, int, int, int]
    polygon: list[tuple[int, int]]
    area: int
    length: float
    width: float
    score: float
    peak: float


def find_regions(
    peak: np.ndarray,
    channel: np.ndarray,
    mask_classes: Sequence[str],
    mask_threshold: float,
    min_area: float = 0,
    keep: np.ndarray | None = None,
) -> tuple[np.ndarray, list[Region]]:
    """Mask and regions of one image; each marked pixel belongs to exactly one region.

    Args:
        peak: (H, W) float32, probability of the strongest mask channel, 0 to 1.
        channel: (H, W) integers, which channel that is.
        mask_classes: name of each channel.
        mask_threshold: probability from which on a pixel is defect.
        min_area: regions of fewer pixels are ignored, and erased from the mask.
        keep: (H, W) bool, the pixels that count (:meth:`~dinov3.inference.rules.Rules.keep`); None: all.

    Returns:
        (H, W) uint8 mask of 0 or channel + 1; and the regions, largest area first.
    """
    mask = np.add(channel, 1, dtype=np.uint8, casting="unsafe")
    mask *= peak >= mask_threshold
    if keep is not None:
        mask *= keep
    return mask, measure_regions(mask, mask_classes, peak, min_area)


def measure_regions(
    mask: np.ndarray, mask_classes: Sequence[str], peak: np.ndarray, min_area: float = 0
) -> list[Region]:
    """Regions of a mask (H, W) uint8 of 0 or channel + 1, largest first; those below ``min_area`` are erased from it.

    ``peak`` is as for :func:`find_regions`.
    """
    left, top, width, height = cv2.boundingRect(mask)  # most of a large image is clean
    window = mask[top : top + height, left : left + width]
    paths, regions = RegionPaths(), []
    for value, name in enumerate(mask_classes, start=1) if window.size else ():
        flags = cv2.inRange(window, value, value)
        outlines, tree = cv2.findContours(flags, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))
        links = tree[0] if outlines else ()
        outer = [outline[:, 0] for outline, link in zip(outlines, links, strict=True) if link[3] < 0]  # not of a hole
        boxes = [cv2.boundingRect(outline) for outline in outer]
        crowded = sum(w * h for _, _, w, h in boxes) > flags.size  # then one pass over all of them is less work
        discs = _disc_diameters(flags) if crowded else None
        for outline, (x, y, w, h) in zip(outer, boxes, strict=True):
            place = slice(y, y + h), slice(x, x + w)
            inside = _connected(mask[place], outline[0] - (x, y))
            area = cv2.countNonZero(inside)
            if area < min_area:
                mask[place][inside.view(bool)] = 0
                continue
            paths.add(inside, outline - (x, y), area)
            around = _disc_diameters(inside) if discs is None else discs[y - top :, x - left :][:h, :w]
            disc = cv2.minMaxLoc(around, inside)[1]
            mean, most = cv2.mean(peak[place], inside)[0], cv2.minMaxLoc(peak[place], inside)[1]
            regions.append(Region(name, (x, y, w, h), list(map(tuple, outline.tolist())), area, 0.0, disc, mean, most))
    regions = [replace(region, length=length) for region, length in zip(regions, paths.lengths(), strict=True)]
    return sorted(regions, key=lambda region: -region.area)


def _connected(mask: np.ndarray, start: np.ndarray) -> np.ndarray:
    """(h, w) uint8, 1 where ``mask`` has the value of pixel ``start`` (x, y) and is connected to it."""
    height, width = mask.shape
    filled = np.zeros((height + 2, width + 2), np.uint8)
    cv2.floodFill(mask, filled, start.tolist(), 0, flags=8 | cv2.FLOODFILL_MASK_ONLY | 1 << 8)
    return np.ascontiguousarray(filled[1:-1, 1:-1])


def _disc_diameters(flags: np.ndarray) -> np.ndarray:
    """(h, w) float32, at each pixel of regions the diameter of the largest disc inside around it, or, for even
    diameters, around its upper left corner; outside of regions at most 0."""
    padded = cv2.copyMakeBorder(flags, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    odd = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    even = cv2.distanceTransform(cv2.erode(padded, np.ones((2, 2), np.uint8)), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    odd *= 2  # in place: on a large image, fresh memory takes longer than the arithmetic
    odd -= 1
    even *= 2
    return cv2.max(odd, even, odd)[1:-1, 1:-1]


def region_record(region: Region, mm_per_pixel: float | None) -> dict[str, Any]:
    """What ``predictions.json`` says of a region: its fields, and sizes in millimetres if the scale is known; numbers
    as they were compared with limits, not rounded to the other side of one."""
    record = {
        "class_name": region.class_name,
        "box": list(region.box),
        "polygon": [list(point) for point in region.polygon],
        "area": region.area,
        "length": float(region.length),
        "width": float(region.width),
        "score": float(region.score),
        "peak": float(region.peak),
    }
    if mm_per_pixel is not None:
        record["area_mm2"] = region.area * mm_per_pixel**2
        record["length_mm"] = float(region.length * mm_per_pixel)
        record["width_mm"] = float(region.width * mm_per_pixel)
    return record
