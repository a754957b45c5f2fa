"""check --fix: what it makes of masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.checking import Fix, edit_rows, fixer, give_three_classes, square, write, write_dozen
from helpers.organizing import masks_by_image
from PIL import Image

from dinov3.data.defect_drawing import class_color
from dinov3.data.defect_masks import IGNORE_INDEX


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dozen(tmp_path / "data")


@pytest.fixture
def fix(dataset, script, tmp_path) -> Fix:
    return fixer(dataset, script, tmp_path)


def test_black_and_white_masks_become_class_indices(dataset, fix):
    Image.fromarray(square() * 255).save(dataset / "masks/03.png.png")
    fixed, changes, left = fix()
    assert changes == [("masks/03.png.png", "ignored_mask")]
    assert left == {}
    assert np.array_equal(masks_by_image(fixed)["images/03.png"], square())


def test_black_and_white_masks_become_the_class_of_their_image(dataset, fix):
    give_three_classes(dataset)
    edit_rows(dataset, lambda rows: [rows[i].update(label=label) for i, label in ((3, "hole"), (5, ""))])
    for name in ("03", "05"):
        Image.fromarray(square() * 255).save(dataset / f"masks/{name}.png.png")
    fixed, changes, _ = fix()
    assert changes == [("masks/03.png.png", "ignored_mask")]
    assert np.array_equal(masks_by_image(fixed)["images/03.png"], square() * 2)
    assert np.array_equal(masks_by_image(fixed)["images/05.png"], square() * IGNORE_INDEX)  # nobody said which class


def test_grey_noise_is_cut_at_half(dataset, fix):
    Image.fromarray(square() * 255).save(dataset / "masks/03.jpg", quality=70)
    (dataset / "masks/03.png.png").unlink()
    edit_rows(dataset, lambda rows: rows[3].update(mask="masks/03.jpg"))
    fixed, changes, left = fix()
    assert changes == [("masks/03.jpg", "mask_values")]
    assert left == {}
    assert np.array_equal(masks_by_image(fixed)["images/03.png"], square())


def test_indices_of_no_class(dataset, fix):
    give_three_classes(dataset)
    mixed, foreign = square() * 3, square() * 7
    mixed[30:40, 10:20] = 9
    write(dataset, "03.png.png", mixed)
    write(dataset, "05.png.png", foreign)
    fixed, changes, _ = fix()
    assert changes == [("masks/03.png.png", "mask_values"), ("masks/05.png.png", "mask_values")]
    expected = np.where(mixed == 9, IGNORE_INDEX, mixed)
    assert np.array_equal(masks_by_image(fixed)["images/03.png"], expected)
    assert np.array_equal(masks_by_image(fixed)["images/05.png"], square())


def stripes(*values: int) -> np.ndarray:
    """Four rows of each value, and four of background below each."""
    mask = np.zeros((48, 48), np.uint8)
    for i, value in enumerate(values):
        mask[8 * i : 8 * i + 4] = value
    return mask


@pytest.mark.parametrize("palette", [True, False], ids=["palette", "grey"])
@pytest.mark.parametrize("values", [(1, 2, 255), (1, 40), (1, 3, 40, 255), (1, 90, 200)])
def test_stray_values_beside_the_only_class_are_ignored(dataset, fix, values, palette):
    mask = stripes(1, *values)
    write(dataset, "03.png.png", mask)
    if not palette:
        Image.fromarray(mask).save(dataset / "masks/03.png.png")
    fixed, changes, left = fix()
    assert (changes, left) == ([("masks/03.png.png", "mask_values")], {})
    assert np.array_equal(masks_by_image(fixed)["images/03.png"], np.where(mask > 1, IGNORE_INDEX, mask))


@pytest.mark.parametrize("palette", [True, False], ids=["palette", "grey"])
@pytest.mark.parametrize("values", [(1, 2, 40), (1, 3, 40, 255), (2, 200, 255)])
def test_stray_values_beside_several_classes_are_ignored(dataset, fix, values, palette):
    give_three_classes(dataset)
    mask = stripes(*values) + stripes(0, 0, 0, 0, 3)
    mask[mask == 40] = 45
    write(dataset, "03.png.png", mask)
    if not palette:
        Image.fromarray(mask).save(dataset / "masks/03.png.png")
    fixed, changes, _ = fix()
    assert changes == [("masks/03.png.png", "mask_values")]
    assert np.array_equal(masks_by_image(fixed)["images/03.png"], np.where(mask > 3, IGNORE_INDEX, mask))


@pytest.mark.parametrize("full", [100, 200, 255])
@pytest.mark.parametrize("kind", ["noise", "soft"])
def test_grey_pictures_are_no_indices_though_a_few_pixels_look_like_them(dataset, fix, full, kind):
    mask = square() * np.uint8(full)
    if kind == "noise":  # as a JPEG file leaves it, saved as PNG
        mask[5:8, 10:30] = np.arange(20) % 4
        mask[20:30, 10:30] -= (np.arange(20) % (4 if full == 255 else 12)).astype(np.uint8)
    else:
        mask[9, 10:30] = np.linspace(1, full / 2 - 1, 20)
        mask[30, 10:30] = np.linspace(1, full / 2 - 1, 20)
    Image.fromarray(mask).save(dataset / "masks/03.png.png")
    fixed, changes, left = fix()
    assert (changes, left) == ([("masks/03.png.png", "mask_values")], {})
    assert np.array_equal(masks_by_image(fixed)["images/03.png"], square())


def test_every_area_of_a_dark_grey_mask_is_a_defect(dataset, fix):
    mask = stripes(80, 100) + stripes(0, 0, 30)
    Image.fromarray(mask).save(dataset / "masks/03.png.png")
    fixed, changes, left = fix()
    assert (changes, left) == ([("masks/03.png.png", "mask_values")], {})
    assert np.array_equal(masks_by_image(fixed)["images/03.png"], mask > 0)


def test_a_palette_of_greys_in_any_order_is_a_picture(dataset, fix):
    image = Image.fromarray(stripes(1, 2, 3))
    image.putpalette([0, 0, 0, 90, 90, 90, 255, 255, 255, 180, 180, 180])
    image.save(dataset / "masks/03.png.png")
    fixed, _, left = fix()
    assert left == {}
    assert np.array_equal(masks_by_image(fixed)["images/03.png"], stripes(1, 1, 1))


def test_a_mask_that_a_repair_would_empty_is_skipped(dataset, fix):
    thin = np.zeros((96, 96), np.uint8)
    thin[:, 40] = 1
    assert not thin[1::2, 1::2].any()
    write(dataset, "05.png.png", thin)
    fixed, changes, left = fix()
    assert changes == [("masks/05.png.png", "size_mismatch")]
    assert left == {"missing_mask": 1}
    assert masks_by_image(fixed)["images/05.png"] is None


def test_a_faint_mask_saved_as_jpeg_keeps_its_defect(dataset, fix):
    Image.fromarray(square() * 20).save(dataset / "masks/03.jpg", quality=90)
    edit_rows(dataset, lambda rows: rows[3].update(mask="masks/03.jpg"))
    (dataset / "masks/03.png.png").unlink()
    fixed, changes, _ = fix()
    assert changes == [("masks/03.jpg", "mask_values")]
    assert (masks_by_image(fixed)["images/03.png"] != square()).mean() < 0.01


def test_color_masks(dataset, fix):
    give_three_classes(dataset)
    indices = square() * 3
    indices[0, 0], indices[30:40, 10:20] = IGNORE_INDEX, 2
    write(dataset, "03.png.png", indices)
    Image.open(dataset / "masks/03.png.png").convert("RGB").save(dataset / "masks/03.png.png")
    other = np.zeros((48, 48, 3), np.uint8)
    other[10:30, 10:30] = (0, 200, 0)
    assert (0, 200, 0) not in [class_color(i) for i in range(8)]
    Image.fromarray(other).save(dataset / "masks/05.png.png")
    fixed, changes, left = fix()
    assert changes == [("masks/03.png.png", "unreadable_mask"), ("masks/05.png.png", "unreadable_mask")]
    assert "unreadable_mask" not in left
    assert np.array_equal(masks_by_image(fixed)["images/03.png"], indices)
    assert np.array_equal(masks_by_image(fixed)["images/05.png"], square())


def test_masks_of_another_size_are_resized_those_of_another_shape_skipped(dataset, fix):
    write(dataset, "03.png.png", square().repeat(2, axis=0).repeat(2, axis=1))
    write(dataset, "05.png.png", square()[:20])
    Image.fromarray(square()[::2, ::2] * 255).save(dataset / "masks/07.png.png")
    fixed, changes, left = fix()
    resized, shape, ignored = "masks/03.png.png", "masks/05.png.png", "masks/07.png.png"
    sizes = [(resized, "size_mismatch"), (shape, "size_mismatch")]
    assert changes == [*sizes, (ignored, "ignored_mask"), (ignored, "size_mismatch")]
    assert left == {"missing_mask": 1}
    masks = masks_by_image(fixed)
    assert np.array_equal(masks["images/03.png"], square())
    assert masks["images/05.png"] is None
    assert np.array_equal(masks["images/07.png"], square())


def test_specks_go_unless_there_is_nothing_else(dataset, fix):
    beside, alone = square(), np.zeros((48, 48), np.uint8)
    beside[40, 40] = beside[1:3, 1:3] = 1
    beside[5, 5] = IGNORE_INDEX
    alone[7, 7] = 1
    write(dataset, "03.png.png", beside)
    write(dataset, "05.png.png", alone)
    fixed, changes, left = fix()
    assert changes == [("masks/03.png.png", "specks")]
    assert left == {"specks": 1}
    expected = square()
    expected[5, 5] = IGNORE_INDEX
    assert np.array_equal(masks_by_image(fixed)["images/03.png"], expected)
    assert np.array_equal(masks_by_image(fixed)["images/05.png"], alone)
