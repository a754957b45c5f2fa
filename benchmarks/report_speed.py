"""What the inspection report's container of records costs, beside SQLite, in alternation; and the whole report.

python benchmarks/report_speed.py

Beside the lines of ``spool.py``, SQLite is tried with a transaction per image, which like the lines loses nothing that
was added before a run is killed, and with one per 50 images, which may lose the pictures of 50.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dinov3.defect_errors import run_script  # noqa: E402
from dinov3.defect_evaluation.thresholds import Thresholds  # noqa: E402
from dinov3.inference.reports import spool  # noqa: E402
from dinov3.inference.reports.inspection import ReportWriter  # noqa: E402

THRESHOLDS = Thresholds(0.6, 0.5, 0.3)
PHOTO, MASK = 3800, 300  # bytes of a usual thumbnail and of its mask
SHOWN = 5000  # images with a picture in the page


class SqliteSpool:
    """The same as ``Spool`` in a database.

    Args:
        every: images of a transaction.
    """

    TABLE = "CREATE TABLE images (name TEXT, milliseconds REAL, record TEXT, photo BLOB, mask BLOB)"
    INSERT = "INSERT INTO images VALUES (?, ?, ?, ?, ?)"
    TAKE = """INSERT INTO images SELECT ?1, ?2, ?3, photo, mask FROM (SELECT 1) LEFT JOIN
        (SELECT photo, mask FROM old.images WHERE name = ?1 AND milliseconds = ?2 ORDER BY rowid DESC LIMIT 1)"""

    def __init__(self, path: Path, done: Iterable[dict[str, Any]], every: int):
        self.path, self.every, self.added = path, every, 0
        new = path.with_name(path.name + ".new")
        self.database = sqlite3.connect(new, isolation_level=None)
        for command in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=OFF", self.TABLE):
            self.database.execute(command)
        if path.exists():
            self.database.execute("ATTACH ? AS old", (str(path),))
            self.database.execute("CREATE INDEX old.named ON images (name, milliseconds)")
            self.database.execute("BEGIN")
            rows = ((record["image"], record["milliseconds"], json.dumps(record)) for record in done)
            self.database.executemany(self.TAKE, rows)
            self.database.execute("COMMIT")
        self.database.close()
        new.replace(path)
        self.database = sqlite3.connect(path, isolation_level=None)

    def add(self, record: dict[str, Any], display: np.ndarray, mask: np.ndarray) -> None:
        pictures = spool.encode_photo(display), spool.encode_mask(mask, display.shape[:2])
        if self.added % self.every == 0:
            self.database.execute("BEGIN")
        self.database.execute(self.INSERT, (record["image"], record["milliseconds"], json.dumps(record), *pictures))
        self.added += 1
        if self.added % self.every == 0:
            self.database.execute("COMMIT")

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for place, record in self.database.execute("SELECT rowid, record FROM images ORDER BY rowid"):
            yield place, json.loads(record)

    def lines(self, positions: list[int]) -> Iterator[list[str]]:
        for position in positions:
            row = self.database.execute("SELECT record, photo, mask FROM images WHERE rowid = ?", (position,))
            record, *pictures = row.fetchone()
            yield [record, *(base64.b64encode(picture or b"").decode() for picture in pictures)]

    def close(self, *, delete: bool) -> None:
        if self.database.in_transaction:
            self.database.execute("COMMIT")
        self.database.close()
        if delete:
            self.path.unlink()


CONTAINERS: dict[str, Callable[[Path, Iterable[dict[str, Any]]], Any]] = {
    "lines": spool.Spool,
    "SQLite, a transaction per image": lambda path, done: SqliteSpool(path, done, every=1),
    "SQLite, one per 50 images": lambda path, done: SqliteSpool(path, done, every=50),
}


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000, help="of an inspection")
    parser.add_argument("--rounds", type=int, default=3, help="each tries every container; the median counts")
    return parser


def make_record(number: int, rng: np.random.Generator) -> dict[str, Any]:
    """An entry of ``predictions.json`` with one region."""
    p = float(rng.random())
    region = {"class_name": "crack", "box": [1, 2, 3, 4], "polygon": rng.integers(0, 999, (12, 2)).tolist()}
    region |= {"area": 9, "length": 3.1, "width": 2.2, "score": 0.7, "peak": 0.8}
    return {
        "image": f"line{number % 7}/{number:06d}.png",
        "verdict": THRESHOLDS.verdict(p),
        "predicted_class": "crack" if p >= 0.3 else "normal",
        "defect_probability": p,
        "prob_normal": 1 - p,
        "prob_crack": p,
        "mask_area_fraction": 0.01,
        "num_regions": 1,
        "reason": f"defect probability {p:.2f} >= 0.30 (review limit)",
        "decided_by": [{"kind": "probability", "probability": p, "threshold": 0.3, "limit": "review"}],
        "disagreement": False,
        "milliseconds": number * 1.01,
        "error": "",
        "regions": [region],
    }


def time_container(make: Callable[[Path, Iterable[dict[str, Any]]], Any], records: list[dict[str, Any]]) -> list[float]:
    """Seconds of CPU to add all records, to read them, to take the pictures shown, and to go on with the run."""
    image, mask = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.uint8)
    rng, times = np.random.default_rng(0), [time.process_time()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.spool")
        container = make(path, ())
        for record in records:
            container.add(record, image, mask)
        times.append(time.process_time())
        positions = [position for position, _ in container.records()]
        assert len(positions) == len(records)
        times.append(time.process_time())
        chosen = rng.permutation(positions)[:SHOWN].tolist()
        assert all(len(photo) > PHOTO for _, photo, _ in container.lines(chosen))
        times.append(time.process_time())
        container.close(delete=False)
        container = make(path, iter(records))
        times.append(time.process_time())
        container.close(delete=True)
    return np.diff(times).tolist()


def time_report(records: list[dict[str, Any]]) -> tuple[float, float]:
    """Microseconds of CPU per image to add, thumbnails included, and seconds to write the page."""
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 255, (160, 160, 3), np.uint8), np.zeros((160, 160), np.uint8)
    mask[40:60, 40:70] = 1
    with tempfile.TemporaryDirectory() as folder:
        report = ReportWriter(Path(folder, "report.html"), classes=["normal", "crack"], thresholds=THRESHOLDS)
        start = time.process_time()
        for record in records:
            report.add(record, image, mask)
        added = time.process_time()
        report.close()
        return (added - start) / len(records) * 1e6, time.process_time() - added


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = build_parser().parse_args(argv)
    rng = np.random.default_rng(0)
    records = [make_record(number, rng) for number in range(args.images)]
    photo, mask = rng.bytes(PHOTO), rng.bytes(MASK)
    times: dict[str, list[list[float]]] = {name: [] for name in CONTAINERS}
    with mock.patch.multiple(spool, encode_photo=lambda *_: photo, encode_mask=lambda *_: mask):
        for _ in range(args.rounds):
            for name, make in CONTAINERS.items():
                times[name].append(time_container(make, records))
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{args.images:,} images, seconds of CPU, median of {args.rounds} rounds; {machine}")
    print(f"| container | add | read all | take {SHOWN:,} | go on | all, to the lines |\n|---|---|---|---|---|---|")
    lines = np.array(times["lines"]).sum(axis=1)
    for name, rounds in times.items():
        columns = " | ".join(f"{statistics.median(column):.2f}" for column in zip(*rounds, strict=True))
        print(f"| {name} | {columns} | {statistics.median(np.array(rounds).sum(axis=1) / lines):.2f} |")
    add, close = time_report(records)
    print(f"the whole report: {add:.0f} microseconds per image to add, {close:.2f} s to write the page")
    return 0


if __name__ == "__main__":
    run_script(main)
