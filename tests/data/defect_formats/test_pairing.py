"""Which mask belongs to which image, whatever folders and names people use."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from helpers.organizing import mask_of, masks_by_image, picture, save


def test_masks_pair_by_stem_never_by_order(parts, organize):
    (parts / "masks" / "03.png").unlink()
    save(parts / "masks" / "002.png", mask_of(20))
    save(parts / "masks" / "zz.png", mask_of(21))
    manifest, out = organize()
    masks = masks_by_image(manifest)
    assert masks.pop("images/bad/03.png") is None
    for i in set(range(10)) - {3}:
        np.testing.assert_array_equal(masks[f"images/bad/{i:02}.png"], mask_of(i) // 255)
    assert (
        f"1 x defect images without a mask of their name; they train the class alone:\n    {parts / 'bad/03.png'}"
        in out
    )
    assert f"2 x masks that no image takes; skipped:\n    {parts / 'masks/002.png'}" in out


@pytest.mark.parametrize("name", ["{}_mask.png", "{}-gt.bmp", "{}.label.tif", "{}_GroundTruth.PNG"])
def test_masks_named_after_their_image(parts, organize, name):
    for i in range(10):
        save(parts / "named" / name.format(f"{i:02}"), mask_of(i))
    manifest, _ = organize(masks="named")
    for i in range(10):
        np.testing.assert_array_equal(masks_by_image(manifest)[f"images/bad/{i:02}.png"], mask_of(i) // 255)


def test_images_whose_own_names_end_like_masks(parts, organize):
    for folder, stem, number in (("bad", "box", 15), ("more", "box_label", 16)):
        save(parts / folder / f"{stem}.png", picture(30))
        save(parts / "masks" / f"{stem}.png", mask_of(number))
    (parts / "masks" / "box_label.png").rename(parts / "masks" / "box_label_mask.png")
    masks = masks_by_image(organize(bad="bad more")[0])
    np.testing.assert_array_equal(masks["images/bad/box.png"], mask_of(15) // 255)
    np.testing.assert_array_equal(masks["images/more/box_label.png"], mask_of(16) // 255)


@pytest.mark.parametrize(("one", "other"), [("\u00e9", "e\u0301"), ("e\u0301", "\u00e9")])
@pytest.mark.parametrize("mask", ["masks/p{}.png", "masks/p{}_mask.png", "bad/p{}_mask.png"])
def test_accents_written_in_two_ways(parts, organize, one, other, mask):
    """macOS takes an accent apart, other systems write it as one character."""
    save(parts / "bad" / f"p{one}.png", picture(30))
    save(parts / mask.format(other), mask_of(20))
    manifest, out = organize()
    np.testing.assert_array_equal(masks_by_image(manifest)[f"images/bad/p{one}.png"], mask_of(20) // 255)
    assert len(manifest) == 31
    assert " x " not in out


@pytest.mark.parametrize(("one", "other"), [("\u00e9", "e\u0301"), ("e\u0301", "\u00e9")])
def test_accents_of_folders_written_in_two_ways(parts, organize, one, other):
    for kind, number in ((f"pi{one}ce_1", 15), (f"pi{other}ce_2", 16)):
        save(parts / "imgs" / kind / "a.png", picture(number))
    for kind, number in ((f"pi{other}ce_1", 15), (f"pi{one}ce_2", 16)):
        save(parts / "drawn" / kind / "a.png", mask_of(number))
    masks = masks_by_image(organize(bad="imgs", masks="drawn")[0])
    np.testing.assert_array_equal(masks[f"images/imgs/pi{one}ce_1/a.png"], mask_of(15) // 255)
    np.testing.assert_array_equal(masks[f"images/imgs/pi{other}ce_2/a.png"], mask_of(16) // 255)


def test_a_file_named_like_a_mask_of_its_neighbor_is_no_image(parts, organize):
    save(parts / "bad" / "00_mask.png", mask_of(0))
    manifest, out = organize()
    assert len(manifest) == 30
    assert f"1 x masks that no image takes; skipped:\n    {parts / 'bad/00_mask.png'}" in out


@pytest.mark.parametrize(("image", "mask"), [("{}.jpg", "{}.png"), ("{}.JPEG", "{}.BMP"), ("{}.png", "{}_mask.png")])
@pytest.mark.parametrize("given", [True, False])
def test_images_and_masks_in_one_folder(parts, organize, image, mask, given):
    for i in range(10):
        save(parts / "both" / "Imgs" / image.format(i), picture(i))
        save(parts / "both" / "Imgs" / mask.format(i), mask_of(i))
        save(parts / "clean" / image.format(i), picture(50 + i))
        save(parts / "clean" / mask.format(i), mask_of(0) * 0)
    manifest, out = organize(bad="both", masks="both" if given else "", good="clean")
    assert len(manifest) == 20
    masks = masks_by_image(manifest)
    for i in range(10):
        np.testing.assert_array_equal(masks[f"images/both/Imgs/{image.format(i)}"], mask_of(i) // 255)
        assert masks[f"images/clean/{image.format(i)}"] is None
    assert " x " not in out  # nothing to report


@pytest.mark.parametrize("masks_first", [True, False])
def test_one_folder_inside_another(parts, organize, masks_first):
    outer, inner = ("masks", "bad") if masks_first else ("bad", "masks")
    shutil.move(parts / inner, parts / outer / "inner")
    folders = {outer: outer, inner: f"{outer}/inner"}
    manifest, out = organize(bad=folders["bad"], masks=folders["masks"])
    assert manifest.counts()["train"]["defect"] + manifest.counts()["val"]["defect"] == 10
    assert sum(bool(mask) for mask in manifest.columns["mask"]) == 10
    assert " x " not in out


def test_good_images_inside_the_folder_of_bad_ones(parts, organize):
    shutil.move(parts / "good", parts / "bad" / "ok")
    manifest, _ = organize(good="bad/ok")
    assert manifest.columns["label"].tolist() == ["defect"] * 10 + ["normal"] * 20


def test_equal_stems_in_subfolders_pair_by_their_folder(parts, organize):
    for i, line in enumerate(("left", "right", "top")):
        save(parts / "lines" / line / "a.JPG", picture(i))
        if line != "right":
            save(parts / "drawn" / line / "a.png", mask_of(i))
    manifest, out = organize(bad="lines", masks="drawn")
    masks = masks_by_image(manifest)
    np.testing.assert_array_equal(masks["images/lines/left/a.JPG"], mask_of(0) // 255)
    np.testing.assert_array_equal(masks["images/lines/top/a.JPG"], mask_of(2) // 255)
    assert masks["images/lines/right/a.JPG"] is None  # no other line's mask
    assert "right/a.JPG" in out


def test_two_folders_with_files_of_the_same_names(parts, organize):
    for i in range(10):
        save(parts / "crack_images" / f"{i:02}.png", picture(40 + i))
        save(parts / "crack_masks" / f"{i:02}.png", mask_of(10 + i))
    shutil.move(parts / "bad", parts / "dent_images")
    shutil.move(parts / "masks", parts / "dent_masks")
    manifest, _ = organize(bad="crack_images dent_images", masks="dent_masks crack_masks")
    masks = masks_by_image(manifest)
    assert len(masks) == 40
    for i in range(10):
        np.testing.assert_array_equal(masks[f"images/crack_images/{i:02}.png"], mask_of(10 + i) // 255)
        np.testing.assert_array_equal(masks[f"images/dent_images/{i:02}.png"], mask_of(i) // 255)


def test_a_tie_between_masks_is_reported_not_guessed(parts, organize):
    for i in range(10):
        save(parts / "more" / f"{i:02}.png", picture(40 + i))
        save(parts / "drawn" / f"{i:02}.png", mask_of(10 + i))
    save(parts / "more" / "sure.png", picture(60))
    save(parts / "drawn" / "sure.png", mask_of(25))
    manifest, out = organize(bad="bad more", masks="masks drawn")
    masks = {image: mask for image, mask in masks_by_image(manifest).items() if mask is not None}
    assert list(masks) == ["images/more/sure.png"]
    assert "20 x images that several masks fit, or share a mask; imported without" in out


def test_normal_images_of_the_same_numbers_take_no_masks(parts, organize):
    manifest, out = organize()  # good/00.png and bad/00.png, one masks/00.png
    labels = dict(zip(manifest.columns["image"].tolist(), manifest.columns["mask"].tolist(), strict=True))
    assert labels["images/good/00.png"] == ""
    assert labels["images/bad/00.png"] == "masks/bad/00.png.png"
    assert " x " not in out


def test_defect_pixels_on_a_normal_image_are_reported(parts, organize):
    save(parts / "masks" / "15.png", mask_of(5))
    manifest, out = organize()
    assert masks_by_image(manifest)["images/good/15.png"] is None
    assert f"1 x defect pixels in the mask of a normal image; mask skipped:\n    {parts / 'masks/15.png'}: 15" in out
