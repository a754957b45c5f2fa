"""Large images for training by tiles: which crops an epoch takes, what a crop's verdict is, and whole images to
validate on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from dinov3.data.defect_dataset import as_tensor, to_item
from dinov3.data.defect_images import ImageReadError, exif_orientation, open_file
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_masks import IGNORE_INDEX, defect_pixels, read_mask
from dinov3.data.defect_partial_read import WindowReader
from dinov3.data.defect_tiles import Tiling, cut_tile, walk_step
from dinov3.data.defect_transforms import eval_transform, train_transform
from dinov3.defect_errors import DefectError
from dinov3.defect_size import ImageSize

CROPS_PER_DECODING = 4  # crops of an image that follow each other, so that it is decoded once for them


class CropKey(NamedTuple):
    """Which crop of which image."""

    index: int  # row of the manifest
    centered: bool  # on a defect; else the next step of the walk over the image
    turn: int  # how many crops of its kind were taken of this image before
    walk_seed: int  # of the image's walk, the same all through a run
    seed: int  # of where the defect lies in the crop, and of the random transforms


class TileSampler(Sampler):
    """Yields the :class:`CropKey` of an epoch's crops; what it yields depends on seed and epoch alone.

    There are ``tiles_per_image`` crops for each image in ``walked``. The share ``defect_fraction`` of them is centered
    on defects, the images in ``centered`` taking turns; the others go on with the walks over all images, evenly. So
    every pixel of every image comes up within ``walk_length / (tiles_per_image * (1 - defect_fraction))`` epochs,
    rounded up, plus one. Up to ``CROPS_PER_DECODING`` crops of an image follow each other. With several ranks each
    takes a contiguous share, all of the same length. ``skip`` passes over as many of this rank's first crops, which an
    interrupted epoch has had already.
    """

    def __init__(
        self,
        walked: np.ndarray,
        centered: np.ndarray,
        defect_fraction: float,
        tiles_per_image: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.total = len(walked) * tiles_per_image
        rng = np.random.default_rng(seed)
        self.walked, self.centered = rng.permutation(walked), rng.permutation(centered)
        self.num_centered = round(self.total * defect_fraction) if len(centered) else 0
        self.epoch, self.skip = 0, 0

    def __len__(self) -> int:
        return self.total // self.world_size

    def __iter__(self) -> Iterator[CropKey]:
        rng = np.random.default_rng((self.seed, self.epoch))
        crops: dict[int, list[tuple[bool, int]]] = {}
        counts = {True: self.num_centered, False: self.total - self.num_centered}
        for centered, rows in ((True, self.centered), (False, self.walked)):
            # The images take turns, and an epoch starts where the last one stopped.
            for number in range(self.epoch * counts[centered], (self.epoch + 1) * counts[centered]):
                turn, place = divmod(number, len(rows))
                crops.setdefault(int(rows[place]), []).append((centered, turn))
        groups = []
        for index, kinds in crops.items():
            count = math.ceil(len(kinds) / CROPS_PER_DECODING)
            groups += [(index, kinds[first::count]) for first in range(count)]
        order = [(groups[i][0], kind) for i in rng.permutation(len(groups)) for kind in groups[i][1]]
        seeds = rng.integers(2**62, size=self.total)
        share = slice(self.rank * len(self) + self.skip, (self.rank + 1) * len(self))
        for (index, (centered, turn)), seed in list(zip(order, seeds.tolist(), strict=True))[share]:
            yield CropKey(index, centered, turn, self.seed, seed)


class DefectTileDataset(Dataset):
    """Crops of the size of a tile at full resolution, resized to ``image_size``; ``augment`` adds random transforms.
    The items are those of ``DefectDataset``, with the crop's own label (:func:`tile_target`).

    Drawn with a :class:`CropKey` they depend on it alone. ``dataset[index]``, for looking at, is the tile around the
    image's largest defect, or its first tile.
    """

    def __init__(
        self,
        manifest: Manifest,
        tiling: Tiling,
        image_size: ImageSize,
        *,
        augment: bool = False,
        defect_fraction: float = 0.5,
        tiles_per_image: int = 4,
    ):
        if not 0 <= defect_fraction < 1:
            raise DefectError(
                f"--tile_defect_fraction {defect_fraction}: expected from 0 to less than 1; crops without a defect "
                "are what shows the normal surface"
            )
        self.manifest, self.tiling, self.image_size = manifest, tiling, image_size
        self.defect_fraction, self.tiles_per_image = defect_fraction, tiles_per_image
        self.transform = train_transform(image_size) if augment else eval_transform(image_size)
        self.labels = manifest.labels
        self._open: tuple[int, LargeImage] | None = None  # the crops of an image come one after the other

    def __len__(self) -> int:
        return len(self.manifest)

    def usable_rows(self) -> np.ndarray:
        """Rows to train on: all but images that are larger than a tile and have a defect, or no verdict, but no mask.
        Nobody knows which of their crops show a defect."""
        is_known = (self.labels == 0) | (self.manifest.columns["mask"] != "")
        return np.array([i for i in range(len(self)) if is_known[i] or self._fits_a_tile(i)], dtype=int)

    def sampler(self, seed: int, rank: int = 0, world_size: int = 1) -> TileSampler:
        """The crops of each epoch of a training run."""
        rows = self.usable_rows()
        if len(rows) == 0:
            raise DefectError(f"{self.manifest.root}: no normal image and no mask, so nothing to train tiles on")
        centered = np.flatnonzero((self.labels != 0) & (self.manifest.columns["mask"] != ""))
        return TileSampler(rows, centered, self.defect_fraction, self.tiles_per_image, seed, rank, world_size)

    def _fits_a_tile(self, index: int) -> bool:
        try:
            path = self.manifest.root / self.manifest.columns["image"][index]
            with open_file(path) as image:
                stored = image.size[::-1]
            as_stored, turned = (
                all(n <= side for n, side in zip(shape, self.tiling.shape, strict=True))
                for shape in (stored, stored[::-1])
            )
            return as_stored if as_stored == turned or exif_orientation(path) < 5 else turned
        except ImageReadError:
            return True  # reading it tells the reason

    def __getitem__(self, key: int | CropKey) -> dict[str, Any]:
        height, width = tile = self.tiling.shape
        index, seed = (key.index, key.seed) if isinstance(key, CropKey) else (key, None)
        try:
            if self._open is None or self._open[0] != index:
                self._open = (index, LargeImage(self.manifest, index))
            image = self._open[1]
            if seed is None:
                top, left = image.tile_on_defect(tile)
            elif key.centered and image.is_located:
                top, left = image.tile_on_defect(tile, key.turn, np.random.default_rng(seed))
            else:
                top, left = walk_step(image.shape, tile, (key.walk_seed, index), key.turn)
            pixels = cut_tile(image.pixels[top : top + height, left : left + width], 0, 0, tile)
            mask, label = tile_target(image.mask, image.label, image.is_located, top, left, tile)
            has_mask, error = image.has_mask, ""
        except ImageReadError as problem:
            pixels, mask = np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8)
            label, has_mask, error = -1, False, str(problem)
        item = to_item(pixels, mask, self.transform, seed)
        return item | {"label": label, "has_mask": has_mask, "index": index, "error": error}


class WholeImages(Dataset):
    """Images as they are, to slide over and be loaded one by one.

    Items are those of ``DefectDataset``, but ``image`` is (H, W, 3) and ``mask`` (H, W), of any size.
    """

    def __init__(self, manifest: Manifest):
        self.manifest = manifest
        self.labels = manifest.labels

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = {"index": index, "error": ""}
        try:
            image = LargeImage(self.manifest, index)
            pixels, mask = as_tensor(image.pixels[:, :]), as_tensor(image.mask)
        except ImageReadError as problem:
            blank = torch.zeros((1, 1), dtype=torch.uint8)
            return item | {"image": blank, "mask": blank, "label": -1, "has_mask": False, "error": str(problem)}
        return item | {"image": pixels, "mask": mask, "label": image.label, "has_mask": image.has_mask}


class LargeImage:
    """One opened row of a manifest.

    Attributes:
        pixels: the image, to cut tiles from.
        mask: (H, W) uint8 class indices; all zero where there is none.
        label: class index, -1 unknown.
        has_mask: whether ``mask`` tells something, as in ``DefectDataset``.
        boxes: (N, 4) x, y, width and height of the connected defect areas, the largest first.
    """

    def __init__(self, manifest: Manifest, index: int):
        image, name = manifest.root / manifest.columns["image"][index], str(manifest.columns["mask"][index])
        self.label = int(manifest.labels[index])
        self.has_mask = bool(name) or self.label == 0
        self.pixels = WindowReader(image, manifest.white_level)
        self.shape = self.pixels.shape
        self.mask = read_mask(manifest.root / name) if name else np.zeros(self.shape, np.uint8)
        if self.mask.shape != self.shape:
            raise ImageReadError(f"{manifest.root / name}: mask and image differ in size; run --check_data")
        self.boxes = defect_boxes(self.mask) if name else np.zeros((0, 4), int)

    @property
    def is_located(self) -> bool:
        """Whether it is known where the defect is."""
        return len(self.boxes) > 0

    def tile_on_defect(
        self, tile: tuple[int, int], turn: int = 0, rng: np.random.Generator | None = None
    ) -> tuple[int, int]:
        """Top left corner of a tile (height, width) on defect area number ``turn`` (they take turns).

        With ``rng`` a defect pixel drawn at random lies in the middle half of the tile, unless the image's border
        forbids it; without, the first one lies in the middle. Without any defect it is the first tile.
        """
        if not self.is_located:
            return 0, 0
        x, y, width, height = self.boxes[turn % len(self.boxes)]
        inside = self.mask[y : y + height, x : x + width]
        pixels = np.argwhere(defect_pixels(inside))
        sides = np.array(tile)
        corner = pixels[rng.integers(len(pixels)) if rng else 0] + (y, x) - sides // 2
        if rng is not None:
            corner += rng.integers(-(sides // 4), sides // 4 + 1)
        top, left = np.clip(corner, 0, np.maximum(self.shape - sides, 0)).tolist()
        return top, left


def defect_boxes(mask: np.ndarray) -> np.ndarray:
    """(N, 4) x, y, width, height of the connected areas (8-neighbourhood) of an (H, W) mask, the largest first."""
    defect = defect_pixels(mask).astype(np.uint8)
    x, y, width, height = cv2.boundingRect(defect)  # labelling the area that matters alone is much faster
    if not width:
        return np.zeros((0, 4), int)  # OpenCV crashes on an array without pixels
    _, _, stats, _ = cv2.connectedComponentsWithStats(defect[y : y + height, x : x + width])
    stats = stats[1:][np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")]
    return stats[:, :4] + (x, y, 0, 0)


class TileTarget(NamedTuple):
    """What is true of a tile."""

    mask: np.ndarray  # (h, w) class indices
    label: int  # class index, -1 unknown


def tile_target(
    mask: np.ndarray, label: int, is_located: bool, top: int, left: int, tile: tuple[int, int]
) -> TileTarget:
    """Mask and class index of a ``tile`` (height, width), from its image's mask (H, W) and class index.

    Of a defect image whose defects are marked, a tile without a marked pixel is normal, and one with them has the
    image's class. Unknown, -1, is the verdict of a tile that

    - shows defect pixels only within 1/64 of its height or width from a side at which the image goes on: a sliver, of
      which nobody could say what it is;
    - shows ignored pixels alone, which may be a defect or not;
    - belongs to a defect image of which nobody marked the defects, unless the tile holds all of it.

    Outside the image the mask is ignored.
    """
    (h, w), (height, width) = tile, mask.shape
    window = mask[top : top + h, left : left + w]
    target = cut_tile(window, 0, 0, tile, outside=IGNORE_INDEX)
    if label <= 0 or window.shape == mask.shape:
        return TileTarget(target, label)
    if not is_located:
        return TileTarget(target, -1)
    defect = defect_pixels(window)
    if not defect.any():
        return TileTarget(target, -1 if window.any() else 0)
    rows = slice(h // 64 if top > 0 else 0, h - h // 64 if top + h < height else None)
    columns = slice(w // 64 if left > 0 else 0, w - w // 64 if left + w < width else None)
    return TileTarget(target, label if defect[rows, columns].any() else -1)
