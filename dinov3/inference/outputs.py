"""Predictions to files: CSV, JSON, masks and pictures, written as they come."""

from __future__ import annotations

import errno
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol

import cv2
import numpy as np

from dinov3.data.defect_images import ImageReadError
from dinov3.data.defect_masks import write_mask
from dinov3.defect_errors import DefectError
from dinov3.defect_tables import TableWriter
from dinov3.inference.claim import files_of_others
from dinov3.inference.parts import COLUMNS as PART_COLUMNS
from dinov3.inference.parts import Parts
from dinov3.inference.prediction import Prediction
from dinov3.inference.records import (
    Record,
    StoredRecord,
    columns,
    failed_record,
    make_record,
    picture_name,
    read_records,
    table_row,
)
from dinov3.inference.visualize import draw_panels
from dinov3.models.defect_facts import fingerprint

END = b"\n]\n"
SECONDS_UNWRITTEN = 0.5  # how long rows may wait in memory
SECONDS_BETWEEN_PARTS = 5.0  # parts.csv is written anew each time
OBSERVATIONS_WAITING = 64  # images that the observer may be behind


class Observer(Protocol):
    """Is shown every image, in order and from one thread, such as the report."""

    def add(self, record: Record, display: np.ndarray | None, mask: np.ndarray | None) -> None:
        """The next image: its entry in ``predictions.json``; an (h, w, 3) uint8 RGB copy and its mask (H, W) uint8 at
        original size, both None for a file that could not be inspected."""

    def close(self, *, finished: bool) -> None:
        """That was the last; ``finished`` is False after an error or a stop."""


class Listener(Protocol):
    """Is told every record, in order, those of a run that is gone on with included."""

    def add(self, record: Record) -> None:
        """The next one."""


@dataclass(frozen=True)
class Finished:
    """An image whose mask and picture are written, and what is still to be said of it."""

    record: Record
    display: np.ndarray | None
    mask: np.ndarray | None
    content_hash: str = ""  # SHA-256 of the file, if a store is to have it
    embedding: np.ndarray | None = None  # (D,) float32, likewise


class Sink(Protocol):
    """Keeps images in another place too, such as the results database."""

    def write(self, images: Sequence[Finished]) -> None:
        """The next images, in order; they are safe when this returns. Those of a run that was killed may come again."""


