"""Defects pasted from one image onto another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import square_image, write_squares

from dinov3.data.defect_copy_paste import paste_defect
from dinov3.data.defect_dataset import DefectDataset
from dinov3.data.defect_prepare.writer import DatasetWriter


def scene(value: int, defect: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A flat image (60, 80, 3) and its mask; with a square of 10 pixels of brightness ``defect`` and class 2."""
    image, mask = np.full((60, 80, 3), value, np.uint8), np.zeros((60, 80), np.uint8)
    if defect is not None:
        image[20:30, 40:50], mask[20:30, 40:50] = defect, 2
    return image, mask


@pytest.mark.parametrize("seed", range(20))
def test_the_mask_marks_what_was_pasted(seed: int) -> None:
    image, mask = scene(200)
    donor, donor_mask = scene(100, defect=20)
    before = donor.copy(), donor_mask.copy()
    assert paste_defect(image, mask, donor, donor_mask, np.random.default_rng(seed))
    assert (mask == 2).sum() == 100 and set(np.unique(mask)) == {0, 2}
    ys, xs = np.nonzero(mask)
    assert (np.ptp(ys), np.ptp(xs)) == (9, 9)
    # The defect keeps its contrast to its surroundings, twice as bright here; the surface stays what it was.
    assert image[mask == 2].mean() == pytest.approx(39, abs=3)
    assert np.abs(image[mask == 0].astype(int) - 200).max() <= 8
    assert np.array_equal(donor, before[0]) and np.array_equal(donor_mask, before[1])


def test_defects_land_everywhere_and_also_where_they_were() -> None:
    places = set()
    for seed in range(200):
        image, mask = scene(200)
        paste_defect(image, mask, *scene(100, defect=20), np.random.default_rng(seed))
        places.add(tuple(np.argwhere(mask)[0]))
    assert len(places) > 60
    ys, xs = np.array(sorted(places)).T
    assert ys.min() < 8 and ys.max() > 42 and xs.min() < 8 and xs.max() > 62


def test_a_region_at_the_border_of_its_image_is_pasted_whole() -> None:
    donor, donor_mask = scene(100)
    donor[:6, :9], donor_mask[:6, :9] = 20, 1
    for seed in range(30):
        image, mask = scene(100)
        assert paste_defect(image, mask, donor, donor_mask, np.random.default_rng(seed))
        assert mask.sum() == 54 and image[mask == 1].mean() < 40


def test_what_has_no_fitting_defect_changes_nothing() -> None:
    large, large_mask = scene(100)
    large_mask[:40] = 1
    ignored, ignored_mask = scene(100)
    ignored_mask[:5] = 255
    for donor, donor_mask in ((large, large_mask), (ignored, ignored_mask), scene(100)):
        image, mask = scene(200)
        assert not paste_defect(image, mask, donor, donor_mask, np.random.default_rng(0))
        assert (image == 200).all() and not mask.any()


def test_normal_training_images_become_defect_images(tmp_path) -> None:
    manifest = write_squares(tmp_path / "data", train=40).select("train")
    dataset = DefectDataset(manifest, 64, augment=True, paste_defects=0.5)
    items = [dataset[index, 7] for index in range(40)]
    again = [dataset[index, 7] for index in range(40)]
    assert all(
        torch.equal(a["image"], b["image"]) and a["label"] == b["label"] for a, b in zip(items, again, strict=True)
    )
    items = [dataset[index, seed] for seed in range(5) for index in range(0, 40, 2)]
    pasted = [item for item in items if item["label"] == 1]
    assert 30 < len(pasted) < 70  # of 100
    assert all(((item["mask"] == 1).any() or (item["mask"] == 255).any()) and item["has_mask"] for item in pasted)
    assert all(dataset[index, seed]["label"] == 1 for seed in range(3) for index in range(1, 40, 2))
    plain = DefectDataset(manifest, 64, augment=True)
    assert all(plain[index, seed]["label"] == 0 for seed in range(3) for index in range(0, 40, 2))


@pytest.mark.parametrize("mask_classes", [["dent", "scratch"], ["dent", "flaw"], ["flaw"]])
def test_the_class_is_that_of_the_pasted_defect(tmp_path, mask_classes) -> None:
    """The one donor is an image of a scratch, with a small dark scratch or flaw, and a bright dent."""
    image, mask = np.full((64, 64, 3), 120, np.uint8), np.zeros((64, 64), np.uint8)
    image[5:15, 5:15], mask[5:15, 5:15] = 20, len(mask_classes)
    image[40:50, 40:50], mask[40:50, 40:50] = 240, 1
    with DatasetWriter(tmp_path / "data") as writer:
        row = {"split": "train", "group": "", "source": "made"}
        writer.add(image, "bad.png", mask, label="scratch", **row)
        writer.add(np.full((64, 64, 3), 120, np.uint8), "good.png", None, label="normal", **row)
        classes = ["normal", "dent", "scratch"]
        manifest = writer.finish(classes=classes, mask_classes=mask_classes, seed=0, command="test")
    dataset = DefectDataset(manifest, 64, paste_defects=1.0)
    items = [dataset[1, seed] for seed in range(40)]
    bright = [bool((item["image"] > 200).any()) for item in items]
    assert 10 < sum(bright) < 30
    dent = 1 if "dent" in mask_classes else 2  # a mask without types of defects leaves the image's own class
    assert [item["label"] for item in items] == [dent if found else 2 for found in bright]


def test_a_broken_donor_leaves_the_image_as_it_is(tmp_path) -> None:
    manifest = write_squares(tmp_path / "data", train=4).select("train")
    for name in manifest.columns["image"][1::2]:
        (manifest.root / str(name)).write_bytes(b"broken")
    dataset = DefectDataset(manifest, 64, augment=True, paste_defects=1.0)
    items = [dataset[index, seed] for seed in range(4) for index in (0, 2)]
    assert all(item["label"] == 0 and not item["error"] for item in items)


def test_a_pasted_square_looks_like_one() -> None:
    rng = np.random.default_rng(0)
    donor, donor_mask = square_image(rng, defect=True)
    image, mask = (array.copy() for array in square_image(rng, defect=False))
    assert paste_defect(image, mask, donor, donor_mask, rng)
    assert image[mask == 1].mean() < 60 < 120 < image[mask == 0].mean()
