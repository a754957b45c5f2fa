"""Copies and tiles told by their names: with their photograph, and never different parts together."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3.data.defect_prepare.derived_names import originals


@pytest.mark.parametrize(
    "names",
    [
        ["a/w7_png.rf.0b5aa54d5bd5.jpg", "b/w7_png.rf.77aa54d5bd50.jpg", "w7_png.rf.aXYZ54d5bd50.jpg"],
        [
            "train/p12.png",
            "valid/p12_flip.png",
            "train/p12_aug_3.png",
            "test/p12-rot90.png",
            "train/p12_hflip_bright.png",
        ],
        ["img_004_rotate_-15.jpg", "img_004_noise0.5.jpg", "img_004.jpg", "aug_2_img_004.jpg", "flip_img_004.jpg"],
        ["s3_0_0.png", "s3_0_512.png", "s3_512_0.png", "s3_512_512.png"],
        ["s3_0_0.png", "s3_0_1.png", "s3_1_0.png", "s3_1_1.png"],
        ["s3_x0_y640.png", "s3_x640_y0.png", "s3.png"],
        ["s3_r1_c2.png", "s3_r1_c3.png"],
        ["s3_tile_1.png", "s3_tile_12.png"],
        ["s3_crop1_flip.png", "s3.png"],
        ["scratch.png", "scratch_mirror.png"],
        ["bad/s3_0_512.png", "good/s3_0_0.png", "good/s3_512_0.png"],
        ["s3_0_0_640_640.png", "s3_512_0_1152_640.png", "good/s3_512_512_1152_1152.png"],
        ["part7.png", "part7Flip.png", "part7rot90.png"],
    ],
)
def test_copies_and_tiles_belong_to_their_photograph(names: list[str]) -> None:
    others = ["q8.png", "q9.png", "lid.png"]
    found = originals([*others, *names])
    assert found[:3] == [None] * 3
    assert len(set(found[3:])) == 1 and found[3] is not None


@pytest.mark.parametrize(
    "names",
    [
        ["part_1_1.png", "part_1_2.png", "part_2_1.png"],  # part and photograph
        ["exp1_num_20.png", "exp2_num_20.png", "exp1_num_21.png"],
        ["good_noise_01.png", "good_noise_02.png"],  # no number of a photograph before the word
        ["2024_11.png", "2024_12.png"],
        ["flip_1.png", "flip_2.png"],
        ["bad/00.png", "good/00.png", "bad/00 view.png"],
        ["lot_3_4_5_6.png", "lot_3_4_5_7.png"],
        ["a_7.png", "b_7.png"],
        ["cam0_0.png", "cam0_1.png"],
        ["crack_0_0.png", "crack_0_1.png", "crack_1_0.png", "crack_1_1.png"],  # part and photograph
    ],
)
def test_names_of_different_parts_tell_nothing(names: list[str]) -> None:
    assert originals(names) == [None] * len(names)


def test_numbers_that_start_anew_in_each_folder_are_different_photographs() -> None:
    found = originals(["bad/00.png", "bad/00_flip.png", "good/00.png", "good/00_flip.png"])
    assert found[0] == found[1] != found[2] == found[3]


def test_copies_stay_in_one_split_and_leaks_names_those_that_do_not(tmp_path: Path, script) -> None:
    rng = np.random.default_rng(0)
    for kind in ("bad", "good"):
        (tmp_path / kind).mkdir()
        for photo in range(8):
            picture = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            for turn, name in ((0, ""), (1, "_rot90"), (2, "_rot180"), (3, "_rot270")):
                Image.fromarray(np.rot90(picture, turn)).save(tmp_path / kind / f"{kind}{photo}{name}.png")
    flags = (
        "--defect_images",
        tmp_path / "bad",
        "--normal_images",
        tmp_path / "good",
        "--output_dir",
        tmp_path / "set",
    )
    assert script("prepare_defect_data", "organize", *flags, "--val_split", 0.25, "--test_split", 0.25)[0] == 0
    with (tmp_path / "set/manifest.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["image"].split("/")[-1].split(".")[0].split("_")[0], set()).add(row["split"])
    assert len(splits) == 16 and all(len(found) == 1 for found in splits.values())
    assert script("prepare_defect_data", "leaks", tmp_path / "set")[0] == 0
    turned = next(row for row in rows if row["image"].endswith("bad3_rot90.png"))
    turned["split"] = "test" if turned["split"] != "test" else "train"
    turned["group"] = ""
    with (tmp_path / "set/manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    status, out, _ = script("prepare_defect_data", "leaks", tmp_path / "set")
    assert status == 1 and "same photograph: " in out and "bad3_rot90.png" in out


def test_one_name_for_too_many_images_is_no_photograph(tmp_path: Path, script) -> None:
    rng = np.random.default_rng(1)
    for kind in ("bad", "good"):
        (tmp_path / kind).mkdir()
        for number in range(12):
            picture = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / kind / f"{kind}1_{number // 4}_{number % 4}.png")
    flags = (
        "--defect_images",
        tmp_path / "bad",
        "--normal_images",
        tmp_path / "good",
        "--output_dir",
        tmp_path / "set",
    )
    status, out, _ = script("prepare_defect_data", "organize", *flags, "--val_split", 0.25)
    assert status == 0 and "24 parts in 24 images" in out
    assert "too many for it (--group_csv or --group_regex if not)" in out and "bad1: 12 images" in out
