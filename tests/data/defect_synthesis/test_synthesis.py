"""Synthetic parts: reproducible, exactly labeled, and not to be told apart by brightness."""

import cv2
import numpy as np
import pytest

from dinov3.data.defect_synthesis.render import DEFECTS, MIN_SIDE, SURFACES, SyntheticImage, synthesize
from dinov3.defect_errors import DefectError


def draw(seed: int | list[int], **options) -> SyntheticImage:
    return synthesize(np.random.default_rng(seed), **options)


def brightness(picture: SyntheticImage) -> np.ndarray:
    return cv2.cvtColor(picture.image, cv2.COLOR_RGB2GRAY)


@pytest.fixture(scope="module")
def collection() -> list[SyntheticImage]:
    """Defects and normal parts in equal number, every surface with every defect."""
    pictures = []
    for k in range(5):
        for i, surface in enumerate(SURFACES):
            for j, defect in enumerate(DEFECTS):
                pictures.append(draw([k, i, j], size=160, surface=surface, defect=defect))
                pictures.append(draw([k, i, j, 1], size=160, surface=surface))
    return pictures


def test_same_state_gives_the_same_picture():
    first, again, other = (draw(seed, size=96, defect="crack") for seed in (3, 3, 4))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.mask, again.mask)
    assert first.surface == again.surface
    assert not np.array_equal(first.image, other.image)


def test_the_state_counts_not_the_seed():
    rng = np.random.default_rng(3)
    first, second = synthesize(rng, size=96), synthesize(rng, size=96)
    assert not np.array_equal(first.image, second.image)


def test_arguments_do_not_change_what_follows():
    following = []
    for options in ({}, {"surface": "wood"}, {"surface": "cast", "defect": "stain"}):
        rng = np.random.default_rng(5)
        synthesize(rng, size=96, **options)
        following.append(rng.integers(2**40))
    assert len(set(following)) == 1


@pytest.mark.parametrize(("size", "shape"), [(96, (96, 96)), ((80, 128), (80, 128)), ((200, 64), (200, 64))])
@pytest.mark.parametrize("surface", SURFACES)
def test_shapes_and_types(surface, size, shape):
    picture = draw(1, size=size, surface=surface, defect="pit")
    assert picture.image.shape == (*shape, 3) and picture.image.dtype == np.uint8
    assert picture.mask.shape == shape and picture.mask.dtype == np.uint8
    assert set(np.unique(picture.mask)) == {0, 1}
    assert (picture.surface, picture.defect) == (surface, "pit")


def test_normal_part_has_an_empty_mask_and_any_surface():
    pictures = [draw(seed, size=64) for seed in range(60)]
    assert {p.surface for p in pictures} == set(SURFACES)
    assert all(p.defect is None and not p.mask.any() for p in pictures)


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("surface", SURFACES)
def test_mask_is_what_the_defect_changes(surface, defect):
    for seed in range(3):
        with_defect = draw(seed, surface=surface, defect=defect)
        without = draw(seed, surface=surface)
        changed = np.abs(with_defect.image.astype(int) - without.image).max(-1)
        mask = with_defect.mask > 0
        assert 0.0002 < mask.mean() < 0.2
        assert changed[mask].mean() > 10
        assert changed[~mask].mean() < 0.5
        # Lens blur carries the change of a thin line over its edge, and no further.
        far = cv2.dilate(with_defect.mask, np.ones((15, 15), np.uint8)) == 0
        assert (changed[far] > 25).mean() < 0.001


@pytest.mark.parametrize("defect", DEFECTS)
def test_mask_is_neither_generous_nor_tight(defect):
    masks, changes = [], []
    for seed in range(2):
        for surface in SURFACES:
            with_defect, without = (draw(seed, surface=surface, defect=d) for d in (defect, None))
            masks.append(with_defect.mask > 0)
            changes.append(np.abs(with_defect.image.astype(int) - without.image).max(-1) > 15)
    both = np.sum(np.logical_and(masks, changes))
    assert both / np.sum(masks) > 0.6  # a dent has no slope at its center
    assert both / np.sum(changes) > 0.68


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_size_has_something_to_find(defect):
    for seed in range(10):
        assert draw(seed, size=MIN_SIDE, defect=defect).mask.any()


def test_pits_are_small():
    widths = []
    for seed in range(20):
        mask = draw(seed, defect="pit").mask
        _, _, boxes, _ = cv2.connectedComponentsWithStats(mask)
        widths.extend(boxes[1:, cv2.CC_STAT_WIDTH])
    assert np.mean([4 <= width <= 12 for width in widths]) > 0.3
    assert np.median(widths) < 20


def test_dent_has_a_light_and_a_dark_side():
    for seed in range(5):
        dented, flat = (draw(seed, surface="plastic", defect=defect) for defect in ("dent", None))
        change = (brightness(dented).astype(int) - brightness(flat))[dented.mask > 0]
        assert (change > 5).mean() > 0.15 and (change < -5).mean() > 0.15


def test_no_brightness_threshold_segments_the_defects(collection):
    counts = np.zeros((2, 256))
    for picture in collection:
        for inside in (0, 1):
            counts[inside] += np.bincount(brightness(picture)[picture.mask == inside], minlength=256)
    for levels in (counts, counts[:, ::-1]):  # darker than, brighter than
        false_positives, hits = levels.cumsum(1)
        iou = hits / (counts[1].sum() + false_positives)
        assert iou.max() < 0.3


@pytest.mark.parametrize("statistic", [np.min, np.max, np.mean, np.std])
def test_no_brightness_statistic_finds_the_defective_parts(collection, statistic):
    scores = np.array([statistic(brightness(picture)) for picture in collection], float)
    defective = np.array([picture.defect is not None for picture in collection])
    pairs = np.sign(scores[defective][:, None] - scores[~defective])
    auroc = (1 + pairs.mean()) / 2
    assert 0.25 < auroc < 0.75


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"surface": "glass"}, ["'glass'", "wood"]),
        ({"defect": "rust"}, ["'rust'", "scratch"]),
        ({"size": 16}, ["16", str(MIN_SIDE)]),
    ],
)
def test_mistakes_are_named(options, named):
    with pytest.raises(DefectError) as error:
        draw(0, **options)
    assert all(text in str(error.value) for text in named)
