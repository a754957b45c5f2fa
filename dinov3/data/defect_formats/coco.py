"""COCO's annotations: JSON files that list images, categories and regions (cocodataset.org, 'Data format')."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path

from dinov3.data.defect_formats.base import ImportOptions, ImportReport, Regions, SourceImage
from dinov3.data.defect_formats.copies import joined_entries
from dinov3.data.defect_formats.detect import expect_some
from dinov3.data.defect_formats.image_index import ImageFiles
from dinov3.data.defect_formats.parsing import (
    AnnotationError,
    ForeignFileError,
    annotation_files,
    checked_label,
    checked_size,
    kept_splits,
    read_json,
    shown,
    split_of,
)
from dinov3.data.defect_formats.rle import run_lengths
from dinov3.data.defect_formats.shapes import Shape, ShapeError, box, checked_points, drawn_on, polygon
from dinov3.data.defect_formats.words import IGNORE

_LISTS = ("images", "annotations", "categories")


def read_coco(source: Path, options: ImportOptions, report: ImportReport) -> list[SourceImage]:
    """The images that a COCO file lists, or those of every such file below a folder.

    - Where there are files called ``instances_*.json``, the others (keypoints, captions) are not read.
    - An image without annotation is not annotated: the format cannot tell it from a clean one.
    - The regions of several entries for one image count together. Those with ``"ignore": 1`` are ignored.
    - Crowd regions are drawn like the others; an annotation with a box alone is drawn as a box, and reported.
    - The split is that of the file's name (``instances_val2017.json``) or else of its folder (``valid/``).

    Raises:
        DefectError: no image can be used.
    """
    source = Path(os.path.abspath(source))
    root = source if source.is_dir() else source.parent
    images = ImageFiles(options.images, root)
    files = annotation_files(source, ".json")
    instances = [file for file in files if file.name.startswith("instances_")]
    if instances and len(instances) < len(files):
        others = [str(file) for file in files if file not in instances]
        report.remarks["files beside those called instances_*.json; not read"] += others
    for file in instances or files:
        _expect_images(file, root, images)
    samples: list[SourceImage] = []
    for file in instances or files:
        try:
            samples += _read_file(file, root, images, report)
        except AnnotationError as error:
            report.skipped.append(f"{file}: {error}")
            report.lost += [str(file)] * (not isinstance(error, ForeignFileError))
    samples = joined_entries(samples, report)
    expect_some(samples, source, "coco", "a COCO JSON file, or a folder with such and the images", report)
    unlisted = [str(path) for path in images.left()]
    if unlisted:
        report.remarks["image files that no annotation file lists; skipped"] += unlisted
    return kept_splits(samples, report)


def _expect_images(file: Path, root: Path, images: ImageFiles) -> None:
    """Tell ``images`` what a file lists, so that no entry of another file takes that."""
    try:
        entries = _read_lists(file)["images"]
    except AnnotationError:
        return  # it is reported when its turn comes
    for entry in entries:
        if isinstance(entry, dict):
            images.expect(entry.get("file_name"), file.parent, _split(file, root))


def _read_lists(file: Path) -> dict:
    content = read_json(file)
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in _LISTS):
        foreign = not isinstance(content, dict) or not content.get("annotations")
        expected = "not a COCO file of regions; expected lists called images, annotations and categories"
        raise (ForeignFileError if foreign else AnnotationError)(expected)
    return content


def _split(file: Path, root: Path) -> str | None:
    return split_of(file.stem) or (split_of(file.parent.name) if file.parent != root else None)


def _read_file(file: Path, root: Path, images: ImageFiles, report: ImportReport) -> list[SourceImage]:
    content = _read_lists(file)
    names = _category_names(file, content["categories"], report)
    entries, annotations = content["images"], _by_image(content.pop("annotations"))
    ids = Counter(_id(entry, "id") for entry in entries)
    names_of = defaultdict(set)
    for entry in entries:
        names_of[_id(entry, "id")].add(str(entry.get("file_name")) if isinstance(entry, dict) else "")
    split = _split(file, root)
    samples = []
    for number, entry in enumerate(entries, start=1):
        try:
            key = _id(entry, "id")
            if key is None:
                raise AnnotationError(f"expected an image with an id and a file_name, found {shown(entry)}")
            if ids[key] > 1 and len(names_of[key]) > 1:
                raise AnnotationError(f"{ids[key]} images have the id {shown(key)}, so its regions are not known")
            path = images.find(entry.get("file_name"), file.parent, split)
            name = images.take(path, str(file))
        except AnnotationError as error:
            report.skipped.append(f"{file}, image {number}: {error}")
            if annotations.get(_id(entry, "id")):
                report.lost.append(f"{file}, image {number}: {error}")
            continue
        source = file.relative_to(root).as_posix()
        regions = None
        if key in annotations:
            regions = _read_regions(path, entry, annotations[key], names, report)
        shapes, whole = (tuple(regions.shapes), regions.whole) if regions else (None, True)
        samples.append(SourceImage(path, name, source, shapes=shapes, split=split, whole=whole))
    strangers = sum(len(annotations[key]) for key in annotations.keys() - ids.keys() | annotations.keys() & {None})
    if strangers:
        report.lost.append(f"{file}: {strangers} annotations of images that it does not list")
        report.remarks["annotations of images that their file does not list"].append(f"{file}: {strangers}")
    return samples


def _id(entry: object, name: str) -> int | str | None:
    """An id in an entry, a number also where it is written as a text or 7.0; None if there is none."""
    found = entry.get(name) if isinstance(entry, dict) else None
    if isinstance(found, float) and found.is_integer():
        return int(found)
    if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) < 19:
        return int(found)
    return found if type(found) in (int, str) else None


def _by_image(annotations: list) -> dict[int | str | None, list]:
    """The annotations of each image; those of no image under None."""
    found = defaultdict(list)
    for annotation in annotations:
        found[_id(annotation, "image_id")].append(annotation)
    return dict(found)


def _category_names(file: Path, categories: list, report: ImportReport) -> dict[int | str, str]:
    """{category id: name}; of those that cannot be used, a remark."""
    names: dict[int | str, str] = {}
    for category in categories:
        try:
            key = _id(category, "id")
            if key is None:
                raise ShapeError(f"expected a category with an id and a name, found {shown(category)}")
            name = checked_label(category.get("name"))
            if names.setdefault(key, name) != name:
                raise ShapeError(f"id {shown(key)} is {names[key]} and {name}; taken as {names[key]}")
        except ShapeError as error:
            report.remarks["categories that cannot be used"].append(f"{file}: {error}")
    return names


def _read_regions(
    path: Path, entry: dict, annotations: list, names: dict[int | str, str], report: ImportReport
) -> Regions:
    regions = Regions(str(path), report)
    size = checked_size(entry.get("width")), checked_size(entry.get("height"))
    for annotation in annotations:
        regions.place = f"{path}, annotation {shown(annotation.get('id'))}"
        outlines = annotation.get("segmentation")
        pieces = _outlines(outlines)
        if not any(pieces):
            report.remarks["annotations with a box alone; drawn as boxes"].append(regions.place)
        for piece in pieces or [None]:
            regions.add(_read_shape, annotation, piece, names, size)
    return regions


def _outlines(segmentation: object) -> list[object]:
    """The parts of a segmentation; also where the list around a single one, or around pairs of x and y, is missing or
    one too many."""
    if not isinstance(segmentation, list):
        return [segmentation]
    if len(segmentation) > 5 and all(isinstance(value, int | float) for value in segmentation):
        return [segmentation]
    parts = [part for part in segmentation if part]
    for i, part in enumerate(parts):
        if isinstance(part, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in part):
            parts[i] = [value for pair in part for value in pair]
    return parts


def _read_shape(
    annotation: dict, outline: object, names: dict[int | str, str], size: tuple[int | None, int | None]
) -> Shape:
    """One piece of an annotation: run lengths, an outline, or for want of both its box."""
    category = _id(annotation, "category_id")
    if category not in names:
        raise ShapeError(f"category {shown(annotation.get('category_id'))} is not among the categories")
    label = IGNORE if annotation.get("ignore") in (1, True) else names[category]
    if isinstance(outline, dict):
        drawn = _run_lengths(label, outline)
    elif not outline:
        drawn = _box(label, annotation.get("bbox"))
    elif isinstance(outline, list) and len(outline) % 2 == 0:
        drawn = polygon(label, list(zip(outline[::2], outline[1::2], strict=True)))
    else:
        raise ShapeError(f"a segmentation that is neither a mask nor lists of x, y, x, y: {shown(outline)}")
    return drawn_on(drawn, *size)


def _run_lengths(label: str, mask: dict) -> Shape:
    match mask.get("size"):
        case [int(height), int(width)] if height > 0 and width > 0:
            return drawn_on(run_lengths(label, mask.get("counts"), width, height, by_column=True), width, height)
    raise ShapeError(f"a mask of size {shown(mask.get('size'))}; expected height and width")


def _box(label: str, corners: object) -> Shape:
    if not isinstance(corners, list) or len(corners) != 4:
        raise ShapeError(f"neither outlines nor a box of x, y, width, height: {shown(corners)}")
    (x, y), (width, height) = checked_points([corners[:2], corners[2:]])
    if width < 0 or height < 0:
        raise ShapeError(f"a box of {width:g}x{height:g} pixels")
    return box(label, x, y, x + width, y + height)
