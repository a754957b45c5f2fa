"""Where the tiles of a large image lie, and how much each of their pixels counts."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tiling import SHAPE, TILE
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3.data.defect_tiles import Tiling, cut_tile, walk_length, walk_step
from dinov3.defect_errors import DefectError

sides = st.integers(1, 400)


@settings(deadline=None)
@given(length=sides, size=st.integers(16, 100), overlap=st.floats(0, 0.75))
def test_the_grid_covers_every_pixel_and_its_weights_add_up_to_one(length: int, size: int, overlap: float) -> None:
    tiling = Tiling(size, overlap)
    starts, weights = tiling.starts(length), tiling.weights(length)
    total = np.zeros(max(length, size))
    for start, weight in zip(starts, weights, strict=True):
        assert 0 <= start <= max(length - size, 0)
        total[start : start + size] += weight
    np.testing.assert_allclose(total[:length], 1, atol=1e-5)
    assert all(size - (b - a) >= round(size * overlap) - 1 for a, b in zip(starts, starts[1:], strict=False))


def test_a_tile_counts_least_at_its_border() -> None:
    first, second, _ = Tiling(64, 0.25).weights(160)
    assert first[0] == 1 and first[47] == 1  # alone there
    assert (np.diff(first[48:]) < 0).all() and first[63] < 0.1
    np.testing.assert_allclose(first[48:] + second[:16], 1, atol=1e-6)


@pytest.mark.parametrize(("size", "overlap", "flag"), [(8, 0.25, "--tile_size 8"), (64, 0.9, "--tile_overlap 0.9")])
def test_tiles_that_make_no_sense_are_refused(size: int, overlap: float, flag: str) -> None:
    with pytest.raises(DefectError, match=flag):
        Tiling(size, overlap)


def test_what_lies_outside_is_mirrored_or_marked() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    mirrored = cut_tile(image, 0, 0, 6)
    assert mirrored.shape == (6, 6) and mirrored[:3, :4].tolist() == image.tolist()
    assert mirrored[0, 4] == image[0, 2] and mirrored[3, 0] == image[1, 0]
    assert (cut_tile(image, 0, 0, 6, outside=255)[3:] == 255).all()
    assert cut_tile(image, 1, 2, 2).tolist() == [[6, 7], [10, 11]]
    assert cut_tile(np.zeros((1, 1, 3), np.uint8), 0, 0, 40).shape == (40, 40, 3)


@settings(deadline=None, max_examples=40)
@given(shape=st.tuples(sides, sides), size=st.integers(16, 100), seed=st.integers(0, 9), lap=st.integers(0, 3))
def test_each_lap_of_a_walk_reaches_every_pixel(shape: tuple[int, int], size: int, seed: int, lap: int) -> None:
    seen = np.zeros(shape, bool)
    length = walk_length(shape, size)
    for step in range(lap * length, (lap + 1) * length):
        top, left = walk_step(shape, size, (seed, 5), step)
        assert 0 <= top <= max(shape[0] - size, 0) and 0 <= left <= max(shape[1] - size, 0)
        seen[top : top + size, left : left + size] = True
    assert seen.all()


def test_laps_differ_so_that_borders_fall_elsewhere() -> None:
    laps = [[walk_step(SHAPE, TILE, (1, 2), lap * 20 + i) for i in range(20)] for lap in range(2)]
    assert walk_length(SHAPE, TILE) == 20 and set(laps[0]) != set(laps[1])
    assert [walk_step(SHAPE, TILE, (1, 2), i) for i in range(20)] == laps[0]
