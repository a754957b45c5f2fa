"""What a folder is used for, so that no command writes its results among those of another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dinov3.defect_errors import DefectError

DATASET = ("dataset.json", "manifest.csv")
TRAINING = ("last.pth", "metrics.jsonl")  # the log is there from the first batch on


def expect_no_dataset(folder: Path, flag: str) -> None:
    """Refuse to write in a dataset folder, or in a folder below one, whatever links lead there.

    Raises:
        DefectError: names ``flag`` and the dataset.
    """
    place = Path(os.path.realpath(folder))
    for parent in (place, *place.parents):
        if all((parent / name).is_file() for name in DATASET):
            where = "is a dataset folder" if parent == place else f"lies in the dataset folder {parent}"
            raise DefectError(f"{flag} {folder}: {where}, where masks and tables are true ones; choose a folder apart")


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
