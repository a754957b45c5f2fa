"""Which files are images, and their names however accents are written: macOS takes apart those that others write as one
character."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

from PIL import Image

from dinov3.data.defect_images import FORMATS
from dinov3.defect_errors import DefectError

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
IMAGE_SUFFIXES = frozenset(suffix for suffix, kind in Image.EXTENSION.items() if kind in FORMATS)


def one_spelling(name: str) -> str:
    """A name with each accent in one character, for comparisons; files keep the names they have."""
    return unicodedata.normalize("NFC", name)


def spelled_as(path: Path, base: Path) -> Path | None:
    """The existing file or folder at ``path`` below ``base``, whichever way its accents are written, and in whichever
    letter case if only one is there; None without."""
    if os.path.lexists(path):
        return path
    found = base
    for part in path.relative_to(base).parts:
        if not os.path.lexists(found / part):
            alike = _alike(found, one_spelling(part).casefold())
            same = [name for name in alike if one_spelling(name) == one_spelling(part)]
            if len(same or alike) != 1:
                return None
            (part,) = same or alike
        found = found / part
    return found


def _alike(folder: Path, plain: str) -> list[str]:
    """The names in a folder that are ``plain`` but for letter case and the way that accents are written."""
    try:
        return _names(str(folder), folder.stat().st_mtime_ns).get(plain, [])
    except (OSError, ValueError):
        return []


@lru_cache(maxsize=64)
def _names(folder: str, _: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in os.listdir(folder):
        found.setdefault(one_spelling(name).casefold(), []).append(name)
    return found


def list_images(folder: Path) -> list[Path]:
    """Every image file below ``folder``, by suffix, sorted by path; hidden files and folders are skipped.

    Links to folders are not followed, so a link loop ends.

    Raises:
        DefectError: no such folder, or a file name that no CSV or JSON file could hold.
    """
    if not folder.is_dir():
        raise DefectError(
            f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}; give a folder of images"
        )
    return list_files(folder, IMAGE_SUFFIXES)


def list_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """As :func:`list_images`, of the files with one of these lower-case suffixes."""
    names: list[str] = []  # plain text while there may be hundreds of thousands
    waiting = [""]
    while waiting:
        within = waiting.pop()
        try:
            with os.scandir(folder / within) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{within}{entry.name}/")
                    elif os.path.splitext(entry.name)[1].lower() in suffixes and may_be_read(entry):
                        names.append(within + entry.name)
        except PermissionError:
            names.append(within)  # reading it says why, as with a file
        except FileNotFoundError:
            continue  # gone since its parent was listed
        except NotADirectoryError:
            raise DefectError(f"{folder / within}: neither a folder nor a regular file; give one of these") from None
    names.sort(key=lambda name: name.split("/"))
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DefectError(
                f"{ascii(str(folder / name))}: a file name that is not valid UTF-8; rename the file"
            ) from None
    return [folder / name for name in names]


def may_be_read(entry: os.DirEntry[str]) -> bool:
    """A file, or a link to one or to nothing (reading says so), but no pipe or device, which may never end."""
    if not entry.is_symlink():
        return entry.is_file()
    return os.path.isfile(entry.path) or os.path.isdir(entry.path) or not os.path.exists(entry.path)
