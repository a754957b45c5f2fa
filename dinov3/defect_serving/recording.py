"""Results into the results database, with copies of what was uploaded, before anyone is answered.

One thread writes: whatever has gathered while it wrote the results before goes into the next transaction, so that many
clients share the wait for the disk.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dinov3.defect_serving.config import ServeConfig
from dinov3.defect_serving.evidence import Evidence, take_evidence
from dinov3.defect_serving.logs import LOGGER, log
from dinov3.defect_serving.metrics import Metrics
from dinov3.defect_serving.models import ServedModel
from dinov3.defect_serving.occasion import Occasion, storable
from dinov3.defect_serving.results import Outcome
from dinov3.defect_station.store import Inspected, Store
from dinov3.defect_station.store.kept_files import KeptFiles
from dinov3.inference.pipeline import Source
from dinov3.inference.prediction import Prediction

AT_A_TIME = 200  # images in one transaction, or a few more
SECONDS_PRUNED = 3600.0  # between two looks at what may be removed


@dataclass(eq=False)
class _Job:
    count: int  # of images
    rows: Callable[[], list[Inspected]]
    files: dict[Path, bytes]
    done: Future[None] = field(default_factory=Future)


class Recorder:
    """Writes into one database. Close it when all that was given to it is done.

    Raises:
        DefectError: the database or the folder of ``--store_images`` cannot be used.
    """

    def __init__(self, config: ServeConfig, metrics: Metrics):
        self.metrics, self._limit, self._keeps_all = metrics, config.queue_size, config.store_keep == "all"
        self._max_days = config.store_days
        self._max_bytes = None if config.store_mb is None else config.store_mb * 1e6
        self.store, self.files = Store.open(config.store), None
        try:
            if config.store_images is not None:
                self.files = KeptFiles(config.store_images, "serve_defect_model.py", "--store_images")
        except BaseException:
            self.store.close()
            raise
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._waiting, self._counting, self._closing = 0, threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._run, name="record", daemon=True)]
        if self._max_days is not None or self._max_bytes is not None:
            self._threads.append(threading.Thread(target=self._prune, name="prune", daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def full(self) -> bool:
        """Whether as many images wait for the database as may be under way."""
        return self._waiting >= self._limit

    def evidence(self, source: Source, outcome: Outcome, prediction: Prediction | None) -> Evidence:
        """What the database is to get of an image beside the record of ``outcome``; for any thread."""
        record = outcome.record
        clean = record.get("verdict") == "accept" and not record["disagreement"]
        unseen = outcome.status == 422  # nobody could see anything in it
        keeps = not unseen and (self._keeps_all or not clean)
        return take_evidence(source, prediction, self.files if keeps else None)

    def add(self, occasion: Occasion, model: ServedModel, outcomes: Sequence[Outcome]) -> Future[None]:
        """Write what became of images; it is done when they are on the disk, or has the reason why they are not.

        Args:
            outcomes: with :meth:`evidence`.
        """
        files: dict[Path, bytes] = {}
        for outcome in outcomes:
            files |= outcome.evidence.files
        job = _Job(len(outcomes), partial(rows, occasion, model, outcomes), files)
        self._count(job.count)
        self._jobs.put(job)
        return job.done

    def close(self) -> None:
        """Write what waits, and let go of everything."""
        self._closing.set()
        self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        if self.files is not None:
            self.files.close()
        self.store.close()

    def _count(self, more: int) -> None:
        with self._counting:
            self._waiting += more

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs, ended = [job], False
            with suppress(queue.Empty):
                while not ended and sum(job.count for job in jobs) < AT_A_TIME:
                    following = self._jobs.get_nowait()
                    ended = following is None
                    jobs += [] if following is None else [following]
            wanted = [job for job in jobs if job.done.set_running_or_notify_cancel()]
            if wanted:
                self._write(wanted)
            self._count(-sum(job.count for job in jobs))
            if ended:
                return

    def _write(self, jobs: list[_Job]) -> None:
        try:
            self._write_all(jobs)
        except Exception as error:
            if len(jobs) > 1:  # what cannot be done for one of them may be done for the others
                for job in jobs:
                    self._write([job])
                return
            self.metrics.store_failures.inc()
            jobs[0].done.set_exception(error)
            return
        for job in jobs:
            job.done.set_result(None)

    def _write_all(self, jobs: list[_Job]) -> None:
        found = [row for job in jobs for row in job.rows()]
        if self.files is None:
            self.store.add(found)
            return
        with self.files.lock:
            for job in jobs:
                for place, content in job.files.items():
                    self.files.write(place, content)
            self.store.add(found)

    def _prune(self) -> None:
        files = self.files
        told = None if files is None else partial(files.remove, self.store)
        while True:
            try:
                removed = self.store.prune(max_days=self._max_days, max_bytes=self._max_bytes, removed_files=told)
                if removed:
                    log("removed from the results database", images=removed)
            except Exception:
                LOGGER.exception("old results could not be removed")
            if self._closing.wait(SECONDS_PRUNED):
                return


def rows(occasion: Occasion, model: ServedModel, outcomes: Sequence[Outcome]) -> list[Inspected]:
    """What the database gets of images; their outcomes have evidence."""
    labels = {name: occasion.labels[name] for name in ("camera", "trigger_id")} | {"request_id": occasion.request_id}
    labels["watch"] = None if occasion.watched is None else str(occasion.watched[0])
    labels = {name: storable(value) for name, value in labels.items() if value is not None}
    found = []
    for number, outcome in enumerate(outcomes):
        record, evidence, part = outcome.record, outcome.evidence, occasion.part(outcome.record["image"])
        found.append(
            Inspected.of_record(
                record | {name: storable(record[name]) for name in ("image", "error")},
                content_hash=evidence.content_hash,
                part=None if part is None else storable(part),
                model=model.brief["fingerprint"],
                thresholds=model.brief["thresholds"],
                settings=model.settings,
                image_path=storable(evidence.image_path),
                mask_path=storable(evidence.mask_path),
                labels=labels,
                occasion=occasion.key(number),
                embedding=evidence.embedding,
                file_bytes=sum(map(len, evidence.files.values())),
            )
        )
    return found
