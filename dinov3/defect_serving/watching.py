"""Camera folders: what comes into one is inspected like an upload, and its result goes where those of uploads go."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import uuid
from concurrent.futures import wait
from pathlib import Path

from dinov3.defect_errors import DefectError
from dinov3.defect_serving.logs import LOGGER, log
from dinov3.defect_serving.models import ServedModel
from dinov3.defect_serving.occasion import Occasion
from dinov3.defect_serving.results import Extras, Outcome, finisher, messages
from dinov3.defect_serving.service import Service
from dinov3.defect_serving.sinks.outbox import Outbox
from dinov3.defect_serving.worker import Task
from dinov3.inference.watch import FolderWatcher, watch

SECONDS_RETRY = 1.0  # after a result could not be kept


class FolderInspection:
    """Watches a folder (:class:`~dinov3.inference.watch.FolderWatcher`) in a thread of its own.

    That a file is done stands in the outbox together with its result, so that each file has one result, whenever the
    server ends. The folder below ``folder`` that an image lies in is told as its ``camera``.

    Raises:
        DefectError: there is no such folder.
    """

    def __init__(self, folder: Path, service: Service, outbox: Outbox):
        if not folder.is_dir():
            raise DefectError(f"--watch {folder}: no such folder to watch; make it first")
        self.folder, self.service, self.outbox = folder, service, outbox
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop once what is being inspected is done."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        watcher = FolderWatcher(self.folder, done=self._done())
        for ready in watch(watcher, self._stopping.is_set):
            size = self.service.config.batch_size
            for start in range(0, len(ready), size):
                self._inspect(watcher, ready[start : start + size])

    def _done(self) -> list[str]:
        """Files that are inspected; those that are gone are forgotten, unless all beside them are gone, too: then a
        network share may be away."""
        names = self.outbox.inspected()
        gone = [name for name in names if not (self.folder / name).exists() and _has_files((self.folder / name).parent)]
        self.outbox.forget(gone)
        return sorted(set(names) - set(gone))

    def _inspect(self, watcher: FolderWatcher, paths: list[Path]) -> None:
        service, model, tasks = self.service, self.service.models.current, []
        for path in paths:
            while self._is_full() or not service.worker.reserve(1):
                if self._stopping.is_set():
                    break
                time.sleep(0.05)
            else:
                name, take = path.relative_to(self.folder).as_posix(), service.evidence(path)
                task = Task(path, model, finisher(name, model, service.config.mm_per_pixel, Extras(), take))
                tasks.append((path, name, _written(path), task))
                service.worker.submit(task)
        wait([task.answer for *_, task in tasks])
        for path, name, written, task in tasks:
            if task.answer.exception() is not None:
                continue  # of the engine, which the log tells of; the file comes again
            outcome: Outcome = task.answer.result()
            if not watcher.finish(path, readable=outcome.status == 200):
                continue
            camera = name.rpartition("/")[0] or None
            part = name if service.part_of is None else service.part_of(name)  # the name itself: not known
            labels = {"part_id": None if part == name else part, "camera": camera, "trigger_id": None}
            occasion = Occasion(uuid.uuid4().hex, labels, watched=(self.folder.absolute(), written))
            if self._keep(name, occasion, model, outcome):
                service.count([outcome])
                verdict = outcome.record.get("verdict", "error")
                log("watched", request_id=occasion.request_id, camera=camera, verdict=verdict, waiting=len(paths))

    def _is_full(self) -> bool:
        recorder = self.service.recorder
        return self.outbox.full or (recorder is not None and recorder.full)

    def _keep(self, name: str, occasion: Occasion, model: ServedModel, outcome: Outcome) -> bool:
        """Keep a result, however often that has to be tried; whether it was before the server ends."""
        recorder, tried = self.service.recorder, 0
        while True:
            try:
                if recorder is not None:
                    recorder.add(occasion, model, [outcome]).result()
                kept = messages(occasion, model, [outcome], {})  # other views of its part are still to come
                self.outbox.add(kept, inspected=name)
                return True
            except (DefectError, OSError, sqlite3.Error):
                if not tried:
                    LOGGER.exception("a result could not be kept; trying again")
            except Exception:
                LOGGER.exception("a result could not be kept; the file is inspected again after a restart")
                return False
            tried += 1
            if self._stopping.wait(SECONDS_RETRY):
                return False


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _has_files(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False
