"""prepare_defect_data.py import coco."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.import_annotations import (
    HEIGHT,
    NAMES,
    SQUARE_PIXELS,
    WIDTH,
    coco_image,
    coco_region,
    coco_set,
    importer,
    labels_by_image,
    many,
    mask_of,
    photo,
    runs_of,
    survives,
    write_coco,
)
from helpers.organizing import assert_refused
from pycocotools import mask as coco
from pycocotools.coco import COCO

from dinov3.data.defect_formats.coco import read_coco

NORMAL = ("--unannotated", "normal")
SOME_LOST = (*NORMAL, "--unmatched", "skip")


@pytest.fixture
def run(script, tmp_path):
    do = importer(script, tmp_path / "out")
    return lambda source, *flags: do("coco", source, *flags)


# --- what a good file gives


def test_a_folder_is_imported(run, tmp_path):
    manifest, out = run(coco_set(tmp_path / "set"), *NORMAL)
    assert labels_by_image(manifest) == {"a.png": "scratch", "b.png": "scratch", "c.png": "normal", "d.png": "normal"}
    assert manifest.classes == ["normal", "scratch"]  # 'dent' is listed but marked nowhere
    np.testing.assert_array_equal(mask_of(manifest, "a.png"), SQUARE_PIXELS)
    assert mask_of(manifest, "c.png") is None
    assert "skipped" not in out


def test_masks_are_those_of_pycocotools(run, tmp_path):
    rng = np.random.default_rng(0)
    blob = (rng.random((HEIGHT, WIDTH)) < 0.3).astype(np.uint8)
    blob[10:30, 20:50] = 1
    packed = coco.encode(np.asfortranarray(blob))["counts"].decode()
    outlines = [rng.uniform(-10, 60, 2 * corners).tolist() for corners in (3, 5, 9)]
    regions = [
        coco_region(10, outlines[:1]),
        coco_region(11, outlines),
        coco_region(12, {"size": [HEIGHT, WIDTH], "counts": packed}),
        coco_region(13, {"size": [HEIGHT, WIDTH], "counts": runs_of(blob.T)}, iscrowd=1),
        coco_region(14, {"size": [HEIGHT, WIDTH], "counts": runs_of(1 - blob.T)}, iscrowd=1),
    ]
    images = [coco_image(key, f"{photo(tmp_path / 'set' / f'{key}.png').name}") for key in range(10, 15)]
    source = coco_set(tmp_path / "set", images, regions)
    manifest, _ = run(source, *NORMAL)
    theirs = COCO(source / "all.json")
    for key in range(10, 15):
        expected = theirs.annToMask(theirs.loadAnns(theirs.getAnnIds(imgIds=[key]))[0])
        np.testing.assert_array_equal(mask_of(manifest, f"{key}.png"), expected)


def test_a_box_alone_is_drawn_and_reported(run, tmp_path):
    photo(tmp_path / "set" / "e.png", 9)
    boxes = [coco_region(2, []), coco_region(9) | {"segmentation": None}]
    manifest, out = run(coco_set(tmp_path / "set", [coco_image(9, "e.png")], boxes), *NORMAL)
    assert "2 x annotations with a box alone; drawn as boxes" in out
    np.testing.assert_array_equal(mask_of(manifest, "c.png"), SQUARE_PIXELS)
    np.testing.assert_array_equal(mask_of(manifest, "e.png"), SQUARE_PIXELS)


def test_several_categories_in_one_image(run, tmp_path):
    small = [[2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]]
    source = coco_set(tmp_path / "set", annotations=[coco_region(0, small, category=2)])
    manifest, _ = run(source, *NORMAL)
    assert labels_by_image(manifest)["a.png"] == "scratch"
    assert manifest.mask_classes == ["dent", "scratch"]
    mask = mask_of(manifest, "a.png")
    assert (mask[4, 4], mask[10, 20]) == (1, 2)


def test_images_without_annotation(script, run, tmp_path):
    source = coco_set(tmp_path / "set")
    photo(source / "unlisted.png")
    result = script("prepare_defect_data", "import", "coco", source, "--output_dir", tmp_path / "out")
    assert_refused(result, "no usable image of class normal", "c.png: not annotated (--unannotated normal")
    manifest, out = run(source, *NORMAL)
    assert "unlisted.png" not in labels_by_image(manifest)
    assert f"image files that no annotation file lists; skipped:\n    {source / 'unlisted.png'}" in out


# --- layouts


def official(root, *splits: str):
    """annotations/instances_SPLIT2017.json beside SPLIT2017/, as cocodataset.org has it."""
    for number, split in enumerate(splits):
        names = [photo(root / f"{split}2017" / f"{i:012}.png", i).name for i in range(10 * number, 10 * number + 4)]
        images = [coco_image(i, name) for i, name in enumerate(names)]
        write_coco(root / "annotations" / f"instances_{split}2017.json", images, [coco_region(0), coco_region(1)])
        write_coco(root / "annotations" / f"person_keypoints_{split}2017.json", images, [coco_region(2)])
    return root


def roboflow(root, *splits: str):
    """SPLIT/_annotations.coco.json beside the images, with an unused category of the project's name."""
    for split in splits:
        names = [photo(root / split / f"{i}_jpg.rf.0f.png", i).name for i in range(4)]
        images = [coco_image(i, name, extra={"name": "x"}) for i, name in enumerate(names)]
        categories = [{"id": i, "name": name, "supercategory": "none"} for i, name in enumerate(["parts", "scratch"])]
        path = root / split / "_annotations.coco.json"
        write_coco(path, images, [coco_region(0), coco_region(1)], categories=categories)
    return root


