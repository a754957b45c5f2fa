"""The inspection report in a real browser: one image in full, languages, paper, small windows and many images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.report_browser import ENTRIES, counts, shown_names
from helpers.report_page import HOSTILE, picture, record, rule, write, writer

pytest.importorskip("playwright", reason="needs playwright: pip install playwright")
from playwright.sync_api import expect  # noqa: E402


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write(path, [*ENTRIES, {"image": "bad.png", "error": "bad.png: empty file"}])
    return path


def test_the_full_view_goes_by_mouse_keyboard_and_address(show, report):
    page = show(report)
    order = shown_names(page)
    page.locator("#grid a").nth(2).click()
    full, name = page.locator("#full"), page.locator("#full-name")
    expect(full).to_be_visible()
    assert name.inner_text() == order[2]
    assert page.locator("#full-place").inner_text() == "3 / 90"
    assert "#image=line" in page.url
    page.keyboard.press("ArrowRight")
    expect(name).to_have_text(order[3])
    page.keyboard.press("ArrowLeft")
    page.locator("#previous").click()
    expect(name).to_have_text(order[1])
    # Without the four-panel pictures: the thumbnail, large, plain and with its mask; and the bars.
    assert page.locator("#full .photo").count() == 2
    expect(page.locator("#full .mask").first).to_have_css("opacity", "1")
    assert page.locator("#full-bars .bar").count() == 2
    assert "defect probability" in page.locator("#full-facts").inner_text()
    assert page.locator("#grid .note").first.inner_text().startswith(("crack", "⚠ crack"))
    assert page.locator("#region-rows td").all_inner_texts()[:3] == ["crack", "1, 2", "9 px"]
    page.keyboard.press("Escape")
    expect(full).to_be_hidden()
    assert "#" not in page.url
    assert page.evaluate("document.activeElement.querySelector('.name').innerText") == order[1]

    linked = show(report, "#image=line2/020.png")
    assert linked.locator("#full-name").inner_text() == "line2/020.png"
    linked.locator("#close").click()
    expect(linked.locator("#full")).to_be_hidden()


def test_hostile_names_stay_text_and_find_their_four_panel_picture(show, tmp_path):
    panels = tmp_path / "visualizations"
    panels.mkdir()
    names = [name.replace("/", "_") for name in HOSTILE] + ["folder/deep #2/ä ö.png"]
    for name in names[1:]:
        path = panels / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", np.zeros((45, 168, 3), np.uint8))[1].tobytes())
    entries = [record(n, 0.9 - i / 100, decided_by=[rule(n)]) for i, n in enumerate(names)]
    entries += [{"image": n, "error": n} for n in HOSTILE]
    write(tmp_path / "report.html", entries, panels=True)
    page = show(tmp_path / "report.html")
    assert page.locator("#grid bdi").evaluate_all("all => all.map(e => e.textContent)") == names
    for i, name in enumerate(names):
        page.locator("#grid a").nth(i).click()
        assert page.locator("#full-name").evaluate("element => element.textContent") == name
        if i == 0:  # its picture is missing
            expect(page.locator("#full .photo")).to_have_count(2)
        else:
            page.wait_for_function("document.querySelector('#full .panels')?.naturalWidth === 168")
        address = page.url
        page.keyboard.press("Escape")
        page.evaluate("address => location.assign(address)", address)
        assert page.locator("#full-name").evaluate("element => element.textContent") == name
        page.keyboard.press("Escape")
    assert page.locator("img[onerror]").count() == 0


def test_the_language_is_the_browsers_until_it_is_switched(show, report):
    page = show(report, locale="zh-CN")
    assert page.locator("h1").inner_text() == "检测报告"
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    assert "不合格" in page.locator("#grid .badge").first.inner_text()
    assert page.locator("[name=text]").get_attribute("placeholder") == "搜索文件名、类别、依据"
    page.locator("#grid a").first.click()
    assert "缺陷概率" in page.locator("#full-facts").inner_text()
    page.keyboard.press("Escape")
    page.locator("#lang").click()
    assert page.locator("h1").inner_text() == "Inspection report"
    assert "reject" in page.locator("#grid .badge").first.inner_text()
    assert page.locator("[name=order] option").first.inner_text() == "Most suspicious first"
    assert show(report).locator("h1").inner_text() == "Inspection report"


def test_it_can_be_used_without_a_mouse_or_sight(show, report):
    page = show(report)
    assert page.locator("img:not([alt])").count() == 0
    first = page.locator("#grid .photo").first.get_attribute("alt")
    assert first.startswith(f"{shown_names(page)[0]}: reject, crack, defect probability 0.")
    nameless = page.eval_on_selector_all(
        "input, select, button",
        "all => all.filter(e => !(e.ariaLabel || e.textContent.trim() || e.closest('label'))).map(e => e.outerHTML)",
    )
    assert nameless == []
    page.locator("#grid a").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#full")).to_be_visible()


@pytest.mark.parametrize("width", [360, 600, 1400])
def test_nothing_is_cut_off_sideways(show, report, width):
    page = show(report, size=(width, 900))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#review-value").fill("0.12")  # little room for the band below it
    fits = "e => getComputedStyle(e).visibility === 'hidden' || e.offsetWidth <= e.parentElement.clientWidth"
    assert all(label.evaluate(fits) for label in page.locator(".zone span").all())
    page.locator("#grid a").first.click()
    assert page.locator("#full").evaluate("e => e.scrollWidth - e.clientWidth") <= 0


def test_a_run_without_images_opens(show, tmp_path):
    write(tmp_path / "report.html", [{"image": "bad.png", "error": "bad.png: empty file"}])
    page = show(tmp_path / "report.html")
    assert counts(page) == [0, 0, 0]
    assert "empty file" in page.locator("#errors").inner_text()


def test_printed_pictures_have_their_masks(show, report):
    page = show(report)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#grid a").count() == 90
    expect(page.locator("#grid .mask").first).to_have_css("opacity", "1")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    assert page.locator("#grid a").count() < 90


def test_5000_images_stay_a_small_document(show, tmp_path):
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, 6000).round(6)
    image, mask = picture(size=32)
    with writer(tmp_path / "report.html") as report:
        for i, value in enumerate(p):
            report.add(record(f"{i:05d}.png", float(value)), image, mask)
    page = show(tmp_path / "report.html")
    assert counts(page) == [int((p < 0.3).sum()), int(((p >= 0.3) & (p < 0.6)).sum()), int((p >= 0.6).sum())]
    assert page.locator("#found").inner_text() == "5,000 of 5,000 images"
    assert "1,000 more images count" in page.locator(".hidden-images").inner_text()
    page.locator("[name=order]").select_option("probability")
    order = [f"{i:05d}.png" for i in np.argsort(-p, kind="stable")[:5000]]
    for where in (0, 30_000, 90_000, 10**9):
        page.evaluate(f"scrollTo(0, {where})")
        page.wait_for_function("document.querySelector('#grid').getBoundingClientRect().bottom > 0")
        page.wait_for_timeout(100)
        visible = page.eval_on_selector_all(
            "#grid a", "all => all.map(a => [Number(a.dataset.place), a.querySelector('bdi').textContent])"
        )
        assert 0 < len(visible) < 120
        assert visible == [[place, order[place]] for place, _ in visible]
        assert page.locator("#grid .photo").first.evaluate("e => e.complete && e.naturalWidth") == 32
    assert visible[-1][0] == 4999
    page.locator("#grid a").last.click()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#full-name")).to_have_text(order[4998])
