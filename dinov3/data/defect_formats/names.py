"""File names that mean the same file though they are written another way: percent-encoded, in other letter case, with
another suffix or none. Files keep the names they have; these forms are for comparisons."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

from dinov3.data.defect_files import IMAGE_SUFFIXES, one_spelling

EXACT, OTHER_SUFFIX, NO_MATCH = 0, 2, 9  # how far two names are apart; 1 is another spelling


def path_parts(name: str) -> tuple[str, ...]:
    """The parts of a path as written on any system, without drive and root."""
    windows = PureWindowsPath(name)
    return windows.parts[1:] if windows.anchor else windows.parts


@lru_cache(maxsize=2**16)
def plain(name: str) -> str:
    """A name without percent-encoding (be it twice), in one letter case, with each accent in one character."""
    for _ in range(2):
        name = unquote(name, errors="surrogateescape")
    return one_spelling(name).casefold()


def plain_stem(name: str) -> str:
    """:func:`plain`, without the suffix of an image."""
    stem, suffix = os.path.splitext(plain(name))
    return stem if suffix in IMAGE_SUFFIXES else plain(name)


def stems_of(name: str) -> set[str]:
    """What :func:`plain_stem` can be of the image that an annotation calls ``name``: its suffix may be part of its stem
    (``part.0``), or one that no image has (``a.dng``)."""
    suffix = os.path.splitext(name)[1][1:]
    other = {os.path.splitext(plain(name))[0]} if suffix.isalpha() else set()
    return {plain(name), plain_stem(name)} | other


def distance(name: str, file: str) -> int:
    """How far the name that an annotation gives is from that of an image file."""
    if one_spelling(name) == one_spelling(file):
        return EXACT
    if plain(name) == plain(file):
        return EXACT + 1
    return OTHER_SUFFIX if plain_stem(file) in stems_of(name) else NO_MATCH


def names_of(path: Path) -> tuple[str, ...]:
    """The name of a file, and of what it is a link to."""
    if not path.is_symlink():
        return (path.name,)
    target = os.path.basename(os.path.realpath(path))
    return (path.name,) if target == path.name else (path.name, target)
