"""Which images of a folder a camera has finished writing, found by looking again and again."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from dinov3.data.defect_files import IMAGE_SUFFIXES, may_be_read

LOOKED_AT_AGAIN = 2000  # inspected files per look whether they have been rewritten
SHARE_OF_TIME = 0.05  # spent on looking, at most


class State(NamedTuple):
    """A file of another state is another image."""

    size: int
    written: int  # time of the last write, in nanoseconds
    inode: int


@dataclass
class _Seen:
    """A file that is not inspected yet."""

    state: State
    since: float  # when it was first seen so, in seconds of a clock that nobody sets
    tried: bool = False  # and could not be read
    last_try: float = -math.inf  # in this state or an earlier one


class FolderWatcher:
    """Finds new images below ``folder``, each once it is complete.

    A file is complete when size and time of its last write have been the same for ``settled`` seconds; at once if it
    was renamed or moved here after its last write. A file that cannot be read is given ``patience`` to change, from
    when it was first seen so, whatever time a camera or file server has given it. One that is rewritten or replaced
    later is a new image under an old name.

    Args:
        folder: searched with its subfolders, which may come and go; hidden files and links to folders are skipped.
            Images of a folder that cannot be listed for a while are no new ones when it is back.
        settled: seconds without a change after which a file is tried.
        patience: seconds without a change after which an unreadable file is taken as it is.
        done: names, relative to ``folder`` and ``/``-separated, that are inspected already.
        skip: a folder below to skip, such as that of the results.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settled: float = 0.5,
        patience: float = 5.0,
        done: Collection[str] = (),
        skip: Path | None = None,
    ):
        self.folder, self.settled, self.patience = folder, settled, patience
        self._skip = os.path.realpath(skip) if skip is not None else None
        self._waiting: dict[str, _Seen] = {}
        self._done: dict[str, State | None] = dict.fromkeys(done)  # None: whatever its state is
        self._position = 0  # in _done, up to where rewritten files were looked for

    def look(self) -> list[Path]:
        """Images that are complete since the last look, oldest first."""
        now = time.monotonic()
        present, ready, unlisted = set(), [], []
        for name in self._names(unlisted):
            present.add(name)
            if name in self._done:
                continue
            state, complete = self._state(name)
            if state is None:
                continue
            seen = self._waiting.get(name)
            if seen is None or seen.state != state:
                last_try = -math.inf if seen is None else seen.last_try
                seen = self._waiting[name] = _Seen(state, now, last_try=last_try)
            complete = complete or now - seen.since >= self.settled
            again = not seen.tried or now - seen.since >= self.patience
            if complete and again and now - seen.last_try >= self.settled:
                seen.last_try = now
                ready.append((state.written, name))
        # What is inspected stays so while its folder is away; what was still being written then rests anew after it.
        for forgotten, kept in ((self._waiting, ()), (self._done, tuple(unlisted))):
            for name in [name for name in forgotten if name not in present and not name.startswith(kept)]:
                del forgotten[name]
        self._look_for_rewritten(now)
        return [self.folder / name for _, name in sorted(ready)]

    def finish(self, path: Path, readable: bool) -> bool:
        """Say how the inspection of a file from :meth:`look` went; whether its outcome counts. Else it is gone, or
        may be unfinished and comes again."""
        name = path.relative_to(self.folder).as_posix()
        seen = self._waiting.get(name)
        if seen is None or not os.path.lexists(path):
            return False
        if not readable and time.monotonic() - seen.since < self.patience:
            seen.tried = True
            return False
        del self._waiting[name]
        self._done[name] = seen.state
        return True

    def _names(self, unlisted: list[str]) -> Iterator[str]:
        """Of all images, relative to the folder; folders that cannot be listed to their end go into ``unlisted``."""
        folders = [""]
        while folders:
            within = folders.pop()
            try:
                with os.scandir(self.folder / within) as entries:
                    for entry in entries:
                        if entry.name.startswith("."):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            if self._skip is None or os.path.realpath(entry.path) != self._skip:
                                folders.append(f"{within}{entry.name}/")
                        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and may_be_read(entry):
                            yield within + entry.name
            except OSError:
                unlisted.append(within)  # gone, or not there for the moment, as a network folder may be

    def _state(self, name: str) -> tuple[State | None, bool]:
        """What tells one image under this name from the next (None: there is none), and whether it is complete at
        first sight."""
        try:
            facts = os.stat(self.folder / name)
        except OSError:
            return None, False
        # Writing sets both times; a rename, or whatever restores the first one when a copy is done, the second alone.
        renamed = os.name != "nt" and facts.st_ctime_ns > facts.st_mtime_ns
        complete = renamed or time.time() - facts.st_mtime >= self.patience
        return State(facts.st_size, facts.st_mtime_ns, facts.st_ino), complete

    def _look_for_rewritten(self, now: float) -> None:
        """Forget inspected files that have changed since; some at each look, in turn, as there may be very many."""
        if self._position >= len(self._done):
            self._position = 0
        part = list(islice(self._done.items(), self._position, self._position + LOOKED_AT_AGAIN))
        self._position += len(part)
        for name, state in part:
            found, _ = self._state(name)
            if state is None:
                self._done[name] = found
            elif found is not None and found != state:
                del self._done[name]
                self._waiting[name] = _Seen(found, now)


def watch(watcher: FolderWatcher, stopped: Callable[[], bool], interval: float = 0.5) -> Iterator[list[Path]]:
    """Complete images as they come, in lists, until ``stopped`` is true. Looks every ``interval`` seconds, and less
    often where looking takes long, so that it costs a twentieth of a core at most."""
    while not stopped():
        start = time.perf_counter()
        ready = watcher.look()
        took = time.perf_counter() - start
        if ready:
            yield ready
            continue
        end = time.perf_counter() + max(interval, took / SHARE_OF_TIME)
        while not stopped() and time.perf_counter() < end:
            time.sleep(min(0.1, interval))
