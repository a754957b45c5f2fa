"""CVAT's annotations: 'CVAT for images 1.1', an XML file that lists images, their tags and regions
(docs.cvat.ai, 'XML annotation format')."""

from __future__ import annotations

import contextlib
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from dinov3.data.defect_formats.base import ImportOptions, ImportReport, Regions, SourceImage
from dinov3.data.defect_formats.copies import joined_entries
from dinov3.data.defect_formats.cvat_xml import Element, Entry, read_entries
from dinov3.data.defect_formats.detect import expect_some
from dinov3.data.defect_formats.image_index import ImageFiles
from dinov3.data.defect_formats.parsing import (
    AnnotationError,
    ForeignFileError,
    annotation_files,
    checked_label,
    checked_size,
    kept_splits,
    one_label,
    shown,
)
from dinov3.data.defect_formats.rle import run_lengths
from dinov3.data.defect_formats.shapes import (
    Shape,
    ShapeError,
    UnknownShapeError,
    box,
    checked_points,
    discs,
    drawn_on,
    ellipse,
    polygon,
    polyline,
)
from dinov3.data.defect_formats.words import is_note


def read_cvat(source: Path, options: ImportOptions, report: ImportReport) -> list[SourceImage]:
    """The images that a CVAT file lists, or those of every such file below a folder.

    - An image without tags and regions is not annotated: CVAT exports those that nobody has looked at too.
    - A tag is the class of its image; of several different ones, none: the regions decide. A word of bookkeeping
      ('reviewed') is no class, unless ``options.flag_classes`` has it.
    - The regions of several entries for one image count together, and lie above each other as their ``z_order`` says.
    - The split is the image's subset; a file that breaks off gives the images before that.

    Raises:
        DefectError: no image can be used.
    """
    source = Path(os.path.abspath(source))
    root = source if source.is_dir() else source.parent
    images = ImageFiles(options.images, root)
    files = annotation_files(source, ".xml")
    for file in files:
        with contextlib.suppress(AnnotationError):  # it is reported when its turn comes
            for entry in read_entries(file):
                images.expect(entry.attributes.get("name"), file.parent, entry.split)
    samples: list[SourceImage] = []
    for file in files:
        before = len(samples)
        try:
            for entry in read_entries(file):
                try:
                    samples.append(_read_image(entry, images, options, report))
                except AnnotationError as error:
                    report.skipped.append(f"{entry.place}: {error}")
                    if entry.elements:
                        report.lost.append(f"{entry.place}: {error}")
        except AnnotationError as error:
            read = f"; the {len(samples) - before} images before that are imported" if len(samples) > before else ""
            report.skipped.append(f"{file}: {error}{read}")
            report.lost += [str(file)] * (not isinstance(error, ForeignFileError))
    samples = joined_entries(samples, report)
    expect_some(samples, source, "cvat", "a file in the format 'CVAT for images 1.1', or a folder with it", report)
    unlisted = [str(path) for path in images.left()]
    if unlisted:
        report.remarks["image files that no annotation file lists; skipped"] += unlisted
    return kept_splits(samples, report)


def _read_image(entry: Entry, images: ImageFiles, options: ImportOptions, report: ImportReport) -> SourceImage:
    attributes = entry.attributes
    path = images.find(attributes.get("name"), entry.file.parent, entry.split)
    name = images.take(path, entry.place)
    size = _size(attributes.get("width")), _size(attributes.get("height"))
    regions = Regions(f"{path} ({entry.place})", report)
    tags = []
    for element in entry.elements:
        if element.kind == "tag":
            try:
                tags.append(checked_label(element.attributes.get("label")))
            except ShapeError as error:
                raise AnnotationError(f"its tag has {error}") from None
        else:
            regions.add(_read_shape, element, size, options.line_width)
    notes = {
        tag for tag in tags if tag not in (*options.flag_classes, *options.mapped, *options.normal) and is_note(tag)
    }
    for tag in notes:
        report.remarks["tags that are notes on the work, not classes (--flag_classes makes them classes)"].append(tag)
    label = one_label(set(tags) - notes, bool(regions.shapes), "tags", regions.place, report)
    annotated = any(element.kind != "tag" for element in entry.elements)
    shapes = tuple(regions.shapes) if annotated else None
    return SourceImage(path, name, entry.file.name, label, shapes=shapes, split=entry.split, whole=regions.whole)


