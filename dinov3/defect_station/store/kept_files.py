"""Copies of images and masks that a results database names, for what has no files of its own, such as uploads."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dinov3.defect_folders import FolderLock
from dinov3.defect_station.store.store import RemovedFiles, Store


class KeptFiles:
    """A folder of files named by the content of their image, which this process has for itself.

    A file appears as a whole or not at all. It is not forced to the disk: a power cut may cost the pictures of the last
    seconds, never their rows.

    Args:
        folder: made if needed.

    Attributes:
        lock: to be held from writing files until their rows are in the database, so that :meth:`remove` takes none away
            in between.

    Raises:
        DefectError: the folder cannot be written, or another process has it.
    """

    def __init__(self, folder: Path, command: str, flag: str):
        self.folder, self.lock = Path(os.path.abspath(folder)), threading.Lock()
        self._owned = FolderLock(self.folder, command, flag)
        self._owned.__enter__()

    def close(self) -> None:
        """Let others have the folder."""
        self._owned.release()

    def place(self, content_hash: str, suffix: str) -> Path:
        """Where a file of an image with this content is to be."""
        return self.folder / content_hash[:2] / f"{content_hash}{suffix}"

    def write(self, place: Path, content: bytes) -> None:
        """Write a file, unless it is there.

        Raises:
            OSError: it cannot be written; nothing is left of it.
        """
        if place.exists():
            return
        place.parent.mkdir(exist_ok=True)
        unfinished = place.with_name(f".{uuid.uuid4().hex}-unfinished")
        try:
            unfinished.write_bytes(content)
            unfinished.replace(place)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise

    def remove(self, store: Store, removed: Sequence[RemovedFiles]) -> None:
        """Remove what removed rows named and no other row does; files elsewhere are nobody's to remove."""
        with self.lock:
            still = store.files_named({row.content_hash for row in removed})
            for path in {path for row in removed for path in row[1:] if path} - still:
                if Path(path).is_relative_to(self.folder):
                    with suppress(OSError):  # someone has it open on Windows, or it is gone
                        Path(path).unlink()
