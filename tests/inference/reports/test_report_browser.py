"""The inspection report in a real browser: what a person sees and can do."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import test_inspection_report
from test_inspection_report import HOSTILE, THRESHOLDS, record, rule

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)} (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield instance
        instance.close()


@pytest.fixture
def show(browser) -> Iterator[Callable[..., Any]]:
    """``show(path, locale=...)`` opens a page; at the end, no script has failed and nothing left the file system."""
    pages, problems, requests = [], [], []

    def opened(path: Path, fragment: str = "", locale: str = "en-US", size: tuple[int, int] = (1400, 900)) -> Any:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, locale=locale)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri() + fragment)
        pages.append(context)
        return page

    yield opened
    for context in pages:
        context.close()
    assert problems == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


P = np.random.default_rng(3).uniform(0, 1, 90).round(6)
ENTRIES = [
    record(
        f"line{i % 3}/{i:03d}.png",
        float(p),
        mask_area_fraction=float((p * 7) % 1),
        disagreement=i % 10 == 0,
        **({"verdict": "reject", "decided_by": [rule()]} if i in (4, 8) else {}),
    )
    for i, p in enumerate(P)
]
NAMES = [entry["image"] for entry in ENTRIES]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    test_inspection_report.write(path, [*ENTRIES, {"image": "bad.png", "error": "bad.png: empty file"}])
    return path


def shown_names(page: Any) -> list[str]:
    """Of the pictures that are in the document, in order."""
    return page.locator("#grid .name").all_inner_texts()


def counts(page: Any) -> list[int]:
    return [int(page.locator(f"#now-{v}").inner_text().replace(",", "")) for v in ("accept", "review", "reject")]


def expected(review: float, reject: float) -> list[int]:
    """Counts of all images, with the two that a rule rejected as they are."""
    by_rule = np.isin(np.arange(len(P)), (4, 8))
    reject_all = (reject <= P) | by_rule
    review_all = (review <= P) & ~reject_all
    return [int((~reject_all & ~review_all).sum()), int(review_all.sum()), int(reject_all.sum())]


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
    sync_api.expect(found).to_have_text("90 of 90 images")
    page.locator("[name=kind]").select_option(label="crack")
    assert found.inner_text() == f"{(P > 0.5).sum()} of 90 images"
    page.locator("[name=disagreement]").check()
    assert sorted(shown_names(page)) == [n for i, n in enumerate(NAMES) if i % 10 == 0 and P[i] > 0.5]
    page.get_by_role("button", name="Clear").click()
    page.locator("button.card.review").click()
    sync_api.expect(found).to_have_text(f"{expected(0.3, 0.6)[1]} of 90 images")
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


def opacity(page: Any, selector: str) -> float:
    page.wait_for_timeout(250)  # it fades in
    return float(page.locator(selector).first.evaluate("element => getComputedStyle(element).opacity"))


def test_a_mask_lies_over_its_picture_when_pointed_at_or_focused(show, report):
    page = show(report)
    mask = "#grid .cell:nth-child(2) .mask"
    assert opacity(page, mask) == 0
    page.locator("#grid a").nth(1).hover()
    assert opacity(page, mask) == 1
    boxes = [page.locator(f"#grid .cell:nth-child(2) .{kind}").bounding_box() for kind in ("photo", "mask")]
    assert boxes[0] == boxes[1]
    page.mouse.move(5, 5)
    assert opacity(page, mask) == 0
    page.locator("#grid a").nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert opacity(page, mask) == 1
    page.locator("[name=masks]").check()
    assert opacity(page, "#grid .cell:nth-child(7) .mask") == 1


def test_the_full_view_goes_by_mouse_keyboard_and_address(show, report):
    page = show(report)
    order = shown_names(page)
    page.locator("#grid a").nth(2).click()
    full, name = page.locator("#full"), page.locator("#full-name")
    sync_api.expect(full).to_be_visible()
    assert name.inner_text() == order[2]
    assert page.locator("#full-place").inner_text() == "3 / 90"
    assert "#image=line" in page.url
    page.keyboard.press("ArrowRight")
    sync_api.expect(name).to_have_text(order[3])
    page.keyboard.press("ArrowLeft")
    page.locator("#previous").click()
    sync_api.expect(name).to_have_text(order[1])
    # Without the four-panel pictures: the thumbnail, large, plain and with its mask; and the bars.
    assert page.locator("#full .photo").count() == 2
    assert opacity(page, "#full .mask") == 1
    assert page.locator("#full-bars .bar").count() == 2
    assert "defect probability" in page.locator("#full-facts").inner_text()
    assert page.locator("#grid .note").first.inner_text().startswith(("crack", "⚠ crack"))
    assert page.locator("#region-rows td").all_inner_texts()[:3] == ["crack", "1, 2", "9 px"]
    page.keyboard.press("Escape")
    sync_api.expect(full).to_be_hidden()
    assert "#" not in page.url
    assert page.evaluate("document.activeElement.querySelector('.name').innerText") == order[1]

    linked = show(report, "#image=line2/020.png")
    assert linked.locator("#full-name").inner_text() == "line2/020.png"
    linked.locator("#close").click()
    sync_api.expect(linked.locator("#full")).to_be_hidden()


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
    test_inspection_report.write(tmp_path / "report.html", entries, panels=True)
    page = show(tmp_path / "report.html")
    assert page.locator("#grid bdi").evaluate_all("all => all.map(e => e.textContent)") == names
    for i, name in enumerate(names):
        page.locator("#grid a").nth(i).click()
        assert page.locator("#full-name").evaluate("element => element.textContent") == name
        if i == 0:  # its picture is missing
            sync_api.expect(page.locator("#full .photo")).to_have_count(2)
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
    sync_api.expect(page.locator("#full")).to_be_visible()


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
    test_inspection_report.write(tmp_path / "report.html", [{"image": "bad.png", "error": "bad.png: empty file"}])
    page = show(tmp_path / "report.html")
    assert counts(page) == [0, 0, 0]
    assert "empty file" in page.locator("#errors").inner_text()


def test_printed_pictures_have_their_masks(show, report):
    page = show(report)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#grid a").count() == 90
    assert opacity(page, "#grid .mask") == 1
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    assert page.locator("#grid a").count() < 90


def test_5000_images_stay_a_small_document(show, tmp_path):
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, 6000).round(6)
    image, mask = test_inspection_report.picture(size=32)
    with test_inspection_report.writer(tmp_path / "report.html") as report:
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
    sync_api.expect(page.locator("#full-name")).to_have_text(order[4998])
