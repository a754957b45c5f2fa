"""An inspection that is gone on with: its report has the images of before, too."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.report_page import THRESHOLDS, Page, picture, record, write, writer

from dinov3.inference.reports.inspection import ReportWriter


def test_a_stopped_inspection_goes_on_to_the_same_page(tmp_path):
    entries = [record(f"{i}.png", i / 10) for i in range(8)] + [{"image": "bad.png", "error": "broken"}]
    pictures = [picture(i) for i in range(8)] + [()]
    with writer(tmp_path / "whole.html") as report:
        for entry, images in zip(entries, pictures, strict=True):
            report.add(entry, *images)

    path = tmp_path / "report.html"
    with pytest.raises(KeyboardInterrupt), writer(path) as report:
        for entry, images in zip(entries[:5], pictures[:5], strict=True):
            report.add(entry, *images)
        raise KeyboardInterrupt
    assert len(Page(path).json("rows")) == 5  # what there was until then can be looked at
    spool = path.with_suffix(".spool")
    spool.write_bytes(spool.read_bytes()[:-30])  # the last line was cut off by a power failure
    with writer(path, done=iter(entries[:3])) as report:  # 3.png was not in predictions.json yet
        for entry, images in zip(entries[3:], pictures[3:], strict=True):
            report.add(entry, *images)
    assert Page(path).texts == Page(tmp_path / "whole.html").texts
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "whole.html"]


@pytest.mark.parametrize("limit", [4, 5000])
def test_a_finished_inspection_goes_on_to_the_page_of_one_piece(tmp_path, limit):
    entries = [record(f"{i}.png", p, milliseconds=i) for i, p in enumerate((0.1, 0.9, 0.5, 0.2, 0.8, 0.3, 0.7, 0.4))]
    entries[5]["image"] = entries[1]["image"]  # a file that was written again
    entries.insert(2, {"image": "bad.png", "error": "broken"})
    pictures = [() if entry["error"] else picture(i) for i, entry in enumerate(entries)]

    def add(name: str, start: int, end: int) -> Page:
        with writer(tmp_path / name, done=iter(entries[:start]), max_images=limit) as report:
            for entry, images in zip(entries[start:end], pictures[start:end], strict=True):
                report.add(entry, *images)
        return Page(tmp_path / name)

    whole = add("whole.html", 0, 9)
    for start, end in ((0, 6), (6, 8), (8, 9)):
        page = add("report.html", start, end)
    assert page.pictures() == whole.pictures() and page.texts["everything"] == whole.texts["everything"]
    rows = [p.json("rows") for p in (page, whole)]
    orders = [np.argsort([row.pop("position") for row in part]).tolist() for part in rows]
    assert rows[0] == rows[1] and orders[0] == orders[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "whole.html"]


@pytest.mark.parametrize("text", ["", "of something else\n", '<script type="application/json" id="rows">[</script>\n'])
def test_going_on_from_a_page_that_is_none_loses_pictures_only(tmp_path, text):
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    with writer(tmp_path / "report.html", done=[record("a.png", 0.9)]):
        pass
    assert Page(tmp_path / "report.html").pictures() == [["", ""]]


def test_a_killed_inspection_has_every_image_in_its_spool(tmp_path):
    report = ReportWriter(tmp_path / "report.html", classes=["normal", "defect"], thresholds=THRESHOLDS)
    for number in range(3):  # few enough to fit a buffer
        report.add(record(f"{number}.png", 0.5))
    assert (tmp_path / "report.spool").read_text(encoding="utf-8").count("\n") == 3


def test_a_new_inspection_drops_the_spool_of_a_stopped_one(tmp_path):
    path = tmp_path / "report.html"
    report = writer(path)
    report.add(record("old.png", 0.5), *picture())
    report.close(finished=False)
    assert [row["name"] for row in write(path, [record("new.png", 0.5)]).json("rows")] == ["new.png"]


def test_going_on_without_the_spool_loses_pictures_only(tmp_path):
    with writer(tmp_path / "report.html", done=[record("a.png", 0.9)]) as report:
        report.add(record("b.png", 0.8), *picture())
    page = Page(tmp_path / "report.html")
    assert [row["name"] for row in page.json("rows")] == ["a.png", "b.png"]
    assert [bool(photo) for photo, _ in page.pictures()] == [False, True]
