"""Fast loading changes nothing that a user could see: reduced decoding, augmentations by OpenCV, shared tables."""

from __future__ import annotations

import csv
import json
import multiprocessing
import pickle
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from dinov3.data import defect_transforms as ops
from dinov3.data.defect_dataset import DefectDataset, make_loader
from dinov3.data.defect_images import FULL_RANGE, ImageReadError, read_for_size, read_image
from dinov3.data.defect_manifest import COLUMNS, SPLITS, Manifest, read_manifest
from dinov3.data.defect_prepare.writer import DatasetWriter
from dinov3.data.defect_transforms import eval_transform
from dinov3.inference.pipeline import FileReader


def surface(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: smooth shades, grain, and a bright block with a dark one beside it, without any symmetry."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.normal(120, 20, (7, 9, 3)).astype(np.float32), (width, height)) + rng.normal(
        0, 5, (height, width, 1)
    )
    image[height // 8 : height // 3, width // 6 : width // 2] = 220
    image[height // 2 : height // 2 + height // 6, width // 6 : width // 4] = 20
    return image.clip(0, 255).astype(np.uint8)


def save_jpeg(path: Path, stored: np.ndarray, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(path, quality=92, exif=exif)
    return path


def resized(image: np.ndarray, side: int | tuple[int, int]) -> torch.Tensor:
    return eval_transform(side)(torch.from_numpy(image.copy()).permute(2, 0, 1)).float()


# --- reduced decoding


@pytest.mark.parametrize(
    ("shape", "side", "expected"),
    [
        ((720, 960), 320, (720, 960)),  # half of it would be too small
        ((720, 960), 200, (360, 480)),
        ((1280, 960), 128, (320, 240)),
        ((961, 1283), 64, (121, 161)),
        ((720, 960), (100, 250), (360, 480)),  # not a fourth, for the width alone
        ((480, 1920), (60, 240), (120, 480)),
    ],
)
def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(tmp_path, shape, side, expected):
    path = save_jpeg(tmp_path / "a.jpg", surface(*shape))
    image, full_size = read_for_size(path, side)
    assert image.shape[:2] == expected
    assert full_size == shape
    difference = (resized(image, side) - resized(read_image(path), side)).abs()
    assert difference.mean() < 1
    # The blocks' edges are sharp: half a pixel off would give 100. Sides that 8 does not divide are off by a little.
    assert difference.max() < (16 if shape[0] % 8 == 0 else 50)


def test_other_files_are_decoded_whole(tmp_path):
    Image.fromarray(surface(480, 640)).save(tmp_path / "a.png")
    image, full_size = read_for_size(tmp_path / "a.png", 64)
    assert image.shape == (480, 640, 3)
    assert full_size == (480, 640)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_reduced_photographs_are_upright(tmp_path, orientation):
    upright = surface(640, 960)
    turns = {1: 0, 3: 2, 6: 1, 8: -1}
    path = save_jpeg(tmp_path / "a.jpg", np.rot90(upright, turns[orientation]), orientation)
    for size in (100, (150, 270)):  # as it is stored, half the width of the rectangle would be too small
        image, full_size = read_for_size(path, size)
        assert (image.shape, full_size) == ((320, 480, 3), (640, 960))
        assert (resized(image, size) - resized(upright, size)).abs().mean() < 2


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_other_modes_are_reduced_alike(tmp_path, mode):
    Image.fromarray(surface(480, 640)).convert(mode).save(tmp_path / "a.jpg", quality=92)
    image, _ = read_for_size(tmp_path / "a.jpg", 64)
    assert image.shape == (120, 160, 3)
    assert (resized(image, 64) - resized(read_image(tmp_path / "a.jpg"), 64)).abs().mean() < 1


def test_a_truncated_jpeg_is_refused_at_a_fraction_of_its_size_too(tmp_path):
    path = save_jpeg(tmp_path / "a.jpg", surface(480, 640))
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ImageReadError, match=r"a\.jpg: broken or truncated"):
        read_for_size(path, 64)


# --- items of reduced images


@pytest.fixture
def photographs(tmp_path) -> Manifest:
    """A defect photograph of 960 x 1280 and one stored on its side; the masks mark the bright block."""
    image = surface(960, 1280)
    mask = (image.min(axis=2) == 220).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    with DatasetWriter(tmp_path / "data") as writer:
        for name, stored, orientation in (("a.jpg", image, 1), ("b.jpg", np.rot90(image, 1), 6)):
            save_jpeg(tmp_path / name, stored, orientation)
            row = {"label": "defect", "split": "train", "group": name, "source": name}
            writer.add(tmp_path / name, name, mask, **row)
        return writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command="test")


def test_mask_and_reduced_image_are_aligned(photographs):
    for index in (0, 1):
        item = DefectDataset(photographs, 160)[index]
        assert item["error"] == ""
        bright = item["image"].float().mean(dim=0) > 185
        mask = item["mask"] == 1
        assert (bright & mask).sum() / (bright | mask).sum() > 0.98
        rows, columns = (torch.nonzero(bright.any(dim=d)).flatten() for d in (1, 0))
        same_rows, same_columns = (torch.nonzero(mask.any(dim=d)).flatten() for d in (1, 0))
        assert (rows[[0, -1]] - same_rows[[0, -1]]).abs().max() <= 1
        assert (columns[[0, -1]] - same_columns[[0, -1]]).abs().max() <= 1


def test_a_mask_of_the_reduced_size_is_still_the_wrong_size(photographs):
    name = photographs.root / photographs.columns["mask"][0]
    Image.open(name).resize((640, 480)).save(name)
    assert "differ in size" in DefectDataset(photographs, 160)[0]["error"]


def test_training_validation_and_inference_see_the_same_pixels(photographs):
    path = photographs.root / photographs.columns["image"][1]
    trained = DefectDataset(photographs, 160)[1]["image"]
    predicted = FileReader((160, 160), display=False, white_level=FULL_RANGE)(path)
    assert np.array_equal(trained.permute(1, 2, 0), predicted.image)
    assert predicted.size == (960, 1280)  # masks come out at full size


# --- augmentations against torchvision's


@pytest.fixture
def picture() -> tv_tensors.Image:
    return tv_tensors.Image(torch.from_numpy(surface(90, 120)).permute(2, 0, 1).clamp(40, 200))


def test_masks_take_the_middle_of_each_cell():
    mask = tv_tensors.Mask(torch.arange(9, dtype=torch.uint8).repeat(9, 1))
    assert ops.resize_mask(mask, [3, 3])[0].tolist() == [1, 4, 7]


@pytest.mark.parametrize(
    ("factors", "name", "value"),
    [
        ((1.2, 1, 1, 0), "brightness", 1.2),
        ((1, 0.7, 1, 0), "contrast", 0.7),
        ((1, 1, 1.5, 0), "saturation", 1.5),
    ],
)
def test_one_matrix_does_what_colour_jitter_does(picture, factors, name, value):
    mean = float(ops.LUMA @ picture.float().mean(dim=(1, 2)).numpy())
    changed = ops.mix_channels(picture, ops.color_matrix(*factors, mean))
    expected = getattr(v2.functional, f"adjust_{name}")(picture, value)
    assert (changed.float() - expected.float()).abs().max() <= 2  # rounded, not cut


@pytest.mark.parametrize("hue", [-0.02, 0.02])
def test_hue_turns_the_same_way(hue):
    colors = tv_tensors.Image(torch.tensor([[200, 50], [50, 90], [50, 180]], dtype=torch.uint8)[..., None])
    changed = ops.mix_channels(colors, ops.color_matrix(1, 1, 1, hue, 0)).float() - colors.float()
    expected = v2.functional.adjust_hue(colors, hue).float() - colors.float()
    assert torch.nn.functional.cosine_similarity(changed.flatten(), expected.flatten(), dim=0) > 0.7


def test_warp_and_blur_match_torchvision(picture):
    matrix = cv2.getRotationMatrix2D((59.5, 44.5), -7, 1.1)
    matrix[:, 2] += (6, -4)
    moved, _ = ops.warp(picture, torch.zeros(90, 120, dtype=torch.uint8), matrix, (0, 0, 0), 255)
    linear = v2.InterpolationMode.BILINEAR
    expected = v2.functional.affine(picture, 7.0, [6, -4], 1.1, [0.0, 0.0], interpolation=linear, fill=[0, 0, 0])
    assert (moved.float() - expected.float()).abs()[:, 10:-10, 10:-10].mean() < 1
    smooth = v2.functional.gaussian_blur(picture, [5, 5], [1.2, 1.2])
    assert (ops.blur(picture, 1.2).float() - smooth.float()).abs().max() <= 2


def test_noise_has_the_deviation_asked_for(picture):
    flat = tv_tensors.Image(torch.full((3, 200, 200), 128, dtype=torch.uint8))
    noise = ops.add_noise(flat, 6.0).float() - 128
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 6) < 0.1
    assert abs(np.corrcoef(noise[0].flatten(), noise[1].flatten())[0, 1]) < 0.02


