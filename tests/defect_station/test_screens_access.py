"""Who may see the station's pages and decide, and how images are kept apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.screens import Station, running_station, serious_violations
from helpers.serving import KEY, Servers
from helpers.sinks import eventually

from dinov3.defect_errors import DefectError

pytest.importorskip("sqlalchemy", reason="needs sqlalchemy: pip install '.[station]'")
from dinov3.defect_station.screens.claims import SECONDS, Claims  # noqa: E402
from dinov3.defect_station.screens.drift import drift_alarm, drift_state  # noqa: E402
from dinov3.defect_station.screens.shifts import parse_shifts, shift_began  # noqa: E402

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def locked(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """A station that asks for a key."""
    folder = tmp_path_factory.mktemp("locked")
    (folder / "keys").write_text(f"line 3:{KEY}\n")
    rows = [f"{n}.png,{0.1 + n / 1000}" for n in range(40)]
    (folder / "per_image.csv").write_text("\n".join(["image,defect_probability", *rows]))
    flags = ("--api_key_file", folder / "keys", "--drift_reference", folder / "per_image.csv")
    with running_station(servers, folder, str(folder / "results.sqlite"), *flags) as running:
        yield running


def test_nothing_is_seen_or_decided_without_a_key(locked: Station) -> None:
    from helpers.storing import inspected

    locked.store.add([inspected(40)])
    paths = ["/", "/review", "/live/news", "/review/next?page=p", "/images/1/picture"]
    for path in paths:
        for headers in ({}, {"Cookie": "defect_session=x"}, {"X-API-Key": "x" * 20}):
            answer = locked.server.ask("GET", path, headers=headers)
            assert answer.status == 401 and "00040" not in str(answer.body), path
    form = json.dumps({"page": "p", "image": 1, "after": 0, "decision": "accept"}).encode()
    assert locked.server.ask("POST", "/review/decision", form, JSON).status == 401
    assert locked.server.ask("POST", "/session", b'{"key": "x"}', JSON).status == 401
    answer = locked.server.ask("POST", "/session", json.dumps({"key": KEY}).encode(), JSON)
    cookie = answer.headers["set-cookie"]
    assert answer.status == 200 and KEY not in cookie and "HttpOnly" in cookie and "SameSite=strict" in cookie
    session = JSON | {"Cookie": cookie.split(";")[0]}
    assert locked.server.ask("GET", "/live/news", headers=session).status == 200
    # Another site's page has the browser's cookie sent at most with what needs no question beforehand.
    for headers, status in (
        (session | {"Content-Type": "text/plain"}, 415),
        (session | {"Origin": "http://elsewhere.example"}, 403),
        (session | {"Sec-Fetch-Site": "cross-site"}, 403),
    ):
        assert locked.server.ask("POST", "/review/decision", form, headers).status == status
    for broken in (
        b"[]",
        b"{",
        b'{"page":"p","image":"1","after":0,"decision":"accept"}',
        form.replace(b"accept", b"b"),
    ):
        assert locked.server.ask("POST", "/review/decision", broken, session).status == 422
    assert not locked.store.decisions(1)
    assert locked.server.ask("POST", "/review/decision", form, session).body == {"decisions": 1}
    again = locked.server.ask("POST", "/review/decision", form, session)
    assert (again.status, again.body["person"], again.body["decision"]) == (409, "line 3", "accept")
    assert locked.server.ask("GET", "/images/1/picture", headers=session).status == 404  # its file is not kept


def test_a_page_asks_for_the_key_and_its_name_decides(locked: Station, open_screen: Callable[..., Any]) -> None:
    from helpers.storing import inspected

    locked.store.add([inspected(41)])
    page = open_screen(locked.address + "/review")
    page.fill("#key", "wrong")
    page.click("#key-form button")
    page.wait_for_selector("#problem:has-text('does not know this key')")
    page.fill("#key", KEY)
    page.click("#key-form button")
    page.wait_for_selector(".who:has-text('line 3')")
    page.wait_for_selector("#stage:has-text('00041.png')")
    assert "The picture is not kept" in page.inner_text("#stage")
    page.keyboard.press("r")
    page.wait_for_selector("#nothing:visible")
    decided = {"name": "00041.png", "undecided": False}
    assert eventually(lambda: [row["person"] for row in locked.store.rows(**decided)] == ["line 3"])
    page.goto(locked.address + "/try")
    page.wait_for_selector("#model:has-text('toy.onnx')")  # needs no key a second time
    page.click("#leave")
    page.wait_for_selector("#key-form")


def test_an_alarm_of_drift_is_seen_on_the_pages(locked: Station, open_screen: Callable[..., Any]) -> None:
    from helpers.storing import inspected

    page = open_screen(locked.address)
    page.fill("#key", KEY)
    page.click("#key-form button")
    page.wait_for_selector("#state:has-text('live ·')")
    assert page.is_hidden("#drift")
    model = locked.server.ask("GET", "/v1/model", headers={"X-API-Key": KEY}).body["fingerprint"]
    locked.store.add([inspected(n, 0.9, name=f"<i>{n}", model=model) for n in range(60)])
    page.wait_for_selector("#drift:visible")
    page.click("#drift a")
    told = page.inner_text("section#drift")
    assert "alarm since" in told and "the reference per_image.csv (40 images)" in told and "<i>" in told
    page.click("#lang")
    assert "起报警" in page.inner_text("section#drift") and serious_violations(page) == []


def test_an_alarm_of_a_model_that_is_gone_alarms_nobody() -> None:
    """After a model change nothing is tested any more, which the pages say in place of an alarm, or of none."""
    drift = SimpleNamespace(alarm=True, state=lambda: {"reference": "/data/per_image.csv", "alarm": True})
    models = SimpleNamespace(current="new")
    service = SimpleNamespace(drift=drift, models=models, tests_drift=lambda model: model == "old")
    assert not drift_alarm(service)
    assert drift_state(service) == {"reference": "per_image.csv", "alarm": True, "in_use": False}
    models.current = "old"
    assert drift_alarm(service) and drift_state(service)["in_use"]


def test_claims_keep_pages_apart_until_they_fall_silent() -> None:
    now, rows = [0.0], [{"id": n} for n in range(5)]
    claims = Claims(clock=lambda: now[0])

    def taken(page: str, count: int = 2) -> list[int]:
        return [row["id"] for row in claims.take(page, rows, count)]

    assert taken("a") == [0, 1] and taken("b") == [2, 3] and taken("a") == [0, 1]
    assert claims.of_others("b") == 2 and claims.spoken_for("c") == 4
    claims.release("b", 0)  # which is not its own
    assert taken("b", 5) == [2, 3, 4] and taken("c") == []
    claims.release("a", 0, put_off=True)
    assert taken("a") == [1] and taken("c") == [0]
    claims.leave("c")
    claims.release("a", 1)
    rows = [{"id": 0}]
    assert taken("a") == [0]  # nothing else is left
    now[0] = SECONDS - 1
    claims.renew("b", [2, 3])
    now[0] = SECONDS + 1
    rows = [{"id": n} for n in range(5)]
    assert taken("c", 5) == [0, 1, 4]


def test_the_shift_is_that_of_the_clock() -> None:
    hours = parse_shifts("6, 14,22")
    for now, begin in (("05:59", "29 22"), ("06:00", "30 06"), ("21:59", "30 14"), ("23:00", "30 22")):
        began = shift_began(datetime.fromisoformat(f"2026-11-30T{now}").astimezone(), hours)
        assert began.strftime("%d %H") == begin
    for bad in ("", "24", "-1,5", "six"):
        with pytest.raises(DefectError, match="--shifts"):
            parse_shifts(bad)
