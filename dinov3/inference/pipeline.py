"""Many image files at the speed of the network: reading, network and everything after it at the same time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from dinov3.data.defect_images import ImageBytes, ImageReadError, read_for_size
from dinov3.data.defect_read_ahead import read_ahead
from dinov3.data.defect_resize import resize_image
from dinov3.defect_errors import NotFiniteError
from dinov3.inference.prediction import Prediction
from dinov3.inference.predictor import DefectPredictor

DISPLAY_SIZE = 640  # longest side, in pixels, of the copy kept for pictures
PIXELS_IN_FLIGHT = 200_000_000  # of original images whose masks are being made or wait to be taken

T = TypeVar("T")
Source = Path | ImageBytes
# Called with a file, its prediction or why it could not be read, and its small (h, w, 3) uint8 RGB copy if wanted.
Then = Callable[[Any, Prediction | ImageReadError, np.ndarray | None], T]


def predict_files(
    predictor: DefectPredictor,
    paths: Sequence[Path],
    then: Then[T],
    *,
    batch_size: int = 16,
    num_workers: int = 2,
    display: bool = False,
    threads: int | None = None,
    reader: Callable[[Any], InputFile] | None = None,
) -> Iterator[T]:
    """Predict image files and yield ``then(path, result, display)`` for each, in the order of ``paths``.

    Files are read and resized by ``num_workers`` threads. This one only feeds the network; masks, regions and ``then``
    are the work of ``threads``. How much is under way at a time does not depend on the number of files. By
    tiles, images come one by one and ``batch_size`` counts tiles.

    Args:
        display: make the small copies.
        threads: as many as there are cores, and 8 at most, if not given.
        reader: reads what ``paths`` are in place of files, as :class:`FileReader` does.
    """
    tiles = predictor.tiling is not None
    files = read_ahead(paths, reader or FileReader.of(predictor, display), num_workers, 1 if tiles else 2 * batch_size)
    waiting: deque[tuple[int, Future[T]]] = deque()
    pixels = 0
    pool = ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 8), thread_name_prefix="finish")
    try:
        for batch in _chunks(files, 1 if tiles else batch_size):
            for size, job in start_batch(predictor, batch, batch_size, then):
                waiting.append((size, pool.submit(job)))
                pixels += size
                while waiting and (
                    waiting[0][1].done() or len(waiting) > 4 * batch_size or pixels > PIXELS_IN_FLIGHT + size
                ):
                    pixels -= waiting[0][0]
                    yield waiting.popleft()[1].result()
        while waiting:
            yield waiting.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)
        files.close()


def start_batch(
    predictor: DefectPredictor, batch: list[InputFile], batch_size: int, then: Then[T]
) -> Iterator[tuple[int, Callable[[], T]]]:
    """Feed a batch to the network, or by tiles one image; for each file, in their order, the pixels of its original,
    and what is left to do."""
    started, place = None, 0
    images = [file.image for file in batch if file.image is not None]
    if predictor.tiling is None and images:
        started = predictor.engine.start(np.stack(images))
    for file in batch:
        pixels = file.size[0] * file.size[1]
        if file.image is None:
            yield 0, _Job(then, file.path, file.display, None, ImageReadError(file.error))
        elif started is not None:
            yield pixels, _Job(then, file.path, file.display, predictor.finish, started, place, file.size)
            place += 1
        else:
            try:
                tiles = predictor.run_tiles(file.image, batch_size)
            except (MemoryError, RuntimeError) as error:
                if not _is_of_this_image(error):
                    raise
                yield 0, _Job(then, file.path, file.display, None, _beyond(file.path, error))
                continue
            yield pixels, _Job(then, file.path, file.display, predictor.finish_tiles, tiles)


def _is_of_this_image(error: Exception) -> bool:
    """Whether it asks for more memory than there is; a device that fails, or is too small for a batch, ends the run."""
    text = str(error)
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in text or "Failed to allocate memory" in text


def _beyond(path: Source, error: Exception) -> ImageReadError:
    """The reason of an image that was read and is beyond what can be done with it."""
    told = " ".join(str(error).split())[:200]
    return ImageReadError(f"{path}: too large, or of a shape that cannot be processed ({type(error).__name__}: {told})")


class _Job:
    """Finish one prediction and hand it on; what it holds is let go when it has run."""

    def __init__(self, then: Then[T], path: Source, display: np.ndarray | None, finish: Any, *arguments: Any):
        self.then, self.path, self.display, self.finish, self.arguments = then, path, display, finish, arguments

    def __call__(self) -> Any:
        try:
            result = self.finish(*self.arguments) if self.finish is not None else self.arguments[0]
        except NotFiniteError as error:
            result = ImageReadError(f"{self.path}: {error}")
        except (MemoryError, cv2.error) as error:
            result = _beyond(self.path, error)
        self.arguments = ()
        return self.then(self.path, result, self.display)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """``items``, ``size`` at a time."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


@dataclass(frozen=True)
class InputFile:
    """A file as it was read."""

    path: Source
    image: np.ndarray | None = None  # (h, w, 3) uint8; None: it could not be read
    error: str = ""  # why
    size: tuple[int, int] = (0, 0)  # (height, width) of the original
    display: np.ndarray | None = None  # (h, w, 3) uint8, the small copy


class FileReader:
    """Reads files and resizes them to ``size`` (height, width) unless None; what is wrong with one is its ``error``."""

    def __init__(self, size: tuple[int, int] | None, display: bool, white_level: int):
        self.size, self.display, self.white_level = size, display, white_level

    @classmethod
    def of(cls, predictor: DefectPredictor, display: bool = False) -> FileReader:
        """One that reads what a predictor takes."""
        return cls(None if predictor.tiling is not None else predictor.image_size, display, predictor.white_level)

    def __call__(self, path: Source) -> InputFile:
        try:
            pixels, size = read_for_size(path, self.size, self.white_level)
            display = shrink(pixels) if self.display else None
            image = pixels if self.size is None else resize_image(pixels, self.size)
        except ImageReadError as error:
            return InputFile(path, error=str(error))
        except Exception as error:  # of any library that touches the pixels; one image never ends a run
            return InputFile(path, error=str(_beyond(path, error)))
        return InputFile(path, image, size=size, display=display)


def shrink(image: np.ndarray, longest: int = DISPLAY_SIZE) -> np.ndarray:
    """(h, w, 3) of an (H, W, 3) uint8 image, neither side longer than ``longest``; itself if it is so already."""
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image
    return cv2.resize(image, [max(round(side * scale), 1) for side in image.shape[1::-1]], interpolation=cv2.INTER_AREA)
