"""prepare_defect_data.py import: datasets that tell by folders and file names what an image shows."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from helpers.import_layouts import (
    assert_masks,
    importer,
    write_ad2,
    write_ksdd2,
    write_loco,
    write_mvtec,
    write_visa,
)
from helpers.organizing import assert_refused, mask_of, masks_by_image, picture, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinov3.data.defect_formats.visa import read_visa_table
from dinov3.defect_errors import DefectError


@pytest.fixture
def imported(script, tmp_path):
    return importer(script, tmp_path)


# --- MVTec AD


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


def test_mvtec_dealt_anew_has_defects_to_train_on(tmp_path, imported):
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


@pytest.mark.parametrize(("one", "other"), [("\u00e9", "e\u0301"), ("e\u0301", "\u00e9")])
def test_visa_with_accents_written_in_two_ways(tmp_path, imported, one, other):
    source = write_visa(tmp_path / "visa", ("candle",))
    image = "candle/Data/Images/Anomaly/{}.JPG"
    (source / image.format("000")).rename(source / image.format(one))
    (source / "candle" / "Data" / "Masks" / "Anomaly" / "000.png").rename(
        source / "candle" / "Data" / "Masks" / "Anomaly" / f"{other}.png"
    )
    table = source / "split_csv" / "2cls_highshot.csv"
    table.write_text(table.read_text().replace(image.format("000"), image.format(other)), encoding="utf-8")
    manifest, out = imported("visa", source)
    assert len(manifest) == 15
    assert masks_by_image(manifest)[f"images/candle/Anomaly/{one}.JPG"].any()
    assert "skipped" not in out


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


# --- VisA


def test_visa_prefers_the_split_with_defects_to_train_on(tmp_path, imported):
    source = write_visa(tmp_path / "VisA")
    manifest, out = imported("visa", source)
    assert manifest.classes == ["normal", "defect"]
    counts = manifest.counts()
    assert counts["test"] == {"normal": 8, "defect": 4}
    assert counts["train"]["defect"] + counts["val"]["defect"] == 6
    assert min(counts["val"].values()) >= 1
    assert set(manifest.columns["source"]) == {"candle", "pcb1"}
    assert "images/candle/Anomaly/000.JPG" in manifest.columns["image"]
    assert_masks(manifest)
    assert f"note: splits of {source / 'split_csv' / '2cls_highshot.csv'}" in out
    assert "no defects among" not in out


def test_visa_with_another_split_file(tmp_path, imported):
    source = write_visa(tmp_path / "VisA")
    manifest, out = imported("visa", source / "split_csv" / "1cls.csv")
    assert manifest.counts()["test"] == {"normal": 4, "defect": 10}
    assert "note: no defects among the training images" in out


def test_visa_single_object_without_a_split_file(tmp_path, imported):
    manifest, out = imported("visa", write_visa(tmp_path / "VisA") / "candle", "--test_split", 0.2)
    assert len(manifest) == 15
    assert min(min(counts.values()) for counts in manifest.counts().values()) >= 1
    assert_masks(manifest)
    assert "splits are dealt anew" in out


def test_visa_objects_may_be_links(tmp_path, imported, monkeypatch):
    source = write_visa(tmp_path / "VisA")
    shutil.move(source / "candle", tmp_path / "store" / "candle_v2")
    (source / "candle").symlink_to(tmp_path / "store" / "candle_v2")
    monkeypatch.chdir(source)
    manifest, _ = imported("visa", ".")
    assert len(manifest) == 30
    assert_masks(manifest)


def test_visa_images_apart(tmp_path, imported):
    source = write_visa(tmp_path / "VisA")
    for name in ("candle", "pcb1"):
        (tmp_path / "photos" / name / "Data").mkdir(parents=True)
        shutil.move(source / name / "Data" / "Images", tmp_path / "photos" / name / "Data" / "Images")
    manifest, _ = imported("visa", source, "--images", tmp_path / "photos")
    assert len(manifest) == 30
    assert_masks(manifest)


def test_visa_bad_rows_are_named(tmp_path, imported):
    source = write_visa(tmp_path / "VisA", ("candle",))
    save(tmp_path / "secret.JPG", picture(9))
    table = source / "split_csv" / "2cls_highshot.csv"
    lines = table.read_text().splitlines()
    lines[1] = lines[1].replace("000.JPG", "absent.JPG")
    lines[2] = lines[2].replace("train", "everything")
    lines[3] = lines[3].replace("normal", "anomaly")
    lines += [lines[5], "candle,train,normal,../secret.JPG,", "candle,train,normal,C:\\candle\\000.JPG,", "candle", ""]
    lines += ["pcb2,train,normal,pcb2/Data/Images/Normal/000.JPG,"] * 5
    table.write_text("\n".join(lines) + "\n")
    manifest, out = imported("visa", source)
    assert len(manifest) == 12
    assert "9 x skipped" in out
    assert "line 2: 'candle/Data/Images/Normal/absent.JPG' is not among the images" in out
    assert "line 3: split 'everything'; expected train or test" in out
    assert "called 'anomaly', against its folder" in out
    assert "1 x listed twice" in out
    assert "'pcb2': 5" in out
    assert not any("secret" in image for image in manifest.columns["image"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "no column object or split or label or image"),
        (b"object,split\ncandle,train\n", "no column label or image"),
        (b"\xff\xfe\x00\x01", "not a CSV file"),
        (b"object,split,label,image,mask\n" + b'"' + b"x" * 200_000, "not a CSV file"),
        (b"object,split,label,image,mask\n", "no usable image"),
    ],
)
def test_visa_broken_split_files_are_refused(tmp_path, script, text, reason):
    source = write_visa(tmp_path / "VisA", ("candle",))
    (source / "split_csv" / "2cls_highshot.csv").write_bytes(text)
    result = script("prepare_defect_data", "import", "visa", source, "--output_dir", tmp_path / "out")
    assert_refused(result, reason)
    assert not (tmp_path / "out").exists()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda t: f"object,split,label,image\n{t}".encode()))
)
def test_any_split_file_is_read_or_refused(tmp_path, data):
    table = tmp_path / "any.csv"
    table.write_bytes(data)
    try:
        rows = read_visa_table(table)
    except DefectError as error:
        assert str(table) in str(error)
    else:
        assert all(set(row) == {"object", "split", "label", "image"} for _, row in rows)
        assert all(isinstance(value, str) for _, row in rows for value in row.values())


# --- KolektorSDD2


def test_ksdd2(tmp_path, imported):
    manifest, _ = imported("ksdd2", write_ksdd2(tmp_path / "KolektorSDD2"))
    counts = manifest.counts()
    assert counts["test"] == {"normal": 4, "defect": 2}
    assert counts["train"]["defect"] + counts["val"]["defect"] == 4
    assert min(counts["val"].values()) >= 1
    assert_masks(manifest, lambda name: int(name[:-4]) % 50)


def test_ksdd2_images_without_a_usable_mask(tmp_path, imported):
    source = write_ksdd2(tmp_path / "KolektorSDD2")
    (source / "train" / "10000_GT.png").unlink()
    (source / "train" / "10050_GT.png").write_bytes(b"")
    (source / "train" / "10051.png").unlink()
    manifest, out = imported("ksdd2", source)
    assert len(manifest) == 15
    assert "10000.png: not annotated" in out
    assert "10050.png: its verdict is not known" in out
    assert "10051_GT.png" in out.partition("x masks that no image takes")[2]
    manifest, _ = imported("ksdd2", source, "--unannotated", "normal", "--overwrite")
    assert len(manifest) == 16


def test_ksdd2_images_apart(tmp_path, imported):
    source = write_ksdd2(tmp_path / "KolektorSDD2")
    for path in source.rglob("*[0-9].png"):
        place = tmp_path / "photos" / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    manifest, _ = imported("ksdd2", source, "--images", tmp_path / "photos")
    assert_masks(manifest, lambda name: int(name[:-4]) % 50)
