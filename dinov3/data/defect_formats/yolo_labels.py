"""YOLO's label files: which belongs to which image, and what their lines mean."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from dinov3.data.defect_files import list_files, one_spelling
from dinov3.data.defect_formats.base import ImportReport, Regions
from dinov3.data.defect_formats.names import names_of, plain, plain_stem, stems_of
from dinov3.data.defect_formats.parsing import AnnotationError, split_of
from dinov3.data.defect_formats.shapes import Shape, ShapeError, box, polygon
from dinov3.data.defect_formats.yolo_description import Description, read_text
from dinov3.defect_errors import DefectError

MAX_LABELS = 2**24  # bytes; a larger file is something else
_BOXES = "boxes in place of outlines, drawn as boxes; their masks are too large"
_POSE = "key points, drawn as their boxes; these masks are too large"
_SAMPLE = 200  # label files that are looked at to tell the task
_FOLDERS = {
    "labels",
    "label",
    "images",
    "image",
    "annotations",
    "obj_train_data",
    "",
}  # words that tell no folder apart


class LabelFiles:
    """The label files of a dataset, each for one image.

    The labels of ``images/a.jpg`` are in ``labels/a.txt``, or beside it. What is left is matched by names written
    another way, as long as one image and one label file alone go together.

    Attributes:
        of: {image: its label files}.
        odd: label files whose name is written another way than that of their image.
        orphans: label files that mark something, and found no image.
        empty: those without an image that mark nothing.
    """

    def __init__(self, images: dict[Path, str], homes: Sequence[tuple[Path, str]], description: Description):
        """
        Args:
            images: {image: its ``/``-separated path below its root}.
            homes: (folder, path that is put before those of the images) where labels may be.
            description: of the dataset.
        """
        self.of: dict[Path, list[Path]] = {}
        self.odd: list[str] = []
        self.orphans: list[Path] = []
        self.empty: list[Path] = []
        self._files = {
            folder: {one_spelling(path.relative_to(folder).as_posix()): path for path in list_files(folder, (".txt",))}
            for folder in dict.fromkeys(folder for folder, _ in homes)
            if folder.is_dir()
        }
        self._real = {path: os.path.realpath(path) for files in self._files.values() for path in files.values()}
        used: set[str] = set()
        for image, name in images.items():
            found = list(self._named(name, homes))
            beside = [path for path in found if not _in_labels(path)]
            if len(beside) < len(found):  # a text beside an image may be anything if its labels are elsewhere
                found = [path for path in found if path not in beside or _marks(path, description) is not None]
            if found:
                self.of[image] = found
                used |= {self._real[path] for path in found}
        left = {real: path for path, real in self._real.items() if real not in used and path.name != "classes.txt"}
        kinds = {path: _marks(path, description) for path in left.values()}
        labels = [path for path, marks in kinds.items() if marks is not None or _in_labels(path)]
        self._match([image for image in images if image not in self.of], images, labels)
        for path in sorted(set(labels) - {path for own in self.of.values() for path in own}):
            (self.empty if kinds[path] is False else self.orphans).append(path)

    def _named(self, name: str, homes: Sequence[tuple[Path, str]]) -> Iterable[Path]:
        """The label files at the places for an image."""
        seen: set[str] = set()
        for folder, below in homes:
            for place in _places(PurePosixPath(below, name)):
                path = self._files.get(folder, {}).get(one_spelling(place.as_posix()))
                if path is None and os.path.lexists(folder / place):
                    path = folder / place  # no file: reading it says why
                    self._real[path] = os.path.realpath(path)
                if path and self._real[path] not in seen:
                    seen.add(self._real[path])
                    yield path

    def _match(self, bare: list[Path], images: dict[Path, str], labels: list[Path]) -> None:
        """Give images without labels the label files of their name written another way, where that is one of each."""
        by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in labels:
            by_stem[plain(path.stem)].append(path)
        found: dict[Path, list[Path]] = {}
        claimed: dict[Path, list[Path]] = defaultdict(list)
        for image in bare:
            stems = {stem for own in names_of(image) for stem in stems_of(own)}
            stems |= {plain_stem(stem) for stem in stems}
            alike = [path for stem in stems for path in by_stem.get(stem, ()) if _may_belong(path, images[image])]
            found[image] = alike
            for path in alike:
                claimed[path].append(image)
        for image, alike in found.items():
            if len(alike) == 1 and claimed[alike[0]] == [image]:
                self.of[image] = alike
                self.odd.append(f"{alike[0]}: {image}")


def _places(image: PurePosixPath) -> list[PurePosixPath]:
    """Where the labels of an image may be: in ``labels`` for the last ``images`` in its path, or beside it."""
    parts = list(image.with_suffix(".txt").parts)
    places = [PurePosixPath("labels", *parts), PurePosixPath(*parts)]
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[:-1][::-1].index("images")
        places.insert(0, PurePosixPath(*parts[:last], "labels", *parts[last + 1 :]))
    return places


def _in_labels(path: Path) -> bool:
    return any(part.casefold() == "labels" for part in path.parts[:-1])


def _may_belong(label: Path, image: str) -> bool:
    """Whether a label file may be that of an image, by their folders: of no other split, and of no other folder."""
    own = [plain(part) for part in PurePosixPath(image).parts[:-1]]
    theirs = [plain(part) for part in label.parts[:-1]]
    splits = {split_of(part) for part in own} - {None}
    if "labels" in theirs:
        theirs = theirs[len(theirs) - 1 - theirs[::-1].index("labels") :]
        words, others = set(own) - _FOLDERS, set(theirs) - _FOLDERS
        if not (words <= others or others <= words):
            return False
    found = {split_of(part) for part in theirs[-2:]} - {None}
    return not splits or not found or bool(splits & found)


def _marks(path: Path, description: Description) -> bool | None:
    """Whether a label file marks something; None if it is none, by its first lines."""
    try:
        lines = [line.split() for line in read_text(path, MAX_LABELS).splitlines() if line.strip()]
    except AnnotationError:
        return None
    for tokens in lines[:20]:
        try:
            numbers = [float(token) for token in tokens]
        except ValueError:
            return None
        if len(numbers) < 5 or numbers[0] not in description.names:
            return None
    return bool(lines)


# --- what they say


def expect_outlines(files: Iterable[Path], description: Description) -> None:
    """Refuse label files of key points whose description does not say so: drawn as outlines they would be nonsense.

    Raises:
        DefectError: their lines are those of a pose set.
    """
    if description.key_points or description.outlines:
        return
    lines = []
    for path in list(files)[:_SAMPLE]:
        try:
            lines += [[float(token) for token in line.split()] for line in read_text(path, MAX_LABELS).splitlines()]
        except (AnnotationError, ValueError):
            continue
    lines = [line[1:] for line in lines if len(line) > 5]  # shorter ones are boxes
    if len(lines) < 3 or len(set(map(len, lines))) > 1:
        return  # outlines have any number of corners
    values = np.array(lines)
    count = values.shape[1] - 4
    for size in (3, 2):
        if count % size == 0 and _are_key_points(values[:, :4], values[:, 4:].reshape(len(values), -1, size)):
            raise DefectError(
                f"{description.path}: each line of the label files holds a box and {count // size} key points: a pose "
                f"set, whose points are no outlines; add kpt_shape: [{count // size}, {size}] to have the boxes drawn "
                "(or task: segment if these are outlines)"
            )


def _are_key_points(boxes: np.ndarray, points: np.ndarray) -> bool:
    """Whether (N, 4) are boxes around (N, K, 2 or 3) points, and not the first two corners of outlines through them."""
    if points.shape[2] == 3:
        seen = points[..., 2]
        if not np.isin(seen, (0, 1, 2)).all():
            return False
        if (seen == 2).any():
            return True  # 'visible': no coordinate
        points = np.where(points[..., 2:] > 0, points, np.nan)
    centre, half = boxes[:, None, :2], boxes[:, None, 2:] / 2
    inside = (np.abs(points[..., :2] - centre) <= half + 0.02) | np.isnan(points[..., :2])
    if inside.all(axis=(1, 2)).mean() <= 0.95:
        return False
    if points.shape[1:] in ((1, 2), (2, 2)):
        return _are_no_corners(np.concatenate([centre, points], axis=1), boxes[:, 2:])
    with np.errstate(invalid="ignore"):
        low, high = np.fmin.reduce(points[..., :2], axis=1), np.fmax.reduce(points[..., :2], axis=1)
    size = np.nan_to_num(high - low)
    # Key points are spread over their box. Of an outline, the second corner (here width and height) lies beside the
    # others, and a small one is far from filling a box of that size.
    filled = (size / np.maximum(boxes[:, 2:], 1e-6)).mean(axis=1)
    margin = size * 0.5 + 0.01
    corner = ((boxes[:, 2:] >= low - margin) & (boxes[:, 2:] <= high + margin)).all(axis=1)
    return bool(corner.mean() < 0.5 and np.median(filled) > 0.3)


def _are_no_corners(others: np.ndarray, second: np.ndarray) -> bool:
    """Whether (N, 2) are not the second corners of triangles or quadrilaterals of which (N, 2 or 3, 2) are the others:
    many lie far from these, or many quadrilaterals cross themselves."""
    low, high = others.min(axis=1), others.max(axis=1)
    margin = (high - low).max(axis=1, keepdims=True) + 0.01
    near = ((second >= low - margin) & (second <= high + margin)).all(axis=1)
    if others.shape[1] == 2:
        return bool(near.mean() < 0.65)
    corners = np.stack([others[:, 0], second, others[:, 1], others[:, 2]], axis=1)
    sides, following = (
        np.roll(corners, -1, axis=1) - corners,
        np.roll(corners, -2, axis=1) - np.roll(corners, -1, axis=1),
    )
    turns = sides[..., 0] * following[..., 1] - sides[..., 1] * following[..., 0]
    crossed = (turns > 0).sum(axis=1) == 2
    return bool(near.mean() < 0.65 or crossed.mean() > 0.25)


def read_labels(path: Path, description: Description, report: ImportReport) -> Regions:
    """The regions of one label file. Raises AnnotationError if it is no text."""
    regions = Regions(str(path), report)
    boxes = 0
    for number, line in enumerate(read_text(path, MAX_LABELS).splitlines(), 1):
        if line.strip():
            regions.add(_region_of_line, line, description, number)
            boxes += len(line.split()) == 5 or description.key_points is not None
    if boxes:
        report.remarks[_POSE if description.key_points else _BOXES].append(f"{path}: {boxes}")
    return regions


def _region_of_line(line: str, description: Description, number: int) -> Shape:
    try:
        return region(line, description.names, description.key_points)
    except ShapeError as error:
        raise type(error)(f"line {number}: {error}") from None


def region(line: str, names: dict[int, str], key_points: tuple[int, int] | None = None) -> Shape:
    """One line of a label file: ``class x1 y1 x2 y2 ...``, or ``class x y width height`` for a box around (x, y), which
    the values of key points may follow.

    Coordinates are shares of the image's width and height; so is the area of the shape, of the whole image.

    Raises:
        ShapeError: the line is not of this form; EmptyShapeError if its region has no area.
    """
    numbers = [_number(token) for token in line.split()]
    if not numbers or numbers[0] not in names:
        raise ShapeError(f"class {line.split()[0][:20] if numbers else 'missing'}; expected one of {_span(names)}")
    label, points = names[int(numbers[0])], np.array(numbers[1:])
    if key_points:
        wanted = 4 + key_points[0] * key_points[1]
        if len(points) not in (4, wanted):
            raise ShapeError(f"{len(points)} numbers after the class; expected a box and key points, {wanted}")
        points = points[:4]
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