# --- the table of a large dataset

ROWS = 100_000


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Manifest:
    """A manifest of 100,000 rows, whose files do not exist."""
    root = tmp_path_factory.mktemp("large")
    info = {"format_version": 1, "classes": ["normal", "scratch"], "mask_classes": ["scratch"], "seed": 0}
    (root / "dataset.json").write_text(json.dumps(info), encoding="utf-8")
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i in range(ROWS):
            name, defect = f"line_{i % 7}/day_{i % 31:02d}/part_{i:06d}.jpg", i % 4 == 0
            mask, label = (f"masks/{name}.png", "scratch") if defect else ("", "normal")
            writer.writerow([f"images/{name}", mask, label, SPLITS[i % 5 % 3], f"part_{i:06d}", f"/photos/ü/{name}"])
    return read_manifest(root)


def test_a_large_dataset_opens(large):
    assert len(large) == ROWS
    assert (large.labels == np.tile([1, 0, 0, 0], ROWS // 4)).all()
    assert [len(large.select(split)) for split in SPLITS] == [40_000, 40_000, 20_000]
    item = DefectDataset(large, 8)[99_999]
    assert "part_099999.jpg: no such file" in item["error"]


def test_a_pickled_table_is_the_same(large):
    expected = large.select("val")
    table = pickle.loads(pickle.dumps(expected))
    assert (table.root, table.classes, table.mask_classes) == (large.root, large.classes, large.mask_classes)
    for name in COLUMNS:
        np.testing.assert_array_equal(table.columns[name], expected.columns[name])
    np.testing.assert_array_equal(table.labels, expected.labels)


def own_megabytes() -> float:
    """Memory of this process that no other shares."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


class TableMemory(Dataset):
    """Its one item: how many fields of the table are filled, and the megabytes that go when the table is dropped."""

    def __init__(self, manifest: Manifest):
        self.manifest = manifest

    def __getitem__(self, index: int) -> tuple[int, float]:
        filled = sum(int((column != "").sum()) for column in self.manifest.columns.values())
        before = own_megabytes()
        del self.manifest
        return filled, before - own_megabytes()


@pytest.fixture
def start_method():
    """Sets how processes are started, for one test."""
    before = multiprocessing.get_start_method()
    yield lambda method: multiprocessing.set_start_method(method, force=True)
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc to tell shared memory")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_share_the_table_however_they_are_started(large, method, start_method):
    start_method(method)
    [(filled, megabytes)] = make_loader(TableMemory(large), None, num_workers=1, sampler=[0])
    assert filled == sum((column != "").sum() for column in large.columns.values())
    assert megabytes < sum(column.nbytes for column in large.columns.values()) / 2**20 / 4
