"""Which database is meant, how it is opened, and what its errors mean to a person."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinov3.defect_errors import DefectError

if TYPE_CHECKING:
    from sqlalchemy import Engine

SECONDS_LOCKED = 10.0  # how long to wait for another process that writes
POSTGRESQL = ("postgresql://", "postgres://", "postgresql+psycopg://")

# What SQLite says, and what it means; the first that fits counts.
_SQLITE = (
    ("is locked", "locked by another program for more than {seconds:g} s; end that program, or try again later"),
    ("disk is full", "no space is left on its disk; free some and try again, nothing that was stored is lost"),
    ("not a database", "not an SQLite database; choose another file"),
    ("malformed", "damaged; restore a copy, or choose another file"),
    ("readonly", "cannot be written; fix the permissions of the file and its folder, or choose another one"),
    ("unable to open", "cannot be opened; its folder must exist and be writable"),
    ("disk i/o error", "its disk cannot be read or written; if it is full, free space and try again"),
)


class DecidedError(DefectError):
    """Someone else decided on the image meanwhile."""


def open_engine(url: str, must_exist: bool = False, seconds_locked: float = SECONDS_LOCKED) -> tuple[Engine, str]:
    """What SQLAlchemy needs for a file name, ``sqlite:///FILE`` or ``postgresql://...``, and the name of the database
    for messages, without a password. Connects to nothing yet.

    Raises:
        DefectError: no such kind of database, or no such file though it ``must_exist``.
    """
    import sqlalchemy as sa

    if url.startswith(POSTGRESQL):
        try:
            parsed = sa.make_url("postgresql+psycopg://" + url.split("://", 1)[1])
        except (sa.exc.ArgumentError, ValueError):
            raise DefectError(
                "--store: a PostgreSQL address that cannot be read; expected postgresql://user:password@host/database"
            ) from None
        # A connection that the server closed meanwhile is replaced; sizes are bounded by what the server lends.
        engine = sa.create_engine(parsed, pool_pre_ping=True, connect_args={"connect_timeout": int(seconds_locked)})
        return engine, f"postgresql://{parsed.host or ''}/{parsed.database or ''}"
    path = Path(url.removeprefix("sqlite:///"))
    if "://" in str(url.removeprefix("sqlite:///")):
        raise DefectError(f"--store {url.split('://')[0]}://...: expected a file name, or postgresql://...")
    if path.is_dir():
        raise DefectError(f"--store {path}: a folder; expected a file such as {path / 'results.sqlite'}")
    if must_exist and not path.is_file():
        raise DefectError(f"--store {path}: no such file; inference_defect_model.py --store makes it")
    if not path.parent.is_dir():
        raise DefectError(f"--store {path}: its folder {path.parent} does not exist; make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise DefectError(f"--store {path}: cannot be written; fix its permissions, or choose another folder")
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path.resolve())), connect_args={"timeout": seconds_locked}
    )
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine, str(path)


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where _begin_sqlite says, not where the driver likes
    for pragma in ("auto_vacuum=INCREMENTAL", "synchronous=FULL", "foreign_keys=ON"):  # the first one: of a new file
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Any) -> None:
    # One that will write takes its turn at once: one that reads first may find later that it cannot have it.
    kind = "IMMEDIATE" if connection.get_execution_options().get("writes") else "DEFERRED"
    connection.exec_driver_sql(f"BEGIN {kind}")


def use_wal(engine: Engine) -> None:
    """Let those who read and the one who writes an SQLite database not wait for each other; the file remembers it, so
    that of another program is not to come here."""
    with closing(engine.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA journal_mode=WAL")


@contextmanager
def told(place: str, seconds: float = SECONDS_LOCKED) -> Iterator[None]:
    """Say in one sentence what is wrong with the database ``place``.

    Raises:
        DefectError: it cannot be used.
    """
    import sqlalchemy as sa

    try:
        yield
    except sa.exc.DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        for sign, meaning in _SQLITE:
            if sign in reason.lower():
                raise DefectError(f"--store {place}: {meaning.format(seconds=seconds)}") from None
        raise DefectError(f"--store {place}: the database refuses ({reason[:300]})") from None
