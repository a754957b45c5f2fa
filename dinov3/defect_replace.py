"""A folder that is written beside its place and moved there when it is whole: a kill leaves the old one or the new one.

The new one is written as ``.NAME-unfinished-XXXXXXXX``. The one it replaces is ``...-replaced`` for the moment between
two renames; if it is still so named, and nothing else has its name, that is where a kill came.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import tempfile
from pathlib import Path

from dinov3.defect_errors import DefectError
from dinov3.defect_folders import FolderLock
from dinov3.defect_interrupts import signals_held

REPLACED = "-replaced"
_LEFTOVER = re.compile(r"\..+-unfinished-[a-z0-9_]{8}(-replaced)?")


class UnfinishedFolder:
    """A folder in the making, which others leave alone while this process lives.

    Args:
        place: where it will be.
        workplace: the folder in which to make it, on the same disk.
    """

    def __init__(self, place: Path, workplace: Path, command: str):
        self.place = place
        self.path = Path(tempfile.mkdtemp(prefix=f".{place.name}-unfinished-", dir=workplace))
        self.path.chmod(0o755)
        self._lock = FolderLock(self.path, command)
        self._lock.__enter__()

    def move(self, old: FolderLock | None = None) -> None:
        """Put it in its place; what is there, if anything, is removed.

        Args:
            old: the lock on what is there, released with it.

        Raises:
            OSError: a rename failed; all is as it was.
        """
        replaced = Path(f"{self.path}{REPLACED}")
        locks = [lock for lock in (self._lock, old) if lock is not None]
        if os.name == "nt":  # no folder with an open file in it can be renamed there
            for lock in locks:
                lock.release()
        with signals_held():
            if self.place.exists():
                self.place.rename(replaced)
            try:
                self.path.rename(self.place)
            except OSError:
                if replaced.exists():
                    replaced.rename(self.place)
                raise
            for lock, path in zip(locks, (self.place, replaced), strict=False):
                lock.folder = path
                lock.release()
        shutil.rmtree(replaced, ignore_errors=True)

    def remove(self) -> None:
        """Take it away, if it has not been moved."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()


def is_leftover(name: str) -> bool:
    """Whether a folder of this name is one in the making, or what a killed process left of it."""
    return _LEFTOVER.fullmatch(name) is not None


def remove_leftovers(place: Path, workplace: Path) -> None:
    """Delete what killed processes left of folders for ``place``; what others are at work on stays."""
    restore(place)
    for path in workplace.glob(f".{glob.escape(place.name)}-unfinished-*"):
        if is_leftover(path.name) and path.is_dir() and not path.is_symlink() and _is_deserted(path):
            shutil.rmtree(path, ignore_errors=True)


def restore(place: Path) -> bool:
    """If a kill came while ``place`` was being replaced, give it back what was there; whether that was so."""
    if os.path.lexists(place):
        return False
    moved = list(place.parent.glob(f".{glob.escape(place.name)}-unfinished-*{REPLACED}"))
    if len(moved) != 1 or not is_leftover(moved[0].name):
        return False
    new = moved[0].with_name(moved[0].name.removesuffix(REPLACED))
    if new.exists() and not _is_deserted(new):
        return False
    moved[0].rename(place)
    return True


def _is_deserted(path: Path) -> bool:
    try:
        with FolderLock(path, "cleaning up"):
            return True
    except DefectError:
        return False
