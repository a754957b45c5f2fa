"""The results database on SQLite and on a real PostgreSQL: what goes in comes out, and nothing is ever changed."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from helpers.storing import LIMITS, inspected

from dinov3.defect_errors import DefectError
from dinov3.defect_station.store import DecidedError, Store, schema
from dinov3.defect_station.store.inspected import read_embedding, time_text


def names(store: Store, **filters: object) -> list[str]:
    return [row["name"] for row in store.rows(**filters)]


def test_what_goes_in_comes_out(url: str) -> None:
    cause = {"kind": "probability", "probability": 0.7, "threshold": 0.6, "limit": "reject"}
    facts = {
        "part": "P1",
        "decided_by": [cause],
        "regions": [{"class": "裂纹", "area_px": 3}],
        "settings": {"rules": None},
    }
    facts |= {"novelty": {"deviations": 2.5, "x": 1, "y": 2}, "image_path": "/a/ä.png", "mask_path": "/m.png"}
    facts["labels"] = {"camera": "左"}
    vector = np.linspace(-1, 1, 5, dtype=np.float32)
    with Store.open(url) as store:
        assert (
            store.add([inspected(1, 0.7, embedding=vector, **facts), inspected(2, None, verdict="error", error="bad")])
            == 2
        )
    with Store.open(url, must_exist=True) as store:
        first, second = store.rows(embeddings=True)
    assert {name: first[name] for name in facts if name != "novelty"} == {
        k: v for k, v in facts.items() if k != "novelty"
    }
    assert first["thresholds"] == LIMITS and first["verdict"] == "reject" and first["novelty"] == 2.5
    assert first["doubt"] == pytest.approx(0.1) and first["decision"] is None and first["decisions"] == 0
    assert np.allclose(read_embedding(first), vector, atol=1e-3) and read_embedding(second) is None
    assert second["error"] == "bad"


def test_an_image_is_one_row_until_something_that_decides_changes(url: str) -> None:
    again = {"model": "n" * 64}, {"thresholds": LIMITS | {"mask": 0.4}}, {"content_hash": "0"}, {"name": "other.png"}
    again += ({"settings": {"min_region_area": 9}}, {"verdict": "error", "error": "no memory"})
    again += ({"occasion": "a second upload"},)
    with Store.open(url) as store:
        assert store.add([inspected(1), inspected(1)]) == 1
        assert store.add([inspected(1, time="2020-01-01T00:00:00.000000Z")]) == 0
        assert store.add([inspected(1), *(inspected(1, **change) for change in again)]) == len(again)
        assert store.add([]) == 0 and sum(store.counts().values()) == 1 + len(again)


def test_rows_are_filtered_and_ordered(url: str) -> None:
    start = datetime(2026, 3, 1, tzinfo=timezone.utc)
    images = [inspected(n, time=time_text(start + timedelta(hours=n)), part=f"P{n // 10}") for n in range(100)]
    images.append(inspected(100, model="n" * 64, disagreement=True, time=time_text(start)))
    with Store.open(url) as store:
        store.add(images)
        store.add([inspected(200 + n) for n in range(500)])  # more than are read at a time
        assert names(store) == [f"{n:05}.png" for n in (*range(101), *range(200, 700))]
        assert names(store, order="newest", limit=2) == ["00699.png", "00698.png"]
        first = {"until": start + timedelta(hours=100)}
        nearest = names(store, order="doubt", verdict="review", limit=3, **first)
        assert nearest[0] == "00030.png" and set(nearest[1:]) == {"00031.png", "00059.png"}
        doubts = [row["doubt"] for row in store.rows(order="doubt")]
        assert len(doubts) == 601 and doubts == sorted(doubts)
        assert names(store, since=start + timedelta(hours=98), **first) == ["00098.png", "00099.png"]
        assert names(store, part=["P1", "P2"], verdict="accept") == [f"{n:05}.png" for n in range(10, 30)]
        assert names(store, disagreement=True) == names(store, model="n" * 64) == ["00100.png"]
        assert store.counts(**first) == {"accept": 31, "review": 30, "reject": 40}
        with pytest.raises(ValueError, match="colour: no such filter"):
            names(store, colour="red")


def test_decisions_add_up_to_a_history(url: str) -> None:
    with Store.open(url) as store:
        store.add([inspected(1), inspected(2)])
        one, two = (row["id"] for row in store.rows())
        assert store.decide(one, "Li", "reject", class_name="scratch", comment="at the rim", after=0) == 1
        with pytest.raises(DecidedError, match=f"image {one}: Li decided meanwhile: reject"):
            store.decide(one, "Bo", "accept", after=0)
        assert names(store, undecided=True) == ["00002.png"]
        (row,) = store.rows(undecided=False)
        assert [row[name] for name in ("decision", "person", "class_name", "comment", "decisions")] == [
            "reject", "Li", "scratch", "at the rim", 1,
        ]  # fmt: skip
        assert store.decide(one, "Li", "undo", after=1) == 2
        assert names(store, undecided=True) == ["00001.png", "00002.png"] and not names(store, undecided=False)
        assert [d["decision"] for d in store.decisions(one)] == ["reject", "undo"] and not store.decisions(two)
        with pytest.raises(DefectError, match="no image 99"):
            store.decide(99, "Li", "accept")
        with pytest.raises(ValueError, match="'maybe': expected one of accept, reject, undo"):
            store.decide(one, "Li", "maybe")


def test_two_people_never_decide_the_same_image_twice(url: str) -> None:
    with Store.open(url) as store:
        store.add([inspected(n) for n in range(20)])
    decided: dict[str, list[int]] = {"Li": [], "Bo": []}
    start = threading.Barrier(2)

    def review(person: str) -> None:
        with Store.open(url) as mine:
            start.wait()
            for row in list(mine.rows(undecided=True)):
                try:
                    mine.decide(row["id"], person, "accept", after=row["decisions"])
                    decided[person].append(row["id"])
                except DecidedError:
                    pass

    people = [threading.Thread(target=review, args=(person,)) for person in decided]
    for person in people:
        person.start()
    for person in people:
        person.join()
    with Store.open(url) as store:
        assert sorted(decided["Li"] + decided["Bo"]) == [row["id"] for row in store.rows()]
        assert all(len(store.decisions(number)) == 1 for number in decided["Li"] + decided["Bo"])


def test_retention_drops_the_oldest_and_nothing_that_a_person_decided(url: str) -> None:
    old = time_text(datetime.now(timezone.utc) - timedelta(days=10))
    with Store.open(url) as store:
        store.add([inspected(n, time=old) for n in range(600)] + [inspected(n) for n in range(600, 1200)])
        decided = [row["id"] for row in store.rows()][5:1200:100]
        for number in decided:
            store.decide(number, "Li", "accept")
        assert store.prune() == 0
        assert store.prune(max_days=5) == 594 and sum(store.counts().values()) == 606
        size = sum(row["bytes"] for row in store.rows())
        assert store.prune(max_bytes=size) == 0 and store.prune(max_bytes=size / 2) > 250
        rows = list(store.rows())
        assert sum(row["bytes"] for row in rows) <= size / 2
        left = [row["id"] for row in rows if row["decision"] is None]
        undecided = [number for number in range(601, 1201) if number not in decided]
        assert left == undecided[-len(left) :]
        assert store.prune(max_bytes=0) == len(left)
        assert [row["id"] for row in store.rows()] == decided


def test_an_older_database_is_migrated_as_a_whole_and_a_newer_one_refused(url: str, monkeypatch) -> None:
    with Store.open(url) as store:
        store.add([inspected(1)])
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE notes (id {id})", "nonsense")))
        with pytest.raises(DefectError, match="the database refuses"):
            Store.open(url)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE notes (id {id})",)))
        with Store.open(url) as store:
            assert names(store) == ["00001.png"]
    known = len(schema.MIGRATIONS)
    with pytest.raises(
        DefectError, match=rf"made by a newer version .*\(schema {known + 1}; this one knows {known}\); update"
    ):
        Store.open(url)


def test_queries_of_a_large_database_use_an_index(url: str) -> None:
    """So that a million rows are filtered in milliseconds: benchmarks/store.py measures it."""
    from sqlalchemy import text

    from dinov3.defect_station.store.queries import select_rows

    queries = [
        ({"verdict": "review", "undecided": True}, "doubt"),
        ({"doubtful": True, "undecided": True}, "doubt"),
        ({"verdict": "reject"}, "newest"),
        ({"name": "00001.png"}, "oldest"),
        ({"part": "P1"}, "newest"),
        ({"content_hash": "0"}, "oldest"),
        ({"since": "2026", "until": "2027"}, "newest"),
        ({}, "newest"),
    ]
    with Store.open(url) as store:
        store.add([inspected(n, part=f"P{n % 50}") for n in range(600)])
        with store.engine.connect() as connection:
            sqlite = connection.dialect.name == "sqlite"
            if not sqlite:
                connection.execute(text("ANALYZE"))
                connection.execute(text("SET enable_seqscan = off"))  # which it would prefer for so few rows
            for filters, order in queries:
                query = select_rows(filters, order, 50, False).compile(
                    connection, compile_kwargs={"literal_binds": True}
                )
                explain = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN "
                plan = "\n".join(str(tuple(row)) for row in connection.exec_driver_sql(explain + str(query)))
                assert "Seq Scan" not in plan and ("'SCAN inspections'" not in plan or not filters), plan
                assert not sqlite or "TEMP B-TREE" not in plan or "since" in filters, plan
