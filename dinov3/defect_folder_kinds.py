"""What a folder is used for, so that no command writes its results among those of another."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from dinov3.defect_errors import DefectError
from dinov3.defect_text import read_small

DATASET = ("dataset.json", "manifest.csv")
PRODUCT = "dinov3-defect-detection"  # in the text "Software" of pictures
PAGE = b'<!DOCTYPE html>\n<html lang="en" data-lang="en">'  # how our pages begin
TRAINING = ("last.pth", "metrics.jsonl")  # the log is there from the first batch on


def expect_no_dataset(folder: Path, flag: str) -> None:
    """Refuse to write in a dataset folder, or anywhere below one, whatever links lead there.

    Raises:
        DefectError: names ``flag`` and the dataset.
    """
    place = Path(os.path.realpath(folder))
    for parent in (place, *place.parents):
        if all((parent / name).is_file() for name in DATASET):
            where = "is a dataset folder" if parent == place else f"lies in the dataset folder {parent}"
            raise DefectError(f"{flag} {folder}: {where}, whose masks and tables are true ones; choose a place apart")


def expect_no_training(folder: Path, flag: str) -> None:
    """Refuse to write beside the checkpoints and logs of a training.

    Raises:
        DefectError: names ``flag`` and what is there.
    """
    found = [name for name in TRAINING if (folder / name).is_file()]
    if found:
        raise DefectError(
            f"{flag} {folder}: holds a training ({', '.join(found)}); choose another folder, or one below it such as "
            f"{folder / 'results'}"
        )


def expect_none_of(folder: Path, names: Sequence[str], flag: str, maker: str) -> None:
    """Refuse a folder in which some of the files to be written exist, as it is not known that ``maker`` made them.

    Raises:
        DefectError: names ``flag`` and them.
    """
    found = [name for name in names if os.path.lexists(folder / name)]
    if found:
        raise DefectError(
            f"{flag} {folder}: {', '.join(found)} there {'is' if len(found) == 1 else 'are'} of no {maker}, and would "
            "be replaced; choose another folder, or move them to another place"
        )


def expect_own_file(path: Path | None, flag: str, is_ours: Callable[[Path], bool]) -> None:
    """Refuse to write over a file that is not known to be of the same kind, and into a dataset.

    Args:
        path: None is fine.
        flag: which gave it, for the message.
        is_ours: whether an earlier run of the same command wrote it; of an empty file, which nobody misses, it is not
            asked.

    Raises:
        DefectError: names ``flag`` and ``path``.
    """
    if path is None:
        return
    expect_no_dataset(path, flag)
    if path.is_file() and path.stat().st_size > 0 and not is_ours(path):
        raise DefectError(
            f"{flag} {path}: exists, and no run of this command made it; choose another name, or move it away"
        )


def is_json_with(*keys: str) -> Callable[[Path], bool]:
    """A test for :func:`expect_own_file`: a JSON file that holds an object with these keys."""

    def is_ours(path: Path) -> bool:
        try:
            content = json.loads(read_small(path))
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(content, dict) and all(key in content for key in keys)

    return is_ours


def is_own_page(path: Path) -> bool:
    """A test for :func:`expect_own_file`: a page made from our templates."""
    with path.open("rb") as file:
        return file.read(200).replace(b"\r\n", b"\n").startswith(PAGE)


def is_own_picture(path: Path) -> bool:
    """A test for :func:`expect_own_file`: a PNG that says :data:`PRODUCT` made it."""
    with path.open("rb") as file:
        return PRODUCT.encode() in file.read(4096)
