"""Writers of annotation files: each format as the importer of the same name reads it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

import cv2
import numpy as np
import yaml

from dinov3.data.defect_formats.base import NORMAL
from dinov3.data.defect_formats.labelme_shapes import read_shape
from dinov3.data.defect_formats.shapes import ShapeError, polygon
from dinov3.data.defect_masks import write_mask
from dinov3.defect_station.prelabel.outlines import Outline, joined, outlines, trace_centers, trace_edges

DEFECT = "defect"  # the class of what a person rejected without saying more
LabelFormat = Literal["labelme", "coco", "cvat", "yolo", "masks"]


@dataclass(frozen=True)
class PreLabel:
    """An image and its regions.

    Attributes:
        name: of the copy below ``images/``, ``/``-separated.
        mask: (H, W) uint8, 0 or the class.
        labels: name of each class in ``mask``.
        decision: of a person: ``accept`` (then there are no regions), ``reject`` or empty. An image without regions
            on which nobody decided is one that nobody annotated.
        class_name: what they saw; empty: they did not say.
    """

    name: str
    mask: np.ndarray
    labels: dict[int, str]
    decision: str = ""
    class_name: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.mask.shape


def write_labelme(folder: Path, images: Sequence[PreLabel]) -> None:
    """A JSON file beside each image; of one without regions only if a person decided, whose class is a flag."""
    for image in images:
        height, width = image.size
        shapes = [_labelme_shape(one) for one in outlines(image.mask, image.labels, trace_centers, _fill_labelme)]
        if not shapes and not image.decision:
            continue
        flags = {image.class_name or DEFECT: True} if image.decision == "reject" and not shapes else {}
        content: dict[str, Any] = {"version": "5.5.0", "flags": flags, "shapes": shapes}
        content |= {"imagePath": Path(image.name).name, "imageData": None, "imageHeight": height, "imageWidth": width}
        _write_json((folder / "images" / image.name).with_suffix(".json"), content)


def _labelme_shape(outline: Outline) -> dict[str, Any]:
    shape = {"label": outline.label, "group_id": None, "description": "", "flags": {}}
    if outline.points is not None:
        return shape | {"shape_type": "polygon", "points": outline.points.tolist(), "mask": None}
    height, width = outline.pixels.shape
    corners = [[outline.x, outline.y], [outline.x + width - 1, outline.y + height - 1]]
    png = cv2.imencode(".png", outline.pixels.astype(np.uint8) * 255)[1].tobytes()
    return shape | {"shape_type": "mask", "points": corners, "mask": base64.b64encode(png).decode()}


def _fill_labelme(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    shape = {"label": "x", "shape_type": "polygon", "points": corners.tolist()}
    return _filled(lambda: read_shape(shape, (width, height), 1).draw(height, width), height, width)


def fill_coco(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    return _filled(lambda: polygon("x", corners).draw(height, width), height, width)


def _filled(draw: Callable[[], np.ndarray], height: int, width: int) -> np.ndarray:
    try:
        return draw()
    except ShapeError:
        return np.zeros((height, width), bool)


def write_coco(folder: Path, images: Sequence[PreLabel]) -> None:
    """``annotations.json``; a region that no outline gives back is a run-length mask. The format cannot tell an image
    that a person decided on from one that nobody annotated."""
    categories = {name: number for number, name in enumerate(class_names(images), start=1)}
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        for one in outlines(image.mask, image.labels, trace_edges, fill_coco):
            height, width = one.pixels.shape
            region: Any = _column_runs(one, image.size)
            if one.points is not None:
                region = [one.points.round(2).ravel().tolist()]
            annotation: dict[str, Any] = {"id": len(annotations) + 1, "image_id": number}
            annotation |= {
                "category_id": categories[one.label],
                "segmentation": region,
                "bbox": [one.x, one.y, width, height],
                "iscrowd": 0,
            }
            annotations.append(annotation | {"area": int(np.count_nonzero(one.pixels))})
    entries = [
        {"id": number, "file_name": f"images/{image.name}", "height": image.size[0], "width": image.size[1]}
        for number, image in enumerate(images, start=1)
    ]
    names = [{"id": number, "name": name} for name, number in categories.items()]
    _write_json(folder / "annotations.json", {"images": entries, "annotations": annotations, "categories": names})


def _column_runs(outline: Outline, size: tuple[int, int]) -> dict[str, Any]:
    whole = np.zeros(size, bool)
    height, width = outline.pixels.shape
    whole[outline.y : outline.y + height, outline.x : outline.x + width] = outline.pixels
    return {"size": list(size), "counts": _runs(whole.T)}


def _runs(pixels: np.ndarray) -> list[int]:
    """Lengths of runs along the rows, off and on in turn, the first one off."""
    flat = pixels.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes.tolist(), len(flat)]).tolist()
    return [0, *runs] if flat[0] else runs


def write_cvat(folder: Path, images: Sequence[PreLabel]) -> None:
    """``annotations.xml`` ('CVAT for images 1.1'); what a person decided of an image without regions is a tag."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>"]
    for number, image in enumerate(images):
        height, width = image.size
        lines.append(f'  <image id="{number}" name={quoteattr(image.name)} width="{width}" height="{height}">')
        for one in outlines(image.mask, image.labels, trace_edges, fill_coco):
            head = f'label={quoteattr(one.label)} source="auto" occluded="0" z_order="0"'
            if one.points is not None:
                corners = ";".join(f"{x:.2f},{y:.2f}" for x, y in one.points.tolist())
                lines.append(f'    <polygon {head} points="{corners}"></polygon>')
            else:
                runs = ", ".join(map(str, _runs(one.pixels)))
                rows, columns = one.pixels.shape
                place = f'left="{one.x}" top="{one.y}" width="{columns}" height="{rows}"'
                lines.append(f'    <mask {head} rle="{runs}" {place}></mask>')
        if lines[-1].startswith("  <image") and image.decision:
            label = NORMAL if image.decision == "accept" else image.class_name or DEFECT
            lines.append(f'    <tag label={quoteattr(label)} source="manual"></tag>')
        lines.append("  </image>")
    (folder / "annotations.xml").write_text("\n".join([*lines, "</annotations>", ""]), encoding="utf-8")


