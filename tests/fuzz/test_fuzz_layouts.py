"""Importers of folders and mask files: whatever is wrong with them, no defective image becomes good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.fuzzing import BYTE_EDITS, FILE_EDITS, edited_bytes, fuzz, write_edited
from helpers.import_annotations import survives
from helpers.import_layouts import WRITERS
from helpers.organizing import content
from PIL import Image

from dinov3.data.defect_formats.base import NORMAL, SourceImage
from dinov3.data.defect_formats.registry import IMPORTERS
from dinov3.data.defect_formats.visa import read_visa_table
from dinov3.defect_errors import DefectError

LAYOUTS = ("folders", "ksdd2", "mvtec", "visa")


def may_be_good(kind: str, sample: SourceImage) -> bool:
    """Whether a spoiled source still calls an image good: by its folder, in KSDD2 by its mask."""
    path = Path(sample.image)
    if kind != "ksdd2":
        return path.parent.name.lower() in ("good", "normal")
    masks = [file for file in path.parent.iterdir() if file.stem.lower() == f"{path.stem}_GT".lower()]
    return bool(masks) and not any(np.asarray(Image.open(mask)).any() for mask in masks)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_folders_with_missing_renamed_or_damaged_files(tmp_path: Path, kind: str):
    files = content(WRITERS[kind](tmp_path / "right"))

    def target(edits):
        for sample in survives(IMPORTERS[kind], write_edited(tmp_path / "source", files, edits)):
            assert sample.label != NORMAL or may_be_good(kind, sample), f"{sample.place} is called good"

    fuzz(target, FILE_EDITS, examples=9)


def test_damaged_split_table(tmp_path: Path):
    table = WRITERS["visa"](tmp_path / "right") / "split_csv" / "1cls.csv"
    data = table.read_bytes()

    def target(edits):
        table.write_bytes(edited_bytes(data, edits))
        try:
            rows = read_visa_table(table)
        except DefectError as error:
            assert len(str(error)) < 1000
        else:
            assert all({"object", "split", "label", "image"} <= row.keys() for _, row in rows)

    fuzz(target, BYTE_EDITS, examples=21)
