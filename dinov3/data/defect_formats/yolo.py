"""YOLO segmentation datasets: ``data.yaml``, and beside the images one text file each with outlines of 0 to 1."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from dinov3.data.defect_files import list_images, spelled_as
from dinov3.data.defect_formats.base import ImportOptions, ImportReport, Regions, SourceImage
from dinov3.data.defect_formats.detect import wrong_layout
from dinov3.data.defect_formats.parsing import SPLIT_NAMES, AnnotationError, checked_label, kept_splits, shown
from dinov3.data.defect_formats.shapes import Shape, ShapeError, box, polygon
from dinov3.defect_errors import DefectError
from dinov3.defect_yaml import load_yaml

_MAX_DESCRIPTION, _MAX_LABELS, _MAX_LIST = 2**20, 2**24, 2**27  # bytes; a larger file is something else
_BOXES = "boxes in place of outlines, drawn as boxes; their masks are too large"


def read_yolo(source: Path, options: ImportOptions, report: ImportReport) -> list[SourceImage]:
    """A dataset as Ultralytics describes it (docs.ultralytics.com/datasets/segment).

    ``source`` is the YAML file or its folder. Its train, val and test are folders, lists of folders, or text files of
    image paths. The labels of ``images/a.jpg`` are in ``labels/a.txt``; an empty file says that nothing is there, and
    an image without a file is not annotated. Labels lie in the folder of the description, or else in
    ``options.images``, or beside it if that is ``images`` itself. Nothing outside of these is read.

    Raises:
        DefectError: no readable ``data.yaml``, or no image is found by it.
    """
    description = _find_description(_absolute(source))
    folder = description.parent
    data = _read_description(description)
    names = _class_names(description, data)
    roots = [folder] if options.images is None else [_absolute(options.images), folder]
    bases = _bases(description, data.get("path"), roots, report)
    homes = [(folder, ""), *((root, "") for root in roots[:-1])]
    homes += [(root.parent, root.name) for root in roots[:-1] if root.name == "images"]
    samples: dict[Path, SourceImage] = {}
    taken: dict[str, Path] = {}
    label_files: set[Path] = set()
    for split, path in _images(description, data, bases, roots, report):
        if path in samples:
            if (first := samples[path].split) != split:
                report.remarks["images in two splits; the first counts"].append(f"{path}: {first} and {split}")
            continue
        name = path.relative_to(next(root for root in roots if path.is_relative_to(root))).as_posix()
        if taken.setdefault(name, path) != path:
            report.skipped.append(f"{path}: {taken[name]} has the same name")
            continue
        sample = SourceImage(path, name, folder.name, split=split)
        found = (_label_file(PurePosixPath(below, name), home) for home, below in homes)
        labels = next(filter(None, found), None)
        if labels is not None:
            label_files.add(labels)
            try:
                regions = _read_labels(labels, names, report)
            except AnnotationError as error:
                report.skipped.append(f"{path}: {labels}: {error}")
                continue
            sample = replace(sample, shapes=tuple(regions.shapes), whole=regions.whole)
        samples[path] = sample
    if not samples and not report.skipped:
        raise DefectError(f"{description}: no images where its train, val and test say; give their folder as --images")
    places = {path.parent for path in label_files}
    orphans = {path for place in places for path in place.glob("*.txt") if path.name != "classes.txt"} - label_files
    if orphans:
        report.remarks["label files without an image; skipped"] += map(str, sorted(orphans))
    return kept_splits(list(samples.values()), report)


# --- the description


def _find_description(source: Path) -> Path:
    if source.is_file():
        if source.suffix.lower() not in (".yaml", ".yml"):
            raise wrong_layout(source, "yolo", "data.yaml, or the folder that holds it")
        return source
    found = sorted(path for pattern in ("*.yaml", "*.yml") for path in source.glob(pattern) if path.is_file())
    named = [path for path in found if path.name == "data.yaml"]
    if not found:
        raise wrong_layout(source, "yolo", "data.yaml beside images/ and labels/")
    if len(found) > 1 and not named:
        raise DefectError(f"{source}: several descriptions, {', '.join(p.name for p in found)}; give one as the source")
    return (named or found)[0]


def _read_description(path: Path) -> dict:
    try:
        text = _read_text(path, _MAX_DESCRIPTION)
        data, _ = load_yaml(text)
    except (AnnotationError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DefectError(f"{path}: not a readable YAML file ({reason}); expected names, train and val") from None
    if not isinstance(data, dict):
        raise DefectError(f"{path}: no table of keys; expected names, train and val")
    return data


def _read_text(path: Path, limit: int) -> str:
    """The text of a small file. Raises AnnotationError if it is none."""
    try:
        size = path.stat().st_size
        if size > limit:
            raise AnnotationError(f"{size / 2**20:.0f} MB, too large for what it should be")
        return path.read_bytes().decode("utf-8-sig")  # read_text takes half a byte order mark for nothing
    except UnicodeDecodeError:
        raise AnnotationError("not a text file in UTF-8") from None
    except OSError as error:
        raise AnnotationError(f"cannot be read ({error.strerror})") from None


def _class_names(path: Path, data: dict) -> dict[int, str]:
    """{index: name}; ``names`` is a list or a table, or only their number ``nc`` is given."""
    names = data.get("names")
    if names is None and isinstance(data.get("nc"), int) and 0 < data["nc"] < 10_000:
        names = [f"class_{i}" for i in range(data["nc"])]
    items = names.items() if isinstance(names, dict) else enumerate(names) if isinstance(names, list) else ()
    found: dict[int, str] = {}
    for key, name in items:
        if not isinstance(name, str | int | float | None):
            raise DefectError(f"{path}: names: {shown(name)} is no name; expected a list, or a table of number: name")
        try:
            index = int(key)
            found[index] = checked_label(str(name)) if name not in (None, "") else f"class_{index}"
        except (ValueError, TypeError, OverflowError) as error:
            raise DefectError(f"{path}: names: {shown(key)}: {error}; expected a list, or number: name") from None
    if not found:
        raise DefectError(f"{path}: no class names; expected names: [scratch, dent] or a table of number: name")
    return found


# --- the images


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # by its text: a linked folder inside the source stays inside


def _bases(description: Path, given: object, roots: list[Path], report: ImportReport) -> list[Path]:
    """What the paths of the description are relative to; with ``images/train``, --images may be that ``images``."""
    home = description.parent
    roots = [*roots, *(root.parent for root in roots[:-1])]
    if isinstance(given, str) and given not in ("", "."):
        place = _inside(given, [home], [home])
        if place:
            return [place, *roots]
        report.notes.append(f"{description}: path {shown(given)} is not used, as it is not a folder in {home}")
    return [home, *roots]


def _inside(text: str, bases: list[Path], roots: list[Path]) -> Path | None:
    """The existing file or folder that a path names, if it lies in one of ``roots``.

    As Ultralytics does, a path that starts with ``../`` is also looked for without it (Roboflow writes them so).
    """
    if "\0" in text:
        return None
    given = PurePosixPath(text.replace("\\", "/"))
    parts = given.parts
    while parts and parts[0] == "..":
        parts = parts[1:]
    for base in bases:
        for path in (_absolute(base / given), _absolute(base.joinpath(*parts))):
            root = next((root for root in roots if path.is_relative_to(root)), None)
            found = spelled_as(path, root) if root else None
            if found and os.path.exists(found):
                return found
    return None


def _images(
    description: Path, data: dict, bases: list[Path], roots: list[Path], report: ImportReport
) -> Iterator[tuple[str, Path]]:
    """(split, image file), as the description lists them; what it lists in vain is reported."""
    if not any(data.get(key) for key in SPLIT_NAMES):
        raise DefectError(f"{description}: neither train nor val nor test; expected folders of images")
    lost = f"outside of {' and '.join(map(str, roots))}, or not there"
    for key, split in SPLIT_NAMES.items():
        entries = data.get(key) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            place = _inside(entry, bases, roots) if isinstance(entry, str) else None
            if place is None:
                report.skipped.append(f"{description}: {key}: {shown(entry)} is {lost}")
            elif place.is_dir():
                yield from ((split, path) for path in list_images(place))
            else:
                yield from ((split, path) for path in _listed(place, bases, roots, lost, report))


def _listed(table: Path, bases: list[Path], roots: list[Path], lost: str, report: ImportReport) -> Iterator[Path]:
    try:
        lines = _read_text(table, _MAX_LIST).splitlines()
    except AnnotationError as error:
        report.skipped.append(f"{table}: {error}; expected a list of image paths")
        return
    for number, line in enumerate(lines, 1):
        if text := line.strip():
            path = _inside(text, [table.parent, *bases], roots)
            if path is not None and path.is_file():
                yield path
            else:
                report.skipped.append(f"{table} line {number}: {shown(text)} is {lost}")


# --- the labels


def _label_file(image: PurePosixPath, folder: Path) -> Path | None:
    """The label file of an image: ``labels`` for the last ``images`` in its path, else beside it."""
    parts = list(image.with_suffix(".txt").parts)
    places = [PurePosixPath("labels", *parts), PurePosixPath(*parts)]
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[:-1][::-1].index("images")
        places.insert(0, PurePosixPath(*parts[:last], "labels", *parts[last + 1 :]))
    return next(filter(None, (spelled_as(folder / place, folder) for place in places)), None)


def _read_labels(path: Path, names: dict[int, str], report: ImportReport) -> Regions:
    """The regions of one label file. Raises AnnotationError if it is no text."""
    regions = Regions(str(path), report)
    boxes = 0
    for number, line in enumerate(_read_text(path, _MAX_LABELS).splitlines(), 1):
        if line.strip():
            regions.add(_region_of_line, line, names, number)
            boxes += len(line.split()) == 5
    if boxes:
        report.remarks[_BOXES].append(f"{path}: {boxes}")
    return regions


def _region_of_line(line: str, names: dict[int, str], number: int) -> Shape:
    try:
        return region(line, names)
    except ShapeError as error:
        raise type(error)(f"line {number}: {error}") from None


def region(line: str, names: dict[int, str]) -> Shape:
    """One line of a label file: ``class x1 y1 x2 y2 ...``, or ``class x y width height`` for a box around (x, y).

    Coordinates are shares of the image's width and height; so is the area of the shape, of the whole image.

    Raises:
        ShapeError: the line is not of this form; EmptyShapeError if its region has no area.
    """
    numbers = [_number(token) for token in line.split()]
    if not numbers or numbers[0] not in names:
        raise ShapeError(f"class {line.split()[0][:20] if numbers else 'missing'}; expected one of {_span(names)}")
    label, points = names[int(numbers[0])], np.array(numbers[1:])
    if len(points) < 2 or len(points) % 2:
        raise ShapeError(f"{len(points)} numbers after the class; expected pairs x y, or x y width height")
    if not (np.abs(points) <= 2).all():
        worst = points[~(np.abs(points) <= 2)][0]
        raise ShapeError(f"a coordinate of {worst:g}; expected shares of the image's size, 0 to 1")
    if len(points) == 4:
        (x, y), (w, h) = points[:2], points[2:] / 2
        corners = np.array([(x - w, y - h), (x + w, y + h)])
        return _scaled(lambda scale: box(label, *(corners * scale).ravel()))
    return _scaled(lambda scale: polygon(label, points.reshape(-1, 2) * scale))


def _scaled(make: Callable[[tuple[int, int]], Shape]) -> Shape:
    """A shape in shares of the image's size, of which ``make((width, height))`` is the one in pixels."""
    unit = make((1, 1))
    return Shape(unit.label, unit.area, lambda height, width: make((width, height)).draw(height, width))


def _number(token: str) -> float:
    try:
        return float(token)
    except ValueError:
        raise ShapeError(f"{token[:20]!r} is not a number") from None


def _span(names: dict[int, str]) -> str:
    return f"{min(names)} to {max(names)}"
