"""What the inspection report keeps of each image until its page is written: one line per image in a file."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image

from dinov3.data.defect_drawing import class_color
from dinov3.inference.pipeline import shrink

SIDE = 160  # pixels, of a thumbnail's longer side
FILL, EDGE = 110, 255  # opacity of a marked area and of its outline


class Spool:
    """Records and thumbnails in a file, so that memory does not grow with the number of images.

    A line is the record as JSON, the thumbnail as base64 JPEG, and its mask as base64 PNG, with tabs between; the
    pictures are empty where there are none. Each line goes to the disk whole, so a killed run loses its last at most;
    a database that promises the same is slower (``benchmarks/report_speed.py``).

    Args:
        path: the file.
        done: records to go on behind, with the pictures that the file has of them; the rest of it is dropped.
        shown: where there is no file, the pictures of records that are known from elsewhere, as base64 text.
    """

    def __init__(
        self,
        path: Path,
        done: Iterable[dict[str, Any]] = (),
        shown: Iterable[tuple[dict[str, Any], str, str]] = (),
    ):
        self.path = path
        self._new = path.with_name(path.name + ".new")
        if not path.exists():
            self._restore(shown)
        self._begin(done)

    def _restore(self, shown: Iterable[tuple[dict[str, Any], str, str]]) -> None:
        with self._new.open("w+b") as self._file:
            for record, photo, marks in shown:
                self._write(record, photo.encode(), marks.encode())
        self._new.replace(self.path)

    def _begin(self, done: Iterable[dict[str, Any]]) -> None:
        self._file = self._new.open("w+b")
        with self.path.open("rb") as old:
            places = {_key(record): place for place, record in _read(old)}
            for record in done:
                place = places.get(_key(record))
                if place is None:
                    self._write(record, b"", b"")
                else:
                    old.seek(place)
                    self._write(record, *old.readline().rstrip(b"\n").split(b"\t")[1:])
        self._file.close()
        self._new.replace(self.path)
        self._file = self.path.open("ab")

    def add(self, record: dict[str, Any], display: np.ndarray | None, mask: np.ndarray | None) -> None:
        """Append an image; the arguments are those of ``ReportWriter.add``."""
        photo, marks = b"", b""
        if display is not None:
            thumbnail = shrink(display, SIDE)
            photo = base64.b64encode(encode_photo(thumbnail))
            if mask is not None and mask.any():
                marks = base64.b64encode(encode_mask(mask, thumbnail.shape[:2]))
        self._write(record, photo, marks)
        self._file.flush()

    def _write(self, record: dict[str, Any], photo: bytes, marks: bytes) -> None:
        self._file.write(b"\t".join([json.dumps(record).encode(), photo, marks]) + b"\n")

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Where each line starts, and its record, in the order of :meth:`add`."""
        self._file.flush()
        with self.path.open("rb") as file:
            yield from _read(file)

    def lines(self, positions: list[int]) -> Iterator[list[str]]:
        """The record as JSON, the thumbnail and the mask that start at each of ``positions``."""
        self._file.flush()
        with self.path.open("rb") as file:
            for position in positions:
                file.seek(position)
                yield file.readline().decode().rstrip("\n").split("\t")

    def close(self, *, delete: bool) -> None:
        """Close the file; ``delete``: and remove it."""
        self._file.close()
        if delete:
            self.path.unlink(missing_ok=True)


def _key(record: dict[str, Any]) -> tuple[str, float | None]:
    """One inspection of an image: a watched file that is written again has one for each time."""
    return record["image"], record.get("milliseconds")


def _read(file: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
    place = 0
    for line in file:
        if line.endswith(b"\n"):  # else the run was stopped while it was written
            yield place, json.loads(line[: line.index(b"\t")])
        place += len(line)


def encode_photo(image: np.ndarray) -> bytes:
    """(h, w, 3) uint8 RGB as JPEG, of one channel if it is grey."""
    grey = image[..., 0]
    if (grey == image[..., 1]).all() and (grey == image[..., 2]).all():
        image = grey
    else:
        image = image[..., ::-1]
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def encode_mask(mask: np.ndarray, size: tuple[int, int]) -> bytes:
    """(H, W) mask classes as a see-through PNG of ``size`` (h, w): areas in the colour of their class, outlined.

    A pixel of the result is marked if any pixel below it is, so that the smallest defect can be seen.
    """
    rows, columns = (np.arange(n) * large // n for n, large in zip(size, mask.shape, strict=True))
    ends = np.maximum(np.append(rows[1:], mask.shape[0]), rows + 1)
    lines = np.stack([mask[start:end].max(axis=0) for start, end in zip(rows, ends, strict=True)])
    small = np.maximum.reduceat(lines, columns, axis=1)
    inside = cv2.erode((small > 0).astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0)
    values = [int(v) for v in np.unique(small) if v]
    palette, opacity, index = [0, 0, 0], [0], np.zeros(size, np.uint8)
    for value in values:
        for edge, alpha in ((inside == 0, EDGE), (inside == 1, FILL)):
            index[(small == value) & edge] = len(opacity)
            palette += class_color(value)
            opacity.append(alpha)
    picture = Image.fromarray(index)
    picture.putpalette(palette)
    buffer = io.BytesIO()
    picture.save(buffer, format="png", transparency=bytes(opacity))
    return buffer.getvalue()
