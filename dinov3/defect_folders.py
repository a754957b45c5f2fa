"""One command at a time in a folder."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, SoftFileLock, Timeout

from dinov3.defect_errors import DefectError

LOCK, OWNER = ".defect.lock", ".defect.owner.json"
PATIENCE = 10.0  # seconds that a killed owner's processes, which may still hold its lock, get to end


class FolderLock:
    """Keeps a folder for this process while its context lasts; any other one is refused, and told who is there.

    The operating system holds the lock, so that it is gone with its owner, however that ended. Where a network share
    offers no locks, a file takes their place, which names its process and host: one whose process is gone counts for
    nothing on that host, and on others has to be removed by hand.

    Args:
        folder: made if needed.
        command: what the next one is told of this one, such as ``train_defect_model.py``.
        flag: which gave the folder, for messages, such as ``--save_dir``.

    Raises:
        DefectError: another process has the folder, or it cannot be written.
    """

    def __init__(self, folder: Path, command: str, flag: str = ""):
        self.folder, self.command = folder, command
        self._named = f"{flag} {folder}".lstrip()
        self._lock: FileLock | SoftFileLock | None = None
        self._made = False

    def __enter__(self) -> FolderLock:
        self._made = not os.path.lexists(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = self._acquired(FileLock)
            owner = {"command": self.command, "process": os.getpid(), "host": socket.gethostname()}
            owner["since"] = datetime.now().astimezone().isoformat(timespec="seconds")
            (self.folder / OWNER).write_text(json.dumps(owner), encoding="utf-8")
        except OSError as error:
            self.release()
            raise DefectError(f"{self._named}: cannot be written ({error.strerror}); choose another folder") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the folder back, without a trace, not even of a folder that was made for it and is still empty; nothing
        happens if that is done already."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        with suppress(OSError):
            (self.folder / OWNER).unlink()
        open_files_stay = os.name == "nt"
        if open_files_stay:
            lock.release()
        with suppress(OSError):
            (self.folder / LOCK).unlink()  # where that is possible before another process takes it
        if not open_files_stay:
            lock.release()
        if self._made:
            with suppress(OSError):  # not empty
                self.folder.rmdir()

    def _acquired(self, kind: type[FileLock | SoftFileLock]) -> FileLock | SoftFileLock:
        lock = kind(self.folder / LOCK, timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            owner = self._owner()
            if not _is_gone(owner):
                raise self._refused(owner) from None
            try:
                lock.acquire(timeout=PATIENCE)
            except Timeout:
                raise self._refused(owner) from None
        except OSError as error:
            if isinstance(error, PermissionError) or kind is SoftFileLock:
                raise
            return self._acquired(SoftFileLock)  # this file system has no locks
        return lock

    def _owner(self) -> dict[str, Any]:
        try:
            owner = json.loads((self.folder / OWNER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return owner if isinstance(owner, dict) else {}

    def _refused(self, owner: dict[str, Any]) -> DefectError:
        who = "another command"
        if owner:
            who = "{command} (process {process} on {host}, since {since})".format_map(_Known(owner))
        elsewhere = "" if owner.get("host") == socket.gethostname() else f". If it is gone, remove {self.folder / LOCK}"
        return DefectError(
            f"{self._named}: in use by {who}; wait until it is done, or choose another folder{elsewhere}"
        )


class _Known(dict):
    def __missing__(self, key: str) -> str:
        return "?"


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether the owner was a process of this host that has ended."""
    number = owner.get("process")
    if os.name == "nt" or owner.get("host") != socket.gethostname() or not isinstance(number, int) or number < 1:
        return False
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it runs, as another user
        return False
    return False
