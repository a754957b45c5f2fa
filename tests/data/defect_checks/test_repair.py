"""check --fix: what it repairs, what it leaves alone, and that it only reads the dataset that it is given."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.checking import Fix, edit_rows, fixer, square, write, write_dozen
from helpers.organizing import assert_refused, content, masks_by_image


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dozen(tmp_path / "data")


@pytest.fixture
def fix(dataset, script, tmp_path) -> Fix:
    return fixer(dataset, script, tmp_path)


def test_a_sound_dataset_is_copied_as_it_is(dataset, fix):
    fixed, changes, left = fix()
    assert (changes, left) == ([], {})
    old, new = content(dataset), content(fixed.root)
    del old["dataset.json"], new["dataset.json"], new["changes.csv"]
    assert new == old


def test_what_cannot_be_read_is_skipped(dataset, fix):
    (dataset / "images/02.png").write_bytes(b"no image")
    (dataset / "masks/03.png.png").write_bytes(b"")
    fixed, changes, left = fix()
    assert changes == [("images/02.png", "unreadable_image"), ("masks/03.png.png", "unreadable_mask")]
    assert left == {"missing_mask": 1}
    assert len(fixed) == 11


def test_of_copies_in_one_split_and_label_the_one_with_a_mask_stays(dataset, fix):
    for source, copy in (("01", "03"), ("00", "02"), ("01", "05"), ("00", "08")):
        shutil.copy(dataset / f"images/{source}.png", dataset / f"images/{copy}.png")
    shutil.copy(dataset / "masks/01.png.png", dataset / "masks/03.png.png")
    edit_rows(dataset, lambda rows: rows[1].update(mask=""))  # 03 has one, 05 another
    fixed, changes, left = fix(status=1)
    orphan = ("masks/01.png.png", "orphan_mask")
    assert changes == [("images/01.png", "duplicate_image"), ("images/02.png", "duplicate_image"), orphan]
    assert left == {"duplicate_image": 2, "split_leak": 1}  # 05 with its own mask; 08 in another split
    assert "images/03.png" in fixed.columns["image"]


def test_files_that_no_row_names_stay_behind(dataset, fix):
    shutil.copy(dataset / "images/00.png", dataset / "images/stray.png")
    write(dataset, "stray.png", square())
    fixed, changes, left = fix()
    assert changes == [("images/stray.png", "orphan_image"), ("masks/stray.png", "orphan_mask")]
    assert left == {}
    assert not (fixed.root / "images/stray.png").exists()


def test_what_needs_judgement_stays(dataset, fix):
    write(dataset, "03.png.png", np.zeros((48, 48)))
    write(dataset, "05.png.png", 1 - np.eye(48))
    edit_rows(dataset, lambda rows: rows[0].update(mask=rows[7]["mask"], group="11"))
    fixed, changes, left = fix(status=1)
    assert changes == []
    assert left == {"empty_defect_mask": 1, "inverted_mask": 1, "nonempty_normal_mask": 1, "split_leak": 1}
    assert not masks_by_image(fixed)["images/03.png"].any()


def test_places_of_images_and_masks_may_differ_from_ours(dataset, fix):
    (dataset / "photos").mkdir()
    for name in ("00", "01"):
        (dataset / f"images/{name}.png").rename(dataset / f"photos/{name}.png")
    shutil.copy(dataset / "images/02.png", dataset / "photos/02.png")

    def move(rows):
        for row in rows[:2]:
            row["image"] = row["image"].replace("images", "photos")
        rows.append(rows[2] | {"image": "photos/02.png", "label": "defect"})
        rows.append(rows[3] | {"split": "val"})

    edit_rows(dataset, move)
    fixed, _, left = fix(status=1)
    assert left["label_conflict"] == left["split_leak"] == 1
    assert len(set(fixed.columns["image"].tolist())) == 14
    assert "images/photos/02.png" in fixed.columns["image"]
    assert "images/03_2.png" in fixed.columns["image"]


def test_flags_that_belong_together(dataset, script, tmp_path):
    for flags in (["--fix"], ["--output_dir", tmp_path / "new"]):
        result = script("prepare_defect_data", "check", dataset, *flags)
        assert_refused(result, "--fix and --output_dir belong together", status=2)


def test_the_dataset_itself_is_never_written(dataset, script, tmp_path):
    before = content(dataset)
    for folder in (dataset, dataset / "fixed", tmp_path):
        result = script("prepare_defect_data", "check", dataset, "--fix", "--output_dir", folder, "--overwrite")
        assert_refused(result, "must lie apart from the dataset")
    assert content(dataset) == before


def test_a_dataset_without_a_readable_image(dataset, script, tmp_path):
    for path in (dataset / "images").iterdir():
        path.write_bytes(b"")
    result = script("prepare_defect_data", "check", dataset, "--fix", "--output_dir", tmp_path / "fixed")
    assert_refused(result, "no image can be read, first: images/00.png: empty file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
