"""Copies and near-duplicates are evidence of one part, whatever they are called."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.data.defect_prepare.evidence import independent_parts
from dinov3.data.defect_prepare.writer import DatasetWriter


def surface(seed: int) -> np.ndarray:
    """(64, 64, 3) uint8 with structure of its own."""
    coarse = np.random.default_rng(seed).integers(60, 200, (16, 16), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC))
    return grey[..., None].repeat(3, axis=2)


def write(folder: Path, images: list[np.ndarray], grouped: bool, command: str = "test") -> Manifest:
    with DatasetWriter(folder) as writer:
        for i, image in enumerate(images):
            group = f"part {i}" if grouped else ""
            label = "defect" if i % 2 else "normal"
            writer.add(image, f"val/{i:02}.png", None, label=label, split="val", group=group, source="")
        writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command=command)
    return read_manifest(folder)


def parts_of(rows: Manifest) -> list[set[int]]:
    """The images of each part that has more than one."""
    parts = independent_parts(rows).rows.parts
    found = [set(np.flatnonzero(parts == part).tolist()) for part in np.unique(parts)]
    return sorted((members for members in found if len(members) > 1), key=min)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("command", ["test", "prepare_defect_data.py organize --no-group_similar"])
def test_copies_of_a_file_are_one_part_in_every_dataset(tmp_path: Path, grouped: bool, command: str) -> None:
    images = [surface(i) for i in range(24)]
    rows = write(tmp_path / "data", images, grouped, command)
    for copy in (5, 7, 20):
        shutil.copyfile(tmp_path / "data/images/val/03.png", tmp_path / f"data/images/val/{copy:02}.png")
    evidence = independent_parts(rows)
    assert parts_of(rows) == [{3, 5, 7, 20}]
    assert evidence.joined == [f"images/val/{i:02}.png" for i in (5, 7, 20)] and "3 of 24 images" in str(evidence)
    assert rows.columns["group"].tolist() == read_manifest(tmp_path / "data").columns["group"].tolist()


def test_another_exposure_is_no_other_part(tmp_path: Path) -> None:
    images = [surface(i) for i in range(24)]
    images[9] = (images[2] * 0.7 + 20).astype(np.uint8)
    assert parts_of(write(tmp_path / "free", images, grouped=False)) == [{2, 9}]
    apart = write(tmp_path / "apart", images, grouped=False, command="organize --no-group_similar")
    assert parts_of(apart) == [] and str(independent_parts(apart)) == ""


def test_names_of_copies_count_where_nobody_has_grouped(tmp_path: Path) -> None:
    rows = write(tmp_path / "data", [surface(i) for i in range(24)], grouped=False)
    text = (tmp_path / "data/manifest.csv").read_text().replace("val/05.png", "val/04_rot90.png")
    (tmp_path / "data/manifest.csv").write_text(text)
    (tmp_path / "data/images/val/05.png").rename(tmp_path / "data/images/val/04_rot90.png")
    rows = read_manifest(tmp_path / "data")
    assert parts_of(rows) == [{4, 5}]
    assert json.loads((tmp_path / "data/dataset.json").read_text())["command"] == "test"
