"""The inspection report in a real browser: thresholds to try, filters, and order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.report_browser import ENTRIES, NAMES, P, counts, expected, shown_names
from helpers.report_page import THRESHOLDS, write

pytest.importorskip("playwright", reason="needs playwright: pip install playwright")
from playwright.sync_api import expect  # noqa: E402


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write(path, [*ENTRIES, {"image": "bad.png", "error": "bad.png: empty file"}])
    return path


def test_the_sliders_count_all_images_anew_and_change_no_result(show, report):
    before = report.read_bytes()
    page = show(report)
    assert counts(page) == expected(THRESHOLDS.review, THRESHOLDS.classification)
    page.locator("#reject-range").fill("0.85")
    assert counts(page) == expected(0.3, 0.85)
    page.locator("#review-value").fill("0.123456")
    assert counts(page) == expected(0.123456, 0.85)
    page.locator("#review-range").fill("0.9")  # takes the other along: review never lies above reject
    assert page.locator("#reject-value").input_value() == "0.9"
    assert counts(page) == expected(0.9, 0.9)
    page.locator("#reset").click()
    assert counts(page) == expected(0.3, 0.6)
    assert "2 verdict(s) came from rules" in page.locator("main").inner_text()
    assert report.read_bytes() == before


def test_the_keyboard_moves_a_limit(show, report):
    page = show(report)
    page.locator("#reject-range").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert counts(page) == expected(0.3, 0.605)


def test_images_whose_verdict_would_change_can_be_listed(show, report):
    page = show(report)
    page.locator("#reject-value").fill("0.7")
    page.locator("[name=verdict]").select_option("changed")
    changed = {NAMES[i] for i in np.flatnonzero((P >= 0.6) & (P < 0.7)) if i not in (4, 8)}
    assert set(shown_names(page)) == changed
    assert page.locator("#grid .line").first.inner_text() == "✕\n→\n? review"


def test_filters(show, report):
    page = show(report)
    found = page.locator("#found")
    page.locator("[name=text]").fill("LINE2/05")
    assert sorted(shown_names(page)) == sorted(n for n in NAMES if n.startswith("line2/05"))
    page.locator("[name=text]").fill("max_area_mm2")
    assert sorted(shown_names(page)) == ["line1/004.png", "line2/008.png"]
    page.locator("[name=text]").fill("nothing like this")
    assert found.inner_text() == "No image fits these filters."
    page.get_by_role("button", name="Clear").click()
    expect(found).to_have_text("90 of 90 images")
    page.locator("[name=kind]").select_option(label="crack")
    assert found.inner_text() == f"{(P > 0.5).sum()} of 90 images"
    page.locator("[name=disagreement]").check()
    assert sorted(shown_names(page)) == [n for i, n in enumerate(NAMES) if i % 10 == 0 and P[i] > 0.5]
    page.get_by_role("button", name="Clear").click()
    page.locator("button.card.review").click()
    expect(found).to_have_text(f"{expected(0.3, 0.6)[1]} of 90 images")
    assert page.locator("button.card.review").get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize(
    "order, key",
    [
        ("probability", lambda i: -P[i]),
        ("probability_up", lambda i: P[i]),
        ("name", lambda i: NAMES[i]),
        ("area", lambda i: -ENTRIES[i]["mask_area_fraction"]),
        ("input", lambda i: i),
        ("nearest", lambda i: min(abs(P[i] - 0.3), abs(P[i] - 0.6))),
    ],
)
def test_orders(show, report, order, key):
    page = show(report)
    page.locator("[name=order]").select_option(order)
    names = shown_names(page)
    assert len(names) >= 14
    assert names == [NAMES[i] for i in sorted(range(90), key=key)][: len(names)]


def test_a_mask_lies_over_its_picture_when_pointed_at_or_focused(show, report):
    page = show(report)
    mask = "#grid .cell:nth-child(2) .mask"
    expect(page.locator(mask).first).to_have_css("opacity", "0")
    page.locator("#grid a").nth(1).hover()
    expect(page.locator(mask).first).to_have_css("opacity", "1")
    boxes = [page.locator(f"#grid .cell:nth-child(2) .{kind}").bounding_box() for kind in ("photo", "mask")]
    assert boxes[0] == boxes[1]
    page.mouse.move(5, 5)
    expect(page.locator(mask).first).to_have_css("opacity", "0")
    page.locator("#grid a").nth(0).focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(mask).first).to_have_css("opacity", "1")
    page.locator("[name=masks]").check()
    expect(page.locator("#grid .cell:nth-child(7) .mask").first).to_have_css("opacity", "1")
