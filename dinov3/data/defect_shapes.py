"""Regions as annotation tools store them (polygons, lines, ellipses, bitmaps), drawn as masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as coco

_SUBPIXEL_BITS = 4  # cv2 takes corners as integers; these bits are fractions of a pixel
_FAR = 2**20  # pixels; corners beyond are no image coordinates, and would overflow cv2's integers


class ShapeError(ValueError):
    """A region that cannot be drawn; the text says why."""


class EmptyShapeError(ShapeError):
    """A region without any area, such as a double click leaves: nothing is lost without it."""


@dataclass(frozen=True)
class Shape:
    """One annotated region.

    Attributes:
        label: its class as the annotation names it.
        area: in pixels, about, before clipping to the image.
        draw: (height, width) to an (H, W) bool mask; it may raise ShapeError.
    """

    label: str
    area: float
    draw: Callable[[int, int], np.ndarray]


def polygon(label: str, points: Sequence[Sequence[float]]) -> Shape:
    """The inside of a closed outline of (x, y) corners in pixels; parts beyond the image are cut off.

    Raises:
        ShapeError: a corner is not a pair of finite numbers.
        EmptyShapeError: fewer than three corners, or no area.
    """
    corners = _corners(points)
    if len(corners) < 3 or np.linalg.matrix_rank(corners - corners[0]) < 2:
        raise EmptyShapeError(f"a polygon of {len(corners)} corners without area")
    area = float(cv2.contourArea(corners.astype(np.float32)))

    def draw(height: int, width: int) -> np.ndarray:
        # As COCO fills it; cv2.fillPoly would add half a pixel all around.
        return coco.decode(coco.merge(coco.frPyObjects([corners.ravel()], height, width))).astype(bool)

    return Shape(label, area, draw)


def box(label: str, x0: float, y0: float, x1: float, y1: float) -> Shape:
    """The rectangle between two opposite corners, in pixels. Raises as :func:`polygon`."""
    return polygon(label, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def polyline(label: str, points: Sequence[Sequence[float]], width: int) -> Shape:
    """A line through (x, y) points, ``width`` pixels thick; a single point becomes a disc of that diameter.

    Raises:
        ShapeError: a point is not a pair of finite numbers.
        EmptyShapeError: no point.
    """
    corners = _corners(points)
    if not len(corners):
        raise EmptyShapeError("a line without points")
    length = float(np.linalg.norm(np.diff(corners, axis=0), axis=1).sum())

    def draw(height: int, image_width: int) -> np.ndarray:
        mask = np.zeros((height, image_width), np.uint8)
        fixed = _fixed_point(corners)
        if length > 0:
            cv2.polylines(mask, [fixed], False, 1, width, shift=_SUBPIXEL_BITS)
        else:
            radius = round(width / 2 * 2**_SUBPIXEL_BITS)
            cv2.circle(mask, fixed[0].tolist(), radius, 1, cv2.FILLED, shift=_SUBPIXEL_BITS)
        return mask.astype(bool)

    return Shape(label, length * width + math.pi / 4 * width**2, draw)


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


def _corners(points: Sequence[Sequence[float]]) -> np.ndarray:
    """(N, 2) float64, checked."""
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


def _fixed_point(corners: np.ndarray) -> np.ndarray:
    """Pixel centres lie at whole numbers for cv2, at halves in annotations."""
    return np.round((corners - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32)