def write_yolo(folder: Path, images: Sequence[PreLabel]) -> None:
    """``data.yaml`` and ``labels/``; an empty file says that an image is clean. The format has outlines alone."""
    names = class_names(images)
    for image in images:
        height, width = image.size
        lines = []
        for one in outlines(image.mask, image.labels, trace_edges, fill_coco):
            corners = joined_edges(one) if one.points is None else one.points
            values = " ".join(f"{value:.8f}" for value in (corners / (width, height)).ravel().tolist())
            lines.append(f"{names.index(one.label)} {values}\n")
        if lines or image.decision == "accept":
            path = (folder / "labels" / image.name).with_suffix(".txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines), encoding="utf-8")
    content = {"path": ".", "train": "images", "val": [], "names": dict(enumerate(names)), "task": "segment"}
    (folder / "data.yaml").write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")


def joined_edges(outline: Outline) -> np.ndarray:
    """The exact outline of a region that no outline gives back as it should."""
    return joined([loop.astype(np.float64) for loop in trace_edges(outline.pixels)]) + (outline.x, outline.y)


def write_masks(folder: Path, images: Sequence[PreLabel]) -> None:
    """A palette PNG in ``masks/`` per image with regions, and ``classes.txt``, line i of which is class i. The images
    move to ``defect/`` (with regions, or rejected by a person), ``good/`` (accepted by a person) and ``undecided/``."""
    names = class_names(images)
    for image in images:
        kind = "good" if image.decision == "accept" else "defect" if image.labels or image.decision else "undecided"
        place = folder / kind / image.name
        place.parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / image.name).rename(place)
        if image.labels:
            table = np.zeros(256, np.uint8)
            for value, label in image.labels.items():
                table[value] = names.index(label) + 1
            write_mask((folder / "masks" / image.name).with_suffix(".png"), table[image.mask])
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def class_names(images: Sequence[PreLabel]) -> list[str]:
    """All that occur, in alphabetical order."""
    return sorted({label for image in images for label in image.labels.values()})


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


WRITERS: dict[LabelFormat, Callable[[Path, Sequence[PreLabel]], None]] = {
    "labelme": write_labelme,
    "coco": write_coco,
    "cvat": write_cvat,
    "yolo": write_yolo,
    "masks": write_masks,
}
