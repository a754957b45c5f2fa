"""What --check_data finds in a finished dataset folder, and what opening a broken one says."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import square_image
from PIL import Image

from dinov3.data.defect_checks import check_dataset
from dinov3.data.defect_images import IGNORE_INDEX, write_mask
from dinov3.data.defect_manifest import DatasetWriter, read_manifest
from dinov3.defect_errors import DefectError


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Twelve images, half defective, two classes in each of train and val; nothing wrong."""
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path / "data") as writer:
        for i in range(12):
            image, mask = square_image(rng, defect=i % 2 == 1, size=48)
            mask[0, 0] = IGNORE_INDEX if i % 2 else 0
            label, split = ("normal", "defect")[i % 2], ("train", "val")[i // 8]
            target = mask if i % 2 else None
            writer.add(image, f"{i:02}.png", target, label=label, split=split, group=str(i), source="made")
        writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command="test")
    return tmp_path / "data"


def edit_rows(dataset: Path, change: Callable[[list[dict[str, str]]], object]) -> None:
    path = dataset / "manifest.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    header = list(rows[0])
    change(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows(rows)


def found(dataset: Path) -> dict[str, tuple[str, int, list[str]]]:
    return {i.check: (i.severity, i.count, i.examples) for i in check_dataset(read_manifest(dataset))}


def write(dataset: Path, name: str, mask: np.ndarray) -> None:
    write_mask(dataset / "masks" / name, mask.astype(np.uint8))


def test_a_sound_dataset_has_no_issues(dataset):
    assert check_dataset(read_manifest(dataset)) == []


def test_images_that_cannot_be_read(dataset):
    (dataset / "images/01.png").write_text("not an image")
    (dataset / "images/02.png").unlink()
    assert found(dataset) == {"unreadable_image": ("error", 2, ["images/01.png", "images/02.png"])}


def test_masks_that_cannot_be_read(dataset):
    (dataset / "masks/01.png.png").write_bytes(b"")
    (dataset / "masks/03.png.png").unlink()
    Image.new("RGB", (48, 48)).save(dataset / "masks/05.png.png")
    assert found(dataset)["unreadable_mask"] == ("error", 3, ["images/01.png", "images/03.png", "images/05.png"])


def test_masks_of_another_size(dataset):
    write(dataset, "01.png.png", np.eye(20))
    assert found(dataset) == {"size_mismatch": ("error", 1, ["images/01.png"])}


def test_masks_with_values_of_no_class(dataset):
    write(dataset, "01.png.png", np.eye(48) * 2)
    assert found(dataset) == {"mask_values": ("error", 1, ["images/01.png"])}


def test_masks_that_look_inverted(dataset):
    write(dataset, "03.png.png", 1 - np.eye(48))
    assert found(dataset) == {"inverted_mask": ("warning", 1, ["images/03.png"])}


def test_defects_with_an_empty_mask(dataset):
    write(dataset, "03.png.png", np.zeros((48, 48)))
    assert found(dataset) == {"empty_defect_mask": ("warning", 1, ["images/03.png"])}


def test_normal_images_with_a_mask(dataset):
    def give_mask(rows):
        rows[0]["mask"] = rows[1]["mask"]

    edit_rows(dataset, give_mask)
    assert found(dataset) == {"nonempty_normal_mask": ("warning", 1, ["images/00.png"])}


def test_defects_without_a_mask_and_at_most_five_examples(dataset):
    edit_rows(dataset, lambda rows: [row.update(mask="") for row in rows])
    names = [f"images/{i:02}.png" for i in (1, 3, 5, 7, 9)]
    assert found(dataset) == {"missing_mask": ("warning", 6, names)}


def test_parts_in_two_splits(dataset):
    edit_rows(dataset, lambda rows: rows[0].update(group="11"))
    assert found(dataset) == {"split_leak": ("error", 1, ["11"])}


def test_splits_without_a_class(dataset):
    edit_rows(dataset, lambda rows: [row.update(split="train") for row in rows if row["label"] == "defect"])
    assert found(dataset) == {"missing_class": ("warning", 1, ["val: defect"])}


# --- through the script


def test_check_data_runs_alone_and_changes_nothing(dataset, script):
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    status, out, _ = script("prepare_defect_data", "organize", "--output_dir", dataset, "--check_data")
    assert status == 0
    assert "checked 12 images: nothing found" in out
    assert before == {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}


def test_warnings_pass_and_errors_fail(dataset, script):
    write(dataset, "03.png.png", np.zeros((48, 48)))
    status, out, _ = script("prepare_defect_data", "organize", "--output_dir", dataset, "--check_data")
    assert status == 0
    assert "warning: empty_defect_mask: 1 (for example images/03.png)" in out
    (dataset / "images/01.png").unlink()
    status, out, err = script("prepare_defect_data", "organize", "--output_dir", dataset, "--check_data")
    assert status == 1
    assert "error: unreadable_image: 1 (for example images/01.png)" in out
    assert "Traceback" not in err


# --- opening


def assert_cannot_open(dataset: Path, *texts: str) -> None:
    with pytest.raises(DefectError) as raised:
        read_manifest(dataset)
    for text in texts:
        assert text in str(raised.value)


def test_folders_that_are_no_dataset(dataset, script):
    assert_cannot_open(dataset / "absent", "no such dataset folder", "prepare_defect_data.py organize")
    assert_cannot_open(dataset / "images", "not a dataset folder, manifest.csv and dataset.json missing")
    result = script("prepare_defect_data", "organize", "--output_dir", dataset / "absent", "--check_data")
    assert result[0] == 1
    assert result[2].startswith("error: ")


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        ({"label": "scratch"}, ["line 2: label 'scratch'; expected one of normal, defect"]),
        ({"split": "Train"}, ["line 2: split 'Train'; expected train, val or test"]),
        ({"image": "/etc/a.png"}, ["line 2: image '/etc/a.png'; expected a path inside the dataset folder"]),
        ({"image": ""}, ["line 2: image ''"]),
        ({"mask": "../a.png"}, ["line 2: mask '../a.png'"]),
        ({"label": "a", "split": "b"}, ["label 'a'", "split 'b'"]),
    ],
)
def test_rows_that_break_the_format_are_named(dataset, change, texts):
    edit_rows(dataset, lambda rows: rows[0].update(change))
    assert_cannot_open(dataset, str(dataset / "manifest.csv"), *texts)


def test_tables_that_break_the_format_are_named(dataset):
    path = dataset / "manifest.csv"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("image,mask", "file,mask"), encoding="utf-8")
    assert_cannot_open(dataset, "columns are file,mask,label,split,group,source; expected image,mask,")
    path.write_text(text.splitlines()[0] + "\n", encoding="utf-8")
    assert_cannot_open(dataset, "no rows, the dataset is empty")
    path.write_text(text + "images/x.png,,normal\n", encoding="utf-8")
    assert_cannot_open(dataset, "line 14: 3 fields; expected 6")
    path.write_bytes(text.replace("made", "划痕").encode("gbk"))
    assert_cannot_open(dataset, "not a UTF-8 CSV file")
    path.write_text(text, encoding="utf-8-sig")  # as Excel saves it
    assert len(read_manifest(dataset)) == 12


def test_descriptions_that_break_the_format_are_named(dataset):
    path = dataset / "dataset.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(info | {"format_version": 2}), encoding="utf-8")
    assert_cannot_open(dataset, str(path), "format_version 2; this version reads 1")
    for broken in ("", "[]", json.dumps({"format_version": 1})):
        path.write_text(broken, encoding="utf-8")
        assert_cannot_open(dataset, str(path), "broken")
