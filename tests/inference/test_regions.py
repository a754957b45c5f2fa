"""Regions: nothing lost, nothing counted twice, sizes of drawn shapes, speed on large images."""

from __future__ import annotations

import json
import math
import time

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinov3.inference.regions import Region, find_regions, region_record

SIDE = 300


def blank() -> np.ndarray:
    return np.zeros((SIDE, SIDE), np.uint8)


def line(angle: float, length: int, width: int) -> np.ndarray:
    """A bar with its start at (60, 60), drawn by pixel centres."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5 - 60
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    return ((along >= 0) & (along < length) & (np.abs(across) < width / 2)).astype(np.uint8)


def polyline(*points: tuple[int, int], width: int = 3) -> np.ndarray:
    return cv2.polylines(blank(), [np.array(points)], False, 1, width)


def regions_of(drawn: np.ndarray) -> list[Region]:
    return find_regions(drawn.astype(np.float32), np.zeros(drawn.shape, np.int64), ["crack"], 0.5)[1]


def only(drawn: np.ndarray) -> Region:
    (region,) = regions_of(drawn)
    return region


@pytest.mark.parametrize("angle", [0, 13, 30, 45, 90])
@pytest.mark.parametrize("width", [3, 8])
def test_a_straight_crack_has_its_length_and_width_at_any_angle(angle: int, width: int) -> None:
    region = only(line(math.radians(angle), 100, width))
    assert region.length == pytest.approx(100, abs=2)
    assert region.width == pytest.approx(width, abs=1)


def test_a_line_of_one_pixel() -> None:
    region = only(cv2.line(blank(), (10, 20), (109, 20), 1))
    assert (region.length, region.width, region.area) == (100, 1, 100)


@pytest.mark.parametrize(
    "points",
    [
        [(50, 50), (50, 150), (150, 150)],  # L
        [(20, 20), (60, 120), (160, 140), (170, 260)],
        [(20, 20), (120, 20), (120, 40), (20, 40), (20, 60), (120, 60)],  # back and forth, 17 pixels apart
        [(20, 20), (280, 100), (20, 180), (280, 260)],  # on a coarser grid
    ],
)
def test_a_bent_crack_has_the_length_along_its_bends(points: list[tuple[int, int]]) -> None:
    truth = np.linalg.norm(np.diff(points, axis=0), axis=1).sum() + 1
    region = only(polyline(*points))
    assert region.length == pytest.approx(truth, rel=0.06)  # it cuts each corner by about the width
    assert region.width == pytest.approx(region.area / region.length, abs=2)


@pytest.mark.parametrize(("arm", "gap"), [(600, 20), (1500, 20), (4000, 60)])
def test_the_arms_of_a_long_crack_stay_apart(arm: int, gap: int) -> None:
    points = [(20, 20), (20 + arm, 20), (20 + arm, 20 + gap), (20, 20 + gap)]
    drawn = cv2.polylines(np.zeros((gap + 40, arm + 40), np.uint8), [np.array(points)], False, 1, 3)
    assert only(drawn).length == pytest.approx(2 * arm + gap, rel=0.03)


def test_a_fork_counts_its_longest_way() -> None:
    fork = polyline((50, 50), (50, 150), (150, 150)) | polyline((50, 150), (30, 170))
    assert only(fork).length == pytest.approx(201, rel=0.03)


@pytest.mark.parametrize("radius", [3, 50, 140])
def test_of_a_disc_length_and_width_are_the_diameter(radius: int) -> None:
    region = only(cv2.circle(blank(), (150, 150), radius, 1, -1))
    assert region.length == pytest.approx(2 * radius + 1, rel=0.02)
    assert region.width == pytest.approx(2 * radius + 1, abs=2)


def test_of_a_rectangle_length_is_the_diagonal_and_width_the_short_side() -> None:
    rectangle = blank()
    rectangle[100:130, 50:170] = 1
    region = only(rectangle)
    assert region.box == (50, 100, 120, 30) and region.area == 3600
    assert region.length == pytest.approx(math.hypot(120, 30), rel=0.01) and region.width == 30


def test_at_the_border_a_region_ends_with_the_image() -> None:
    corner = blank()
    corner[:20, SIDE - 40 :] = 1
    region = only(corner)
    assert region.box == (SIDE - 40, 0, 40, 20) and region.width == 20
    assert only(np.ones((7, 1), np.uint8)).length == 7


def test_a_hole_is_not_area_and_what_lies_in_it_is_its_own_region() -> None:
    ring = blank()
    ring[50:150, 50:150] = 1
    ring[70:130, 70:130] = 0
    ring[95:105, 95:105] = 1
    outer, inner = regions_of(ring)
    assert outer.area == 100 * 100 - 60 * 60 and outer.width == pytest.approx(20, abs=4)
    assert (inner.area, inner.box) == (100, (95, 95, 10, 10))
    assert outer.polygon == [(50, 50), (50, 149), (149, 149), (149, 50)]


def test_regions_in_each_others_boxes_have_the_sizes_they_have_alone() -> None:
    shapes = [cv2.line(blank(), (20 + 12 * i, 20), (100 + 12 * i, 280), 1, 1 + i // 3) for i in range(14)]
    together = sorted((r.box, r.area, r.length, r.width) for r in regions_of(np.maximum.reduce(shapes)))
    alone = sorted((r.box, r.area, r.length, r.width) for r in map(only, shapes))
    assert [item[:2] for item in together] == [item[:2] for item in alone]
    assert np.allclose([item[2:] for item in together], [item[2:] for item in alone])


def test_diagonal_neighbours_are_one_region_and_classes_are_apart() -> None:
    channel = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 1]])
    peak = np.array([[0.9, 0.1, 0.1], [0.1, 0.5, 0.6], [0.2, 0.2, 0.7]], np.float32)
    mask, (pit, crack) = find_regions(peak, channel, ["pit", "crack"], 0.5)
    assert mask.tolist() == [[1, 0, 0], [0, 1, 2], [0, 0, 2]]
    assert (pit.class_name, pit.area, pit.score, pit.peak) == ("pit", 2, pytest.approx(0.7), pytest.approx(0.9))
    assert (crack.class_name, crack.area, crack.peak) == ("crack", 2, pytest.approx(0.7))


def test_small_regions_and_pixels_that_do_not_count_leave_mask_and_list() -> None:
    peak = np.zeros((40, 40), np.float32)
    peak[2:4, 2:4], peak[10:20, 10:30] = 0.9, 0.8
    keep = np.ones((40, 40), bool)
    keep[:, 20:] = False
    mask, regions = find_regions(peak, np.zeros((40, 40), np.uint8), ["pit"], 0.5, min_area=5, keep=keep)
    assert [region.box for region in regions] == [(10, 10, 10, 10)] and mask.sum() == 100


@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.3, 0.5, 0.9]), st.integers(1, 3), st.integers(0, 6))
def test_every_marked_pixel_is_in_exactly_one_region(seed: int, density: float, classes: int, min_area: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, 2))
    peak = (rng.random(shape) < density).astype(np.float32) * rng.uniform(0.5, 1, shape).astype(np.float32)
    channel = rng.integers(0, classes, shape)
    names = [f"class {i}" for i in range(classes)]
    mask, regions = find_regions(peak, channel, names, 0.5, min_area)
    assert sum(region.area for region in regions) == (mask > 0).sum()
    whole, everything = find_regions(peak, channel, names, 0.5)
    assert (whole == np.where(peak >= 0.5, channel + 1, 0)).all()
    assert [r.area for r in regions] == [r.area for r in everything if r.area >= min_area]
    expected = []
    for value in range(1, classes + 1):
        count, _, stats, _ = cv2.connectedComponentsWithStats((whole == value).astype(np.uint8), connectivity=8)
        expected += [(names[value - 1], *stats[i].tolist()) for i in range(1, count)]
    assert sorted((r.class_name, *r.box, r.area) for r in everything) == sorted(expected)
    for region in everything:
        _, _, width, height = region.box
        assert 1 <= region.width <= min(width, height) <= math.hypot(width, height) <= region.length * 1.5
        assert region.length <= 1.5 * region.area + 1 and 0.5 <= region.score <= region.peak <= 1


def test_a_record_has_millimetres_only_if_the_scale_is_known() -> None:
    region = only(line(0, 100, 4))
    pixels, scaled = region_record(region, None), region_record(region, 0.05)
    assert "length_mm" not in pixels and pixels["box"] == [60, 58, 100, 4]
    assert [scaled[k] for k in ("length_mm", "width_mm", "area_mm2")] == pytest.approx([5, 0.2, 1], abs=0.01)
    assert scaled["length_mm"] == region.length * 0.05  # as rules compare it, so that none contradicts the record
    assert json.loads(json.dumps(scaled)) == scaled


def cpu_seconds(drawn: np.ndarray) -> tuple[float, int]:
    peak, channel = drawn.astype(np.float32), drawn * 0
    start = time.process_time()
    regions = find_regions(peak, channel, ["pit"], 0.5)[1]
    return time.process_time() - start, len(regions)


def test_a_large_image_and_many_specks_stay_fast() -> None:
    """Limits are some ten times what it takes, for slow machines."""
    large = np.zeros((6000, 8000), np.uint8)
    for i in range(10):
        cv2.line(large, (700 * i + 50, 300), (700 * i + 900, 4500), 1, 5)
    seconds, count = cpu_seconds(large)
    assert count == 10 and seconds < 6
    times = []
    for number in (1000, 8000):
        specks = np.zeros((2000, 2000), np.uint8)
        places = np.random.default_rng(0).permutation(400 * 400)[:number]
        for y, x in zip(*np.divmod(places, 400), strict=True):
            specks[5 * y : 5 * y + 3, 5 * x : 5 * x + 2] = 1
        seconds, count = cpu_seconds(specks)
        assert count == number
        times.append(seconds)
    assert times[1] < 25 * times[0] and times[1] < 6
