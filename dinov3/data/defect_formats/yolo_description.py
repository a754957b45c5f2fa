"""YOLO's ``data.yaml``: class names, key points, and where the images are; also where its folders are those of the
machine on which it was made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

from dinov3.data.defect_files import list_images, spelled_as
from dinov3.data.defect_formats.base import ImportReport
from dinov3.data.defect_formats.detect import wrong_layout
from dinov3.data.defect_formats.parsing import SPLIT_NAMES, AnnotationError, checked_label, shown
from dinov3.defect_errors import DefectError
from dinov3.defect_text import decode_text, read_small
from dinov3.defect_yaml import load_yaml

_MAX_DESCRIPTION, _MAX_LIST = 2**20, 2**27  # bytes; a larger file is something else
_FOREIGN = "folders of another machine, found here by the ends of their paths"


@dataclass(frozen=True)
class Description:
    """What ``data.yaml`` says.

    Attributes:
        path: the file.
        names: {class index: name}.
        key_points: (number, values of each: 2 or 3) of a pose set; None of another.
        outlines: it says that its label files hold outlines (``task: segment``).
        entries: (key, split, folder or list of images, as written).
        base: what the entries are relative to, as written.
    """

    path: Path
    names: dict[int, str]
    key_points: tuple[int, int] | None
    outlines: bool
    entries: tuple[tuple[str, str, object], ...]
    base: object


def read_description(source: Path) -> Description:
    """The description at ``source``, or in that folder.

    Raises:
        DefectError: there is none or there are several, it cannot be read, or lacks what is needed.
    """
    path = _find(source)
    data = {str(key).casefold(): value for key, value in _read(path).items()}
    names = _class_names(path, data)
    entries = []
    for key, split in SPLIT_NAMES.items():
        given = data.get(key) or []
        entries += [(key, split, entry) for entry in (given if isinstance(given, list) else [given])]
    if not any(data.get(key) for key in SPLIT_NAMES):
        raise DefectError(f"{path}: neither train nor val nor test; expected folders of images")
    key_points = _key_points(path, data.get("kpt_shape"))
    task = str(data.get("task")).casefold()
    if task == "pose" and key_points is None:
        raise DefectError(f"{path}: task: pose without kpt_shape; add kpt_shape: [number of key points, 2 or 3]")
    return Description(path, names, key_points, task == "segment", tuple(entries), data.get("path"))


def _find(source: Path) -> Path:
    if source.is_file():
        if source.suffix.lower() not in (".yaml", ".yml"):
            raise wrong_layout(source, "yolo", "data.yaml, or the folder that holds it")
        return source
    found = sorted(path for path in source.glob("*.*") if path.suffix.lower() in (".yaml", ".yml") and path.is_file())
    named = [path for path in found if path.name.lower() == "data.yaml"]
    if not found:
        raise wrong_layout(source, "yolo", "data.yaml beside images/ and labels/")
    if len(found) > 1 and not named:
        raise DefectError(f"{source}: several descriptions, {', '.join(p.name for p in found)}; give one as the source")
    return (named or found)[0]


def _read(path: Path) -> dict:
    try:
        text = read_text(path, _MAX_DESCRIPTION)
        data, _ = load_yaml(text)
    except (AnnotationError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DefectError(f"{path}: not a readable YAML file ({reason}); expected names, train and val") from None
    if not isinstance(data, dict):
        raise DefectError(f"{path}: no table of keys; expected names, train and val")
    return data


def read_text(path: Path, limit: int) -> str:
    """The text of a file of at most ``limit`` bytes. Raises AnnotationError if it is none."""
    try:
        size = path.stat().st_size
        if size > limit:
            raise AnnotationError(f"{size / 2**20:.0f} MB, too large for what it should be")
        return decode_text(read_small(path))
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


def _key_points(path: Path, shape: object) -> tuple[int, int] | None:
    match shape:
        case None:
            return None
        case [int(count), int(values)] if 0 < count < 10_000 and values in (2, 3):
            return count, values
    raise DefectError(f"{path}: kpt_shape: {shown(shape)}; expected [number of key points, 2 or 3]")


# --- the images


@dataclass
class Places:
    """Where the paths of a description may lead.

    Attributes:
        description: the YAML file.
        bases: folders that they may be relative to.
        roots: folders of which nothing outside is read.
        foreign: beginnings of paths of another machine that were taken off paths found so far.
    """

    description: Path
    bases: list[Path]
    roots: list[Path]
    foreign: set[tuple[str, ...]] = field(default_factory=set)

    def find(self, text: object, *beside: Path) -> Path | None:
        """The existing file or folder that a path names, if it lies in one of the roots.

        As Ultralytics does, a path that starts with ``../`` is also looked for without it (Roboflow writes them so).
        """
        if not isinstance(text, str) or "\0" in text or not text.strip():
            return None
        bases = [*beside, *self.bases]
        for given in dict.fromkeys((text, unquote(text))):
            place = PurePosixPath(given.replace("\\", "/"))
            parts = place.parts
            while parts and parts[0] == "..":
                parts = parts[1:]
            for base in bases:
                for path in (absolute(base / place), absolute(base.joinpath(*parts))):
                    if found := self._inside(path):
                        return found
        return None

    def find_end(self, text: object) -> Path | None:
        """As :meth:`find`, by the longest end of the path of a file or folder that is not on this machine: its
        beginning is that of another one."""
        if not isinstance(text, str) or "\0" in text or self._is_here(text):
            return None
        parts = PureWindowsPath(text).parts
        known = [cut for cut in self.foreign if parts[: len(cut)] == cut]
        for cut in known or (parts[:i] for i in range(1, len(parts))):
            if found := self._inside(absolute(self.bases[0].joinpath(*parts[len(cut) :]))):
                self.foreign.add(cut)
                return found
        return None

    def _is_here(self, text: str) -> bool:
        """Whether there is something at a path, which is then outside; a relative path or one of a home folder says
        nothing of another machine."""
        absolute_path = text.startswith("/") or PureWindowsPath(text).drive != ""
        return not absolute_path or os.path.lexists(text)

    def _inside(self, path: Path) -> Path | None:
        root = next((root for root in self.roots if path.is_relative_to(root)), None)
        found = spelled_as(path, root) if root else None
        return found if found and os.path.exists(found) else None


def absolute(path: Path) -> Path:
    """By its text: a linked folder inside the source stays inside."""
    return Path(os.path.abspath(path))


def open_places(description: Description, roots: list[Path], report: ImportReport) -> Places:
    """Where to look for what a description names; with ``images/train``, --images may be that ``images``."""
    home = description.path.parent
    bases = [home, *roots, *(root.parent for root in roots[:-1])]
    places = Places(description.path, bases, roots)
    given = description.base
    if isinstance(given, str) and given not in ("", "."):
        place = Places(description.path, [home], [home]).find(given)
        if place:
            places.bases = [place, *bases[1:]]
        else:
            report.notes.append(f"{description.path}: path {shown(given)} is not used, as it is not a folder in {home}")
    return places


def listed_images(description: Description, places: Places, report: ImportReport) -> Iterator[tuple[str, Path]]:
    """(split, image file), as a description lists them; what it lists in vain is reported.

    Raises:
        DefectError: folders of another machine that cannot be told apart here.
    """
    lost = f"outside of {' and '.join(map(str, places.roots))}, or not there"
    found = [(key, split, entry, places.find(entry)) for key, split, entry in description.entries]
    ends = {i: places.find_end(entry) for i, (_, _, entry, place) in enumerate(found) if place is None}
    _expect_apart(description, [place or ends[i] for i, (*_, place) in enumerate(found)], found)
    for i, (key, split, entry, place) in enumerate(found):
        if place is None and (place := ends[i]):
            report.remarks[_FOREIGN].append(f"{description.path}: {key}: {shown(entry)} is {place}")
        if place is None:
            report.skipped.append(f"{description.path}: {key}: {shown(entry)} is {lost}")
        elif place.is_dir():
            yield from ((split, path) for path in list_images(place))
        else:
            yield from ((split, path) for path in _lines(place, places, lost, report))


def _expect_apart(description: Description, places: list[Path | None], found: list[tuple]) -> None:
    """Refuse ends of paths that lead to one folder for two of them, or to one inside another: that is a guess."""
    ends = [(place, found[i]) for i, place in enumerate(places) if place and found[i][3] is None]
    for place, (key, _, entry, _) in ends:
        for i, other in enumerate(places):
            if other is None or found[i][2] == entry:
                continue
            if place == other or place in other.parents or other in place.parents:
                raise DefectError(
                    f"{description.path}: {key}: {shown(entry)} is not on this machine, and its end leads to {place}, "
                    f"where {shown(found[i][2])} leads too; write the folders relative to {description.path.parent}"
                )


def _lines(table: Path, places: Places, lost: str, report: ImportReport) -> Iterator[Path]:
    try:
        lines = read_text(table, _MAX_LIST).splitlines()
    except AnnotationError as error:
        report.skipped.append(f"{table}: {error}; expected a list of image paths")
        return
    foreign = 0
    for number, line in enumerate(lines, 1):
        if text := line.strip():
            path = places.find(text, table.parent)
            if path is None and (path := places.find_end(text)):
                foreign += 1
            if path is not None and path.is_file():
                yield path
            else:
                report.skipped.append(f"{table} line {number}: {shown(text)} is {lost}")
    if foreign:
        report.remarks[_FOREIGN].append(f"{table}: {foreign} images")
