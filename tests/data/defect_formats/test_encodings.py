"""Files in GBK or GB 18030, as tools and spreadsheets on a Chinese Windows save them."""

from __future__ import annotations

import pytest
from helpers.import_annotations import (
    coco_image,
    coco_region,
    cvat_image,
    cvat_polygon,
    labelme_shape,
    photo,
    write_coco,
    write_cvat,
    write_labelme,
)
from helpers.import_layouts import write_visa
from helpers.reading import read_source

from dinov3.data.defect_prepare.splits import read_groups
from dinov3.defect_text import decode_text, is_utf8

TEXT = "划痕 甲乙"


@pytest.mark.parametrize("encoding", ["gbk", "gb18030", "utf-8-sig"])
@pytest.mark.parametrize("kind", ["labelme", "coco", "cvat", "yolo"])
def test_annotations_are_read_with_their_labels(tmp_path, encoding, kind):
    photo(tmp_path / "images/甲.png")
    photo(tmp_path / "images/乙.png", 1)
    if kind == "labelme":
        files = [write_labelme(tmp_path / "images/甲.json", labelme_shape("划痕"), image="甲.png")]
    elif kind == "coco":
        images = [coco_image(0, "甲.png"), coco_image(1, "乙.png")]
        files = [write_coco(tmp_path / "a.json", images, [coco_region(0)], categories=[{"id": 1, "name": "划痕"}])]
    elif kind == "cvat":
        files = [write_cvat(tmp_path / "a.xml", cvat_image("甲.png", cvat_polygon("划痕")), cvat_image("乙.png"))]
    else:
        (tmp_path / "labels").mkdir()
        (tmp_path / "labels/甲.txt").write_text("0 0.5 0.5 0.5 0.5\n")
        (tmp_path / "data.yaml").write_text("train: images\nnames: [划痕]\n", encoding="utf-8")
        files = [tmp_path / "data.yaml"]
    for path in files:
        text = path.read_text(encoding="utf-8")
        if kind in ("labelme", "coco"):
            text = text.encode().decode("unicode_escape")  # as tools write that do not escape
        path.write_bytes(text.encode(encoding))
    found = read_source(kind, tmp_path, unannotated="normal")
    assert sorted(found.labels.values()) == ["normal", "划痕"]


@pytest.mark.parametrize("declared", ["GBK", "gb2312", "GB18030", "utf-8"])
def test_xml_as_it_declares_or_as_it_is(tmp_path, declared):
    photo(tmp_path / "甲.png")
    path = write_cvat(tmp_path / "a.xml", cvat_image("甲.png", cvat_polygon("划痕")))
    path.write_bytes(path.read_text(encoding="utf-8").replace('"utf-8"', f'"{declared}"').encode("gb18030"))
    assert read_source("cvat", tmp_path).labels == {"甲.png": "划痕"}


def test_tables(tmp_path):
    path = tmp_path / "groups.csv"
    path.write_bytes(f"image,group\n甲.png,{TEXT}\n".encode("gbk"))
    assert read_groups(path) == {("甲.png",): TEXT}
    source = write_visa(tmp_path / "visa", ("candle",))
    (source / "candle").rename(source / "蜡烛")
    table = source / "split_csv/2cls_highshot.csv"
    table.write_bytes(table.read_text().replace("candle", "蜡烛").encode("gbk"))
    assert len(read_source("visa", source).labels) == 15


def test_what_is_no_text_stays_none():
    for encoding in ("utf-8", "utf-8-sig", "gbk", "gb18030"):
        assert decode_text(TEXT.encode(encoding)) == TEXT
    for data in (TEXT.encode("utf-16"), b"\xff\xfe\x80", bytes(range(256))):
        with pytest.raises(UnicodeDecodeError):
            decode_text(data)
    assert is_utf8(TEXT.encode()) and not is_utf8(TEXT.encode("gbk"))
