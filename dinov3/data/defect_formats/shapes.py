"""Regions as annotation tools store them (polygons, lines, ellipses, bitmaps), drawn as masks.

Outlines are filled by COCO's rule (``pycocotools``): right for COCO's own files, and used for YOLO and CVAT, whose
coordinates are corners of pixels too. labelme draws differently (``labelme_shapes``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from pycocotools import mask as coco

_SUBPIXEL_BITS = 4  # cv2 takes corners as integers; these bits are fractions of a pixel
_FAR = 2**20  # pixels; corners beyond are no image coordinates, and would overflow cv2's integers
_LONGEST_OUTLINE = 2**21  # pixels; pycocotools takes memory for each of them, and does not check whether it got it
_ROWS, _CROSSINGS = 128, 2**20  # on which an area is measured, at most: outlines may go up and down a million times


class ShapeError(ValueError):
    """A region that cannot be drawn; the text says why."""


class EmptyShapeError(ShapeError):
    """A region without any area, such as a double click leaves: nothing is lost without it."""


class UnknownShapeError(ShapeError):
    """A region of a form that this version cannot draw, though the rest of it is sound.

    Attributes:
        label: its class.
        points: (N, 2) of its corners, as far as it tells; N may be 0.
    """

    def __init__(self, message: str, label: str, points: np.ndarray):
        super().__init__(message)
        self.label, self.points = label, points


@dataclass(frozen=True)
class Shape:
    """One annotated region.

    Attributes:
        label: its class as the annotation names it.
        area: in pixels, about, before clipping to the image.
        draw: (height, width) to an (H, W) bool mask; it may raise ShapeError.
        z: the layer; regions of a higher one lie above those of a lower one.
        vague: its outline is not known: it tells the class of its image, and its pixels are ignored.
    """

    label: str
    area: float
    draw: Callable[[int, int], np.ndarray]
    z: int = 0
    vague: bool = False


def polygon(label: str, points: Sequence[Sequence[float]]) -> Shape:
    """The inside of a closed outline of (x, y) corners in pixels; what lies beyond the image is cut off.

    Raises:
        ShapeError: a corner is not a pair of finite numbers, or the outline is longer than any in an image.
        EmptyShapeError: fewer than three corners, or no area.
    """
    corners = checked_points(points)
    area = cv2.contourArea(corners.astype(np.float32)) if len(corners) > 2 else 0.0
    if len(corners) < 3 or (area < 0.01 and np.linalg.matrix_rank(corners - corners[0]) < 2):  # 0 in a figure eight too
        raise EmptyShapeError(f"a polygon of {len(corners)} corners without area")
    check_length(np.linalg.norm(np.diff(corners, axis=0, append=corners[:1]), axis=1).sum())

    def draw(height: int, width: int) -> np.ndarray:
        return _fill([corners], height, width)

    return Shape(label, inside_area(corners), draw)


def box(label: str, x0: float, y0: float, x1: float, y1: float) -> Shape:
    """The rectangle between two opposite corners, in pixels. Raises as :func:`polygon`."""
    return polygon(label, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def polyline(label: str, points: Sequence[Sequence[float]], width: int) -> Shape:
    """A line through (x, y) points, ``width`` pixels thick, with round ends.

    Raises:
        ShapeError: a point is not a pair of finite numbers, or the line is longer than any in an image.
        EmptyShapeError: no point.
    """
    corners = checked_points(points)
    if not len(corners):
        raise EmptyShapeError("a line without points")
    steps = np.diff(corners, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    check_length(2 * lengths.sum() + len(corners) * math.pi * width)
    aside = width / 2 * np.stack([-steps[:, 1], steps[:, 0]], axis=1) / np.maximum(lengths, 1e-9)[:, None]
    starts, ends = corners[:-1], corners[1:]
    bands = np.stack([starts + aside, ends + aside, ends - aside, starts - aside], axis=1)[lengths > 0]

    def draw(height: int, image_width: int) -> np.ndarray:
        mask = np.zeros((height, image_width), np.uint8)
        cv2.polylines(mask, [_fixed_point(corners)], False, 1, shift=_SUBPIXEL_BITS)  # a thin line has no gaps
        return _bands(bands, height, image_width) | _discs(corners, width, height, image_width) | mask.astype(bool)

    return Shape(label, float(lengths.sum()) * width + math.pi / 4 * width**2, draw)


def discs(label: str, points: Sequence[Sequence[float]], width: int) -> Shape:
    """A disc of ``width`` pixels at each (x, y). Raises as :func:`polyline`."""
    centers = checked_points(points)
    if not len(centers):
        raise EmptyShapeError("no point")
    area = len(centers) * math.pi / 4 * width**2
    return Shape(label, area, lambda height, image_width: _discs(centers, width, height, image_width))


def ellipse(label: str, x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0.0) -> Shape:
    """An ellipse around (x, y), turned clockwise by ``degrees``. Raises as :func:`polygon`."""
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    turn = math.radians(degrees)
    along, across = radius_x * np.cos(angles), radius_y * np.sin(angles)
    xs = x + along * math.cos(turn) - across * math.sin(turn)
    ys = y + along * math.sin(turn) + across * math.cos(turn)
    return polygon(label, np.stack([xs, ys], axis=1))


def bitmap(label: str, pixels: np.ndarray, x: int = 0, y: int = 0) -> Shape:
    """The non-zero pixels of a (h, w) array whose top left corner lies at (x, y) of the image; the rest is cut off.

    Raises:
        EmptyShapeError: no pixel is set.
    """
    inside = np.asarray(pixels) > 0
    if not inside.any():
        raise EmptyShapeError("a bitmap without any set pixel")

    def draw(height: int, width: int) -> np.ndarray:
        mask = np.zeros((height, width), bool)
        top, left = max(y, 0), max(x, 0)
        bottom, right = min(y + inside.shape[0], height), min(x + inside.shape[1], width)
        if top < bottom and left < right:
            mask[top:bottom, left:right] = inside[top - y : bottom - y, left - x : right - x]
        return mask

    return Shape(label, float(inside.sum()), draw)


def vague_region(label: str, points: np.ndarray) -> Shape:
    """Where a region lies whose outline is not known: the box around its points, or without any the whole image."""
    if len(points) < 2:
        return Shape(label, 0.0, lambda height, width: np.ones((height, width), bool), vague=True)
    low, high = np.floor(points.min(axis=0)).astype(int), np.ceil(points.max(axis=0)).astype(int) + 1
    (left, top), (right, bottom) = low.clip(0).tolist(), high.clip(0).tolist()

    def draw(height: int, width: int) -> np.ndarray:
        mask = np.zeros((height, width), bool)
        mask[top:bottom, left:right] = True
        return mask

    return Shape(label, float(np.prod(high - low)), draw, vague=True)


def without(shape: Shape, hole: Shape) -> Shape:
    """A region with a hole in it."""

    def draw(height: int, width: int) -> np.ndarray:
        return shape.draw(height, width) & ~hole.draw(height, width)

    return replace(shape, area=max(shape.area - hole.area, 0.0), draw=draw)


def drawn_on(shape: Shape, width: int | None, height: int | None) -> Shape:
    """The shape as drawn on an image of this size (None: not known); it can be drawn on no other."""
    if width is None or height is None:
        return shape

    def draw(image_height: int, image_width: int) -> np.ndarray:
        if (image_height, image_width) != (height, width):
            raise ShapeError(f"annotated on {width}x{height} pixels, but the image has {image_width}x{image_height}")
        return shape.draw(image_height, image_width)

    return replace(shape, draw=draw)


def checked_points(points: Sequence[Sequence[float]]) -> np.ndarray:
    """(N, 2) float64.

    Raises:
        ShapeError: not pairs of finite numbers, or far from any image.
    """
    try:
        corners = np.asarray(points, dtype=np.float64)
    except (ValueError, TypeError):
        raise ShapeError("corners that are not pairs of numbers") from None
    if not corners.size:
        return np.zeros((0, 2))
    if corners.ndim != 2 or corners.shape[1] != 2:
        raise ShapeError("corners that are not pairs of numbers")
    if not np.isfinite(corners).all():
        raise ShapeError("a corner that is not a finite number (NaN or infinity)")
    if np.abs(corners).max() > _FAR:
        raise ShapeError(f"a corner at {np.abs(corners).max():.3g}, no place in an image")
    return corners


def check_length(pixels: float) -> None:
    """Raise ShapeError for an outline longer than any in an image."""
    if pixels > _LONGEST_OUTLINE:
        raise ShapeError(f"an outline of {pixels:.3g} pixels, longer than that of anything in an image")


def _fill(outlines: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """The pixels in any of the (N, 2) outlines, as COCO fills them; cv2.fillPoly adds half a pixel all around."""
    if not len(outlines):
        return np.zeros((height, width), bool)
    return coco.decode(coco.merge(coco.frPyObjects([o.ravel() for o in outlines], height, width))).astype(bool)


def _bands(outlines: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """As :func:`_fill`, each outline on its own surroundings: the cost is linear in their number."""
    mask = np.zeros((height, width), bool)
    for corners in outlines:
        left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0).tolist()
        right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 2, (width, height)).tolist()
        if left < right and top < bottom:
            mask[top:bottom, left:right] |= _fill([corners - (left, top)], bottom - top, right - left)
    return mask


def inside_area(corners: np.ndarray) -> float:
    """What :func:`_fill` draws of an outline, about. Of two pieces that turn in opposite directions, as tools write
    them that join the pieces of a region by a line there and back, cv2.contourArea gives the difference."""
    return (_inside_rows(corners) + _inside_rows(corners[:, ::-1])) / 2


def _inside_rows(corners: np.ndarray) -> float:
    """The area inside by the lengths inside along the middles of equal rows: between every other two crossings."""
    low, height = corners[:, 1].min(), np.ptp(corners[:, 1])
    if height < 1e-9:
        return 0.0
    turns = np.abs(np.diff(corners[:, 1], append=corners[:1, 1])).sum() / height
    rows = max(1, min(_ROWS, int(_CROSSINGS / turns)))
    scaled = (corners - (0, low)) * (1, rows / height) - (0, 0.5)  # the rows' middles are whole numbers
    after = np.roll(scaled, -1, axis=0)
    first, last = np.sort(np.ceil([scaled[:, 1], after[:, 1]]).astype(int), axis=0)
    edge = np.repeat(np.arange(len(corners)), last - first)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - last, last - first)
    (x, y), (dx, dy) = scaled[edge].T, (after - scaled)[edge].T
    crossings = x + (row - y) / dy * dx
    crossings = crossings[np.lexsort((crossings, row))]
    return float((crossings[1::2] - crossings[::2]).sum() * height / rows)


def _discs(centers: np.ndarray, diameter: int, height: int, width: int) -> np.ndarray:
    """The pixels whose middle lies in a disc; at least one for each."""
    mask = np.zeros((height, width), bool)
    radius = max(diameter / 2, 0.71)  # from there on the pixel that holds the center is always among them
    for x, y in centers.tolist():
        left, top = max(math.floor(x - radius), 0), max(math.floor(y - radius), 0)
        rows = np.arange(top, min(math.ceil(y + radius), height)) + 0.5 - y
        columns = np.arange(left, min(math.ceil(x + radius), width)) + 0.5 - x
        inside = rows[:, None] ** 2 + columns**2 <= radius**2
        mask[top : top + len(rows), left : left + len(columns)] |= inside
    return mask


def _fixed_point(corners: np.ndarray) -> np.ndarray:
    """Pixel centres lie at whole numbers for cv2, at halves in annotations."""
    return np.round((corners - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32)
