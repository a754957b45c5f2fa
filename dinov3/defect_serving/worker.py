"""The batching thread between decoding and finishing: as many images at a time as are waiting, and no waiting for more.

An image goes through threads that decode (``--num_workers``), one thread that feeds the network up to ``--batch_size``
of the images that wait, and threads that finish masks and regions. Under load the next batch gathers while the network
is at work on this one; a single image is not held up.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dinov3.data.defect_images import ImageReadError, open_file
from dinov3.defect_serving.logs import LOGGER
from dinov3.defect_serving.metrics import Metrics
from dinov3.defect_serving.models import ServedModel
from dinov3.inference.pipeline import InputFile, Source, start_batch
from dinov3.inference.prediction import Prediction

BYTES_WAITING = 1 << 28  # of decoded images before the network; at least one image waits whatever its size
FAILED_BATCHES = 3  # in a row, after which the engine counts as broken
Result = Prediction | ImageReadError


@dataclass(eq=False)
class Task:
    """An image on its way.

    Attributes:
        finish: makes of the prediction, or of why there is none, what the client gets; for any thread.
        answer: of ``finish``; cancelled if nobody waits for it any more.
        stages: seconds in each.
    """

    source: Source
    model: ServedModel
    finish: Callable[[Result], Any]
    answer: Future[Any] = field(default_factory=Future)
    stages: dict[str, float] = field(default_factory=dict)
    file: InputFile | None = None
    ready: float = 0.0  # when it was decoded


class Worker:
    """Runs tasks; at most ``queue_size`` images are under way.

    Attributes:
        draining: no more images are accepted.
    """

    def __init__(self, *, batch_size: int, num_workers: int, queue_size: int, max_pixels: float, metrics: Metrics):
        self.batch_size, self.queue_size, self.max_pixels, self.metrics = batch_size, queue_size, max_pixels, metrics
        self.draining = False
        self._reserved, self._failed = 0, 0
        self._seconds_per_image = 0.1
        self._waiting: deque[Task] = deque()
        self._bytes_waiting = 0
        self._changed = threading.Condition()
        self._decoding = ThreadPoolExecutor(max(num_workers, 1), thread_name_prefix="decode")
        self._finishing = ThreadPoolExecutor(min(os.cpu_count() or 1, 8), thread_name_prefix="finish")
        self._thread = threading.Thread(target=self._run, name="batch", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str:
        """Why it does not work; empty if it does."""
        if not self._thread.is_alive():
            return "the batching thread has ended; restart the server"
        if self._failed >= FAILED_BATCHES:
            return f"the engine failed on the last {self._failed} batches; restart the server"
        return ""

    def reserve(self, count: int) -> bool:
        """Make room for ``count`` images; False: there is none."""
        with self._changed:
            if self.draining or self._reserved + count > self.queue_size:
                return False
            self._reserved += count
            self.metrics.queue.set(self._reserved)
        return True

    def release(self, count: int) -> None:
        """Give back room that no task was made for, or whose task has ended."""
        with self._changed:
            self._reserved -= count
            self.metrics.queue.set(self._reserved)
            self._changed.notify_all()

    @property
    def retry_after(self) -> int:
        """Seconds, 1 to 30, until what is under way should be done."""
        return min(max(math.ceil(self._reserved * self._seconds_per_image), 1), 30)

    def submit(self, task: Task) -> None:
        """Start with an image that room was reserved for; its end gives the room back."""
        self._decoding.submit(self._decode, task)

    def close(self) -> None:
        """Finish what was accepted, and stop."""
        with self._changed:
            self.draining = True
            while self._reserved and self._thread.is_alive():
                self._changed.wait(0.1)
            self._changed.notify_all()
        self._thread.join(10)
        self._decoding.shutdown()
        self._finishing.shutdown()

    def _decode(self, task: Task) -> None:
        if task.answer.cancelled():
            self.release(1)
            return
        begun = time.perf_counter()
        try:
            expect_pixels(task.source, self.max_pixels)
            task.file = task.model.read(task.source)
            if task.file.image is None:
                raise ImageReadError(task.file.error)
        except ImageReadError as error:
            self._end(task, partial(_result, task.source, error, None))
            return
        except BaseException as error:
            self._fail(task, error)
            return
        task.ready = time.perf_counter()
        task.stages["decode"] = task.ready - begun
        size = task.file.image.nbytes
        with self._changed:
            while self._bytes_waiting and self._bytes_waiting + size > BYTES_WAITING:
                self._changed.wait()
            self._bytes_waiting += size
            self._waiting.append(task)
            self._changed.notify_all()

    def _run(self) -> None:
        while (tasks := self._next_batch()) is not None:
            if not tasks:
                continue
            begun = time.perf_counter()
            for task in tasks:
                task.stages["wait"] = begun - task.ready
            rest = list(tasks)
            try:
                files = [task.file for task in tasks if task.file is not None]
                jobs = start_batch(tasks[0].model.predictor, files, self.batch_size, _result)
                for task, (_, job) in zip(tasks, jobs, strict=True):
                    task.stages["network"] = time.perf_counter() - begun
                    rest.remove(task)
                    task.file = None
                    ended = self._finishing.submit(self._end, task, job)
                    if task.model.predictor.tiling is not None:  # what is left to do holds all of the image
                        ended.result()
                self._failed = 0
            except BaseException as error:  # of the engine, on this batch
                self._failed += 1
                for task in rest:
                    self._fail(task, error)
            self.metrics.batches.observe(len(tasks))
            spent = (time.perf_counter() - begun) / len(tasks)
            self._seconds_per_image += 0.2 * (spent - self._seconds_per_image)

    def _next_batch(self) -> list[Task] | None:
        """Images that wait, of one model; none after a second without any, None at the end."""
        with self._changed:
            if not self._waiting:
                self._changed.wait(1)
            self.metrics.heartbeat.set_to_current_time()
            if not self._waiting:
                return None if self.draining and not self._reserved else []
            tasks: list[Task] = []
            first = self._waiting[0].model
            most = 1 if first.predictor.tiling is not None else self.batch_size
            while self._waiting and len(tasks) < most and self._waiting[0].model is first:
                task = self._waiting.popleft()
                self._bytes_waiting -= task.file.image.nbytes
                if task.answer.set_running_or_notify_cancel():
                    tasks.append(task)
                else:
                    self.release(1)
            self._changed.notify_all()
            return tasks

    def _end(self, task: Task, job: Callable[[], Result]) -> None:
        """Finish an image, in any thread."""
        begun = time.perf_counter()
        try:
            answer = task.finish(job())
        except BaseException as error:
            self._fail(task, error)
            return
        task.stages["finish"] = time.perf_counter() - begun
        for stage, seconds in task.stages.items():
            self.metrics.stages.labels(stage).observe(seconds)
        self.release(1)
        with suppress(InvalidStateError):  # nobody waits for it any more
            task.answer.set_result(answer)

    def _fail(self, task: Task, error: BaseException) -> None:
        LOGGER.error("an image failed", exc_info=error)
        self.release(1)
        with suppress(InvalidStateError):
            task.answer.set_exception(error)


def _result(source: Source, result: Result, display: None) -> Result:
    return result


def expect_pixels(source: Source, most: float) -> None:
    """Raise ImageReadError for an image of more than ``most`` pixels, by what its file says before it is decoded."""
    with open_file(source) as image:
        width, height = image.size
    if width * height > most:
        raise ImageReadError(
            f"{source}: {width} x {height} pixels; expected at most {most / 1e6:g} megapixels: send a smaller image, "
            "or start the server with a larger --max_megapixels"
        )
