"""The image files below some folders, found by the names that annotation files give them."""

from __future__ import annotations

import itertools
import math
import os
from collections import defaultdict
from pathlib import Path

from dinov3.data.defect_files import list_images, one_spelling
from dinov3.data.defect_formats.names import NO_MATCH, distance, names_of, path_parts, plain, plain_stem, stems_of
from dinov3.data.defect_formats.parsing import AnnotationError, shown, split_of

# How many last parts of a path fit; how near the name is; whether it is in the right split, and below the right folder.
_Fit = tuple[float, int, bool, bool]


def _folder(name: str) -> tuple[str, ...]:
    return tuple(map(plain, path_parts(name)[:-1]))


class ImageFiles:
    """The image files below some folders, to be found by the names that annotations give them.

    Only files below the folders are ever found, whatever a name says. A name may be written another way (see
    :mod:`names`), or be that of the file to which an image is a link, as long as that is one image alone.

    Attributes:
        names: {absolute path: name in the dataset}, in a stable order.
        owners: {absolute path: which annotation took it}, filled by :meth:`take`.
    """

    def __init__(self, *folders: Path | None):
        self.folders = [Path(os.path.abspath(folder)) for folder in folders if folder]
        self.names: dict[Path, str] = {}
        self.owners: dict[Path, str] = {}
        self._spelled: dict[str, Path] = {}
        self._plain: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        self._targets: dict[str, Path] | None = None
        self._used: set[str] = set()
        self._fits: dict[Path, _Fit] = {}
        self._homes: dict[tuple[Path, tuple[str, ...]], set[tuple[float, Path]]] = defaultdict(set)
        for folder in self.folders:
            for path in list_images(folder):
                if path not in self.names:
                    self.names[path] = self.unused(path.relative_to(folder).as_posix())
                    self._spelled.setdefault(one_spelling(str(path)), path)
                    self._plain[plain(str(path))].append(path)
                    for stem in {plain_stem(own) for own in names_of(path)}:
                        self._by_stem[stem].append(path)

    def unused(self, name: str) -> str:
        """``name``, or with a number if an image has it already."""
        stem, dot, suffix = name.rpartition(".")
        number = 1
        while name in self._used:
            number += 1
            name = f"{stem}_{number}{dot}{suffix}"
        self._used.add(name)
        return name

    def expect(self, name: object, beside: Path, split: str | None = None) -> None:
        """Tell of an annotation beforehand: :meth:`find` gives its file to none that fits it less."""
        try:
            path, fit = self._reading(name, beside, split)
        except AnnotationError:
            return
        self._fits[path] = max(fit, self._fits.get(path, fit))
        self._homes[beside, _folder(name)].add((fit[0], path.parent))

    def exact(self, name: object, beside: Path) -> Path | None:
        """The file at this path from ``beside``, or from one of the folders; Windows paths are understood."""
        if not isinstance(name, str):
            return None
        bases = (Path(os.path.abspath(beside)), *self.folders)
        tails = (name, "/".join(path_parts(name)))
        paths = [Path(os.path.normpath(base / tail)) for base in bases for tail in tails]
        for path in paths:
            found = path if path in self.names else self._spelled.get(one_spelling(str(path)))
            if found:
                return found
        for path in paths:
            found = self._plain.get(plain(str(path)), ())
            if len(found) == 1:
                return found[0]
            if "\0" not in name and (linked := self._behind_links(path)):
                return linked
        return None

    def _behind_links(self, path: Path) -> Path | None:
        """The image that a path leads to by way of links."""
        try:
            if not path.is_file():
                return None
        except (OSError, ValueError):
            return None
        if self._targets is None:
            self._targets = {os.path.realpath(own): own for own in self.names}
        return self._targets.get(os.path.realpath(path))

    def find(self, name: object, beside: Path, split: str | None = None) -> Path:
        """The file that an annotation in the folder ``beside`` means by ``name``.

        That is the one of :meth:`exact`; else the one of its name, first below ``beside``, whose path ends like it in
        most parts; of those the one whose name is nearest, as one may have another suffix, or none. With a ``split``,
        files in the folders of other splits are none, and those in its own come first. What an image is called that
        is missing, others may be called too: a file is not taken that an expected annotation fits better, nor one
        outside of the folder where better fitting ones of the same folder are.

        Raises:
            AnnotationError: there is none, or it is not clear which.
        """
        path, fit = self._reading(name, beside, split)
        if self._fits.get(path, fit) > fit:
            raise AnnotationError(f"its image is missing; {path} has the name of {shown(name)}, but is another's")
        homes = sorted(folder for parts, folder in self._homes[beside, _folder(name)] if parts > fit[0])
        if homes and not any(map(path.is_relative_to, homes)):
            reason = f"but others of that folder lie in {homes[0]}"
            raise AnnotationError(f"its image is missing; {path} has the name of {shown(name)}, {reason}")
        return path

    def _reading(self, name: object, beside: Path, split: str | None) -> tuple[Path, _Fit]:
        """The file for a name, and how well it fits. Raises AnnotationError if there is none, or several."""
        if not isinstance(name, str):
            raise AnnotationError(f"its image is {shown(name)}; expected a file name")
        if found := self.exact(name, beside):
            return found, (math.inf, 0, True, True)
        parts, beside = path_parts(name), Path(os.path.abspath(beside))
        own = parts[-1] if parts else ""
        alike = {path for stem in stems_of(own) for path in self._by_stem.get(stem, ())}
        rank = {path: self._rank(path, parts, beside, split) for path in sorted(alike)}
        highest = max(rank.values(), default=None)
        best = [path for path in rank if rank[path][2] and rank[path] == highest]
        if len(best) == 1:
            in_split, below, fitting, near = highest
            return best[0], (fitting, near, in_split, below)
        if best:
            raise AnnotationError(f"its image {shown(name)} could be {best[0]} or {best[1]}")
        places = " or ".join(map(str, self.folders))
        raise AnnotationError(f"its image {shown(name)} is not below {places}; give its folder as --images")

    def _rank(self, path: Path, end: tuple[str, ...], beside: Path, split: str | None) -> tuple[bool, bool, int, int]:
        """Whether a file lies in a folder of this split, and below another; how many last parts of its path fit, and
        how near its name is (0 at most)."""
        splits = {split_of(part) for part in self.names[path].split("/")[:-1]} - {None}
        if split and splits and split not in splits:
            return False, False, 0, 0
        near = min(distance(end[-1], own) for own in names_of(path))
        folders = zip(reversed(path.parts[:-1]), reversed(end[:-1]), strict=False)
        alike = (plain(a) == plain(b) for a, b in folders)
        fitting = 0 if near == NO_MATCH else 1 + sum(itertools.takewhile(bool, alike))
        return split in splits, path.is_relative_to(beside), fitting, -near

    def called_like(self, file: Path) -> list[Path]:
        """The images with the stem of a file: beside it, or if there is none, anywhere; else those with that stem
        written another way."""
        alike = {path for stem in stems_of(file.stem) for path in self._by_stem.get(stem, ())}
        same = [path for path in alike if one_spelling(path.stem) == one_spelling(file.stem)]
        for found in (same, sorted(alike)):
            if beside := [path for path in found if path.parent == file.parent]:
                return sorted(beside)
        return sorted(same or alike)

    def take(self, path: Path, owner: str) -> str:
        """The name in the dataset of an image that is annotated by ``owner``, and perhaps by others."""
        self.owners.setdefault(path, owner)
        return self.names[path]

    def left(self) -> list[Path]:
        """The images that nobody took."""
        return [path for path in self.names if path not in self.owners]
