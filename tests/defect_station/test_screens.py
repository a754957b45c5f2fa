"""The station's pages in a real browser, with a real server and its database in SQLite and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.screens import Station, running_station, serious_violations
from helpers.serving import Servers
from helpers.sinks import eventually

pytest.importorskip("sqlalchemy", reason="needs sqlalchemy: pip install '.[station]'")
SCREENS = {
    "/": "#latest article",
    "/review": "#stage img",
    "/statistics": "svg rect",
    "/model": ".promise",
    "/try": "#drop",
}
NASTY = "<img src=x onerror=alert(1)>&\"'.png"


def pictures_come(page: Any, selector: str) -> None:
    """Wait until all of them are there, at the size that was sent."""
    loaded = f"[...document.querySelectorAll('{selector}')].map(i => i.complete && i.naturalWidth)"
    assert eventually(lambda: set(page.evaluate(loaded)) == {60})


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def station(
    request: pytest.FixtureRequest, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Station]:
    folder = tmp_path_factory.mktemp("station")
    url = str(folder / "results.sqlite")
    if request.param == "postgresql":
        import psycopg

        address = request.getfixturevalue("postgresql")
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("CREATE DATABASE screens")
        url = address.replace("/postgres?", "/screens?")
    with running_station(servers, folder, url) as running:
        yield running


def test_what_comes_in_is_seen_at_once(station: Station, open_screen: Callable[..., Any]) -> None:
    page = open_screen(station.address)
    station.inspect("dark.png", 30)
    station.inspect(NASTY, 140, part_id="<b>17</b>")
    page.wait_for_selector("#latest article >> nth=1")
    first, second = page.locator("#latest article").all()[:2]
    assert "? review" in first.inner_text() and "0.568" in first.inner_text()
    assert "<b>17</b>" in first.inner_text() and NASTY in first.inner_text()
    assert "✓ accept" in second.inner_text()
    pictures_come(page, "#latest img")
    assert eventually(lambda: page.inner_text("#left") == "1" and page.inner_text("#count-all") == "2")
    page.select_option("#kind", "reject")
    page.wait_for_selector("#empty:visible")
    page.click("#pause")
    row = station.inspect("white.png", 220, part_id="18")
    assert page.inner_text("#state").startswith("paused")
    page.click("#pause")
    page.wait_for_selector(f"article.reject[data-id='{row['id']}']:has-text('✕ reject')")
    page.click("#lang")
    assert "✕ 不合格" in page.inner_text("article.reject") and "缺陷概率 0.87 >= 0.70" in page.inner_text(
        "article.reject"
    )
    station.store.decide(row["id"], "Li", "accept", comment="dust\n<script>")
    page.click("article.reject a")
    page.wait_for_selector("#who")  # a name is asked for once
    page.fill("#who", "王芳")
    page.keyboard.press("Enter")
    page.wait_for_selector(".history")
    told = page.inner_text(".history")
    assert told.startswith("Li: 判为合格") and "dust\n<script>" in told


def test_review_by_keys(station: Station, open_screen: Callable[..., Any]) -> None:
    for row in list(station.store.rows(doubtful=True, undecided=True)):
        station.store.decide(row["id"], "before", "accept")
    far, near, middle = (station.inspect(f"{v}.png", v) for v in (130, 105, 110))  # 0.42 is nearest to 0.40
    page = open_screen(station.address + "/review", name="Li")
    page.wait_for_selector("#stage:has-text('105.png')")
    assert page.inner_text("#progress-text").startswith("0 decided by you now, ")
    pictures_come(page, "#stage img")
    page.keyboard.press("z")
    page.wait_for_selector(".view.zoomed img[src*='size=full']")
    page.keyboard.press("z")
    page.keyboard.press("c")
    page.keyboard.type("ra")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.wait_for_selector("#stage:has-text('110.png')")
    assert page.inner_text("#message") == "rejected (scratch): 105.png. Next image: 110.png"
    page.wait_for_selector("#progress-text:has-text('1 decided by you now, 2 left')")
    page.keyboard.press("a")
    page.wait_for_selector("#stage:has-text('130.png')")
    page.keyboard.press("u")
    page.wait_for_selector("#stage:has-text('110.png')")
    page.keyboard.press("s")
    page.wait_for_selector("#stage:has-text('130.png')")
    page.uncheck("#keys")
    page.locator("body").press("a")  # does nothing now
    page.click("button[data-key=r]")
    page.wait_for_selector("#stage:has-text('110.png')")  # which was put off
    page.check("#keys")
    page.locator("body").press("a")
    page.wait_for_selector("#nothing:has-text('All doubtful images are decided')")
    assert eventually(lambda: len(station.history(middle)) == 3)  # the page does not wait for it
    assert station.history(near) == [("Li", "reject", "scratch", "ra")]
    assert station.history(middle) == [("Li", "accept", None, ""), ("Li", "undo", None, ""), ("Li", "accept", None, "")]
    assert station.history(far) == [("Li", "reject", None, "")]


def test_whoever_is_second_is_told_kindly(station: Station, open_screen: Callable[..., Any]) -> None:
    first, second = (station.inspect(f"late {v}.png", v) for v in (106, 125))
    page = open_screen(station.address + "/review", name="Li")
    page.wait_for_selector("#stage:has-text('late 106.png')")
    station.store.decide(first["id"], "Bo", "reject")  # from elsewhere
    page.keyboard.press("a")
    page.wait_for_selector("#message:has-text('Bo was faster on late 106.png: rejected')")
    assert "late 125.png" in page.inner_text("#stage")
    page.route("**/review/decision", lambda route: route.abort())
    page.keyboard.press("r")
    page.wait_for_selector("#problem:has-text('Not stored')")
    assert "late 125.png" in page.inner_text("#stage")
    page.unroute("**/review/decision")
    page.keyboard.press("r")
    page.wait_for_selector("#nothing:visible")
    assert [one[:2] for one in station.history(first)] == [("Bo", "reject")]
    assert eventually(lambda: [one[:2] for one in station.history(second)] == [("Li", "reject")])


def test_two_browsers_decide_everything_once(station: Station, open_screen: Callable[..., Any]) -> None:
    rows = [station.inspect(f"pair {n}.png", 104 + n) for n in range(16)]
    pages = [open_screen(station.address + "/review", name=name) for name in ("Li", "Bo")]
    shown = []
    for page in pages:
        page.wait_for_selector("#stage .file")
        shown.append(page.inner_text("#stage .file"))
    assert shown[0] != shown[1]
    for page in pages:  # both go on by themselves, at once
        page.evaluate("setInterval(() => document.querySelector(\"[data-key='a']\").click(), 40)")
    for page in pages:
        page.wait_for_selector("#nothing-text:has-text('All doubtful')")
    assert eventually(lambda: all(station.history(row) for row in rows))
    history = [station.history(row) for row in rows]
    assert [len(one) for one in history] == [1] * len(rows)
    assert {one[0][0] for one in history} == {"Li", "Bo"}


def test_statistics_and_model(station: Station, open_screen: Callable[..., Any]) -> None:
    """What the pages say is what the database holds."""
    row = station.inspect("counted.png", 230)
    station.store.decide(row["id"], "Li", "reject", class_name="scratch")
    row = station.inspect("wrong.png", 20)
    station.store.decide(row["id"], "Bo", "reject", class_name="hole")
    rows = list(station.store.rows())
    page = open_screen(station.address + "/statistics?days=7")
    cells = page.locator("[data-text-aria-label=table_models] tbody tr").first.locator("td").all_inner_texts()
    verdicts = [
        str(sum(one["verdict"] == verdict for one in rows)) for verdict in ("accept", "review", "reject", "error")
    ]
    assert cells[:5] == [str(len(rows)), *verdicts]
    decided = [one for one in rows if one["decision"] in ("accept", "reject")]
    plain = [one for one in decided if one["verdict"] != "review"]
    agreed = sum(one["verdict"] == one["decision"] for one in plain)
    assert cells[7] == str(len(decided)) and cells[8].endswith(f"({agreed}/{len(plain)})") and 0 < agreed < len(plain)
    assert page.locator("svg rect.reject").count() == 1 and page.locator("svg rect.heat").count() >= 3
    page.select_option("#days", "90")
    page.click("form button")
    assert "days=90" in page.url and page.input_value("#days") == "90"
    page.goto(station.address + "/model")
    told = page.inner_text("main")
    for text in ("toy.onnx", "0.7", "miss rate at most 5.00%", "82 images of 82 parts, 42 defective", "in use"):
        assert text in told
    page.click("#lang")
    assert "漏检率不超过 5.00%" in page.inner_text("main")


@pytest.mark.parametrize(("locale", "scheme"), [("en-US", "light"), ("zh-CN", "dark")])
def test_everyone_can_use_the_pages(
    station: Station, open_screen: Callable[..., Any], locale: str, scheme: str
) -> None:
    """axe finds nothing serious, and a tablet shows all of their width."""
    if "postgresql" in str(station.store.engine.url):
        pytest.skip("the pages are the same with either database")
    station.inspect(f"{locale}.png", 140)
    page = open_screen(station.address, locale, name="Li", size=(820, 1180), color_scheme=scheme)
    for screen, content in SCREENS.items():
        page.goto(station.address + screen)
        page.wait_for_selector(content)
        assert page.evaluate("document.documentElement.scrollWidth") == 820
        assert serious_violations(page) == [], screen
