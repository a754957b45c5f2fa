"""labelme's shapes, drawn as labelme itself draws them: by Pillow, outline included.

The calls are those of its ``shape_to_mask`` (github.com/wkentaro/labelme, ``_utils/shape.py``, version 7), so that
masks come out the same to the pixel. COCO's rule, which the other formats are filled by, marks a pixel less all around:
a third of a pit of 6 pixels.
"""

from __future__ import annotations

import base64
import io
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dinov3.data.defect_formats.parsing import checked_label, shown
from dinov3.data.defect_formats.shapes import (
    EmptyShapeError,
    Shape,
    ShapeError,
    UnknownShapeError,
    bitmap,
    check_length,
    checked_points,
    drawn_on,
    inside_area,
    without,
)

_CORNERS = {"circle": 2, "line": 2, "rectangle": 2, "mask": 2}  # of the shapes that have a fixed number


def read_shape(shape: object, size: tuple[int | None, int | None], line_width: int) -> Shape:
    """One entry of ``shapes``.

    Args:
        shape: as the JSON file has it.
        size: (width, height) of the image that it was drawn on, as far as the file tells.
        line_width: in pixels, of lines and points; labelme's own is 10.

    Raises:
        ShapeError: it cannot be drawn.
        UnknownShapeError: its type is not known.
        EmptyShapeError: it has no extent.
    """
    if not isinstance(shape, dict):
        raise ShapeError(f"not a shape: {shown(shape)}")
    label = checked_label(shape.get("label"))
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    if not isinstance(kind, str) or not isinstance(points, list):
        raise ShapeError(f"a shape of type {shown(kind)} with points {shown(points)}")
    if kind == "rectangle" and len(points) == 4:
        kind = "polygon"
    if len(points) != _CORNERS.get(kind, len(points)):
        raise ShapeError(f"a {kind} of {len(points)} points; expected {_CORNERS[kind]}")
    corners = checked_points(points)
    match kind:
        case "polygon" | "oriented_rectangle" | "rotation" | "quadrilateral":
            drawn = _polygon(label, corners)
        case "rectangle":
            drawn = _rectangle(label, corners)
        case "circle":
            drawn = _circle(label, corners)
        case "line" | "linestrip":
            drawn = _line(label, corners, line_width, joint="curve" if kind == "linestrip" else None)
        case "point" | "points":
            drawn = _points(label, corners, line_width)
        case "mask":
            drawn = _mask(label, shape.get("mask"), corners)
        case _:
            raise UnknownShapeError(f"a shape of unknown type {shown(kind)}", label, corners)
    return drawn_on(drawn, *size)


def cut_holes(regions: Sequence[tuple[Shape, Any]]) -> tuple[Shape, ...]:
    """The shapes without those that are holes of others.

    X-AnyLabeling's users draw a hole as an inner outline of the same label and ``group_id`` as the outer one, marked
    ``difficult``.

    Args:
        regions: each shape with its entry in the file.
    """
    groups: dict[object, list[int]] = defaultdict(list)
    for number, (shape, entry) in enumerate(regions):
        if isinstance(entry, dict) and isinstance(entry.get("group_id"), int | str) and not shape.vague:
            groups[shape.label, entry["group_id"]].append(number)
    holes: set[int] = set()
    shapes = [shape for shape, _ in regions]
    for members in groups.values():
        inner = [i for i in members if regions[i][1].get("difficult") is True]
        for i in set(members) - set(inner):
            for hole in inner:
                if _lies_in(regions[hole][1], regions[i][1]):
                    shapes[i] = without(shapes[i], regions[hole][0])
                    holes.add(hole)
    return tuple(shape for i, shape in enumerate(shapes) if i not in holes)


def _lies_in(inner: dict, outer: dict) -> bool:
    """Whether the corners of an entry lie in the box around those of another."""
    inside, around = checked_points(inner["points"]), checked_points(outer["points"])
    low, high = around.min(axis=0), around.max(axis=0)
    return bool(
        (inside >= low).all() and (inside <= high).all() and np.ptp(inside, axis=0).prod() < np.prod(high - low)
    )