@pytest.mark.parametrize(("layout", "val"), [(official, "val"), (roboflow, "valid")])
def test_own_splits_are_kept(run, tmp_path, layout, val):
    source = layout(tmp_path / "set", "train", val, "test")
    manifest, out = run(source, *NORMAL)
    two = {"normal": 2, "scratch": 2}
    assert manifest.counts() == {"train": two, "val": two, "test": two}
    assert ("person_keypoints" in out) == (layout is official)
    assert len(run(source, *NORMAL, "--splits", "new", "--overwrite")[0].select("test")) == 0


def test_without_a_val_split_some_of_train_is_taken(run, tmp_path):
    manifest, _ = run(roboflow(tmp_path / "set", "train", "test"), *NORMAL, "--val_split", 0.5)
    two = {"normal": 2, "scratch": 2}
    one = {"normal": 1, "scratch": 1}
    assert manifest.counts() == {"train": one, "val": one, "test": two}


def test_near_duplicates_without_a_split_go_where_the_source_has_their_part(run, tmp_path):
    source = official(tmp_path / "set", "train", "val")
    for place in (source / "val2017" / f"{12:012}.png", source / "more" / "same.png"):
        photo(place, 77)
    write_coco(source / "annotations" / "instances_more.json", [coco_image(0, "same.png")], [])
    for share in (0.1, 0.9):
        manifest, _ = run(source, *NORMAL, "--val_split", share, "--overwrite")
        splits = dict(zip(labels_by_image(manifest), manifest.columns["split"].tolist(), strict=True))
        assert splits["more/same.png"] == "val"


def test_a_val_file_alone_is_split_anew(run, tmp_path):
    source = official(tmp_path / "set", "val")
    manifest, out = run(
        source / "annotations" / "instances_val2017.json", "--images", source / "val2017", *NORMAL, "--val_split", 0.5
    )
    assert "only val; its images are assigned anew" in out
    assert len(manifest.select("train")) == len(manifest.select("val")) == 2


def test_same_names_in_every_split(run, tmp_path):
    for split in ("train", "val"):
        photo(tmp_path / "set" / "images" / split / "1.png", len(split))
        names = ["1.png", *(photo(tmp_path / "set" / "images" / split / f"{split}{i}.png").name for i in range(3))]
        images = [coco_image(i, name) for i, name in enumerate(names)]
        write_coco(tmp_path / "set" / f"{split}.json", images, [coco_region(0)] if split == "train" else [])
    labels = labels_by_image(run(tmp_path / "set", *NORMAL)[0])
    assert (labels["images/train/1.png"], labels["images/val/1.png"]) == ("scratch", "normal")


