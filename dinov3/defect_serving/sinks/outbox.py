"""Results on disk until the other end of each sink has them.

A result is in the outbox before its client gets the answer, in one transaction for all sinks, flushed to the disk; it
is removed from it once the other end of the sink has said that it has it. So nothing is lost, whenever the server or
the other end stops. A result whose receipt was not heard, as the connection or the server ended just then, is sent
again: each has an ``id`` that never changes, by which the receiver drops what it has already.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dinov3.defect_errors import DefectError
from dinov3.defect_folders import FolderLock

FILE = "outbox.sqlite3"
SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT, sink TEXT NOT NULL, id TEXT NOT NULL, message TEXT NOT NULL,
    UNIQUE (sink, id)
);
CREATE INDEX IF NOT EXISTS outbox_by_sink ON outbox (sink, number);
CREATE TABLE IF NOT EXISTS inspected (name TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class Stored(NamedTuple):
    """A message in the outbox."""

    number: int
    message: str  # JSON


class Outbox:
    """Messages for sinks, in a folder that this process has for itself.

    Args:
        folder: made if needed.
        sinks: their names; each gets every message.
        limit: messages for one sink; with as many, the outbox is full.

    Attributes:
        added: set when there may be something to send; senders clear it.

    Raises:
        DefectError: the folder cannot be written, or another server has it.
    """

    def __init__(self, folder: Path, sinks: Collection[str], limit: int):
        self.limit, self._sinks, self._lock = limit, list(sinks), threading.Lock()
        self.added = {sink: threading.Event() for sink in sinks}
        self._folder_lock = FolderLock(folder, "serve_defect_model.py", "--buffer_dir")
        self._folder_lock.__enter__()
        try:
            self._database = sqlite3.connect(folder / FILE, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(SCHEMA)
            counts = dict(self._database.execute("SELECT sink, COUNT(*) FROM outbox GROUP BY sink"))
        except sqlite3.Error as error:
            self._folder_lock.release()
            raise DefectError(f"--buffer_dir {folder}: {FILE} cannot be used ({error}); move it away") from None
        self._waiting = {sink: counts.pop(sink, 0) for sink in sinks}
        self.orphaned = counts  # messages of sinks that are no longer asked for

    @property
    def full(self) -> bool:
        """Whether a sink has as much to send as the limit allows."""
        return any(count >= self.limit for count in self._waiting.values())

    def waiting(self, sink: str) -> int:
        """How many messages of a sink are not delivered."""
        return self._waiting[sink]

    def add(self, messages: Sequence[dict[str, Any]], inspected: str | None = None) -> None:
        """Keep messages, each with its ``id``, and perhaps that the file ``inspected`` is done: all, or nothing.

        Raises:
            sqlite3.Error: they cannot be kept.
        """
        rows = [(sink, one["id"], json.dumps(one, ensure_ascii=False)) for sink in self._sinks for one in messages]
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._database.executemany("INSERT INTO outbox (sink, id, message) VALUES (?, ?, ?)", rows)
                if inspected is not None:
                    self._database.execute("INSERT OR IGNORE INTO inspected VALUES (?)", (inspected,))
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
            for sink in self._sinks:
                self._waiting[sink] += len(messages)
        for event in self.added.values():
            event.set()

    def oldest(self, sink: str, count: int) -> list[Stored]:
        """The first messages for a sink, in the order they came."""
        command = "SELECT number, message FROM outbox WHERE sink = ? ORDER BY number LIMIT ?"
        with self._lock:
            return [Stored(*row) for row in self._database.execute(command, (sink, count))]

    def delivered(self, sink: str, numbers: Collection[int]) -> None:
        """The sink's other end has these messages."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("DELETE FROM outbox WHERE number = ?", [(number,) for number in numbers])
            self._database.execute("COMMIT")
            self._waiting[sink] -= len(numbers)

    def inspected(self) -> list[str]:
        """Names of the watched files that are done."""
        with self._lock:
            return [name for (name,) in self._database.execute("SELECT name FROM inspected")]

    def forget(self, names: Collection[str]) -> None:
        """Watched files that are gone."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("DELETE FROM inspected WHERE name = ?", [(name,) for name in names])
            self._database.execute("COMMIT")

    def close(self) -> None:
        """Let others have the folder."""
        with self._lock:
            self._database.close()
        self._folder_lock.release()
