"""Manifest rows to tensors: the dataset, its sampler, and the loader."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors

from dinov3.data.defect_copy_paste import paste_defect
from dinov3.data.defect_images import ImageReadError, read_for_size
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_masks import read_mask
from dinov3.data.defect_transforms import eval_transform, train_transform
from dinov3.defect_size import ImageSize, height_width


class DefectDataset(Dataset):
    """Images with class and mask, resized to ``image_size``: one number for a square, or height and width. ``augment``
    adds the random transforms.

    ``paste_defects`` is the share of normal images that get a defect of another image (:func:`paste_defect`), and the
    class of that defect by its mask, when drawn with a seed; for training. Where no image is of the mask's class,
    the other image's counts.

    An item is a dict: ``image`` (3, H, W) uint8, ``mask`` (H, W) uint8 class indices, ``label`` (class index),
    ``has_mask`` (a normal image's mask is all zero and counts as one; a defect image without a mask file has none),
    ``index`` (row in the manifest) and ``error``: empty, or why a file could not be read. Such an item is black, of
    label -1 and without mask, so that it adds nothing to losses and metrics and batches keep their size. H and W are
    those of ``image_size``.

    Items are drawn as ``dataset[index]`` or ``dataset[index, seed]``; with a seed, the random transforms depend on
    it alone, whatever worker runs them.
    """

    tiling = None  # a model sees the whole image

    def __init__(self, manifest: Manifest, image_size: ImageSize, augment: bool = False, paste_defects: float = 0.0):
        self.manifest = manifest
        self.image_size = image_size
        self.transform = train_transform(image_size) if augment else eval_transform(image_size)
        self.labels = manifest.labels
        self.paste_defects = paste_defects
        names = enumerate(manifest.mask_classes, start=1)
        self.label_of = {value: manifest.classes.index(name) for value, name in names if name in manifest.classes[1:]}
        self.donors = np.flatnonzero((self.labels > 0) & (manifest.columns["mask"] != ""))

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index, seed = key if isinstance(key, tuple) else (key, None)
        label, error = int(self.labels[index]), ""
        has_mask = self.manifest.columns["mask"][index] != "" or label == 0
        try:
            pixels, mask = self._read(index)
            if seed is not None and label == 0 and self.paste_defects and len(self.donors):
                pixels, mask, label = self._paste(pixels, mask, np.random.default_rng(seed))
        except ImageReadError as problem:
            pixels, mask = np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8)
            label, has_mask, error = -1, False, str(problem)
        item = to_item(pixels, mask, self.transform, seed)
        return item | {"label": label, "has_mask": bool(has_mask), "index": index, "error": error}

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) pixels and (H', W') class indices of a row; all zero without a mask file."""
        columns, root = self.manifest.columns, self.manifest.root
        mask_name = str(columns["mask"][index])
        pixels, full_size = read_for_size(root / columns["image"][index], self.image_size, self.manifest.white_level)
        mask = read_mask(root / mask_name) if mask_name else np.zeros(height_width(self.image_size), np.uint8)
        if mask_name and mask.shape != full_size:
            raise ImageReadError(f"{root / mask_name}: mask and image differ in size; run --check_data")
        return pixels, mask

    def _paste(
        self, pixels: np.ndarray, mask: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """A normal image with, by chance, a defect of another; its mask and class."""
        donor = int(self.donors[rng.integers(len(self.donors))])
        if rng.random() < self.paste_defects:
            resize = eval_transform(self.image_size)
            try:
                image, target = (array.numpy() for array in to_item(*self._read(donor), resize, None).values())
            except ImageReadError:
                return pixels, mask, 0  # reported when its own turn comes
            pixels, mask = (array.numpy() for array in to_item(pixels, mask, resize, None).values())
            pixels = np.ascontiguousarray(pixels.transpose(1, 2, 0))
            value = paste_defect(pixels, mask, image.transpose(1, 2, 0), target, rng)
            if value:  # of one type of the donor's defects, which need not be the one that names its class
                return pixels, mask, self.label_of.get(value, int(self.labels[donor]))
        return pixels, mask, 0

    def sampler(self, seed: int, rank: int = 0, world_size: int = 1) -> EpochSampler:
        """The order for training: each image once per epoch."""
        return EpochSampler(len(self), seed, rank, world_size)


def to_item(pixels: np.ndarray, mask: np.ndarray, transform: nn.Module, seed: int | None) -> dict[str, Tensor]:
    """``image`` (3, h, w) and ``mask`` (h, w) uint8 of (H, W, 3) and (H, W), transformed together; what is random in
    ``transform`` depends on ``seed`` alone, if given."""
    image = tv_tensors.Image(as_tensor(pixels).permute(2, 0, 1))
    target = tv_tensors.Mask(as_tensor(mask))
    if seed is None:
        image, target = transform(image, target)
    else:  # as torch.random.fork_rng, but without its 0.1 ms
        state = torch.random.get_rng_state()
        torch.default_generator.manual_seed(seed)
        image, target = transform(image, target)
        torch.random.set_rng_state(state)
    return {"image": image.as_subclass(Tensor), "mask": target.as_subclass(Tensor)}


def as_tensor(pixels: np.ndarray) -> Tensor:
    """A decoded image as a tensor on the same memory: only to read from."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writ", UserWarning)
        return torch.from_numpy(pixels)


class EpochSampler(Sampler):
    """Yields ``(index, seed)`` in an order that depends on seed and epoch alone, so that a resumed run sees what an
    uninterrupted one would have seen. With several ranks each takes every ``world_size``-th item; the shuffled
    order is cut to a multiple of the ranks, so that all do the same number of steps. ``skip`` passes over as many of
    this rank's first items, which an interrupted epoch has had already."""

    def __init__(self, length: int, seed: int, rank: int = 0, world_size: int = 1):
        self.length, self.seed, self.rank, self.world_size = length, seed, rank, world_size
        self.epoch, self.skip = 0, 0

    def __len__(self) -> int:
        return self.length // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.length)
        seeds = rng.integers(2**62, size=self.length)
        first = self.rank + self.skip * self.world_size
        for position in range(first, len(self) * self.world_size, self.world_size):
            yield int(order[position]), int(seeds[position])


def usable_workers(wanted: int) -> int:
    """``wanted`` loading processes, but no more than there are cores: the rest would only get in the way."""
    return min(wanted, os.cpu_count() or 1)


def start_worker(_: int) -> None:
    """One thread for OpenCV in a loading process, as torch sets it for itself: there is a process per core.

    Ctrl-C and schedulers such as Slurm signal all processes at once, but the main one is to decide when loading ends.
    """
    cv2.setNumThreads(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def make_loader(
    dataset: Dataset,
    batch_size: int | None,
    *,
    num_workers: int,
    sampler: Sampler | list[int] | None = None,
    pin_memory: bool = False,
) -> DataLoader:
    """A loader over ``dataset``; the last, smaller batch is kept. Without ``batch_size`` items come one by one."""
    num_workers = usable_workers(num_workers)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        worker_init_fn=start_worker,
        # Its own generator: else starting workers would move the global one, and with it the dropout after a resume.
        generator=torch.Generator(),
    )
