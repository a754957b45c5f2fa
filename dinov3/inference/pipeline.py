"""Many image files at the speed of the network: reading, network and everything after it at the same time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dinov3.data.defect_dataset import start_worker, usable_workers
from dinov3.data.defect_images import ImageReadError, read_for_size
from dinov3.data.defect_transforms import eval_transform
from dinov3.defect_errors import NotFiniteError
from dinov3.inference.prediction import Prediction
from dinov3.inference.predictor import DefectPredictor
from dinov3.inference.preprocess import resize_image

DISPLAY_SIZE = 640  # longest side, in pixels, of the copy kept for pictures
PIXELS_IN_FLIGHT = 200_000_000  # of original images whose masks are being made or wait to be taken

T = TypeVar("T")
# Called with a file, its prediction or why it could not be read, and its small (h, w, 3) uint8 RGB copy if wanted.
Then = Callable[[Path, Prediction | ImageReadError, np.ndarray | None], T]


def predict_files(
    predictor: DefectPredictor,
    paths: Sequence[Path],
    then: Then[T],
    *,
    batch_size: int = 16,
    num_workers: int = 2,
    display: bool = False,
    threads: int | None = None,
) -> Iterator[T]:
    """Predict image files and yield ``then(path, result, display)`` for each, in the order of ``paths``.

    Files are read and resized in ``num_workers`` processes. This thread only feeds the network; masks, regions and
    ``then`` are the work of ``threads``. How much is under way at a time does not depend on the number of files. By
    tiles, images come one by one and ``batch_size`` counts tiles.

    Args:
        display: make the small copies.
        threads: as many as there are cores, and 8 at most, if not given.
    """
    workers = usable_workers(num_workers)
    loader = DataLoader(
        _ImageFiles(predictor.decode_size, display, predictor.white_level),
        batch_sampler=_Chunks(paths, 1 if predictor.tiling is not None else batch_size),
        num_workers=workers,
        collate_fn=partial(FileBatch.of, stack=predictor.tiling is None),
        worker_init_fn=start_worker,
        pin_memory=predictor.device.type == "cuda" and predictor.tiling is None,
    )
    waiting: deque[tuple[int, Future[T]]] = deque()
    pixels = 0
    pool = ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 8), thread_name_prefix="finish")
    try:
        for batch in loader:
            for size, job in _jobs(predictor, batch, batch_size, then):
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


def _jobs(
    predictor: DefectPredictor, batch: FileBatch, batch_size: int, then: Then[T]
) -> Iterator[tuple[int, Callable[[], T]]]:
    """Feed a batch to the network; for each file the pixels of its original, and what is left to do."""
    output = None
    if predictor.tiling is None and batch.images:
        output = predictor.run_network(_padded(batch.images[0], batch_size if predictor.compiled else 0))
    displays = batch.displays()
    place = 0
    for path, error, size in zip(batch.paths, batch.errors, batch.sizes, strict=True):
        shown = next(displays)
        if error is not None:
            yield 0, _Job(then, path, shown, None, ImageReadError(error))
        elif output is not None:
            yield size[0] * size[1], _Job(then, path, shown, predictor.finish, output, place, size)
            place += 1
        else:
            try:
                tiles = predictor.run_tiles(batch.images[0].numpy(), batch_size)
            except (MemoryError, RuntimeError) as error:
                if not _is_of_this_image(error):
                    raise
                yield 0, _Job(then, path, shown, None, _beyond(path, error))
                continue
            yield size[0] * size[1], _Job(then, path, shown, predictor.finish_tiles, tiles)


def _is_of_this_image(error: Exception) -> bool:
    """Whether it asks for more memory than there is; a device that fails, or is too small for a batch, ends the run."""
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)


def _beyond(path: Path, error: Exception) -> ImageReadError:
    """The reason of an image that was read and is beyond what can be done with it."""
    told = " ".join(str(error).split())[:200]
    return ImageReadError(f"{path}: too large, or of a shape that cannot be processed ({type(error).__name__}: {told})")


class _Job:
    """Finish one prediction and hand it on; what it holds is let go when it has run."""

    def __init__(self, then: Then[T], path: Path, display: np.ndarray | None, finish: Any, *arguments: Any):
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


def _padded(images: Tensor, batch_size: int) -> Tensor:
    """A batch that misses files filled up to ``batch_size``: a compiled network is compiled anew for every size."""
    missing = batch_size - len(images)
    return images if missing <= 0 else torch.cat([images, images[-1:].expand(missing, -1, -1, -1)])


class _Chunks:
    """``paths`` in order, ``size`` at a time; for the loader, so that its processes hold no list of all files."""

    def __init__(self, paths: Sequence[Path], size: int):
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return -(-len(self.paths) // self.size)

    def __iter__(self) -> Iterator[list[Path]]:
        for start in range(0, len(self.paths), self.size):
            yield list(self.paths[start : start + self.size])


@dataclass
class FileBatch:
    """Files as they were read. Arrays of all images share one tensor each: every tensor that crosses from one process
    to another costs a system call or ten."""

    paths: list[Path]
    errors: list[str | None]
    sizes: list[tuple[int, int]]  # (height, width) of the originals, (0, 0) where unreadable
    images: list[Tensor]  # one or, if none could be read, no (B, 3, S, S) uint8; by tiles, the one (H, W, 3) image
    display_sizes: list[tuple[int, int]] = field(default_factory=list)
    display_pixels: Tensor | None = None  # (n, 3) uint8, one copy after the other

    @classmethod
    def of(cls, items: list[dict[str, Any]], stack: bool) -> FileBatch:
        """The loader's way to make a batch; ``stack``: the images are of one size."""
        images = [item["image"] for item in items if item["error"] is None]
        if images and stack:
            images = [torch.stack(images)]
        displays = [item["display"] for item in items]
        batch = cls([i["path"] for i in items], [i["error"] for i in items], [i["size"] for i in items], images)
        if any(display is not None for display in displays):
            batch.display_sizes = [(0, 0) if d is None else d.shape[:2] for d in displays]
            flat = [d.reshape(-1, 3) for d in displays if d is not None]
            batch.display_pixels = torch.from_numpy(np.concatenate(flat))
        return batch

    def pin_memory(self) -> FileBatch:
        """The loader calls this."""
        self.images = [image.pin_memory() for image in self.images]
        return self

    def displays(self) -> Iterator[np.ndarray | None]:
        """(h, w, 3) uint8 for each file, or None."""
        if self.display_pixels is None:
            yield from [None] * len(self.paths)
            return
        pixels, start = self.display_pixels.numpy(), 0
        for height, width in self.display_sizes:
            end = start + height * width
            yield pixels[start:end].reshape(height, width, 3) if end > start else None
            start = end


