"""prepare_defect_data.py import cvat: what is broken, hostile or missing is named, and costs no more than itself."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from helpers.cvat_files import GOOD, dent, with_image
from helpers.import_annotations import (
    ESCAPES,
    HEIGHT,
    SQUARE_PIXELS,
    WIDTH,
    cvat_image,
    cvat_polygon,
    cvat_set,
    element,
    huge_png,
    importer,
    kill_while_importing,
    labels_by_image,
    many,
    mask_of,
    photo,
    write_cvat,
)
from helpers.organizing import assert_refused, content


@pytest.fixture
def run(script, tmp_path):
    do = importer(script, tmp_path / "out")
    return lambda source, *flags: do("cvat", source, *GOOD, *flags)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (cvat_polygon(points="1,2;nan,4;5,6"), "not a finite number"),
        (cvat_polygon(points="1,2;3e300,4;5,6"), "no place in an image"),
        (cvat_polygon(points="1,2;3,4,5;5,6"), "not pairs of numbers"),
        (cvat_polygon(points="1,2;a,4;5,6"), "points that are not x,y;x,y: '1,2;a,4;5,6'"),
        (cvat_polygon(points=";".join(f"{(-1) ** i * 1e6},{i}" for i in range(2000))), "longer than that of anything"),
        (element("polygon", label="dent"), "points that are not x,y;x,y: ''"),
        (element("polygon", points="1,2;9,4;5,6"), "a label that is no text: None"),
        (cvat_polygon(label="x" * 300), "over 100 characters"),
        (dent("box", xtl=1, ytl=2, xbr="inf", ybr=9), "expected finite numbers"),
        (dent("box", xtl=1, ytl=2, ybr=9), "xtl, ytl, xbr, ybr are"),
        (dent("box", xtl=1, ytl=2, xbr=9, ybr=9, rotation="x"), "rotation are ['x']; expected numbers"),
        (dent("ellipse", cx=1, cy=2, rx="nan", ry=9), "expected finite numbers"),
        (dent("mask", rle="1, 2", left=0, top=0, width=5, height=5), "runs of 3 pixels in a bitmap of 5x5"),
        (dent("mask", rle="1, -2", left=0, top=0, width=5, height=5), "run lengths that are not"),
        (dent("mask", rle="a", left=0, top=0, width=5, height=5), "run lengths that are not"),
        (dent("mask", rle="0, 3000", left=0, top=0, width=100, height=30), "for an image of 60x40"),
    ],
)
def test_broken_shapes_are_named_and_their_image_keeps_its_class(run, tmp_path, shape, reason):
    source = with_image(tmp_path / "set", cvat_polygon(), shape)
    manifest, out = run(source)
    assert f"{source / 'images' / 'e.png'}" in out and reason in out
    assert labels_by_image(manifest)["images/e.png"] in ("scratch", "dent")
    assert mask_of(manifest, "images/e.png") is None
    np.testing.assert_array_equal(mask_of(manifest, "images/b.png") > 0, SQUARE_PIXELS)


@pytest.mark.parametrize(
    "shape",
    [
        cvat_polygon(points="1,1;5,5;9,9"),
        dent("box", xtl=5, ytl=5, xbr=5, ybr=9),
        dent("ellipse", cx=5, cy=5, rx=0, ry=9),
        dent("mask", rle="25", left=0, top=0, width=5, height=5),
    ],
)
def test_a_shape_without_area_does_not_make_an_image_clean(run, tmp_path, shape):
    source = with_image(tmp_path / "set", shape)
    manifest, out = run(source)
    assert len(manifest) == 4
    assert "region without area; skipped" in out
    assert f"{source / 'images' / 'e.png'}: none of its regions can be used" in out


def test_a_file_for_an_image_of_another_size(run, tmp_path):
    source = with_image(tmp_path / "set", cvat_polygon(), width=2 * WIDTH, height=2 * HEIGHT)
    manifest, out = run(source)
    assert "e.png: annotated on 120x80 pixels, but the image has 60x40" in out
    assert mask_of(manifest, "images/e.png") is None


@pytest.mark.parametrize("path", [path for path in ESCAPES if path.isprintable()])
def test_no_path_leads_out_of_the_source(run, tmp_path, path):
    path = path.format(outside=photo(tmp_path / "secret.png"))
    source = cvat_set(tmp_path / "set", cvat_image(path, cvat_polygon()))
    before = content(tmp_path)
    manifest, out = run(source)
    assert len(manifest) == 4
    assert f"{source / 'annotations.xml'}, line " in out and "give its folder as --images" in out
    assert {name: data for name, data in content(tmp_path).items() if not name.startswith("out/")} == before


def test_huge_broken_and_doubled_images_are_named(run, tmp_path):
    images = [cvat_image(f"{name}.png", cvat_polygon()) for name in ("huge", "cut", "a")]
    source = cvat_set(tmp_path / "set", *images, element("image"))
    (source / "images" / "huge.png").write_bytes(huge_png())
    (source / "images" / "cut.png").write_bytes((source / "images" / "a.png").read_bytes()[:500])
    manifest, out = run(source)
    assert len(manifest) == 4
    assert "3 x skipped" in out and "its image is None; expected a file name" in out
    assert "a.png: 2 entries, 2 of them with annotations" in out
    (source / "images" / "a.png").rename(source / "images" / "e.png")
    assert "huge.png: too large" in run(cvat_set(tmp_path / "set", *images[:2]), "--overwrite")[1]


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid XML, broken or cut off (no element found"),
        ("{}", "not valid XML, broken or cut off"),
        ("<annotation><object/></annotation>", "not a CVAT file, it starts with <annotation>"),
        ("<annotations><track id='0'/></annotations>", "'CVAT for video'; export the task as 'CVAT for images 1.1'"),
        (f"{BOMB}]><annotations>&i;</annotations>", "it declares a document type"),
        (
            '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotations>&e;</annotations>',
            "it declares a document type",
        ),
        ('<?xml version="1.0" encoding="klingon"?><annotations/>', "not valid XML"),
        ('<?xml version="1.0" encoding="shift_jis"?><annotations/>', "not valid XML"),
        ("<annotations>\xff</annotations>", "not valid XML"),
    ],
)
def test_broken_and_hostile_files_are_named(script, run, tmp_path, text, reason):
    source = cvat_set(tmp_path / "set")
    (source / "bad.xml").write_bytes(text.encode("latin-1"))
    manifest, out = run(source)
    assert len(manifest) == 4
    assert f"{source / 'bad.xml'}: {reason}" in out
    alone = source / "bad.xml"
    result = script("prepare_defect_data", "import", "cvat", alone, "--output_dir", tmp_path / "none")
    assert_refused(result, "nothing to import as cvat", reason)
    assert not (tmp_path / "none").exists()


def test_a_file_that_breaks_off_gives_the_images_before(run, tmp_path):
    source = with_image(tmp_path / "set", cvat_polygon())
    text = (source / "annotations.xml").read_text()
    (source / "annotations.xml").write_text(text[: text.index("e.png") + 60])
    manifest, out = run(source, "--unannotated", "normal")
    assert len(manifest) == 4  # the fifth is not taken as clean
    assert "annotations.xml: not valid XML, broken or cut off" in out
    assert "the 4 images before that are imported" in out


def test_something_else_is_refused(script, tmp_path):
    def run(*arguments: object) -> tuple[int, str, str]:
        return script("prepare_defect_data", "import", "cvat", *arguments, "--output_dir", tmp_path / "out")

    photo(tmp_path / "lm" / "a.png")
    (tmp_path / "lm" / "a.json").write_text('{"shapes": [], "imagePath": "a.png"}')
    assert_refused(run(tmp_path / "lm"), "expected a file in the format 'CVAT for images 1.1'", "try import labelme")
    source = cvat_set(tmp_path / "set")
    assert_refused(run(source / "images" / "a.png"), "a.png: nothing to import as cvat", "not valid XML")
    assert_refused(script("prepare_defect_data", "import", "coco", source, "--output_dir", "x"), "try import cvat")
    archive = shutil.make_archive(str(tmp_path / "task"), "zip", source)
    assert_refused(run(archive), "task.zip: nothing to import as cvat", "It is an archive: unpack it first")


def test_good_parts_under_another_name_must_be_named(script, run, tmp_path):
    source = cvat_set(tmp_path / "set")
    result = script("prepare_defect_data", "import", "cvat", source, "--output_dir", tmp_path / "out")
    assert_refused(result, "no usable image of class normal", "if one of good, scratch means a good part", "--normal")
    assert "image/s" not in result[2]  # it was told before the images were read
    result = script("prepare_defect_data", "import", "cvat", source, "--normal", "good", "scratch", "--output_dir", "x")
    assert_refused(result, "no usable image of any defect")


def test_a_killed_import_leaves_nothing_that_looks_whole(tmp_path):
    source = cvat_set(tmp_path / "set")
    links = many(source / "images" / "c.png", source / "images")
    images = [cvat_image(link.name, element("tag", label="normal")) for link in links]
    write_cvat(source / "annotations.xml", cvat_image("a.png", cvat_polygon()), *images)
    kill_while_importing("cvat", source, tmp_path / "out")
