"""Figures over the results database, as the page Statistics shows them."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime, timedelta

from helpers.storing import inspected

from dinov3.defect_station.store import Store
from dinov3.defect_station.store.figures import (
    count_open,
    day_bounds,
    decided_by_day,
    inspected_by_day,
    models_seen,
)
from dinov3.defect_station.store.inspected import time_text

TODAY = date.today()
DAYS = [TODAY - timedelta(1), TODAY]


def at(day: date, hour: int) -> str:
    return time_text(datetime(day.year, day.month, day.day, hour).astimezone())


def test_images_are_counted_by_day_of_this_machine_s_clock(url: str) -> None:
    images = [inspected(n, time=at(DAYS[0], 0)) for n in range(100)]
    images += [inspected(n, content_hash="1", time=at(TODAY, 23), predicted_class="scratch") for n in (0, 100)]
    images.append(inspected(7, 1.0, model="n" * 64, time=at(TODAY, 0)))
    images.append(inspected(8, verdict="error", error="bad", defect_probability=None, time=at(TODAY, 1)))
    images.append(inspected(9, content_hash="2", time=at(TODAY - timedelta(2), 23)))  # the day before
    with Store.open(url) as store:
        store.add(images)
        found = inspected_by_day(store, DAYS)
        verdicts: Counter = Counter()
        for row in found:
            verdicts[row["day"], row["verdict"]] += row["images"]
        assert verdicts == {
            (DAYS[0], "accept"): 30,
            (DAYS[0], "review"): 30,
            (DAYS[0], "reject"): 40,
            (TODAY, "accept"): 2,
            (TODAY, "reject"): 1,
            (TODAY, "error"): 1,
        }
        bins = Counter()
        for row in found:
            if row["day"] == DAYS[0]:
                bins[row["bin"]] += row["images"]
        assert bins == {n: 5 for n in range(20)}
        assert {row["bin"] for row in found if row["verdict"] == "error"} == {None}
        assert {row["bin"] for row in found if row["model"] == "n" * 64} == {19}  # a probability of 1, too
        assert {row["predicted_class"] for row in found} == {"", "scratch"}
        seen = models_seen(store)
        assert [(one["model"][0], one["images"], one.get("reject", 0)) for one in seen] == [("m", 104, 40), ("n", 1, 1)]
        assert seen[0]["first"]["name"] == "00000.png" and seen[0]["last"]["verdict"] == "accept"


def test_the_latest_decision_on_an_image_counts(url: str) -> None:
    with Store.open(url) as store:
        store.add([inspected(n, disagreement=n == 10) for n in (10, 40, 50, 70)])
        assert count_open(store) == 3  # two for review, one in disagreement
        first, second, third, _ = (row["id"] for row in store.rows())
        store.decide(first, "Li", "accept")
        store.decide(first, "Bo", "reject", class_name="scratch")
        store.decide(second, "Li", "accept")
        store.decide(third, "Li", "accept")
        store.decide(third, "Li", "undo")
        assert count_open(store) == 1
        found = decided_by_day(store, DAYS)
        told = [(row["verdict"], row["decision"], row["class_name"], row["person"], row["images"]) for row in found]
        assert sorted(told) == [("accept", "reject", "scratch", "Bo", 1), ("review", "accept", None, "Li", 1)]
        assert {row["day"] for row in found} == {TODAY} and not decided_by_day(store, DAYS[:1])


def test_days_meet(monkeypatch) -> None:
    """Where clocks change, too: no image is counted twice or not at all."""
    import time

    for zone in ("Europe/Berlin", "Asia/Shanghai", "America/New_York"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        days = [date(2026, 1, 1) + timedelta(n) for n in range(365)]
        bounds = [day_bounds(day) for day in days]
        assert all(one[1] == other[0] for one, other in zip(bounds, bounds[1:], strict=False))
    monkeypatch.undo()
    time.tzset()
