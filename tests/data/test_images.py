"""Images and masks of every kind that people have, and what is said about files that are no use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3.data.defect_drawing import CLASS_COLORS, class_color
from dinov3.data.defect_files import list_images
from dinov3.data.defect_formats.masks import read_foreign_mask
from dinov3.data.defect_images import ImageReadError, exif_orientation, read_image
from dinov3.data.defect_masks import read_mask, write_mask
from dinov3.defect_errors import DefectError

# How a camera stores an upright array under each EXIF orientation.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: np.rot90(a, 2),
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def save(path: Path, array: np.ndarray, orientation: int | None = None, **options: object) -> Path:
    if orientation:
        exif = Image.Exif()
        exif[274] = orientation
        options["exif"] = exif
    Image.fromarray(np.ascontiguousarray(array)).save(path, **options)
    return path


@pytest.fixture
def picture() -> np.ndarray:
    """(12, 20, 3) without any symmetry."""
    return np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


@pytest.fixture
def blob() -> np.ndarray:
    """(32, 48) mask of 0 and 1 without any symmetry, a ninth of it defective."""
    mask = np.zeros((32, 48), np.uint8)
    mask[3:20, 5:10] = 1
    mask[16:20, 5:26] = 1
    return mask


# --- images


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


# --- folders


def test_list_images_finds_images_by_suffix_and_leaves_the_rest(tmp_path, picture):
    for name in ("b.JPG", "a.png", "deep/er/c.TIFF", ".hidden.png", ".cache/d.png", "sub/.x/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "plan.pdf").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    (tmp_path / "broken.png").symlink_to("nowhere")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["a.png", "b.JPG", "broken.png", "deep/er/c.TIFF"]


def test_list_images_follows_a_link_to_the_folder_itself(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").touch()
    (tmp_path / "link").symlink_to("real")
    assert list_images(tmp_path / "link") == [tmp_path / "link" / "a.png"]


def test_list_images_says_what_is_wrong(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DefectError, match="no such folder"):
        list_images(tmp_path / "absent")
    with pytest.raises(DefectError, match="not a folder"):
        list_images(tmp_path / "file")


def test_file_names_in_another_encoding_are_refused_by_name(tmp_path):
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xbb\xae\xba\xdb.png")).touch()  # GBK
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(DefectError, match="not valid UTF-8; rename") as raised:
        list_images(tmp_path)
    str(raised.value).encode()  # can be printed


# --- masks of unknown origin


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


# --- our own masks


def test_masks_survive_the_disk_and_can_be_seen(tmp_path):
    mask = np.array([[0, 1, 2], [9, 254, 255]], np.uint8)
    write_mask(tmp_path / "deep" / "m.png", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "deep" / "m.png"), mask)
    with Image.open(tmp_path / "deep" / "m.png") as image:
        assert image.mode == "P"
        colors = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(colors[0], CLASS_COLORS[:3])
    assert tuple(colors[1, 2]) not in CLASS_COLORS  # ignored pixels look like no class
    assert class_color(8) == class_color(1) != class_color(0)


def test_a_color_image_is_no_mask(tmp_path, picture):
    with pytest.raises(ImageReadError, match="mode RGB; expected a palette or grey PNG"):
        read_mask(save(tmp_path / "m.png", picture))