def _size(text: str | None) -> int | None:
    return checked_size(int(text)) if text and text.isascii() and text.isdigit() and len(text) < 10 else None


def _read_shape(region: Element, size: tuple[int | None, int | None], line_width: int) -> Shape:
    kind, element = region
    label = checked_label(element.get("label"))
    match kind:
        case "polygon":
            drawn = polygon(label, _points(element))
        case "polyline":
            drawn = polyline(label, _points(element), line_width)
        case "points":
            drawn = discs(label, _points(element), line_width)
        case "box":
            drawn = _turned_box(label, *_numbers(element, "xtl", "ytl", "xbr", "ybr"), degrees=_rotation(element))
        case "ellipse":
            drawn = ellipse(label, *_numbers(element, "cx", "cy", "rx", "ry"), degrees=_rotation(element))
        case "mask":
            left, top, width, height = map(int, _numbers(element, "left", "top", "width", "height"))
            drawn = run_lengths(label, _runs(element), width, height, left, top)
        case _:
            raise UnknownShapeError(
                f"a <{shown(kind)[1:-1]}>, which has no area in the image", label, _corners(element)
            )
    z = element.get("z_order", "0")
    return replace(drawn_on(drawn, *size), z=int(z) if re.fullmatch("-?[0-9]{1,9}", z) else 0)


def _corners(element: dict[str, str]) -> np.ndarray:
    """(N, 2) of the points of an element of any kind, as a cuboid has them: ``xtl1``, ``ytl1`` and so on."""
    names = [name for name in element if name.startswith("x") and f"y{name[1:]}" in element]
    try:
        return checked_points([_numbers(element, name, f"y{name[1:]}") for name in names])
    except ShapeError:
        return np.zeros((0, 2))


def _numbers(element: dict[str, str], *names: str) -> list[float]:
    """Attributes that are finite numbers."""
    texts = [element.get(name) for name in names]
    try:
        numbers = [float(text) for text in texts]
    except (TypeError, ValueError):
        raise ShapeError(f"{', '.join(names)} are {shown(texts)}; expected numbers") from None
    if not all(map(math.isfinite, numbers)):
        raise ShapeError(f"{', '.join(names)} are {shown(texts)}; expected finite numbers")
    return numbers


def _rotation(element: dict[str, str]) -> float:
    """In degrees, clockwise."""
    return _numbers(element, "rotation")[0] if "rotation" in element else 0.0


def _points(element: dict[str, str]) -> list[list[float]]:
    text = element.get("points", "")
    try:
        return [[float(number) for number in pair.split(",")] for pair in text.split(";")]
    except ValueError:
        raise ShapeError(f"points that are not x,y;x,y: {shown(text)}") from None


def _runs(element: dict[str, str]) -> list[int]:
    text = element.get("rle", "")
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ShapeError(f"run lengths that are not numbers with commas: {shown(text)}") from None


def _turned_box(label: str, left: float, top: float, right: float, bottom: float, degrees: float) -> Shape:
    """A box turned clockwise around its middle."""
    if not degrees:
        return box(label, left, top, right, bottom)
    x, y, turn = (left + right) / 2, (top + bottom) / 2, math.radians(degrees)
    corners = [(left - x, top - y), (right - x, top - y), (right - x, bottom - y), (left - x, bottom - y)]
    cos, sin = math.cos(turn), math.sin(turn)
    return polygon(label, [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in corners])
