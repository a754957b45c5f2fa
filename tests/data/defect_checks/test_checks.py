"""What the checks find in a finished dataset folder, and what opening a broken one says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import square_image
from helpers.checking import edit_rows, write, write_dozen
from PIL import Image

from dinov3.data.defect_checks.row_checks import check_dataset
from dinov3.data.defect_images import read_image
from dinov3.data.defect_manifest import read_manifest
from dinov3.data.defect_masks import read_mask
from dinov3.defect_errors import DefectError


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dozen(tmp_path / "data")


def found(dataset: Path) -> dict[str, tuple[str, int, list[str]]]:
    return {i.check: (i.severity, i.count, i.examples) for i in check_dataset(read_manifest(dataset))}


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
    shutil.rmtree(dataset / "masks")
    names = [f"images/{i:02}.png" for i in (1, 3, 5, 7, 9)]
    assert found(dataset) == {"missing_mask": ("warning", 6, names)}


def test_parts_in_two_splits(dataset):
    edit_rows(dataset, lambda rows: rows[0].update(group="11"))
    assert found(dataset) == {"split_leak": ("error", 1, ["images/00.png", "images/11.png"])}
    edit_rows(dataset, lambda rows: [row.update(group="") for row in rows])
    assert found(dataset) == {}  # no part is known


def test_splits_without_a_class(dataset):
    edit_rows(dataset, lambda rows: [row.update(split="train") for row in rows if row["label"] == "defect"])
    assert found(dataset) == {"missing_class": ("warning", 1, ["val: defect"])}


# --- masks that other programs made


def test_black_and_white_masks_would_be_ignored_as_a_whole(dataset):
    write(dataset, "03.png.png", np.eye(48) * 255)
    Image.fromarray((np.eye(48) * 255).astype(np.uint8)).save(dataset / "masks/05.png.png")
    assert found(dataset) == {"ignored_mask": ("error", 2, ["images/03.png", "images/05.png"])}


def test_masks_of_grey_noise(dataset):
    square = np.zeros((48, 48), np.uint8)
    square[10:30, 10:30] = 255
    Image.fromarray(square).resize((48, 48), Image.Resampling.BILINEAR, box=(0, 0, 47, 47)).save(
        dataset / "masks/03.png.png"
    )
    Image.fromarray(square).save(dataset / "masks/05.jpg", quality=60)
    (dataset / "masks/05.png.png").unlink()
    edit_rows(dataset, lambda rows: rows[5].update(mask="masks/05.jpg"))
    assert found(dataset) == {"mask_values": ("error", 2, ["images/03.png", "images/05.png"])}


def test_specks(dataset):
    mask = read_mask(dataset / "masks/03.png.png").copy()
    mask[-3:-1, 1:3] = mask[1, -2] = 1
    write(dataset, "03.png.png", mask)
    assert found(dataset) == {"specks": ("warning", 1, ["images/03.png"])}


def test_images_without_verdict_may_have_an_empty_mask_but_not_none_at_all(dataset):
    write(dataset, "03.png.png", np.zeros((48, 48)))
    edit_rows(dataset, lambda rows: [rows[i].update(label="") for i in (2, 3)])
    assert found(dataset) == {"missing_mask": ("warning", 1, ["images/02.png"])}


# --- images unlike the rest


def change_image(dataset: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = dataset / "images" / name
    Image.fromarray(change(read_image(path))).save(path)


@pytest.mark.parametrize(
    ("change", "checks"),
    [
        (lambda image: image[:40, :40], ["odd_size"]),
        (lambda image: image[:20].repeat(3, axis=1), ["odd_aspect", "odd_size"]),
        (lambda image: image // 2 * np.array([1, 2, 2], np.uint8), ["odd_channels"]),
        (lambda image: np.dstack([image, np.full_like(image[..., :1], 255)]), ["odd_channels"]),
        (lambda image: image[..., 0].astype(np.uint16) * 257, ["odd_bit_depth"]),
        (lambda image: image // 4, ["odd_brightness"]),
        (lambda image: np.full_like(image, 140), ["blank_image"]),
    ],
)
def test_images_unlike_the_rest(dataset, change, checks):
    change_image(dataset, "02.png", change)
    assert found(dataset) == {check: ("warning", 1, ["images/02.png"]) for check in checks}


def test_exposures_that_vary_are_not_odd(dataset):
    for i in range(12):
        change_image(dataset, f"{i:02}.png", lambda image, i=i: (image * (0.3 + i / 12)).clip(0, 255).astype(np.uint8))
    assert found(dataset) == {}


# --- the same picture twice


def test_copies_in_one_split_are_duplicates_whatever_their_format(dataset):
    Image.open(dataset / "images/00.png").convert("L").save(dataset / "images/02.png", compress_level=0)
    assert found(dataset) == {"duplicate_image": ("warning", 1, ["images/02.png"])}


def test_copies_in_two_splits_leak(dataset):
    shutil.copy(dataset / "images/00.png", dataset / "images/10.png")
    assert found(dataset) == {
        "split_leak": ("error", 1, ["images/00.png", "images/10.png"]),
        "duplicate_image": ("warning", 1, ["images/10.png"]),
    }


def test_copies_under_two_labels_conflict(dataset):
    shutil.copy(dataset / "images/00.png", dataset / "images/03.png")
    conflict = found(dataset)["label_conflict"]
    assert conflict == ("error", 1, ["images/00.png", "images/03.png"])
    edit_rows(dataset, lambda rows: rows[0].update(label=""))
    assert "label_conflict" not in found(dataset)


# --- files and rows, classes, scale


def test_files_that_no_row_names(dataset):
    write(dataset, "a/stray.png", np.zeros((48, 48)))
    shutil.copy(dataset / "images/00.png", dataset / "images/stray.png")
    (dataset / "images/.hidden.png").touch()
    (dataset / "images/notes.txt").touch()
    assert found(dataset) == {
        "orphan_mask": ("warning", 1, ["masks/a/stray.png"]),
        "orphan_image": ("warning", 1, ["images/stray.png"]),
    }


def test_rare_classes(dataset):
    rng = np.random.default_rng(1)
    rows = []
    for i in range(40):
        name = f"images/more{i}.png"
        Image.fromarray(square_image(rng, defect=False, size=48)[0]).save(dataset / name)
        rows.append({"image": name, "mask": "", "label": "normal", "split": "train", "group": name, "source": ""})
    edit_rows(dataset, lambda known: known.extend(rows))
    assert found(dataset) == {"class_imbalance": ("warning", 1, ["defect"])}


def test_defects_smaller_than_a_patch_and_the_tile_that_keeps_them(dataset):
    mask = np.zeros((480, 640), np.uint8)
    mask[100:106, 200:210] = 1  # 5 x 2 of 320 pixels
    mask[300:400, 300:400] = 1
    write(dataset, "03.png.png", mask)
    change_image(dataset, "03.png", lambda image: np.resize(image, (480, 640, 3)))
    manifest = read_manifest(dataset)
    assert "small_defects" not in {issue.check for issue in check_dataset(manifest, 1280)}
    issue = next(issue for issue in check_dataset(manifest, 320) if issue.check == "small_defects")
    assert (issue.count, issue.examples) == (1, ["images/03.png"])
    assert "1 of 7 defect regions" in issue.summary[0]
    assert "Tiles of 192 pixels keep all" in issue.summary[0]  # 10 x 320 / 192 = 16.7
    issue = next(issue for issue in check_dataset(manifest, (640, 160)) if issue.check == "small_defects")
    assert "resized to 640x160; " in issue.summary[0] and "Tiles of 384 pixels keep all" in issue.summary[0]


def test_odd_files_never_stop_the_checks(dataset):
    whole = (dataset / "images/00.png").read_bytes()
    (dataset / "images/00.png").write_bytes(whole[: len(whole) // 2])
    (dataset / "images/01.png").write_bytes(b"GIF89a")
    (dataset / "images/02.png").unlink()
    (dataset / "images/02.png").mkdir()
    Image.new("CMYK", (48, 48)).save(dataset / "images/03.png", format="TIFF")
    Image.fromarray(np.full((48, 48), np.nan, np.float32)).save(dataset / "images/05.png", format="TIFF")
    Image.new("I;16", (1, 1)).save(dataset / "masks/07.png.png")
    Image.new("RGBA", (48, 1)).save(dataset / "masks/09.png.png")
    issues = found(dataset)
    assert issues["unreadable_image"] == ("error", 3, ["images/00.png", "images/01.png", "images/02.png"])
    assert issues["unreadable_mask"] == ("error", 2, ["images/07.png", "images/09.png"])


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
    assert "划痕" in read_manifest(dataset).columns["source"]  # as a spreadsheet on a Chinese Windows saves it
    path.write_bytes(text.encode("utf-16"))
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
