"""Masks of every kind that people have are read, and what had to be guessed is said."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.image_files import STORED, save
from PIL import Image

from dinov3.data.defect_formats.masks import read_foreign_mask
from dinov3.data.defect_images import ImageReadError


@pytest.fixture
def blob() -> np.ndarray:
    """(32, 48) mask of 0 and 1 without any symmetry, a ninth of it defective."""
    mask = np.zeros((32, 48), np.uint8)
    mask[3:20, 5:10] = 1
    mask[16:20, 5:26] = 1
    return mask


def rgb(mask: np.ndarray, on: tuple[int, ...], off: tuple[int, ...]) -> np.ndarray:
    return np.where(mask[..., None] > 0, np.uint8(on), np.uint8(off)).astype(np.uint8)


def palette(mask: np.ndarray, *colors: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(mask)
    image.putpalette([channel for color in colors for channel in color])
    return image


BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)
CLEAN_MASKS = {
    "0 and 1": lambda m: m,
    "0 and 255": lambda m: m * 255,
    "other two values": lambda m: 20 + m * 180,
    "class indices": lambda m: m * (1 + np.indices(m.shape)[0] % 5).astype(np.uint8),
    "one bit": lambda m: m > 0,
    "16 bit, 0 and 65535": lambda m: m.astype(np.uint16) * 65535,
    "16 bit, 0 and 1": lambda m: m.astype(np.uint16),
    "16 bit, class indices": lambda m: m.astype(np.uint16) * (1 + np.indices(m.shape)[0] % 5).astype(np.uint16),
    "white on black RGB": lambda m: rgb(m, WHITE, BLACK),
    "blue on black RGB": lambda m: rgb(m, (0, 0, 128), BLACK),
    "opaque RGBA": lambda m: rgb(m, (*WHITE, 255), (*BLACK, 255)),
    "half transparent grey": lambda m: rgb(m, (255, 128), (255, 0)),
    "red on transparent white": lambda m: rgb(m, (*RED, 255), (*WHITE, 0)),
    "palette": lambda m: palette(m, BLACK, RED),
    "palette, black last": lambda m: palette(1 - m, WHITE, BLACK),
    "palette without black": lambda m: palette(m, (68, 1, 84), (253, 231, 37)),
    "palette of black alone": lambda m: palette(m, BLACK, BLACK),
}


@pytest.mark.parametrize("kind", CLEAN_MASKS)
def test_masks_of_every_kind_are_read_exactly(tmp_path, blob, kind):
    image = CLEAN_MASKS[kind](blob)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(tmp_path / "m.png")
    mask, remarks = read_foreign_mask(tmp_path / "m.png", blob.shape)
    np.testing.assert_array_equal(mask, blob)
    assert mask.dtype == np.uint8
    assert not remarks


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("alpha channel", lambda m: rgb(m, (0, 0, 0, 255), (255, 255, 255, 0))),
        ("commonest color", lambda m: rgb(m, RED, WHITE)),
        ("commonest color", lambda m: rgb(m, (0, 255, 0), (255, 0, 0))),
    ],
)
def test_guesses_about_masks_are_reported(tmp_path, blob, kind, make):
    mask, remarks = read_foreign_mask(save(tmp_path / "m.png", make(blob)), blob.shape)
    np.testing.assert_array_equal(mask, blob)
    assert len(remarks) == 1
    assert kind in remarks[0][0]


def test_noise_of_jpeg_is_cut_at_half(tmp_path, blob):
    path = save(tmp_path / "m.jpg", blob * 255, quality=60)
    mask, remarks = read_foreign_mask(path, blob.shape)
    assert (mask != blob).mean() < 0.01
    assert "cut at half" in remarks[0][0]
    resaved = tmp_path / "m.png"  # the noise stays when a JPEG is saved as PNG
    Image.open(path).save(resaved)
    np.testing.assert_array_equal(read_foreign_mask(resaved, blob.shape)[0], mask)


@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535), (np.uint16, 4095)])
def test_soft_edges_are_cut_at_half(tmp_path, dtype, full):
    ramp = np.linspace(0, full, 101).astype(dtype)[None].repeat(8, axis=0)
    mask, remarks = read_foreign_mask(save(tmp_path / "m.png", ramp), ramp.shape)
    np.testing.assert_array_equal(mask[0], np.arange(101) > 50)
    assert remarks


@pytest.mark.parametrize("full", [40, 100, 127])
def test_a_dark_mask_is_cut_at_half_of_its_largest_value(tmp_path, blob, full):
    soft = blob * np.uint8(full)
    soft[20, 5:26] = full // 3  # a soft edge
    soft[0, 0] = 1
    mask, remarks = read_foreign_mask(save(tmp_path / "m.png", soft), blob.shape)
    np.testing.assert_array_equal(mask, blob)
    assert "cut at half" in remarks[0][0]


@pytest.mark.parametrize("value", [0, 255])
def test_masks_of_one_value(tmp_path, value):
    for suffix in (".png", ".jpg"):
        path = save(tmp_path / f"m{suffix}", np.full((8, 8), value, np.uint8))
        assert (read_foreign_mask(path, (8, 8))[0] == (value > 0)).all()


def test_a_mask_of_another_size_is_resized_and_named(tmp_path, blob):
    path = save(tmp_path / "m.png", blob.repeat(2, axis=0).repeat(2, axis=1) * 255)
    mask, remarks = read_foreign_mask(path, blob.shape)
    np.testing.assert_array_equal(mask, blob)
    assert remarks == [("mask of another size; resized", "96x64, its image 48x32")]


def test_a_mask_of_another_shape_is_refused(tmp_path, blob):
    path = save(tmp_path / "m.png", blob)
    with pytest.raises(ImageReadError, match="the mask is 48x32, its image 32x48; expected the same shape"):
        read_foreign_mask(path, (48, 32))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_of_images_on_their_side(tmp_path, blob, orientation):
    upright = save(tmp_path / "upright.png", blob)
    mask, remarks = read_foreign_mask(upright, blob.shape, orientation)
    np.testing.assert_array_equal(mask, blob)
    assert not remarks
    stored = save(tmp_path / "stored.png", STORED[orientation](blob))
    mask, remarks = read_foreign_mask(stored, blob.shape, orientation)
    np.testing.assert_array_equal(mask, blob)
    assert "turned upright" in remarks[0][0]
    tagged = save(tmp_path / "tagged.png", STORED[orientation](blob), orientation)
    np.testing.assert_array_equal(read_foreign_mask(tagged, blob.shape, orientation)[0], blob)


def test_a_turn_that_sizes_cannot_tell_is_reported(tmp_path, blob):
    mask, remarks = read_foreign_mask(save(tmp_path / "m.png", blob), blob.shape, 3)
    np.testing.assert_array_equal(mask, blob)
    assert "EXIF" in remarks[0][0]
    assert read_foreign_mask(save(tmp_path / "m.png", blob[:, :32]), (32, 32), 6)[1]
