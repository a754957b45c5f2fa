"""prepare_defect_data.py import coco: good images are imported, what is bad is named, nothing is half done."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.import_annotations import (
    ESCAPES,
    HEIGHT,
    SQUARE_PIXELS,
    WIDTH,
    coco_image,
    coco_region,
    coco_set,
    huge_png,
    importer,
    kill_while_importing,
    labels_by_image,
    many,
    mask_of,
    photo,
    write_coco,
)
from helpers.organizing import assert_refused, content

NORMAL = ("--unannotated", "normal", "--unmatched", "skip")


@pytest.fixture
def run(script, tmp_path):
    do = importer(script, tmp_path / "out")
    return lambda source, *flags: do("coco", source, *flags)


def test_broken_files_are_named(run, tmp_path):
    source = coco_set(tmp_path / "set")
    texts = {"cut": '{"images": [', "empty": "", "other": '{"a": 1}', "lists": '{"images": {}, "annotations": []}'}
    for name, text in texts.items():
        (source / f"z_{name}.json").write_text(text)
    _, out = run(source, *NORMAL)
    assert "4 x skipped" in out
    assert f"{source / 'z_cut.json'}: not valid JSON, broken or cut off (line 1" in out
    assert f"{source / 'z_empty.json'}: empty file" in out
    assert f"{source / 'z_lists.json'}: not a COCO file of regions; expected lists called images" in out


RLE = {"size": [HEIGHT, WIDTH], "counts": [100, 2300]}
NAN = float("nan")


@pytest.mark.parametrize(
    ("region", "reason"),
    [
        (coco_region(0, [[1, 2, NAN, 4, 5, 6]]), "not a finite number"),
        (coco_region(0, [[1, 2, 3, 4, 5]]), "neither a mask nor lists of x, y, x, y"),
        (coco_region(0, [1.0, 2.0, 3.0, 4.0]), "neither a mask nor lists of x, y, x, y: 1.0"),
        (coco_region(0, "outline"), "neither a mask nor lists"),
        (coco_region(0, [[c for i in range(2000) for c in ((-1) ** i * 1e6, i)]]), "longer than that of anything"),
        (coco_region(0, RLE | {"counts": [100, 2299]}), "runs of 2399 pixels in a bitmap of 60x40"),
        (coco_region(0, RLE | {"counts": [100, 10**12]}), "run lengths that are not"),
        (coco_region(0, RLE | {"counts": [2405, -5]}), "run lengths that are not"),
        (coco_region(0, RLE | {"counts": [0.5, 2399.5]}), "run lengths that are not"),
        (coco_region(0, RLE | {"counts": 3}), "run lengths that are not"),
        (coco_region(0, RLE | {"counts": "ooooo"}), "broken or cut off"),
        (coco_region(0, RLE | {"counts": "划痕"}), "broken or cut off"),
        (coco_region(0, RLE | {"counts": "oooooooooooooo0"}), "broken or cut off"),
        (coco_region(0, RLE | {"counts": "O0"}), "runs below zero"),
        (coco_region(0, RLE | {"counts": ""}), "broken or cut off"),
        (coco_region(0, {"size": [WIDTH, HEIGHT], "counts": [100, 2300]}), "annotated on 40x60 pixels, but the image"),
        (coco_region(0, {"size": [50_000, 50_000], "counts": [0, 50_000**2]}), "annotated on 50000x50000 pixels"),
        (coco_region(0, {"size": 3, "counts": [100, 2300]}), "a mask of size 3; expected height and width"),
        (coco_region(0, category=99), "category 99 is not among the categories"),
        (coco_region(0, category=[1]), "category [1] is not among the categories"),
        (coco_region(0, [], bbox=[1, 2, 3]), "neither outlines nor a box"),
        (coco_region(0, [], bbox=[10, 10, -3, 5]), "a box of -3x5 pixels"),
        (coco_region(0, [], bbox=[10, 10, 3, NAN]), "not a finite number"),
    ],
)
def test_broken_regions_are_named_and_their_image_keeps_its_class(run, tmp_path, region, reason):
    source = coco_set(tmp_path / "set", annotations=[region])
    manifest, out = run(source, *NORMAL)
    assert f"{source / 'a.png'}" in out and reason in out
    assert labels_by_image(manifest)["a.png"] == "scratch"
    assert mask_of(manifest, "a.png") is None
    np.testing.assert_array_equal(mask_of(manifest, "b.png"), SQUARE_PIXELS)


@pytest.mark.parametrize(
    "outline", [[[5, 5, 9, 9]], [[1, 1, 5, 5, 9, 9]], RLE | {"counts": [2400]}, RLE | {"counts": [2400, 0]}]
)
def test_a_region_without_area_does_not_make_an_image_clean(run, tmp_path, outline):
    source = coco_set(tmp_path / "set", annotations=[coco_region(2, outline), coco_region(0, outline)])
    manifest, out = run(source, *NORMAL)
    assert "c.png" not in labels_by_image(manifest)
    assert f"{source / 'c.png'}: none of its regions can be used" in out
    assert "2 x region without area; skipped" in out
    np.testing.assert_array_equal(mask_of(manifest, "a.png"), SQUARE_PIXELS)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("e.png", "expected an image with an id and a file_name, found 'e.png'"),
        ({"file_name": "e.png"}, "expected an image with an id"),
        ({"id": [1], "file_name": "e.png"}, "expected an image with an id"),
        ({"id": 9}, "its image is None; expected a file name"),
        (coco_image(9, 5), "its image is 5; expected a file name"),
        (coco_image(9, "gone.png"), "its image 'gone.png' is not below"),
        (coco_image(9, "twice.png"), "'twice.png' could be"),
    ],
)
def test_broken_image_entries_are_named(run, tmp_path, entry, reason):
    for folder in "12":
        photo(tmp_path / "set" / folder / "twice.png")
    manifest, out = run(coco_set(tmp_path / "set", [entry], [coco_region(9)]), *NORMAL)
    assert len(manifest) == 4
    assert "all.json, image 5: " in out and reason in out


def test_an_id_that_two_images_have(run, tmp_path):
    photo(tmp_path / "set" / "e.png")
    source = coco_set(tmp_path / "set", [coco_image(3, "e.png")], [coco_region(3)])
    manifest, out = run(source, *NORMAL)
    assert sorted(labels_by_image(manifest)) == ["a.png", "b.png", "c.png"]
    assert "image 4: 2 images have the id 3, so its regions are not known" in out


def test_annotations_and_categories_that_cannot_be_used(run, tmp_path):
    categories = [{"id": 1, "name": "scratch"}, {"id": 1, "name": "dent"}, {"id": 2}, "x", {"id": 3, "name": "a\nb"}]
    strays = [coco_region(77), coco_region(None), "annotation", coco_region(0, category=3)]
    manifest, out = run(coco_set(tmp_path / "set", annotations=strays, categories=categories), *NORMAL)
    assert "annotations of images that their file does not list" in out and "all.json: 3" in out
    assert "3 x categories that cannot be used" in out and "id 1 is scratch and dent; taken as scratch" in out
    assert manifest.classes == ["normal", "a b", "scratch"]


@pytest.mark.parametrize("path", ESCAPES)
def test_no_path_leads_out_of_the_source(run, tmp_path, path):
    path = path.format(outside=photo(tmp_path / "secret.png"))
    source = coco_set(tmp_path / "set", [coco_image(9, path)], [coco_region(9)])
    before = content(tmp_path)
    manifest, out = run(source, *NORMAL)
    assert len(manifest) == 4
    assert "image 5: its image " in out and "give its folder as --images" in out
    assert {name: data for name, data in content(tmp_path).items() if not name.startswith("out/")} == before


def test_huge_and_broken_images_are_named(run, tmp_path):
    source = coco_set(tmp_path / "set", [coco_image(8, "huge.png"), coco_image(9, "cut.png")], [coco_region(8)])
    (source / "huge.png").write_bytes(huge_png())
    (source / "cut.png").write_bytes((source / "a.png").read_bytes()[:500])
    manifest, out = run(source, *NORMAL)
    assert len(manifest) == 4
    assert "huge.png: too large to decode safely" in out and "cut.png: broken or truncated" in out


def test_more_categories_than_a_mask_holds(script, tmp_path):
    categories = [{"id": i, "name": f"kind {i}"} for i in range(1, 301)]
    regions = [coco_region(0, category=i) for i in range(1, 301)]
    source = coco_set(tmp_path / "set", annotations=regions, categories=categories)
    result = script("prepare_defect_data", "import", "coco", source, "--output_dir", tmp_path / "out", *NORMAL)
    assert_refused(result, "300 classes of defects; a mask holds 254 at most")


def test_something_else_is_refused(script, tmp_path):
    def run(*arguments: object) -> tuple[int, str, str]:
        return script("prepare_defect_data", "import", "coco", *arguments, "--output_dir", tmp_path / "out")

    photo(tmp_path / "lm" / "a.png")
    (tmp_path / "lm" / "a.json").write_text(json.dumps({"shapes": [], "imagePath": "a.png"}))
    assert_refused(run(tmp_path / "lm"), "nothing to import as coco", "expected lists called", "try import labelme")
    source = coco_set(tmp_path / "set")
    assert_refused(run(source / "all.json", "--images", tmp_path / "none"), "none: no such folder")
    (tmp_path / "apart").mkdir()
    (source / "all.json").rename(tmp_path / "apart" / "all.json")
    assert_refused(run(tmp_path / "apart"), "4 skipped, first", "'a.png' is not below", "give its folder as --images")
    assert run(tmp_path / "apart", "--images", source, *NORMAL)[0] == 0


def test_a_killed_import_leaves_nothing_that_looks_whole(tmp_path):
    source = coco_set(tmp_path / "set")
    links = many(source / "c.png", source)
    images = [coco_image(i, link.name) for i, link in enumerate([source / "a.png", *links])]
    write_coco(source / "all.json", images, [coco_region(0)])
    kill_while_importing("coco", source, tmp_path / "out")