def test_an_image_missing_from_its_split_is_not_taken_from_another(run, tmp_path):
    source = official(tmp_path / "set", "train", "val")
    images = [coco_image(i, f"{i:012}.png") for i in (0, 1, 10, 2)]
    write_coco(source / "annotations" / "instances_train2017.json", images, [coco_region(0), coco_region(10)])
    manifest, out = run(source, *SOME_LOST)
    assert "instances_train2017.json, image 3: its image '000000000010.png' is not below" in out
    assert manifest.counts()["train"] == {"normal": 2, "scratch": 1}
    assert manifest.counts()["val"] == {"normal": 2, "scratch": 2}


@pytest.mark.parametrize("listed", [["A", "B"], ["B", "A"]])
@pytest.mark.parametrize("root", ["line{}", "export/line{}", "C:\\data\\line{}"])
def test_a_missing_image_does_not_take_that_of_another_entry(run, tmp_path, listed, root):
    photo(tmp_path / "set" / "lineB" / "1.png", 7)
    files = [tmp_path / "set" / f"line{line}.json" for line in listed]
    for file in files:
        name = f"{root.format(file.stem[-1])}/1.png"
        write_coco(file, [coco_image(9, name)], [coco_region(9, category=2)] if file.stem == "lineA" else [])
    manifest, out = run(coco_set(tmp_path / "set"), *SOME_LOST)
    assert labels_by_image(manifest)["lineB/1.png"] == "normal"
    assert f"lineA.json, image 1: its image is missing; {tmp_path / 'set' / 'lineB' / '1.png'} has the name of" in out


@pytest.mark.parametrize("root", ["", "export/", "C:\\data\\", "/data/"])
def test_a_missing_image_does_not_take_one_outside_of_its_folder(run, tmp_path, root):
    """Where the others of its folder are, while a folder that none is found in may have another name now."""
    for number, name in enumerate(("lineA/1.png", "lineA/deep/2.png", "lineB/3.png", "lineB/4.png"), 30):
        photo(tmp_path / "set" / name, number)
    names = ["lineA/1.png", "lineA/2.png", "lineA/3.png", "lineC/4.png"]
    images = [coco_image(i, f"{root}{name}") for i, name in enumerate(names, 11)]
    manifest, out = run(coco_set(tmp_path / "set", images), *SOME_LOST)
    found = [name for name in labels_by_image(manifest) if name.startswith("line")]
    assert found == ["lineA/1.png", "lineA/deep/2.png", "lineB/4.png"]
    assert "image 7: its image is missing" in out and "image files that no annotation file lists; skipped" in out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", ["{}", "data/set/{}", "C:\\data\\set\\{}", "/data/set/{}"])
def test_any_file_name_works(run, tmp_path, name, path):
    file = photo(tmp_path / "set" / name / f"{name}.png")
    source = coco_set(tmp_path / "set", [coco_image(9, path.format(file.name))], [coco_region(9, category=2)])
    assert labels_by_image(run(source, *NORMAL)[0])[f"{name}/{name}.png"] == "dent"


@pytest.mark.parametrize(("one", "other"), [("\u00e9", "e\u0301"), ("e\u0301", "\u00e9")])
def test_accents_written_in_two_ways(run, tmp_path, one, other):
    for day in (1, 2):
        photo(tmp_path / "set" / f"d{one}{day}" / f"{one}.png", day)
    names = [f"d{other}{day}/{other}.png" for day in (1, 2)]
    images = [coco_image(day, name) for day, name in enumerate(names, 11)]
    source = coco_set(tmp_path / "set", images, [coco_region(11, category=1), coco_region(12, category=2)])
    found = labels_by_image(run(source, *NORMAL)[0])
    assert found.items() >= {f"d{one}1/{one}.png": "scratch", f"d{one}2/{one}.png": "dent"}.items()


def test_a_large_file(tmp_path):
    """A few megabytes in a second or two; 100 MB were measured once by hand."""
    rng = np.random.default_rng(0)
    outlines = (rng.normal(0, 3, (4000, 100)).cumsum(axis=1) + 30).round(2)
    images = [coco_image(i, f"{i}.png") for i in range(500)]
    regions = [coco_region(i % 500, [outline]) for i, outline in enumerate(outlines.tolist())]
    path = write_coco(tmp_path / "all.json", images, regions)
    assert path.stat().st_size > 2_500_000
    for link in many(photo(tmp_path / "photo" / "x.png"), tmp_path, 500):
        link.rename(tmp_path / f"{int(link.stem)}.png")
    survives(read_coco, tmp_path)
