"""A PostgreSQL server of the tests' own: a new one in a folder, reached through a socket, ended with the tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def postgresql_server() -> Iterator[str]:
    """The address of a database ``postgres``; skips where there is no server to start."""
    pytest.importorskip("psycopg", reason="needs psycopg: pip install '.[postgresql]'")
    programs = [shutil.which(name) for name in ("initdb", "postgres")]
    if not all(programs):
        pytest.skip("needs PostgreSQL's initdb and postgres on PATH")
    user = {"user": "nobody"} if hasattr(os, "geteuid") and os.geteuid() == 0 else {}  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: a socket's path has 100 bytes
    if user:
        shutil.chown(folder, "nobody")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder} | user
    process = None
    try:
        flags = ["-A", "trust", "-U", "station", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run([programs[0], "-D", folder / "data", *flags], check=True, **quiet)
        settings = ["listen_addresses=", f"unix_socket_directories={folder}", "fsync=off", "shared_buffers=16MB"]
        command = [programs[1], "-D", folder / "data", *(word for one in settings for word in ("-c", one))]
        process = subprocess.Popen(command, **quiet)
        address = f"postgresql://station@/postgres?host={folder}"
        deadline = time.monotonic() + 30
        while not _is_ready(address):
            assert process.poll() is None and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.05)
        yield address
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # without waiting for clients
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _is_ready(address: str) -> bool:
    import psycopg

    try:
        psycopg.connect(address).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of a database on a server of the tests' own."""
    with postgresql_server() as address:
        yield address


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    pytest.importorskip("sqlalchemy", reason="needs sqlalchemy: pip install '.[station]'")
    if request.param == "sqlite":
        return str(tmp_path / "results.sqlite")
    address = request.getfixturevalue("postgresql")
    import psycopg

    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return address
