"""prepare_defect_data.py import visa."""

from __future__ import annotations

import shutil

import pytest
from helpers.import_layouts import (
    assert_masks,
    importer,
    write_visa,
)
from helpers.organizing import assert_refused, masks_by_image, picture, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinov3.data.defect_formats.visa import read_visa_table
from dinov3.defect_errors import DefectError


@pytest.fixture
def imported(script, tmp_path):
    return importer(script, tmp_path)


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


def test_visa_with_paths_of_another_system(tmp_path, imported):
    source = write_visa(tmp_path / "VisA")
    before, _ = imported("visa", source)
    table = source / "split_csv/2cls_highshot.csv"
    table.write_text(table.read_text().replace("/", "\\").replace(".JPG", ".jpg"), encoding="utf-8-sig")
    after, _ = imported("visa", source, "--overwrite")
    assert after.columns["image"].tolist() == before.columns["image"].tolist()


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
    assert "splits are assigned anew" in out


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
