"""What happens to the results database when things go wrong: kills, full disks, locks, and files that are none."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.storing import inspected

from dinov3.defect_errors import DefectError
from dinov3.defect_station.store import Store

pytest.importorskip("sqlalchemy", reason="needs sqlalchemy: pip install '.[station]'")
# Adds images in three threads, in a process of its own that is killed after a while, again and again. What was added
# is noted in a file as soon as ``add`` says so.
UNDER_LOAD = """
import os, random, signal, sys, threading, time
from helpers.storing import inspected
from dinov3.defect_station.store import Store
url, noted, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
Store.open(url).close()

def load(round, thread, store, file):
    for batch in range(10**6):
        names = [f"{round}-{thread}-{batch}-{n}" for n in range(random.randrange(1, 12))]
        images = [inspected(n, name=name) for n, name in enumerate(names)]
        assert store.add(images) == len(names)
        os.write(file, "".join(name + "\\n" for name in names).encode())

for round in range(kills):
    child = os.fork()
    if not child:
        store, file = Store.open(url), os.open(noted, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        threads = [threading.Thread(target=load, args=(round, thread, store, file)) for thread in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    size = os.path.getsize(noted) if os.path.exists(noted) else 0
    while round % 4 and not (os.path.exists(noted) and os.path.getsize(noted) > size): time.sleep(0.005)
    time.sleep(random.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def start(code: str, *arguments: object) -> subprocess.Popen:
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that can fork processes")
def test_kills_under_load_lose_nothing_that_was_accepted_and_double_nothing(url: str, tmp_path: Path) -> None:
    noted, kills = tmp_path / "noted.txt", 4 if url.startswith("postgresql") else 20
    assert start(UNDER_LOAD, url, noted, kills).wait(120) == 0
    accepted = noted.read_text().split("\n")[:-1]
    with Store.open(url) as store:
        stored = [row["name"] for row in store.rows()]
    assert len(accepted) >= kills // 2, "hardly anything was under way"
    assert len(stored) == len(set(stored)) and set(accepted) <= set(stored)
    batches: dict[str, set[str]] = {}
    for name in stored:
        batches.setdefault(name.rpartition("-")[0], set()).add(name)
    assert all(f"{batch}-{n}" in names for batch, names in batches.items() for n in range(len(names)))


def test_a_full_disk_is_named_and_what_was_stored_stays(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits on file size need a Unix system")
    path = tmp_path / "results.sqlite"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Store.open(str(path)) as store:
        stored = 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))  # fails as a full disk does
        try:
            with pytest.raises(DefectError, match=r"results\.sqlite: .*(no space|full)"):
                for number in range(0, 10_000, 50):
                    stored += store.add(inspected(number + n) for n in range(50))
            assert sum(store.counts().values()) == stored > 0
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert store.add([inspected(number) for number in range(stored + 50)]) == 50, "it goes on with space again"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_lock_is_waited_for_and_then_named(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with Store.open(str(path), seconds_locked=0.2) as store, closing(sqlite3.connect(path)) as other:
        store.add([inspected(1)])
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DefectError, match="results.sqlite: locked by another program for more than 0.2 s; end"):
            store.add([inspected(2)])
        assert len(list(store.rows())) == 1, "readers need not wait"
        other.rollback()
        assert store.add([inspected(2)]) == 1


def test_what_is_no_database_of_ours_is_refused_in_a_sentence_and_left_alone(tmp_path: Path) -> None:
    text, other = tmp_path / "text.sqlite", tmp_path / "other.sqlite"
    text.write_text("no database, whatever its name says; " * 40)
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE songs (id)")
    damaged = tmp_path / "damaged.sqlite"
    with Store.open(str(damaged)) as store:
        store.add([inspected(number) for number in range(200)])
    content = damaged.read_bytes()
    damaged.write_bytes(content[:8192] + b"\xff" * 40_000 + content[48_192:])
    for place, message in (
        (text, "text.sqlite: not an SQLite database; choose another file"),
        (other, "other.sqlite: a database of another program, with the tables songs; choose"),
        (tmp_path, "a folder; expected a file such as"),
        (tmp_path / "no" / "x.sqlite", "its folder .*no does not exist; make it first"),
        ("mysql://here/x", "--store mysql://...: expected a file name, or postgresql://"),
        ("postgresql://here:port/x", "a PostgreSQL address that cannot be read"),
        ("postgresql://me:secret@127.0.0.1:9/x", r"--store postgresql://127.0.0.1/x: the database refuses \(.*refused"),
    ):
        before = place.read_bytes() if isinstance(place, Path) and place.is_file() else None
        if str(place).startswith("postgresql"):
            pytest.importorskip("psycopg", reason="needs psycopg: pip install '.[postgresql]'")
        with pytest.raises(DefectError, match=message) as raised:
            Store.open(str(place))
        assert "\n" not in str(raised.value) and "secret" not in str(raised.value)
        assert before is None or place.read_bytes() == before
    with pytest.raises(DefectError, match="no such file; inference_defect_model.py --store makes it"):
        Store.open(str(tmp_path / "none.sqlite"), must_exist=True)
    with pytest.raises(DefectError, match="damaged.sqlite: damaged; restore a copy"), Store.open(str(damaged)) as store:
        list(store.rows())


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whose permissions count")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DefectError, match="cannot be written; fix its permissions, or choose another folder"):
        Store.open(str(tmp_path / "x.sqlite"))