def _painted(label: str, area: float, paint: Callable[[ImageDraw.ImageDraw], None]) -> Shape:
    def draw(height: int, width: int) -> np.ndarray:
        mask = Image.new("L", (width, height))
        paint(ImageDraw.Draw(mask))
        return np.asarray(mask, dtype=bool)

    return Shape(label, area, draw)


def _pairs(points: np.ndarray) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points.tolist()]


def _polygon(label: str, corners: np.ndarray) -> Shape:
    if len(corners) < 3 or not np.ptp(corners, axis=0).any():
        raise EmptyShapeError(f"a polygon of {len(corners)} corners without area")
    length = np.linalg.norm(np.diff(corners, axis=0, append=corners[:1]), axis=1).sum()
    check_length(length)
    # Pixels of the outline count whole, where half of them lies outside.
    area = inside_area(corners) + length / 2 + 1
    return _painted(label, area, lambda draw: draw.polygon(_pairs(corners), fill=1, outline=1))


def _rectangle(label: str, corners: np.ndarray) -> Shape:
    low, high = corners.min(axis=0), corners.max(axis=0)
    if (low == high).all():
        raise EmptyShapeError("a rectangle of one point")
    area = float(np.prod(high - low + 1))
    return _painted(label, area, lambda draw: draw.rectangle(_pairs(np.stack([low, high])), fill=1, outline=1))


def _circle(label: str, points: np.ndarray) -> Shape:
    center, edge = points
    radius = math.dist(center, edge)
    if not radius:
        raise EmptyShapeError("a circle without radius")
    check_length(2 * math.pi * radius)
    return _discs(label, center[None], radius)


def _points(label: str, centers: np.ndarray, width: int) -> Shape:
    if not len(centers):
        raise EmptyShapeError("no point")
    return _discs(label, centers, width // 2)  # labelme draws lines 10 pixels wide, and points of radius 5


def _discs(label: str, centers: np.ndarray, radius: float) -> Shape:
    def paint(draw: ImageDraw.ImageDraw) -> None:
        for x, y in _pairs(centers):
            if radius:
                draw.ellipse([(x - radius, y - radius), (x + radius, y + radius)], fill=1, outline=1)
            else:
                draw.point((x, y), fill=1)

    return _painted(label, len(centers) * math.pi * (radius + 0.5) ** 2, paint)


def _line(label: str, points: np.ndarray, width: int, joint: str | None) -> Shape:
    if not len(points):
        raise EmptyShapeError("a line without points")
    length = np.linalg.norm(np.diff(points, axis=0), axis=1).sum()
    check_length(2 * length)
    return _painted(label, (length + 1) * width, lambda draw: draw.line(_pairs(points), 1, width, joint))


def _mask(label: str, data: object, corners: np.ndarray) -> Shape:
    """A PNG in base64 between two corners, both inside. It is kept compressed until it is drawn."""
    try:
        png = base64.b64decode(data)
    except (ValueError, TypeError):
        raise ShapeError("a mask whose bitmap is missing or not base64") from None
    (x, y), (right, bottom) = corners.round().astype(int).tolist()
    width, height = right - x + 1, bottom - y + 1
    is_exact = bool(
        (corners == np.trunc(corners)).all()
    )  # else both corners were rounded, and the bitmap tells its size

    def read() -> Shape:
        pixels = _decode(png, width, height)
        return bitmap(label, pixels[:height, :width] if is_exact else pixels, x, y)

    return Shape(label, read().area, lambda image_height, image_width: read().draw(image_height, image_width))


def _decode(png: bytes, width: int, height: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            found = image.size
            if max(abs(found[0] - width), abs(found[1] - height)) <= 1:  # checked before its pixels take memory
                return np.asarray(image if len(image.getbands()) == 1 else image.convert("L"))
    except Exception as error:  # Pillow raises many types on damaged files
        raise ShapeError(f"a bitmap that is no PNG, broken or cut off ({shown(str(error))})") from None
    raise ShapeError("a bitmap of {}x{} between corners {}x{} apart".format(*found, width, height))
