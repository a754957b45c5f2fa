"""Manifest rows to tensors: the dataset, its sampler, and the loader."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors

from dinov3.data.defect_images import ImageReadError, read_image, read_mask
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_transforms import eval_transform, train_transform


class DefectDataset(Dataset):
    """Images with class and mask, resized to ``image_size`` squared; ``augment`` adds the random transforms.

    An item is a dict: ``image`` (3, H, W) uint8, ``mask`` (H, W) uint8 class indices, ``label`` (class index),
    ``has_mask`` (a normal image's mask is all zero and counts as one; a defect image without a mask file has none),
    ``index`` (row in the manifest) and ``error``: empty, or why a file could not be read. Such an item is black, of
    label -1 and without mask, so that it adds nothing to losses and metrics and batches keep their size.

    Items are drawn as ``dataset[index]`` or ``dataset[index, seed]``; with a seed, the random transforms depend on
    it alone, whatever worker runs them.
    """

    def __init__(self, manifest: Manifest, image_size: int, augment: bool = False):
        self.manifest = manifest
        self.image_size = image_size
        self.transform = train_transform(image_size) if augment else eval_transform(image_size)
        self.labels = manifest.labels

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index, seed = key if isinstance(key, tuple) else (key, None)
        columns, root = self.manifest.columns, self.manifest.root
        label, mask_name, error = int(self.labels[index]), str(columns["mask"][index]), ""
        has_mask = bool(mask_name) or label == 0
        try:
            pixels = read_image(root / columns["image"][index])
            mask = read_mask(root / mask_name) if mask_name else np.zeros(pixels.shape[:2], np.uint8)
            if mask.shape != pixels.shape[:2]:
                raise ImageReadError(f"{root / mask_name}: mask and image differ in size; run --check_data")
        except ImageReadError as problem:
            pixels, mask = np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8)
            label, has_mask, error = -1, False, str(problem)
        image = tv_tensors.Image(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
        target = tv_tensors.Mask(torch.from_numpy(mask.copy()))
        if seed is None:
            image, target = self.transform(image, target)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                image, target = self.transform(image, target)
        item = {"image": image.as_subclass(Tensor), "mask": target.as_subclass(Tensor)}
        return item | {"label": label, "has_mask": has_mask, "index": index, "error": error}


class EpochSampler(Sampler):
    """Yields ``(index, seed)`` in an order that depends on seed and epoch alone, so that a resumed run sees what an
    uninterrupted one would have seen. With several ranks each takes every ``world_size``-th item; the shuffled
    order is cut to a multiple of the ranks, so that all do the same number of steps."""

    def __init__(self, length: int, seed: int, rank: int = 0, world_size: int = 1):
        self.length, self.seed, self.rank, self.world_size = length, seed, rank, world_size
        self.epoch = 0

    def __len__(self) -> int:
        return self.length // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.length)
        seeds = rng.integers(2**62, size=self.length)
        for position in range(self.rank, len(self) * self.world_size, self.world_size):
            yield int(order[position]), int(seeds[position])


def usable_workers(wanted: int) -> int:
    """``wanted`` loading processes, but no more than there are cores: the rest would only get in the way."""
    return min(wanted, os.cpu_count() or 1)


def make_loader(
    dataset: Dataset,
    batch_size: int,
    *,
    num_workers: int,
    sampler: Sampler | list[int] | None = None,
    pin_memory: bool = False,
) -> DataLoader:
    """A loader over ``dataset``; the last, smaller batch is kept."""
    num_workers = usable_workers(num_workers)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        # Its own generator: else starting workers would move the global one, and with it the dropout after a resume.
        generator=torch.Generator(),
    )
