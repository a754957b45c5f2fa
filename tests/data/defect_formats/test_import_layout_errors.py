"""prepare_defect_data.py import: bad files, odd names, wrong use and runs that break off, in every layout."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from helpers.import_layouts import ODD_NAMES, SOME_NORMAL, WRITERS, huge_png, importer, write_mvtec
from helpers.organizing import assert_refused, content, mask_of, masks_by_image, picture, save


@pytest.fixture
def imported(script, tmp_path):
    return importer(script, tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_bad_images_are_named_and_the_others_imported(tmp_path, imported, name):
    source = WRITERS[name](tmp_path / "source")
    whole = len(imported(name, source)[0])
    shutil.rmtree(tmp_path / "out")
    paths = sorted(source.glob(SOME_NORMAL[name]))[:5]
    for path, data in zip(paths, (b"", paths[1].read_bytes()[:150], b"not an image", huge_png()), strict=False):
        path.write_bytes(data)
    paths[4].unlink()
    paths[4].symlink_to(source / "nowhere.png")
    manifest, out = imported(name, source)
    assert len(manifest) == whole - 5
    assert "5 x skipped" in out
    for path, reason in zip(paths, ("empty file", "broken or truncated", "not an image"), strict=False):
        assert f"{path}: {reason}" in out  # the report shows the first three


@pytest.mark.parametrize("name", WRITERS)
def test_a_50000_pixel_image_is_skipped_quickly(tmp_path, imported, name):
    source = WRITERS[name](tmp_path / "source")
    path = sorted(source.glob(SOME_NORMAL[name]))[0]
    path.write_bytes(huge_png())
    start = time.perf_counter()
    _, out = imported(name, source)
    assert f"{path}: too large to decode safely" in out
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("name", ["folders", "ksdd2", "mvtec"])
def test_odd_names(tmp_path, imported, name):
    source = WRITERS[name](tmp_path / "source")
    image, mask = {
        "folders": ("dent/{}.png", "masks/dent/{}.png"),
        "ksdd2": ("train/{}.png", "train/{}_GT.png"),
        "mvtec": ("bottle/test/contamination/{}.png", "bottle/ground_truth/contamination/{}_mask.png"),
    }[name]
    for i, odd in enumerate(ODD_NAMES):
        save(source / image.format(odd), picture(50 + i))
        save(source / mask.format(odd), mask_of(i))
    manifest, _ = imported(name, source)
    masks = masks_by_image(manifest)
    for i, odd in enumerate(ODD_NAMES):
        np.testing.assert_array_equal(masks[f"images/{image.format(odd)}"] > 0, mask_of(i) > 0)


@pytest.mark.parametrize("asked", WRITERS)
@pytest.mark.parametrize("given", ["ksdd2", "visa", "yolo", "mvtec"])
def test_the_wrong_format_is_named(tmp_path, script, asked, given):
    source = WRITERS[given](tmp_path / "source")
    result = script("prepare_defect_data", "import", asked, source, "--output_dir", tmp_path / "out")
    if asked != given:
        assert_refused(result, f"{source}: not in the layout of {asked}", "expected", f"try import {given}")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", WRITERS)
def test_annotation_files_and_empty_folders_are_refused(tmp_path, script, name):
    def refused(*texts: str) -> None:
        result = script("prepare_defect_data", "import", name, tmp_path / "source", "--output_dir", tmp_path / "out")
        assert_refused(result, "not in the layout of", *texts)

    (tmp_path / "source").mkdir()
    refused("an empty folder")
    (tmp_path / "source" / "a.json").write_text('{"version": "5.5.0", "shapes": [], "imagePath": "a.png"}')
    refused("found a.json", "try import labelme")
    (tmp_path / "source" / "a.json").write_text('{"images": [{"file_name": "a.png"}], "annotations": []}')
    refused("try import coco")
    flags = ["--output_dir", tmp_path / "out"]
    assert_refused(script("prepare_defect_data", "import", name, tmp_path / "absent", *flags), "absent: no such file")
    result = script("prepare_defect_data", "import", name, tmp_path, "--images", tmp_path / "absent", *flags)
    assert_refused(result, f"--images {tmp_path / 'absent'}: no such folder")


def test_an_existing_output_is_only_replaced_with_overwrite(tmp_path, imported, script):
    source = write_mvtec(tmp_path / "mvtec")
    save(tmp_path / "used" / "mine.png", picture(0))
    before = content(tmp_path)
    for flags in ([], ["--overwrite"]):
        result = script("prepare_defect_data", "import", "mvtec", source, "--output_dir", tmp_path / "used", *flags)
        assert_refused(result, "used")
    result = script("prepare_defect_data", "import", "mvtec", source, "--output_dir", source, "--overwrite")
    assert_refused(result, "mvtec")
    assert content(tmp_path) == before
    imported("mvtec", source)
    result = script("prepare_defect_data", "import", "mvtec", source, "--output_dir", tmp_path / "out")
    assert_refused(result, "--overwrite")
    (source / "bottle" / "train" / "good" / "000.png").unlink()
    assert len(imported("mvtec", source, "--overwrite")[0]) == 16


def test_a_killed_import_leaves_nothing_that_looks_whole(tmp_path):
    source = write_mvtec(tmp_path / "mvtec")
    good = source / "bottle" / "train" / "good"
    for i in range(20, 700):
        os.symlink(good / "000.png", good / f"{i:03}.png")
    command = [sys.executable, ROOT / "examples" / "prepare_defect_data.py", "import", "mvtec", source]
    command += ["--output_dir", tmp_path / "out"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob(".out-*/images/bottle/train/good/0*.png")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("manifest.csv"))
