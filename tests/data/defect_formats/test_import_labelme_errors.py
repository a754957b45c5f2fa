"""prepare_defect_data.py import labelme: good images are imported, what is bad is named, nothing is half done."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.import_annotations import (
    ESCAPES,
    HEIGHT,
    SQUARE,
    SQUARE_PIXELS,
    WIDTH,
    base64_of,
    huge_png,
    importer,
    kill_while_importing,
    labelme_set,
    labelme_shape,
    labels_by_image,
    many,
    mask_of,
    photo,
    write_labelme,
)
from helpers.organizing import assert_refused, content


@pytest.fixture
def source(tmp_path):
    return labelme_set(tmp_path / "set")


@pytest.fixture
def run(script, tmp_path, source):
    do = importer(script, tmp_path / "out")
    return lambda *flags: do("labelme", source, *flags)


def nested(depth: int = 100_000) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty file"),
        ('{"shapes": [', "not valid JSON, broken or cut off (line 1"),
        ("\xff\xfe\xfa", "not UTF-8 text"),
        (nested(), "not valid JSON"),
        ("[]", "not a labelme file, it has no list of shapes"),
        ('{"shapes": {}}', "not a labelme file"),
        ('{"shapes": [], "flags": 3}', "flags are 3; expected names with true or false"),
        ('{"shapes": [], "flags": {"a\\u0000": true}}', "its flags have a label that is empty"),
        ("9" * 5000, "not "),
    ],
)
def test_broken_files_are_named(run, source, text, reason):
    photo(source / "bad.png")
    (source / "bad.json").write_bytes(text.encode("latin-1"))
    manifest, out = run("--unannotated", "normal")
    assert f"{source / 'bad.json'}: {reason}" in out
    # Nobody could see what is marked in it: it must not count as clean.
    assert sorted(labels_by_image(manifest)) == ["a.png", "b.png", "c.png", "d.png"]


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (labelme_shape(points=[[1, 2], [float("nan"), 4], [5, 6]]), "not a finite number"),
        (labelme_shape(points=[[1, 2], [float("inf"), 4], [5, 6]]), "not a finite number"),
        (labelme_shape(points=[[1e300, 2], [3, 4], [5, 6]]), "no place in an image"),
        (labelme_shape(points=[[10**400, 2], [3, 4], [5, 6]]), "too large"),
        (labelme_shape(points=[[(-1) ** i * 1e6, i] for i in range(2000)]), "longer than that of anything"),
        (labelme_shape(points=[[1, 2, 3], [3, 4, 3], [5, 9, 3]]), "not pairs of numbers"),
        (labelme_shape(points=[["a", 2], [3, 4], [5, 6]]), "not pairs of numbers"),
        (labelme_shape(points="1,2"), "with points '1,2'"),
        (labelme_shape(kind="rectangle", points=SQUARE[:3]), "a rectangle of 3 points; expected 2"),
        (labelme_shape(kind="circle", points=SQUARE[:1]), "a circle of 1 points; expected 2"),
        (labelme_shape(label=""), "a label that is empty"),
        (labelme_shape(label="x" * 200_000), "over 100 characters"),
        (labelme_shape(label="a\ud800"), "unprintable"),
        (labelme_shape(label=7), "a label that is no text: 7"),
        (labelme_shape(kind="mask", points=[[0, 0], [9, 9]]), "missing or not base64"),
        (labelme_shape(kind="mask", points=[[0, 0], [9, 9]], mask="%%%"), "no PNG"),
        (labelme_shape(kind="mask", points=[[0, 0], [9, 9]], mask=base64_of(huge_png())), "a bitmap"),
        (labelme_shape(kind="mask", points=[[0, 0], [49_999, 49_999]], mask=base64_of(huge_png())), "no PNG"),
        (labelme_shape(kind="mask", points=[[0, 0], [5, 5]], mask=base64_of(np.ones((9, 9), "u1"))), "corners 6x6"),
        ("no shape", "not a shape: 'no shape'"),
    ],
)
def test_broken_shapes_are_named_and_their_image_keeps_its_class(run, source, shape, reason):
    write_labelme(source / "a.json", labelme_shape("dent", [[1, 1], [9, 1], [9, 9]]), shape)
    manifest, out = run()
    assert f"{source / 'a.json'}, shape 2: " in out and reason in out
    assert labels_by_image(manifest)["a.png"] == "dent"
    assert mask_of(manifest, "a.png") is None
    np.testing.assert_array_equal(mask_of(manifest, "b.png") > 0, SQUARE_PIXELS)


@pytest.mark.parametrize("points", [[[5, 5]], [[5, 5], [9, 9]], [[5, 5], [5, 5], [5, 5]], []])
def test_a_shape_without_area_does_not_make_an_image_clean(run, source, points):
    write_labelme(source / "a.json", labelme_shape(points=points))
    write_labelme(source / "b.json", labelme_shape(), labelme_shape(points=points))
    manifest, out = run()
    assert "a.png" not in labels_by_image(manifest)
    assert f"{source / 'a.png'}: none of its regions can be used, so its class is not known" in out
    assert f"{source / 'b.json'}, shape 2: a polygon of {len(points)} corners without area" in out
    np.testing.assert_array_equal(mask_of(manifest, "b.png"), SQUARE_PIXELS)


def test_shapes_outside_of_the_image(run, source):
    write_labelme(source / "a.json", labelme_shape(points=[[100, 100], [150, 100], [150, 150]]))
    write_labelme(source / "b.json", labelme_shape(points=[[-50, -50], [29, -50], [29, 24], [-50, 24]]))
    manifest, out = run()
    assert "region outside of its image, or between its pixels" in out and f"{source / 'a.png'}" in out
    assert mask_of(manifest, "a.png") is None
    assert mask_of(manifest, "b.png")[:25, :30].all() and mask_of(manifest, "b.png").sum() == 25 * 30


def test_a_file_for_an_image_of_another_size(run, source):
    write_labelme(source / "a.json", labelme_shape(), imageWidth=2 * WIDTH, imageHeight=2 * HEIGHT)
    manifest, out = run()
    assert f"{source / 'a.png'}: annotated on 120x80 pixels, but the image has 60x40" in out
    assert labels_by_image(manifest)["a.png"] == "scratch" and mask_of(manifest, "a.png") is None


@pytest.mark.parametrize("path", ESCAPES)
def test_no_path_leads_out_of_the_source(run, source, tmp_path, path):
    secret = photo(tmp_path / "secret.png")
    path = path.format(outside=secret)
    write_labelme(source / "evil.json", labelme_shape(), image=path)
    before = content(tmp_path)
    manifest, out = run()
    assert len(manifest) == 4
    assert f"{source / 'evil.json'}: its image " in out and "give its folder as --images" in out
    assert {name: data for name, data in content(tmp_path).items() if not name.startswith("out/")} == before


def test_broken_and_huge_images_are_named(run, source):
    (source / "huge.png").write_bytes(huge_png())
    (source / "cut.png").write_bytes((source / "a.png").read_bytes()[:500])
    (source / "none.png").write_bytes(b"")
    for name in ("huge", "cut", "none"):
        write_labelme(source / f"{name}.json", labelme_shape())
    manifest, out = run()
    assert len(manifest) == 4
    assert f"{source / 'huge.png'}: too large to decode safely" in out
    assert f"{source / 'cut.png'}: broken or truncated" in out
    assert f"{source / 'none.png'}: empty file" in out


def test_a_folder_of_something_else_is_refused(script, tmp_path, source):
    def run(*arguments: object) -> tuple[int, str, str]:
        return script("prepare_defect_data", "import", "labelme", *arguments, "--output_dir", tmp_path / "out")

    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    text = json.dumps({"images": [{"file_name": "a.png"}], "annotations": [], "categories": []})
    (tmp_path / "coco" / "annotations" / "instances_train.json").write_text(text)
    assert_refused(run(tmp_path / "coco"), "nothing to import as labelme", "no list of shapes", "try import coco")
    (tmp_path / "empty").mkdir()
    assert_refused(run(tmp_path / "empty"), f"{tmp_path / 'empty'}: nothing to import as labelme")
    assert_refused(run(tmp_path / "absent"), "no such file or folder")
    assert_refused(run(source / "a.png"), "a.png: nothing to import as labelme")
    assert_refused(run(source, "--images", tmp_path / "absent"), "absent: no such folder")
    assert not (tmp_path / "out").exists()


def test_an_output_in_use_is_left_alone(script, tmp_path, source, run):
    run()
    before = content(tmp_path / "out")
    result = script("prepare_defect_data", "import", "labelme", source, "--output_dir", tmp_path / "out")
    assert_refused(result, "exists and is not empty", "--overwrite")
    assert "image/s" not in result[2]  # it was told before the images were read
    assert content(tmp_path / "out") == before
    result = script("prepare_defect_data", "import", "labelme", source, "--output_dir", source, "--overwrite")
    assert_refused(result, "lies in --output_dir")


def test_a_killed_import_leaves_nothing_that_looks_whole(tmp_path, source):
    many(source / "c.png", source)
    kill_while_importing("labelme", source, tmp_path / "out")
