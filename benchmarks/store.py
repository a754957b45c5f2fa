"""How fast the results database opens, filters and takes in images when it holds a million.

python benchmarks/store.py
python benchmarks/store.py --store postgresql://user@host/an_empty_database
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dinov3.defect_errors import run_script  # noqa: E402
from dinov3.defect_station.store import Inspected, Store  # noqa: E402
from dinov3.defect_station.store.figures import (  # noqa: E402
    count_open,
    decided_by_day,
    inspected_by_day,
    models_seen,
)

REPEATS = 5
MONTH = [date(2026, 1, 1) + timedelta(n) for n in range(30)]
# As a line writes them, one after the other: of a hundred images ten are for review and five rejected; one of 500 is
# decided by a person.
FILL = """
INSERT INTO inspections (key, time, name, content_hash, part, model, thresholds, settings, verdict, predicted_class,
    defect_probability, doubt, disagreement, novelty, decided_by, probabilities, regions, milliseconds, error,
    image_path, mask_path, bytes)
SELECT {text}, '2026-01-' || (10 + n * 19 / ({rows} + 1)) || 'T00:00:00.000000Z',
    'line/' || n || '.png', 'hash' || n, 'part' || (n / 4), 'model' || (n % 3), {json}'{{"classification": 0.6}}',
    {json}'{{}}', CASE WHEN n % 100 < 85 THEN 'accept' WHEN n % 100 < 95 THEN 'review' ELSE 'reject' END, 'normal',
    (n % 1000) / 1000.0, abs((n % 1000) / 1000.0 - 0.6), {false}, NULL,
    {json}'[{{"kind": "probability", "probability": 0.3, "threshold": 0.6, "limit": "reject"}}]',
    {json}'{{"normal": 0.7, "defect": 0.3}}', {json}'[]', 12.5, '', '/line/' || n || '.png', '', 900
FROM ({numbers}) AS counted
"""
NUMBERS = {
    "sqlite": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {rows}) SELECT n FROM c",
    "postgresql": "SELECT n FROM generate_series(1, {rows}) AS n",
}


def main() -> None:
    """Fill a database, and time what people and programs ask of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--store", help="an empty database (default: a temporary SQLite file)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = args.store or str(Path(folder, "results.sqlite"))
        fill(url, args.rows)
        print(f"{args.rows:,} images, {platform.machine()}, median of {REPEATS} (seconds)")
        for name, ask in questions(url).items():
            print(f"  {name:<49} {seconds(ask):.3f}")
        if args.store is None:
            print(f"  size on disk: {Path(url).stat().st_size / 1e6:.0f} MB")


def fill(url: str, rows: int) -> None:
    """So many images, made by the database itself."""
    with Store.open(url) as store, store.engine.begin() as connection:
        sqlite = connection.dialect.name == "sqlite"
        words = {"json": "", "false": "0", "text": "n"} if sqlite else {"json": "JSONB ", "false": "false"}
        words |= {} if sqlite else {"text": "n::text"}
        numbers = NUMBERS[connection.dialect.name].format(rows=rows)
        sql = FILL.format(numbers=numbers, rows=rows, **words)
        connection.exec_driver_sql(sql if sqlite else sql.replace("%", "%%"))
        decided = (
            "INSERT INTO decisions (inspection_id, number, time, person, decision, comment) "
            "SELECT id, 1, time, 'someone', 'accept', '' FROM inspections WHERE id {} 500 = 0"
        )
        connection.exec_driver_sql(decided.format("%" if sqlite else "%%"))
        connection.exec_driver_sql("ANALYZE")


def questions(url: str) -> dict[str, Callable[[], object]]:
    """What is timed, each with its own connection to the database."""

    def rows(**filters: object) -> Callable[[], object]:
        def ask() -> list[dict]:
            with Store.open(url) as store:
                return list(store.rows(**filters))

        return ask

    def counts(**filters: object) -> Callable[[], object]:
        def ask() -> dict[str, int]:
            with Store.open(url) as store:
                return store.counts(**filters)

        return ask

    def on_store(function: Callable[..., object], *args: object) -> Callable[[], object]:
        def ask() -> object:
            with Store.open(url) as store:
                return function(store, *args)

        return ask

    added = iter(range(10**9))

    def add() -> int:
        with Store.open(url) as store:
            return store.add(
                Inspected(
                    name=f"new{next(added)}.png",
                    content_hash="0" * 64,
                    model="m" * 64,
                    verdict="accept",
                    thresholds={"classification": 0.6},
                    defect_probability=0.1,
                    probabilities={"normal": 0.9, "defect": 0.1},
                )
                for _ in range(1000)
            )

    day = {"since": "2026-01-10", "until": "2026-01-11"}
    return {
        "open, and the latest image": rows(order="newest", limit=1),
        "50 to review, most doubtful first": rows(verdict="review", undecided=True, order="doubt", limit=50),
        "50 to review with those in disagreement": rows(doubtful=True, undecided=True, order="doubt", limit=50),
        "all of those, counted": on_store(count_open),
        "figures of 30 days": on_store(inspected_by_day, MONTH),
        "decisions of 30 days": on_store(decided_by_day, MONTH),
        "the models of all images": on_store(models_seen),
        "the latest 50 rejected": rows(verdict="reject", order="newest", limit=50),
        "the latest 50 that a person decided": rows(undecided=False, order="newest", limit=50),
        "the views of a part": rows(part="part1000"),
        "an image by its name": rows(name="line/500000.png"),
        "the latest 50 of a day": rows(order="newest", limit=50, **day),
        "verdicts of a day, counted": counts(**day),
        "verdicts of a model, counted": counts(model="model1"),
        "verdicts of all, counted": counts(),
        "1,000 new images in one go": add,
    }


def seconds(ask: Callable[[], object]) -> float:
    """Median over the repeats."""
    taken = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


if __name__ == "__main__":
    run_script(main)
