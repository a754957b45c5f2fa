"""prepare_defect_data.py import folders: one folder per class, with masks beside the images or apart."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from helpers.import_layouts import assert_masks, importer, write_folders
from helpers.organizing import assert_refused, picture, save
from PIL import Image

from dinov3.data.defect_manifest import read_manifest
from dinov3.data.defect_masks import read_mask


@pytest.fixture
def imported(script, tmp_path):
    return importer(script, tmp_path)


def test_folders(tmp_path, imported):
    manifest, _ = imported("folders", write_folders(tmp_path / "my"), "--test_split", 0.2)
    assert manifest.classes == ["normal", "crack", "dent"]
    assert all(sum(counts.values()) for counts in manifest.counts().values())
    assert "images/dent/05.png" in manifest.columns["image"]
    assert_masks(manifest)


def test_folders_with_splits(tmp_path, imported):
    write_folders(tmp_path / "all")
    for split, numbers in (("train", range(3)), ("val", range(3, 4)), ("test", range(4, 5))):
        for i in numbers:
            for old, new in (
                (f"good/{i:02}.png", f"good/{i:02}.png"),
                (f"crack/{i:02}.jpg", f"crack/{i:02}.jpg"),
                (f"crack/{i:02}.png", f"crack/{i:02}.png"),
                (f"dent/{i + 5:02}.png", f"dent/{i + 5:02}.png"),
                (f"masks/dent/{i + 5:02}.png", f"masks/dent/{i + 5:02}.png"),
            ):
                place = tmp_path / "my" / split / new
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(tmp_path / "all" / old, place)
    manifest, _ = imported("folders", tmp_path / "my")
    assert manifest.counts()["train"] == {"normal": 3, "crack": 3, "dent": 3}
    assert manifest.counts()["val"] == manifest.counts()["test"] == {"normal": 1, "crack": 1, "dent": 1}
    assert_masks(manifest)


def test_folders_with_masks_inside_of_them(tmp_path, imported):
    source = write_folders(tmp_path / "my")
    shutil.move(source / "masks" / "dent", source / "dent" / "Masks")
    assert_masks(imported("folders", source)[0])


def test_folders_masks_apart(tmp_path, imported):
    source = write_folders(tmp_path / "my")
    shutil.move(source / "masks", tmp_path / "drawn")
    for path in (source / "crack").glob("*.png"):
        place = tmp_path / "drawn" / "crack" / path.name
        place.parent.mkdir(exist_ok=True)
        path.rename(place)
    manifest, _ = imported("folders", tmp_path / "drawn", "--images", source)
    assert_masks(manifest)


def test_folders_of_magnetic_tiles(magnetic_tile, tmp_path, script):
    flags = ["--output_dir", tmp_path / "out", "--group_csv", magnetic_tile / "groups.csv", "--link"]
    flags += ["--normal", "MT_Free", "--map", "MT_Blowhole=hole", "MT_Break=break"]
    status, _, err = script("prepare_defect_data", "import", "folders", magnetic_tile, *flags)
    assert status == 0, err
    manifest = read_manifest(tmp_path / "out")
    assert manifest.classes == ["normal", "MT_Crack", "MT_Fray", "MT_Uneven", "break", "hole"]
    assert (manifest.labels == 0).sum() == 757
    assert (manifest.labels > 0).sum() == 292
    assert (manifest.columns["mask"] != "").sum() >= 290
    row = int(np.flatnonzero(manifest.columns["label"] == "hole")[0])
    image = magnetic_tile / str(manifest.columns["image"][row]).removeprefix("images/")
    with Image.open(image.with_suffix(".png")) as drawn:
        expected = np.asarray(drawn.convert("L")) > 127
    np.testing.assert_array_equal(read_mask(manifest.root / manifest.columns["mask"][row]) == 5, expected)


def test_folders_without_good_parts_ask_which_they_are(tmp_path, script):
    source = write_folders(tmp_path / "my")
    (source / "good").rename(source / "fine")
    command = ["import", "folders", source, "--output_dir", tmp_path / "out"]
    result = script("prepare_defect_data", *command)
    assert_refused(result, "expected a folder good, normal, ok or what --normal names")
    assert script("prepare_defect_data", *command, "--normal", "fine")[0] == 0
    assert_masks(read_manifest(tmp_path / "out"))


def test_folders_stray_and_empty_ones(tmp_path, imported):
    source = write_folders(tmp_path / "my")
    save(source / "loose.png", picture(0))
    (source / "scratch").mkdir()
    (source / "crack" / "00.png").unlink()
    manifest, out = imported("folders", source)
    assert manifest.classes == ["normal", "crack", "dent"]
    assert "loose.png: in no folder of a class" in out
    assert "1 defect images without a mask" in out
