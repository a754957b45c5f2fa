"""What the checks say through the script: in the terminal, as JSON and as an HTML sheet."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.checking import edit_rows, write, write_dozen
from helpers.organizing import content
from helpers.report_page import Page
from PIL import Image

from dinov3.data.defect_checks import row_checks
from dinov3.data.defect_checks.dataset_checks import odd_images
from dinov3.data.defect_checks.explanations import EXPLANATIONS
from dinov3.data.defect_checks.facts import examine
from dinov3.data.defect_checks.row_checks import ROW_CHECKS
from dinov3.data.defect_manifest import read_manifest


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dozen(tmp_path / "data")


def test_check_as_json(dataset, script, tmp_path):
    write(dataset, "03.png.png", np.zeros((48, 48)))
    (dataset / "images/01.png").unlink()
    report = tmp_path / "new/report.json"
    status, out, _ = script("prepare_defect_data", "check", "--image_size", 512, dataset, "--json", report)
    assert status == 1
    assert "error: unreadable_image: 1 (for example images/01.png)" in out
    assert json.loads(report.read_text(encoding="utf-8")) == {
        "issues": [
            {"check": "unreadable_image", "severity": "error", "count": 1, "examples": ["images/01.png"]},
            {"check": "empty_defect_mask", "severity": "warning", "count": 1, "examples": ["images/03.png"]},
        ]
    }


def test_a_clean_dataset_gives_an_empty_report(dataset, script, tmp_path):
    page, report = tmp_path / "page.html", tmp_path / "report.json"
    status, out, _ = script("prepare_defect_data", "check", dataset, "--json", report, "--html", page)
    assert status == 0
    assert "checked 12 images: nothing found" in out
    assert json.loads(report.read_text(encoding="utf-8")) == {"issues": []}
    assert "nothing found" in page.read_text(encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="Windows allows no such file names")
def test_the_sheet_shows_thumbnails_and_is_safe_from_hostile_names(dataset, script, tmp_path):
    hostile = 'images/<script>alert(1)</script>&".png'.replace("</", "<")
    os.rename(dataset / "images/03.png", dataset / hostile)
    write(dataset, "03.png.png", 1 - np.eye(48))

    def rename(rows):
        for row in rows:
            row["label"] = row["label"].replace("defect", "<i>dent")
        rows[3]["image"] = hostile

    edit_rows(dataset, rename)
    info = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))
    (dataset / "dataset.json").write_text(json.dumps(info | {"classes": ["normal", "<i>dent"]}), encoding="utf-8")
    (dataset / "images/01.png").unlink()
    page = tmp_path / "page.html"
    assert script("prepare_defect_data", "check", dataset, "--html", page)[0] == 1
    sheet = Page(page)
    assert [tag for tag, _ in sheet.tags].count("script") == 2  # texts, and the switch of the language
    assert "i" not in {tag for tag, _ in sheet.tags}
    assert hostile in sheet.text
    assert "<i>dent, but no defect pixel" in sheet.text or "<i>dent, train" in sheet.text
    assert "cannot be shown" in sheet.text  # the missing image
    pictures = [attrs["src"] for tag, attrs in sheet.tags if tag == "img"]
    assert len(pictures) == 1
    jpeg = base64.b64decode(pictures[0].removeprefix("data:image/jpeg;base64,"))
    colors = np.asarray(Image.open(io.BytesIO(jpeg))).reshape(-1, 3).astype(int)
    assert (colors[:, 0] - colors[:, 2] > 100).any()  # the orange outline on a grey picture
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page.read_text(encoding="utf-8"))  # nothing from the network


def test_a_browser_shows_the_sheet_in_either_language(dataset, script, tmp_path, show):
    write(dataset, "03.png.png", np.zeros((48, 48)))
    assert script("prepare_defect_data", "check", dataset, "--html", tmp_path / "page.html")[0] == 0
    page = show(tmp_path / "page.html", locale="zh-CN", size=(400, 900))
    assert "已检查 12 张图像" in page.inner_text("main") and "images checked" not in page.inner_text("main")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.click("#lang")
    assert "12 images checked" in page.inner_text("main") and "张图像" not in page.inner_text("main")
    page.click("a")
    assert page.url.endswith("#empty_defect_mask")


def test_the_sheet_is_in_english_and_chinese(dataset, script, tmp_path):
    write(dataset, "03.png.png", np.zeros((48, 48)))
    (dataset / "images/01.png").unlink()
    page = tmp_path / "page.html"
    assert script("prepare_defect_data", "check", dataset, "--html", page)[0] == 1
    text = Page(page).text
    for english, chinese in (
        ("12 images checked: 1 error and 1 warning", "已检查 12 张图像：1 类错误，1 类警告"),
        ("empty_defect_mask", "缺陷图像的掩码为空 empty_defect_mask"),
        ("defect, but no defect pixel", "标为 defect，但没有缺陷像素"),
        ("correct the label", "或更正标签"),
    ):
        assert english in text and chinese in text
    for told in EXPLANATIONS.values():
        for written in (told.chinese_name, told.meaning[1], told.remedy[1]):
            assert re.search(r"[\u4e00-\u9fff]", written)


def test_every_check_is_explained(dataset):
    names = {check.__name__ for check in ROW_CHECKS}
    names |= set(re.findall(r'_issue\(\s*"(\w+)"', Path(row_checks.__file__).read_text(encoding="utf-8")))
    names |= set(odd_images(examine(read_manifest(dataset), 512)))
    assert names == set(EXPLANATIONS)


def test_check_data_alone_checks_the_dataset_at_its_default_place(dataset, script, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    status, _, err = script("prepare_defect_data", "organize", "--check_data")
    assert status == 1
    assert err.startswith(f"error: {Path('data/dataset')}: no dataset to check; give its folder as --output_dir")
    shutil.copytree(dataset, tmp_path / "work/data/dataset")
    before = content(tmp_path)
    status, out, _ = script("prepare_defect_data", "organize", "--check_data")
    assert status == 0
    assert "checked 12 images: nothing found" in out
    assert content(tmp_path) == before


def test_a_report_that_cannot_be_written_is_an_error(dataset, script, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone" / "report")
    for flag in ("--json", "--html"):
        for place in (tmp_path, tmp_path / "file" / "report", tmp_path / "nowhere"):
            status, out, err = script("prepare_defect_data", "check", dataset, flag, place)
            assert status == 1
            assert "checked 12 images" in out
            assert "cannot be written" in err and "Traceback" not in err


def test_warnings_pass_and_errors_fail(dataset, script):
    write(dataset, "03.png.png", np.zeros((48, 48)))
    status, out, _ = script("prepare_defect_data", "organize", "--output_dir", dataset, "--check_data")
    assert status == 0
    assert "warning: empty_defect_mask: 1 (for example images/03.png)" in out
    (dataset / "images/01.png").unlink()
    status, out, err = script("prepare_defect_data", "organize", "--output_dir", dataset, "--check_data")
    assert status == 1
    assert "error: unreadable_image: 1 (for example images/01.png)" in out
    assert "Traceback" not in err


def test_real_masks_that_are_empty(magnetic_tile, script, tmp_path):
    data, report = tmp_path / "tiles", tmp_path / "report.json"
    folders = [magnetic_tile / name for name in ("MT_Blowhole", "MT_Uneven")]
    organize = ["organize", "--classes_from_folders", "--group_csv", magnetic_tile / "groups.csv"]
    organize += ["--defect_images", *folders, "--defect_masks", *folders, "--normal_images", magnetic_tile / "MT_Free"]
    assert script("prepare_defect_data", *organize, "--output_dir", data)[0] == 0
    assert script("prepare_defect_data", "check", data, "--json", report)[0] == 0
    issues = {issue["check"]: issue for issue in json.loads(report.read_text(encoding="utf-8"))["issues"]}
    assert set(issues) == {"empty_defect_mask", "specks", "small_defects"}  # many exposures, but nothing odd
    assert "images/MT_Uneven/Imgs/exp3_num_45042.jpg" in issues["empty_defect_mask"]["examples"]
