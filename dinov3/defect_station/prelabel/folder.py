"""The folder that a person labels: copies of the chosen images, annotations, and a table of why each is there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from dinov3.data.defect_images import ImageReadError, open_image
from dinov3.data.defect_masks import read_mask
from dinov3.defect_errors import DefectError
from dinov3.defect_station.candidates import Candidate
from dinov3.defect_station.prelabel.formats import DEFECT, WRITERS, LabelFormat, PreLabel
from dinov3.defect_station.selection import Selection
from dinov3.defect_tables import write_table

COLUMNS = "image source part reason value defect_probability verdict decision class_name".split()


def write_selection(folder: Path, selection: Selection, label_format: LabelFormat) -> list[str]:
    """Write all of it. Returns what could not be written, a sentence each.

    Raises:
        DefectError: the folder cannot be written.
    """
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        names = unique_names([chosen.candidate.name for chosen in selection.chosen])
        problems: list[str] = []
        rows, labels = [], []
        for chosen, name in zip(selection.chosen, names, strict=True):
            candidate = chosen.candidate
            place = folder / "images" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(candidate.image, place)
            rows.append(
                {
                    "image": name,
                    "source": candidate.name,
                    "part": candidate.part,
                    "reason": chosen.reason,
                    "value": "" if chosen.value is None else chosen.value,
                    "defect_probability": candidate.defect_probability,
                    "verdict": candidate.verdict,
                    "decision": candidate.decision,
                    "class_name": candidate.class_name,
                }
            )
            try:
                labels.append(pre_label(candidate, name))
            except (ImageReadError, OSError) as error:
                problems.append(f"{candidate.name}: without regions, as its mask cannot be read ({error})")
                labels.append(PreLabel(name, np.zeros(open_image(place).size[::-1], np.uint8), {}))
        WRITERS[label_format](folder, labels)
        write_table(folder / "selection.csv", rows, COLUMNS)
    except OSError as error:
        raise DefectError(f"--output_dir {folder}: cannot be written ({error.strerror})") from None
    return problems


def pre_label(candidate: Candidate, name: str) -> PreLabel:
    """The model's regions; none if a person accepted the image, as they saw no defect.

    Raises:
        ImageReadError, OSError: the mask cannot be read.
    """
    if candidate.mask is None:
        raise ImageReadError(f"{candidate.name}: the inspection kept no mask")
    mask = read_mask(candidate.mask)
    if candidate.decision == "accept":
        return PreLabel(name, np.zeros_like(mask), {}, "accept")
    labels = {value: DEFECT for value in np.unique(mask).tolist() if value}
    for region in candidate.regions:
        x, y = region["polygon"][0]
        labels[int(mask[y, x])] = region["class_name"]
    labels.pop(0, None)
    return PreLabel(name, mask, labels, candidate.decision, candidate.class_name)


def unique_names(names: list[str]) -> Iterator[str]:
    """Names of copies: within the folder, and no two that differ by their suffix alone, whose labels would be one."""
    used: set[str] = set()
    for name in names:
        parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("..", "/")]
        path = PurePosixPath(*(part.replace(":", "_") for part in parts))
        unique, number = path, 2
        while str(unique.with_suffix("")).casefold() in used:
            unique, number = path.with_name(f"{path.stem}_{number}{path.suffix}"), number + 1
        used.add(str(unique.with_suffix("")).casefold())
        yield str(unique)
