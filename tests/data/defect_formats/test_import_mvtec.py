"""prepare_defect_data.py import mvtec."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from helpers.import_layouts import (
    assert_masks,
    importer,
    write_ad2,
    write_loco,
    write_mvtec,
)
from helpers.organizing import mask_of, masks_by_image, picture, save


@pytest.fixture
def imported(script, tmp_path):
    return importer(script, tmp_path)


def test_mvtec_category(tmp_path, imported):
    source = write_mvtec(tmp_path / "mvtec") / "bottle"
    manifest, out = imported("mvtec", source)
    assert manifest.classes == ["normal", "broken_large", "contamination"]
    counts = manifest.counts()
    assert counts["train"]["normal"] + counts["val"]["normal"] == 6
    assert counts["val"]["normal"] >= 1
    assert counts["test"] == {"normal": 3, "broken_large": 4, "contamination": 4}
    assert set(manifest.columns["source"]) == {"bottle"}
    assert "images/bottle/test/good/006.png" in manifest.columns["image"]
    assert_masks(manifest)
    assert "note: no defects among the training images" in out
    assert "--splits new" in out


def test_mvtec_split_anew_has_defects_to_train_on(tmp_path, imported):
    source = write_mvtec(tmp_path / "mvtec") / "bottle"
    manifest, out = imported("mvtec", source, "--splits", "new", "--test_split", 0.25, "--val_split", 0.25)
    assert min(min(counts.values()) for counts in manifest.counts().values()) >= 1
    assert "no defects among" not in out


def test_mvtec_root_of_several_categories(tmp_path, imported):
    source = write_mvtec(tmp_path / "mvtec", ("bottle", "hazelnut"))
    (source / "license.txt").touch()
    manifest, _ = imported("mvtec", source)
    assert len(manifest) == 34
    for image, category in zip(manifest.columns["image"], manifest.columns["source"], strict=True):
        assert image.startswith(f"images/{category}/")
    assert set(manifest.columns["source"]) == {"bottle", "hazelnut"}
    assert_masks(manifest)


@pytest.mark.parametrize(("one", "other"), [("\u00e9", "e\u0301"), ("e\u0301", "\u00e9")])
def test_accents_written_in_two_ways(tmp_path, imported, one, other):
    source = write_mvtec(tmp_path / "mvtec") / "bottle"
    save(source / "test" / f"{one}clat" / f"p{one}.png", picture(20))
    save(source / "ground_truth" / f"{other}clat" / f"p{other}_mask.png", mask_of(20))
    manifest, out = imported("mvtec", source)
    mask = masks_by_image(manifest)[f"images/bottle/test/{one}clat/p{one}.png"]
    np.testing.assert_array_equal(mask > 0, mask_of(20) > 0)
    assert " x " not in out


def test_mvtec_labels_can_be_mapped(tmp_path, imported):
    source = write_mvtec(tmp_path / "mvtec")
    flags = "--map broken_large=defect contamination=dust --normal dust".split()
    manifest, out = imported("mvtec", source, *flags)
    assert manifest.counts()["test"] == {"normal": 7, "defect": 4}
    assert "4 x defect pixels in the mask of a normal image" in out


def test_mvtec_images_apart(tmp_path, imported):
    write_mvtec(tmp_path / "mvtec", ("bottle", "hazelnut"))
    for category in ("bottle", "hazelnut"):
        shutil.move(tmp_path / "mvtec" / category / "ground_truth", tmp_path / "truth" / category / "ground_truth")
    manifest, _ = imported("mvtec", tmp_path / "truth", "--images", tmp_path / "mvtec")
    assert_masks(manifest)
    manifest, _ = imported(
        "mvtec", tmp_path / "truth" / "bottle", "--images", tmp_path / "mvtec" / "bottle", "--overwrite"
    )
    assert len(manifest) == 17
    assert_masks(manifest)


def test_mvtec_missing_and_surplus_files_are_named(tmp_path, imported):
    source = write_mvtec(tmp_path / "mvtec") / "bottle"
    (source / "ground_truth" / "broken_large" / "001_mask.png").unlink()
    (source / "test" / "contamination" / "007.png").unlink()
    (source / "ground_truth" / "contamination" / "006_mask.png").write_bytes(b"")
    save(source / "test" / "stray.png", picture(0))
    save(source / "test" / "broken_large" / "rgb" / "000.png", picture(0))
    manifest, out = imported("mvtec", source)
    assert len(manifest) == 16
    masks = masks_by_image(manifest)
    assert masks["images/bottle/test/broken_large/001.png"] is None
    assert masks["images/bottle/test/contamination/006.png"] is None
    assert "broken_large/001.png" in out.partition("x defect images without a mask")[2]
    assert "007_mask.png" in out.partition("x masks that no image takes")[2]
    assert "006_mask.png: empty file" in out
    assert "stray.png: expected right in a folder of its type" in out
    assert "rgb/000.png: expected right in a folder of its type" in out


def test_mvtec_loco_joins_the_masks_of_an_image(tmp_path, imported):
    source = write_loco(tmp_path / "breakfast_box")
    (source / "ground_truth" / "logical_anomalies" / "003" / "001.png").write_text("broken")
    (source / "ground_truth" / "structural_anomalies" / "005" / "000.png").unlink()
    manifest, out = imported("mvtec", source)
    assert manifest.counts()["val"] == {"normal": 3, "logical_anomalies": 0, "structural_anomalies": 0}
    masks = masks_by_image(manifest)
    for i in (0, 4):
        kind = manifest.mask_classes[i // 4]
        mask = masks[f"images/breakfast_box/test/{kind}/{i:03}.png"]
        np.testing.assert_array_equal(mask > 0, (mask_of(i) | mask_of(i + 10)) > 0)
        assert mask.max() == i // 4 + 1
    assert masks["images/breakfast_box/test/logical_anomalies/003.png"] is None
    assert "001.png: not an image" in out
    np.testing.assert_array_equal(
        masks["images/breakfast_box/test/structural_anomalies/005.png"], mask_of(15) // 255 * 2
    )


def test_mvtec_ad_2_leaves_the_private_tests_out(tmp_path, imported):
    manifest, out = imported("mvtec", write_ad2(tmp_path / "can"))
    assert manifest.counts()["val"] == {"normal": 3, "bad": 0}
    assert manifest.counts()["test"] == {"normal": 3, "bad": 4}
    assert len(manifest) == 13
    assert_masks(manifest, lambda name: int(name[:3]))
    assert f"note: {tmp_path / 'can' / 'test_private'}: 4 images without a public verdict" in out
    assert "test_private_mixed: 4 images" in out
