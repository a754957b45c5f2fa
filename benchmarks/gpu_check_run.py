"""How gpu_check.py runs one part: in a process group of its own that ends with it, with its output in a log.

Only the standard library here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpu_check_parts import Part

GRACE = 3.0  # seconds from SIGTERM to SIGKILL
LAST = 100  # characters of a part's last line that its row shows
ERROR = 1500  # characters of a failed part's output that its row keeps


class Clock:
    """Seconds since the start, of ``total``."""

    def __init__(self, total: float):
        self.total, self._start = total, time.monotonic()

    @property
    def spent(self) -> float:
        return time.monotonic() - self._start

    @property
    def left(self) -> float:
        return self.total - self.spent


def write_text(path: Path, text: str) -> None:
    """Write ``path`` so that it is whole at any moment."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def run_part(part: Part, environment: Mapping[str, str], limit: float, scratch: Path, log: Path) -> dict[str, Any]:
    """Run ``part`` for ``limit`` seconds at most, and end all that it started.

    Returns:
        Its row: ``name``, ``what``, ``command``, ``status`` (ok, failed, out of time), ``seconds``, ``limit``,
        ``last`` (line of its output), ``error`` (the end of its output, if it is not ok), and ``figures``, what it
        wrote to its JSON file.
    """
    figures, output = scratch / f"{part.name}.json", scratch / f"{part.name}.log"
    command = part.command(max(limit - GRACE, 1.0), figures)
    start = time.monotonic()
    status, error = "ok", ""
    with output.open("wb") as stream:
        options = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": subprocess.STDOUT}
        try:
            with process_group(command, environment, options) as process:
                code = process.wait(max(limit - GRACE, 1.0))
            status = "ok" if code == 0 else "failed"
            error = "" if code == 0 else f"exit status {code}"
        except subprocess.TimeoutExpired:
            status, error = "out of time", f"ended after {limit:.0f} s"
        except OSError as reason:  # it could not be started
            status, error = "failed", str(reason)
    text = output.read_text(encoding="utf-8", errors="replace")
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"===== {part.name}: {status} {error}\n$ {' '.join(command)}\n{text}\n")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return {
        "name": part.name,
        "what": part.what,
        "command": command,
        "status": status,
        "seconds": round(time.monotonic() - start, 1),
        "limit": round(limit, 1),
        "last": (lines[-1] if lines else error)[:LAST],
        "error": f"{error}\n{text[-ERROR:]}".strip() if error else "",
        "figures": read_figures(figures),
    }


@contextmanager
def process_group(
    command: list[str], environment: Mapping[str, str], options: Mapping[str, Any]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process; when the block ends, it and all that it started are gone."""
    process = subprocess.Popen(command, env=dict(environment), start_new_session=True, **options)
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:  # nothing is left of the group
                break
            deadline = time.monotonic() + GRACE
            while group_lives(process) and time.monotonic() < deadline:
                time.sleep(0.02)
        process.wait()


def group_lives(process: subprocess.Popen[bytes]) -> bool:
    """Whether anything of the group still runs."""
    process.poll()  # takes leave of the first process, which would count as there else
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def read_figures(path: Path) -> dict[str, Any]:
    """What a part has written; nothing if it did not come to that."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def collect_runs(folder: Path, archive: Path) -> None:
    """Pack the finished runs of accuracy.py, some KB each, to be unpacked in benchmarks/runs."""
    files = sorted(folder.rglob("fold*_seed*.json"))
    if not files:
        return
    unfinished = archive.with_name(archive.name + ".unfinished")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as pack:
        for file in files:
            pack.write(file, file.relative_to(folder))
    unfinished.replace(archive)
