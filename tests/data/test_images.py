"""Images of every kind that people have, and what is said about files that are no use."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.image_files import STORED, save
from PIL import Image

from dinov3.data.defect_images import ImageReadError, exif_orientation, read_image


@pytest.fixture
def picture() -> np.ndarray:
    """(12, 20, 3) without any symmetry."""
    return np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_images_are_turned_upright(tmp_path, picture, orientation, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    path = save(tmp_path / f"a{suffix}", STORED[orientation](picture), orientation, **options)
    np.testing.assert_array_equal(read_image(path), picture)
    assert exif_orientation(path) == orientation


def test_photographs_of_a_phone_are_turned_upright(tmp_path):
    upright = np.zeros((40, 64, 3), np.uint8)
    upright[:8, :16] = 255
    image = read_image(save(tmp_path / "a.JPG", STORED[6](upright), 6, quality=95))
    assert image.shape == (40, 64, 3)
    assert np.abs(image.astype(int) - upright).mean() < 3


def test_damaged_exif_does_not_cost_the_image(tmp_path, picture):
    path = save(tmp_path / "a.jpg", picture, exif=b"Exif\0\0garbage")
    assert read_image(path).shape == picture.shape
    assert exif_orientation(path) == 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_keeps_its_range(tmp_path, suffix):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    image = read_image(save(tmp_path / f"a{suffix}", ramp))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image[..., 0], np.arange(256).reshape(16, 16))
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


@pytest.mark.parametrize("top", [1.0, 1000.0])
def test_float_images_fill_the_range(tmp_path, top):
    image = read_image(save(tmp_path / "a.tif", np.linspace(0, top, 64, dtype=np.float32).reshape(8, 8)))
    assert (image.min(), image.max()) == (0, 255)


def test_grey_images_get_three_equal_channels(tmp_path, picture):
    image = read_image(save(tmp_path / "a.png", picture[..., 0]))
    np.testing.assert_array_equal(image, picture[..., :1].repeat(3, axis=2))


def test_transparent_pixels_are_white(tmp_path, picture):
    alpha = np.full((12, 20, 1), 255, np.uint8)
    alpha[:4] = 0
    image = read_image(save(tmp_path / "a.png", np.concatenate([picture, alpha], axis=2)))
    assert (image[:4] == 255).all()
    np.testing.assert_array_equal(image[4:], picture[4:])
    grey = np.stack([picture[..., 0], alpha[..., 0]], axis=2)
    assert (read_image(save(tmp_path / "b.png", grey))[:4] == 255).all()
    flat = np.zeros((4, 4), np.uint8)
    assert (read_image(save(tmp_path / "c.png", flat, transparency=0)) == 255).all()


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "LAB", "I;16"])
def test_other_modes_become_rgb(tmp_path, mode):
    Image.new(mode, (5, 3)).save(tmp_path / "a.tif")
    image = read_image(tmp_path / "a.tif")
    assert image.shape == (3, 5, 3)
    assert image.dtype == np.uint8


def test_unusable_files_are_named_with_the_reason(tmp_path, picture):
    whole = save(tmp_path / "whole.jpg", picture.repeat(20, 0).repeat(20, 1)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("nowhere.png")
    reasons = {
        "cut.jpg": "truncated",
        "empty.png": "empty file",
        "text.png": "not an image",
        "folder.png": "a folder",
        "link.png": "no such file",
        "absent.png": "no such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(ImageReadError, match=reason) as raised:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value)


def test_a_decompression_bomb_is_refused(tmp_path, picture, monkeypatch):
    path = save(tmp_path / "a.png", picture)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageReadError, match="too large to decode safely"):
        read_image(path)
