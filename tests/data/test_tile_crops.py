"""Training by tiles: reading windows of files, which crops an epoch takes, what a crop's verdict is."""

from __future__ import annotations

import math
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import square_image
from helpers.tiling import FLAT, SHAPE, TILE, write_large
from PIL import Image

from dinov3.data.defect_dataset import make_loader
from dinov3.data.defect_images import ImageReadError, read_image
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_masks import IGNORE_INDEX, write_mask
from dinov3.data.defect_partial_read import WindowReader
from dinov3.data.defect_prepare.writer import DatasetWriter
from dinov3.data.defect_tile_dataset import CropKey, DefectTileDataset, WholeImages, tile_target
from dinov3.data.defect_tiles import Tiling, walk_length, walk_step


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Don't change it."""
    return write_large(tmp_path_factory.mktemp("large") / "data")


# --- reading windows of files


@pytest.mark.parametrize(
    ("name", "mode", "partly"),
    [
        ("a.bmp", "RGB", True), ("grey.bmp", "L", True), ("a.tif", "RGB", True), ("deep.tif", "I;16", True),
        ("a.ppm", "RGB", True), ("a.png", "RGB", False), ("packed.tif", "RGB", False), ("palette.bmp", "P", False),
        ("clear.tif", "RGBA", False), ("a.jpg", "RGB", False),
    ],
)  # fmt: skip
def test_a_window_is_what_the_whole_holds_there(tmp_path: Path, name: str, mode: str, partly: bool) -> None:
    rng = np.random.default_rng(0)
    grey = mode in ("L", "I;16")
    values = rng.integers(0, 65536 if mode == "I;16" else 256, (70, 41) if grey else (70, 41, 3))
    image = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.uint8))
    image = image.convert(mode) if mode in ("P", "RGBA") else image
    options = {"compression": "tiff_lzw"} if name == "packed.tif" else {}
    image.save(tmp_path / name, **options, **({"tiffinfo": {278: 16}} if name == "a.tif" else {}))
    whole, reader = read_image(tmp_path / name), WindowReader(tmp_path / name)
    assert reader.shape == (70, 41) and (reader._pixels is None) == partly
    for key in (np.s_[:, :], np.s_[3:30, 5:9], np.s_[60:99, 40:50], np.s_[15:17, 0:41]):
        np.testing.assert_array_equal(reader[key], whole[key])


def write_tiled_tiff(path: Path, pixels: np.ndarray, side: int) -> None:
    """An uncompressed TIFF file in tiles, as Pillow cannot write it; ``pixels`` (H, W, 3)."""
    height, width = pixels.shape[:2]
    rows, columns = -(-height // side), -(-width // side)
    padded = np.pad(pixels, ((0, rows * side - height), (0, columns * side - width), (0, 0)))
    tiles = padded.reshape(rows, side, columns, side, 3).swapaxes(1, 2)  # row, column, y, x, channel
    count, start = rows * columns, 400
    tables = {324: [start + 8 * count + i * side * side * 3 for i in range(count)], 325: [side * side * 3] * count}
    tags = {256: [width], 257: [height], 258: [8], 259: [1], 262: [2], 277: [3], 322: [side], 323: [side]}
    data = b"II*\0" + struct.pack("<IH", 8, len(tags) + 2)
    for tag, values in tags.items():
        data += struct.pack("<HHII", tag, 4, 1, values[0])
    data += b"".join(struct.pack("<HHII", tag, 4, count, start + 4 * count * n) for n, tag in enumerate(tables))
    data = (data + bytes(4)).ljust(start, b"\0")
    path.write_bytes(data + struct.pack(f"<{2 * count}I", *tables[324], *tables[325]) + tiles.tobytes())


def test_tiled_files_are_read_by_their_tiles(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 41, 3), dtype=np.uint8)
    write_tiled_tiff(tmp_path / "tiled.tif", pixels, 16)
    reader = WindowReader(tmp_path / "tiled.tif")
    assert reader._pixels is None
    for key in (np.s_[:, :], np.s_[3:30, 5:9], np.s_[60:99, 30:50], np.s_[15:17, 15:33]):
        np.testing.assert_array_equal(reader[key], pixels[key])


