"""From manifest rows to batches: joint transforms, order that the seed alone decides, files that cannot be read."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from conftest import write_squares
from PIL import Image
from torchvision import tv_tensors

from dinov3.data.defect_dataset import DefectDataset, EpochSampler, make_loader
from dinov3.data.defect_images import read_image
from dinov3.data.defect_manifest import read_manifest
from dinov3.data.defect_masks import IGNORE_INDEX, read_mask
from dinov3.data.defect_transforms import (
    Normalization,
    RandomGamma,
    RandomNoise,
    Resize,
    eval_transform,
    train_transform,
)
from dinov3.defect_errors import DefectError


def letter(height: int = 96, width: int = 128) -> torch.Tensor:
    """(H, W) uint8: an F of ones, which no flip and no turn leaves as it is."""
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[height // 5 : -height // 5, width // 4 : width // 4 + 20] = 1
    mask[height // 5 : height // 5 + 18, width // 4 : -width // 5] = 1
    mask[height // 2 : height // 2 + 14, width // 4 : width // 2 + 8] = 1
    return mask


def as_image(mask: torch.Tensor) -> tv_tensors.Image:
    """A bright mask on a dark ground."""
    return tv_tensors.Image(30 + mask.repeat(3, 1, 1) * 190)


# --- transforms


def test_image_and_mask_stay_aligned_through_every_augmentation():
    transform = train_transform(96)
    shapes = set()
    for seed in range(60):
        torch.manual_seed(seed)
        image, mask = transform(as_image(letter()), tv_tensors.Mask(letter()))
        assert image.shape == (3, 96, 96) and image.dtype == torch.uint8
        assert mask.shape == (96, 96) and mask.dtype == torch.uint8
        assert set(mask.unique().tolist()) <= {0, 1, IGNORE_INDEX}  # never blended
        grey = image.float().mean(dim=0)
        inside, outside = grey[mask == 1], grey[mask == 0]
        bright = grey > (inside.median() + outside.median()) / 2
        defect, counted = mask == 1, mask != IGNORE_INDEX
        overlap = (bright & defect & counted).sum() / ((bright | defect) & counted).sum()
        assert overlap > 0.85, f"seed {seed}: {overlap:.2f}"
        shapes.add(mask.numpy().tobytes())
    assert len(shapes) > 15  # and it does move things


def test_a_rectangle_is_never_turned_on_its_side():
    bar = torch.zeros(60, 120, dtype=torch.uint8)
    bar[25:35, 20:100] = 1
    upright = {}
    for size in (64, (48, 96)):
        transform, found = train_transform(size), []
        for seed in range(60):
            torch.manual_seed(seed)
            image, mask = transform(as_image(bar), tv_tensors.Mask(bar))
            assert image.shape[1:] == mask.shape == Resize(size)(as_image(bar)).shape[1:]
            down, across = (mask == 1).nonzero().max(0)[0] - (mask == 1).nonzero().min(0)[0]
            found.append(bool(down > across))
        upright[size] = sum(found)
    assert upright[48, 96] == 0 < upright[64] < 20


def test_what_comes_in_from_outside_is_ignored():
    transform, ignored = train_transform(64), 0.0
    for seed in range(30):
        torch.manual_seed(seed)
        _, mask = transform(as_image(letter() * 0 + 1), tv_tensors.Mask(letter() * 0 + 1))
        assert not (mask == 0).any()
        ignored = max(ignored, (mask == IGNORE_INDEX).float().mean().item())
    assert 0.02 < ignored < 0.5


def test_evaluation_only_resizes():
    image, mask = eval_transform(48)(as_image(letter()), tv_tensors.Mask(letter()))
    again, _ = eval_transform(48)(as_image(letter()), tv_tensors.Mask(letter()))
    assert torch.equal(image, again)
    assert ((image[0] > 125) == (mask == 1)).float().mean() > 0.97
    assert set(mask.unique().tolist()) == {0, 1}


def test_exposure_and_noise_leave_the_mask_alone():
    image, mask = as_image(letter()), tv_tensors.Mask(letter())
    for transform in (RandomGamma(2.0), RandomNoise(10.0)):
        changed, same = transform(image, mask)
        assert torch.equal(same, mask)
        assert isinstance(changed, tv_tensors.Image) and changed.dtype == torch.uint8
        assert not torch.equal(changed, image)
        assert (changed.float() - image.float()).abs().mean() < 60


def test_normalization_gives_zero_mean_and_unit_deviation():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    images = torch.tensor([102, 128, 153], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    normalized = Normalization(mean, std)(images)
    assert normalized.shape == (2, 3, 4, 4) and normalized.dtype == torch.float32
    assert normalized.abs().max() < 0.01
    white = Normalization(mean, std)(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    torch.testing.assert_close(white[0, :, 0, 0], (1 - torch.tensor(mean)) / torch.tensor(std))
    assert images.max() == 153  # the input is not changed


# --- items


def test_items_are_what_the_files_hold(squares):
    dataset = DefectDataset(squares, 64)
    assert len(dataset) == len(squares)
    for index in (0, 1, 7):
        item = dataset[index]
        image = read_image(squares.root / squares.columns["image"][index])
        np.testing.assert_array_equal(item["image"].permute(1, 2, 0), image)
        assert type(item["image"]) is torch.Tensor and item["image"].dtype == torch.uint8
        assert (item["label"], item["index"], item["has_mask"], item["error"]) == (index % 2, index, True, "")
        if index % 2:
            np.testing.assert_array_equal(item["mask"], read_mask(squares.root / squares.columns["mask"][index]))
        else:
            assert not item["mask"].any()


def test_items_have_the_size_asked_for_whatever_the_files(tmp_path):
    manifest = write_squares(tmp_path / "data", train=2, val=0, test=0)
    Image.new("L", (20, 90)).save(manifest.root / manifest.columns["image"][0])
    for size, shape in ((32, (32, 32)), ((24, 40), (24, 40))):
        item = DefectDataset(manifest, size)[0]
        assert item["image"].shape == (3, *shape)
        assert item["mask"].shape == shape
    for size in (0, (32, -1), (32, 32, 32)):
        with pytest.raises(DefectError, match="image size .*: expected one whole number of pixels from 1, or height"):
            DefectDataset(manifest, size)


def test_a_defect_without_a_mask_says_so(tmp_path):
    manifest = write_squares(tmp_path / "data", train=2, val=0, test=0)
    table = manifest.root / "manifest.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("masks/train/001.png.png", ""), encoding="utf-8")
    item = DefectDataset(read_manifest(manifest.root), 32)[1]
    assert (item["label"], item["has_mask"], item["error"]) == (1, False, "")
    assert not item["mask"].any()


def test_the_seed_alone_decides_the_augmentation(squares):
    dataset = DefectDataset(squares, 48, augment=True)
    first = dataset[1, 5]
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    again = dataset[1, 5]
    assert torch.equal(first["image"], again["image"]) and torch.equal(first["mask"], again["mask"])
    assert torch.equal(torch.random.get_rng_state(), before)  # and it takes nothing from the global generator
    assert len({dataset[1, seed]["image"].numpy().tobytes() for seed in range(2**40, 2**40 + 20)}) == 20


def batches(dataset, num_workers: int, batch_size: int = 5) -> list[dict]:
    sampler = EpochSampler(len(dataset), seed=3)
    return list(make_loader(dataset, batch_size, num_workers=num_workers, sampler=sampler))


def test_batches_are_the_same_whatever_the_number_of_workers(squares):
    dataset = DefectDataset(squares.select("train"), 32, augment=True)
    torch.manual_seed(0)
    here = batches(dataset, 0)
    torch.manual_seed(1)
    elsewhere = batches(dataset, 2)
    assert [len(batch["label"]) for batch in here] == [5, 5, 5, 5, 4]  # the last, smaller one is kept
    for a, b in zip(here, elsewhere, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("image", "mask", "label", "has_mask", "index"))


def test_workers_that_stay_see_the_next_epoch(squares):
    dataset = DefectDataset(squares.select("val"), 32)
    sampler = EpochSampler(len(dataset), seed=0)
    loader = make_loader(dataset, 4, num_workers=1, sampler=sampler)
    orders = []
    for epoch in (0, 1, 0):
        sampler.epoch = epoch
        orders.append([i for batch in loader for i in batch["index"].tolist()])
    assert orders[0] == orders[2] != orders[1]


# --- files that cannot be read


@pytest.fixture
def damaged(tmp_path, squares):
    """A copy of the squares whose first training images are missing, broken, of broken mask, and of wrong size."""
    shutil.copytree(squares.root, tmp_path / "data")
    images = tmp_path / "data" / "images" / "train"
    (images / "000.png").unlink()
    (images / "001.png").write_bytes((images / "001.png").read_bytes()[:500])
    (tmp_path / "data" / "masks" / "train" / "003.png.png").write_text("not an image")
    Image.new("RGB", (30, 30)).save(images / "005.png")
    return read_manifest(tmp_path / "data").select("train")


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_unreadable_files_keep_the_batch_whole(damaged, num_workers, augment):
    loaded = batches(DefectDataset(damaged, 32, augment), num_workers, batch_size=8)
    assert [len(batch["label"]) for batch in loaded] == [8, 8, 8]
    reasons = {0: "000.png: no such file", 1: "001.png: broken", 3: "003.png.png: not an image", 5: "differ in size"}
    for batch in loaded:
        assert batch["image"].shape == (8, 3, 32, 32)
        for row, index in enumerate(batch["index"].tolist()):
            reason = reasons.pop(index, "")
            assert reason in batch["error"][row]
            assert bool(batch["error"][row]) == bool(reason)
            assert int(batch["label"][row]) == (-1 if reason else index % 2)
            assert bool(batch["has_mask"][row]) != bool(reason)
    assert not reasons


# --- the order


def order(length: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1) -> list[tuple[int, int]]:
    sampler = EpochSampler(length, seed, rank, world_size)
    sampler.epoch = epoch
    return list(sampler)


def test_an_epoch_is_decided_by_seed_and_number():
    assert order(50, 1, 4) == order(50, 1, 4)
    assert sorted(index for index, _ in order(50, 1, 4)) == list(range(50))
    assert order(50, 1, 4) != order(50, 1, 5) != order(50, 2, 5)
    assert {seed for _, seed in order(50, 1, 4)}.isdisjoint(seed for _, seed in order(50, 1, 5))
    assert len({seed for _, seed in order(50, 1, 4)}) == 50


@pytest.mark.parametrize(("length", "world_size"), [(48, 4), (50, 4), (7, 2)])
def test_ranks_share_an_epoch_out(length, world_size):
    shares = [order(length, 1, 2, rank, world_size) for rank in range(world_size)]
    assert {len(share) for share in shares} == {length // world_size}
    assert len(EpochSampler(length, 1, 0, world_size)) == length // world_size
    together = [item for share in shares for item in share]
    assert len(set(together)) == len(together)
    assert set(together) <= set(order(length, 1, 2))  # the order of one rank, shared out
