"""Where the tiles of a large image lie, and how much each of their pixels counts."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tiling import FLAT, SHAPE
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3.data.defect_tiles import TileRow, Tiling, cut_tile, walk_length, walk_step
from dinov3.defect_errors import DefectError
from dinov3.defect_size import ImageSize

sides, tile_sides = st.integers(1, 400), st.integers(16, 100)


@settings(deadline=None)
@given(length=sides, size=tile_sides, overlap=st.floats(0, 0.75))
def test_the_grid_covers_every_pixel_and_its_weights_add_up_to_one(length: int, size: int, overlap: float) -> None:
    row = TileRow(length, size, overlap)
    starts, weights = row.starts(), row.weights()
    total = np.zeros(max(length, size))
    for start, weight in zip(starts, weights, strict=True):
        assert 0 <= start <= max(length - size, 0)
        total[start : start + size] += weight
    np.testing.assert_allclose(total[:length], 1, atol=1e-5)
    assert all(size - (b - a) >= round(size * overlap) - 1 for a, b in zip(starts, starts[1:], strict=False))


def test_a_tile_counts_least_at_its_border() -> None:
    first, second, _ = TileRow(160, 64, 0.25).weights()
    assert first[0] == 1 and first[47] == 1  # alone there
    assert (np.diff(first[48:]) < 0).all() and first[63] < 0.1
    np.testing.assert_allclose(first[48:] + second[:16], 1, atol=1e-6)


@pytest.mark.parametrize(
    ("image_size", "size", "overlap", "text"),
    [
        (64, 8, 0.25, "--tile_size 8: expected at least 16"),
        ((128, 32), 60, 0.25, "--tile_size 60 .tiles of 60 x 15 pixels.: expected at least 16"),
        (64, 64, 0.9, "--tile_overlap 0.9"),
    ],
)
def test_tiles_that_make_no_sense_are_refused(image_size: ImageSize, size: int, overlap: float, text: str) -> None:
    with pytest.raises(DefectError, match=text):
        Tiling.for_size(image_size, size, overlap)


def test_tiles_have_the_shape_of_what_the_network_sees() -> None:
    tiling = Tiling.of({"image_size": [48, 96], "tile_size": 200, "tile_overlap": 0.5})
    assert tiling.shape == (100, 200) and str(tiling) == "100 x 200" and tiling == Tiling(200, 0.5, (1, 2))
    assert [len(row.starts()) for row in tiling.grid((100, 400))] == [1, 3]
    assert Tiling.of({"image_size": 64, "tile_size": 200}) == Tiling(200) and str(Tiling(200)) == "200"
    assert Tiling.of({"image_size": [96, 48], "tile_size": 200}, size=64).shape == (64, 32)


def test_what_lies_outside_is_mirrored_or_marked() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    mirrored = cut_tile(image, 0, 0, (6, 5))
    assert mirrored.shape == (6, 5) and mirrored[:3, :4].tolist() == image.tolist()
    assert mirrored[0, 4] == image[0, 2] and mirrored[3, 0] == image[1, 0]
    assert (cut_tile(image, 0, 0, (6, 6), outside=255)[3:] == 255).all()
    assert cut_tile(image, 1, 2, (2, 1)).tolist() == [[6], [10]]
    assert cut_tile(np.zeros((1, 1, 3), np.uint8), 0, 0, (40, 30)).shape == (40, 30, 3)


@settings(deadline=None, max_examples=40)
@given(shape=st.tuples(sides, sides), tile=st.tuples(tile_sides, tile_sides), lap=st.integers(0, 3))
def test_each_lap_of_a_walk_reaches_every_pixel(shape: tuple[int, int], tile: tuple[int, int], lap: int) -> None:
    seen = np.zeros(shape, bool)
    length = walk_length(shape, tile)
    for step in range(lap * length, (lap + 1) * length):
        top, left = walk_step(shape, tile, (lap, 5), step)
        assert 0 <= top <= max(shape[0] - tile[0], 0) and 0 <= left <= max(shape[1] - tile[1], 0)
        seen[top : top + tile[0], left : left + tile[1]] = True
    assert seen.all()


def test_laps_differ_so_that_borders_fall_elsewhere() -> None:
    laps = [[walk_step(SHAPE, FLAT, (1, 2), lap * 25 + i) for i in range(25)] for lap in range(2)]
    assert walk_length(SHAPE, FLAT) == 25 and set(laps[0]) != set(laps[1])
    assert [walk_step(SHAPE, FLAT, (1, 2), i) for i in range(25)] == laps[0]