def test_a_turned_or_cut_off_file_is_read_as_a_whole(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.tif", exif=exif)
    assert WindowReader(tmp_path / "turned.tif").shape == (30, 20)
    image.save(tmp_path / "a.bmp")
    (tmp_path / "cut.bmp").write_bytes((tmp_path / "a.bmp").read_bytes()[:900])
    with pytest.raises(ImageReadError, match="cut.bmp"):
        WindowReader(tmp_path / "cut.bmp")
    with pytest.raises(ImageReadError, match="no such file"):
        WindowReader(tmp_path / "none.bmp")


# --- training crops


def crops(large: Manifest, epochs: int, **options: object) -> tuple[DefectTileDataset, list[list[CropKey]]]:
    dataset = DefectTileDataset(large.select("train"), Tiling.for_size(FLAT, TILE), FLAT, **options)
    sampler = dataset.sampler(seed=3)
    keys = []
    for sampler.epoch in range(epochs):
        keys.append(list(sampler))
        assert len(keys[-1]) == len(sampler)
    return dataset, keys


@pytest.mark.parametrize("fraction", [0, 0.3, 0.5, 0.9])
def test_the_given_share_of_crops_is_centered_on_defects_and_shows_them(large: Manifest, fraction: float) -> None:
    dataset, epochs = crops(large, 3, defect_fraction=fraction)
    for keys in epochs:
        assert len(keys) == 8 * 4 and sum(key.centered for key in keys) == round(fraction * 32)
        for key in keys:
            if key.centered:
                item = dataset[key]
                assert item["label"] == 1 and item["mask"].any()
    if fraction:
        turns = Counter(key.index for keys in epochs for key in keys if key.centered)
        assert set(turns) == {1, 3, 5, 7} and max(turns.values()) - min(turns.values()) <= 1


def test_every_defect_gets_its_turn_in_the_middle_half(large: Manifest) -> None:
    dataset, epochs = crops(large, 2)
    boxes = {}
    for key in (key for keys in epochs for key in keys if key.centered and key.index == 1):
        mask = dataset[key]["mask"]
        ys, xs = np.nonzero(mask.numpy() == 1)
        boxes.setdefault(len(ys), []).append((ys.mean(), xs.mean()))
    assert set(boxes) == {64, 25}  # the large and the small square, whole
    away = np.abs(np.array(boxes[64]) - np.array(FLAT) / 2)
    assert (away <= np.array(FLAT) / 4 + 8).all()
    assert len(set(boxes[64])) == len(boxes[64])  # never twice in the same place


def test_every_part_of_every_image_is_reached_in_the_promised_time(large: Manifest) -> None:
    epochs = math.ceil(walk_length(SHAPE, FLAT) / (4 * 0.5)) + 1
    dataset, keys = crops(large, epochs)
    seen = np.zeros((len(dataset), *SHAPE), bool)
    for key in (key for epoch in keys for key in epoch if not key.centered):
        top, left = walk_step(SHAPE, FLAT, (key.walk_seed, key.index), key.turn)
        seen[key.index, top : top + FLAT[0], left : left + FLAT[1]] = True
    assert seen.all()
    # and what is walked is what is shown
    key = next(key for key in keys[0] if not key.centered)
    top, left = walk_step(SHAPE, FLAT, (key.walk_seed, key.index), key.turn)
    image = read_image(dataset.manifest.root / dataset.manifest.columns["image"][key.index])
    shown = dataset[key]["image"].permute(1, 2, 0)
    np.testing.assert_array_equal(shown, image[top : top + FLAT[0], left : left + FLAT[1]])


def test_an_epoch_of_crops_is_decided_by_its_number_whatever_the_workers(large: Manifest) -> None:
    dataset, epochs = crops(large, 3, augment=True)
    assert epochs[1] != epochs[2]
    batches = []
    for workers in (0, 2):
        sampler = dataset.sampler(seed=3)
        sampler.epoch = 2  # at once, as after a resume
        assert list(sampler) == epochs[2]
        loader = make_loader(dataset, 5, num_workers=workers, sampler=sampler)
        batches.append([{key: batch[key] for key in ("image", "mask", "label")} for batch in loader])
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_ranks_share_the_crops_out(large: Manifest) -> None:
    dataset, (whole, *_) = crops(large, 1)
    shares = [list(dataset.sampler(3, rank, 3)) for rank in range(3)]
    assert [len(share) for share in shares] == [10, 10, 10]
    assert [key for share in shares for key in share] == whole[:30]


def test_unreadable_images_become_black_crops_with_their_reason(tmp_path: Path) -> None:
    manifest = write_large(tmp_path / "data", count=2)
    (manifest.root / "images/train/001.png").write_bytes(b"")
    dataset, (keys,) = crops(manifest, 1)
    for item in (dataset[key] for key in keys if key.index == 1):
        assert item["label"] == -1 and not item["has_mask"] and "001.png: empty" in item["error"]
        assert item["image"].shape == (3, *FLAT)


@pytest.mark.parametrize("value", [0, IGNORE_INDEX])
def test_defect_images_whose_mask_shows_no_defect(tmp_path: Path, value: int) -> None:
    manifest = write_large(tmp_path / "data", count=2)
    write_mask(manifest.root / "masks/train/001.png.png", np.full(SHAPE, value, np.uint8))
    dataset, (keys,) = crops(manifest, 1)
    items = [dataset[key] for key in keys if key.index == 1] + [dataset[1]]
    assert len(items) > 1
    assert all(item["label"] == -1 and item["error"] == "" for item in items)  # nobody knows where it is
    assert (WholeImages(manifest)[1]["mask"] == value).all()


def test_defect_images_without_a_mask_are_used_only_if_one_tile_holds_them(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "data") as writer:
        for i, size in enumerate((40, 40, 100)):
            image, _ = square_image(np.random.default_rng(i), defect=i > 0, size=size)
            label = "defect" if i else "normal"
            writer.add(image, f"{i}.png", None, label=label, split="train", group=str(i), source="made")
        manifest = writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command="test")
    dataset = DefectTileDataset(manifest, Tiling(TILE), TILE)
    assert dataset.usable_rows().tolist() == [0, 1]
    item = dataset[1]
    assert (item["label"], item["has_mask"]) == (1, False)
    item = dataset[0]
    assert item["label"] == 0 and (item["mask"][:40, :40] == 0).all() and (item["mask"][40:] == IGNORE_INDEX).all()


def test_the_verdict_of_a_tile() -> None:
    mask = np.zeros((200, 300), np.uint8)
    mask[100:110, 60:80] = 2

    def label(top: int, left: int, image_label: int = 2, located: bool = True, of: np.ndarray = mask) -> int:
        tile, result = tile_target(of, image_label, located, top, left, (64, 64))
        assert tile.shape == (64, 64)
        return result

    assert label(90, 40) == 2
    assert label(0, 200) == 0  # no defect here
    assert label(90, 79) == -1  # one column of it at the border: a sliver
    assert label(90, 76) == 2  # four columns
    assert label(109, 40) == -1
    assert label(0, 200, located=False) == -1  # nobody marked where it is
    assert label(90, 40, image_label=0) == 0 and label(90, 40, image_label=-1) == -1
    ignored = np.where(mask > 0, 255, 0).astype(np.uint8)
    ignored[0, 0] = 2
    assert label(90, 40, of=ignored) == -1 and label(0, 200, of=ignored) == 0 and label(0, 0, of=ignored) == 2
    # an image that fits in a tile has its own verdict
    assert label(0, 0, located=False, of=mask[:50, :50]) == 2