class OutputWriter:
    """Writes ``predictions.csv``, ``predictions.json``, ``errors.csv``, ``parts.csv``, ``masks/``, ``visualizations/``.

    Use as a context manager; per input :meth:`write_images`, in any thread, then :meth:`add` in the order of the rows.
    ``predictions.json`` is whole after every :meth:`flush`, which happens by itself twice a second.

    Args:
        output_dir: made if needed.
        classes: of the model, index 0 is normal.
        visualize: draw the pictures.
        mm_per_pixel: adds sizes in millimetres to the regions.
        resume: keep the whole records of a stopped run and go on behind them; the tables are made again from them.
        observer: is shown every image; closed with the writer.
        parts: what tells the parts of the images, for ``parts.csv``, which is whole every few seconds and at the end.
        sink: has every image before ``predictions.json`` does, so that a run that goes on misses none there.
        drift: what compares the images with a reference.

    Attributes:
        counts: the number of each verdict and of ``error``, those of a resumed run included.
        disagreements: images whose mask and classifier say different things.
        done: names of the images that a resumed run had finished.

    Raises:
        DefectError: the folder cannot be written.
    """

    def __init__(
        self,
        output_dir: Path,
        classes: list[str],
        visualize: bool = True,
        *,
        mm_per_pixel: float | None = None,
        resume: bool = False,
        observer: Observer | None = None,
        parts: Parts | None = None,
        sink: Sink | None = None,
        drift: Listener | None = None,
    ):
        self.output_dir, self.classes, self.visualize = output_dir, classes, visualize
        self.mm_per_pixel, self.resume, self.observer, self.parts = mm_per_pixel, resume, observer, parts
        self.sink, self.drift = sink, drift
        self._parts_written = 0.0
        self.counts: Counter[str] = Counter()
        self.disagreements = 0
        self.done: set[str] = set()
        self._others: set[str] = set()  # files below masks/ and visualizations/ that are not to be replaced
        self._observing = ThreadPoolExecutor(1, thread_name_prefix="observe")
        self._observed: list[Future[None]] = []
        self._unwritten: list[Finished] = []

    @property
    def needs_display(self) -> bool:
        """Whether :meth:`write_images` has a use for small copies of the images."""
        return self.visualize or self.observer is not None

    def __enter__(self) -> OutputWriter:
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise DefectError(f"--output_dir {self.output_dir}: cannot be written ({error.strerror})") from None
        return self

    def _open(self) -> None:
        path = self.output_dir / "predictions.json"
        resume = self.resume and path.exists()
        self._table = TableWriter(self.output_dir / "predictions.csv", columns(self.classes))
        self._errors = TableWriter(self.output_dir / "errors.csv", ["image", "error"])
        end = 1
        for stored in self.stored() if resume else ():
            self.done.add(stored.record["image"])
            self._add_rows(stored.record)
            end = stored.end
        self._others = files_of_others(self.output_dir, self.done)
        self._json = path.open("r+b" if resume else "w+b")
        self._json.truncate(end if self.done else 0)
        self._json.seek(0, 2)
        self._json.write(b"" if self.done else b"[")
        self._first = not self.done
        self.flush()

    def stored(self) -> Iterator[StoredRecord]:
        """The records in the folder as it is now, if any."""
        path = self.output_dir / "predictions.json"
        return read_records(path) if path.exists() else iter(())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.flush()
            self._write_parts()
        finally:
            for file in (self._table, self._errors, self._json):
                file.close()
            self._observing.shutdown()  # it sees every row that was written
        if self.observer is not None:
            self._wait_for_observer(0)
            self.observer.close(finished=kind is None)

    def write_images(
        self, name: str, result: Prediction | ImageReadError, display: np.ndarray | None, path: Path | None = None
    ) -> Finished:
        """Write the mask and the picture of one input, in any thread.

        Args:
            name: its path relative to the input folder, ``/``-separated.
            result: the prediction, or why there is none.
            display: (h, w, 3) uint8 RGB copy for the picture.
            path: the input itself, for the sink if there is one.
        """
        finished = self._write_images(name, result, display)
        if self.sink is None or path is None:
            return finished
        if isinstance(result, Prediction):
            finished = replace(finished, embedding=result.embedding)
        with suppress(OSError):
            return replace(finished, content_hash=fingerprint(path))
        return finished

    def _write_images(self, name: str, result: Prediction | ImageReadError, display: np.ndarray | None) -> Finished:
        readable = os.fsencode(name).decode(errors="backslashreplace")
        if readable != name:  # no table or JSON file could hold it
            reason = f"{readable}: a file name that is not valid UTF-8; rename the file"
            return Finished(failed_record(readable, reason), None, None)
        if isinstance(result, ImageReadError):
            return Finished(failed_record(name, str(result)), None, None)
        file = picture_name(name)
        if file in self._others:
            reason = f"{name}: masks/{file} or its picture was in --output_dir before, and no inspection made it"
            return Finished(failed_record(name, f"{reason}; move it to another place"), None, None)
        try:
            write_mask(self.output_dir / "masks" / file, result.mask)
            if self.visualize and display is not None:
                path = self.output_dir / "visualizations" / file
                path.parent.mkdir(parents=True, exist_ok=True)
                picture = cv2.cvtColor(draw_panels(display, result), cv2.COLOR_RGB2BGR)
                path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())  # imwrite fails on such names on Windows
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
                raise
            reason = f"{name}: its mask cannot be written ({error.strerror}): {error.filename}; rename the image"
            return Finished(failed_record(name, reason), None, None)
        except (MemoryError, cv2.error) as error:
            told = " ".join(str(error).split())[:200]
            reason = f"{name}: its mask or picture cannot be made ({type(error).__name__}: {told})"
            return Finished(failed_record(name, reason), None, None)
        shown = (display, result.mask) if self.observer is not None else (None, None)
        return Finished(make_record(name, result, self.mm_per_pixel), *shown)

    def add(self, image: Finished) -> None:
        """Add the rows of one input."""
        self._add_rows(image.record)
        self._unwritten.append(replace(image, display=None, mask=None))
        if self.observer is not None:
            self._observe(image)
        if time.monotonic() - self._flushed > SECONDS_UNWRITTEN:
            self.flush()

    def _observe(self, image: Finished) -> None:
        self._wait_for_observer(OBSERVATIONS_WAITING)
        self._observed.append(self._observing.submit(self.observer.add, image.record, image.display, image.mask))

    def _wait_for_observer(self, behind: int) -> None:
        while self._observed and (len(self._observed) > behind or self._observed[0].done()):
            future = self._observed.pop(0)
            if not future.cancelled():
                future.result()

    def _add_rows(self, record: Record) -> None:
        self.counts["error" if record["error"] else record["verdict"]] += 1
        self.disagreements += bool(record.get("disagreement"))
        self._table.write(table_row(record))
        if self.parts is not None:
            self.parts.add(record)
        if self.drift is not None:
            self.drift.add(record)
        if record["error"]:
            self._errors.write(record)

    def flush(self) -> None:
        """Let others see all rows so far."""
        self._table.flush()
        self._errors.flush()
        if self.sink is not None and self._unwritten:
            self.sink.write(self._unwritten)
        for image in self._unwritten:
            line = json.dumps(image.record, ensure_ascii=False).encode()
            self._json.write((b"\n" if self._first else b",\n") + line)
            self._first = False
        self._unwritten.clear()
        self._json.write(END)
        self._json.flush()
        self._json.seek(-len(END), 2)  # the next record takes its place
        self._flushed = time.monotonic()
        if self._flushed - self._parts_written > SECONDS_BETWEEN_PARTS:
            self._write_parts()

    def _write_parts(self) -> None:
        if self.parts is None:
            return
        path = self.output_dir / "parts.csv"
        unfinished = path.with_name(".parts.csv.unfinished")
        with TableWriter(unfinished, PART_COLUMNS) as table:
            for row in self.parts.rows():
                table.write(row)
        unfinished.replace(path)
        self._parts_written = time.monotonic()