class _ImageFiles(Dataset):
    """A path in, a dict out: ``image`` resized to (3, S, S) if there is an ``image_size``, else (H, W, 3); an
    unreadable file comes with its ``error``."""

    def __init__(self, image_size: int | None, display: bool, white_level: int):
        self.image_size, self.display, self.white_level = image_size, display, white_level
        self.resize = None if image_size is None else eval_transform(image_size)

    def __getitem__(self, path: Path) -> dict[str, Any]:
        item: dict[str, Any] = {"path": path, "error": None, "display": None, "size": (0, 0)}
        try:
            array, size = read_for_size(path, self.image_size, self.white_level)
            if self.display:
                item["display"] = shrink(array)
            image = torch.from_numpy(array.copy()) if self.resize is None else resize_image(self.resize, array)
        except ImageReadError as error:
            return item | {"error": str(error), "display": None}
        except Exception as error:  # of any library that touches the pixels; one image never ends a run
            return item | {"error": str(_beyond(path, error)), "display": None}
        return item | {"image": image, "size": size}


def shrink(image: np.ndarray, longest: int = DISPLAY_SIZE) -> np.ndarray:
    """(h, w, 3) of an (H, W, 3) uint8 image, neither side longer than ``longest``; itself if it is so already."""
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image
    return cv2.resize(image, [max(round(side * scale), 1) for side in image.shape[1::-1]], interpolation=cv2.INTER_AREA)
