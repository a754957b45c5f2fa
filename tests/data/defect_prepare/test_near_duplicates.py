"""Near-duplicates: one part under other light is found, parts that merely look alike are not."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.organizing import save
from PIL import Image, ImageFilter

from dinov3.data.defect_prepare import near_duplicates
from dinov3.data.defect_prepare.near_duplicates import capture_neighbors, find_near_duplicates
from dinov3.data.defect_prepare.splits import join

SIZE = 160
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
LIGHT = 170 - 120 * (ROWS**2 + COLUMNS**2)  # darker to the corners
HOLDER = np.where(np.abs(np.hypot(ROWS, COLUMNS) - 0.33) < 0.05, 80, 0) - np.where(np.abs(COLUMNS) < 0.03, 60, 0)


def surface(number: int, contrast: float = 3.0) -> np.ndarray:
    """Texture of a part, a little larger than a picture."""
    noise = np.random.default_rng(number).normal(128, 60, (SIZE + 8, SIZE + 8)).clip(0, 255).astype(np.uint8)
    return (np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.5)), float) - 128) * contrast


def photograph(scene: np.ndarray, seed: int, exposure: float = 1.0, gamma: float = 1.0, noise: float = 3) -> np.ndarray:
    values = 255 * (scene / 255 * exposure).clip(0, 1) ** gamma
    return (values + np.random.default_rng(seed).normal(0, noise, scene.shape)).clip(0, 255).astype(np.uint8)


def groups_of(folder: Path) -> dict[str, int]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    pairs = find_near_duplicates(paths, names)
    return dict(zip(names, join(len(paths), [(pair.a, pair.b) for pair in pairs]), strict=True))


def assert_parts(groups: dict[str, int]) -> None:
    """Groups are exactly the parts that file names begin with: ``a_1.png`` is a picture of a."""
    parts = [Path(name).stem.split("_")[0] for name in groups]
    pairs = set(zip(parts, groups.values(), strict=True))
    assert len(pairs) == len(set(parts)) == len(set(groups.values()))


SAME_PART: dict[str, Callable[[int], tuple[np.ndarray, dict[str, object]]]] = {
    "exposure": lambda i: (photograph(LIGHT + surface(i)[4:-4, 4:-4], i, exposure=0.35), {}),
    "overexposed": lambda i: (photograph(LIGHT + surface(i)[4:-4, 4:-4], i, exposure=1.6), {}),
    "gamma": lambda i: (photograph(LIGHT + surface(i)[4:-4, 4:-4], i, gamma=2.2), {}),
    "shift": lambda i: (photograph(LIGHT + surface(i)[8:, 1:-7], i), {}),
    "jpeg": lambda i: (photograph(LIGHT + surface(i)[4:-4, 4:-4], i), {"quality": 40}),
}


@pytest.mark.parametrize("change", SAME_PART)
def test_a_part_is_found_again_under_another(change, tmp_path):
    suffix = "jpg" if change == "jpeg" else "png"
    for i in range(12):
        save(tmp_path / f"{i}_a.png", photograph(LIGHT + surface(i)[4:-4, 4:-4], 100 + i))
        array, options = SAME_PART[change](i)
        save(tmp_path / "again" / f"{i}_b.{suffix}", array, **options)
    assert_parts(groups_of(tmp_path))


def test_size_and_color_don_t_matter(tmp_path):
    for i in range(8):
        grey = photograph(LIGHT + surface(i)[4:-4, 4:-4], i)
        save(tmp_path / f"{i}_a.png", grey)
        large = Image.fromarray(grey).resize((517, 409), Image.Resampling.BICUBIC)
        save(tmp_path / "b" / f"{i}_b.png", np.stack([large, np.asarray(large) // 2, np.asarray(large) // 3], axis=2))
        save(tmp_path / "c" / f"{i}_c.png", grey.astype(np.uint16) * 200)
    assert_parts(groups_of(tmp_path))


@pytest.mark.parametrize("noise", [0.5, 5])
def test_blank_surfaces_don_t_flow_together(tmp_path, noise):
    for i in range(120):
        save(tmp_path / f"{i}_0.png", photograph(LIGHT, i, exposure=0.5 + i / 200, noise=noise))
    assert_parts(groups_of(tmp_path))


@pytest.mark.parametrize("contrast", [0.5, 3.0])
def test_a_holder_in_every_picture_makes_no_near_duplicates(tmp_path, contrast):
    for i in range(25):
        scene = LIGHT * 0.6 + HOLDER + surface(i, contrast)[4:-4, 4:-4]
        for k in range(3):
            save(tmp_path / f"{i:02}_{k}.png", photograph(scene, 3 * i + k, exposure=0.7 + 0.2 * k))
    assert_parts(groups_of(tmp_path))


def test_several_products_in_one_folder_make_no_large_groups(tmp_path):
    for i in range(120):
        holder = (HOLDER, HOLDER.T, np.roll(HOLDER, SIZE // 2, axis=1))[i % 3]
        scene = LIGHT * 0.6 + holder + surface(i, 0.5)[4:-4, 4:-4]
        save(tmp_path / f"{i:03}_0.png", photograph(scene, i))
    assert max(Counter(groups_of(tmp_path).values()).values()) <= 3


def test_a_hole_at_one_place_makes_no_near_duplicates(tmp_path):
    hole = np.hypot(ROWS - 0.1, COLUMNS + 0.05) < 0.05
    for i in range(30):
        save(tmp_path / f"{i}_0.png", photograph(np.where(hole, 5, LIGHT + surface(i, 1.0)[4:-4, 4:-4]), i))
    assert_parts(groups_of(tmp_path))


def test_many_pictures_of_one_scene_are_one_group(tmp_path):
    for i in range(80):
        save(tmp_path / f"{i % 2}_{i:02}.png", photograph(LIGHT + surface(i % 2)[4:-4, 4:-4], i))
    assert_parts(groups_of(tmp_path))


def test_files_that_cannot_be_read_stop_nothing(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}_a.png", photograph(LIGHT + surface(i)[4:-4, 4:-4], i))
    save(tmp_path / "blank_a.png", np.full((40, 40), 90, np.uint8))
    save(tmp_path / "blank_b.png", np.full((40, 40), 90, np.uint8))
    save(tmp_path / "other_a.png", np.full((40, 40), 91, np.uint8))
    save(tmp_path / "dot_a.png", np.full((1, 1), 91, np.uint8))
    (tmp_path / "text_a.png").write_text("no image")
    (tmp_path / "cut_a.png").write_bytes((tmp_path / "0_a.png").read_bytes()[:500])
    (tmp_path / "empty_a.png").touch()
    assert_parts(groups_of(tmp_path))  # blank_a and blank_b are the same file
    assert find_near_duplicates([]) == []
    assert find_near_duplicates([tmp_path / "missing.png", tmp_path]) == []
    assert find_near_duplicates([(tmp_path / "0_a.png").read_bytes, tmp_path / "0_a.png"])[0].score == 1


def test_capture_order_comes_from_the_longest_number():
    names = [f"a/exp{i % 3}_num_{n}.jpg" for i, n in enumerate((1040, 900, 1100, 20, 5000, 70, 60000, 800000))]
    order = [20, 70, 900, 1040, 1100, 5000, 60000, 800000]
    names += ["b/exp1_num_1041.jpg", "a/no number.jpg"]
    found = {
        frozenset((names[a].split("_")[-1][:-4], names[b].split("_")[-1][:-4])) for a, b in capture_neighbors(names)
    }
    assert found == {frozenset((str(a), str(b))) for i, a in enumerate(order) for b in order[i + 1 : i + 6]}


def test_taken_in_a_row_less_is_enough(tmp_path):
    """Two pictures that share less than half of their area are one part when their numbers are neighbours."""

    def half(i: int) -> np.ndarray:
        shared = surface(51)[4:-4, 4:-4]
        return photograph(LIGHT + np.where(COLUMNS < -0.01, shared, surface(i)[4:-4, 4:-4]), i)

    def joined(first: int, second: int) -> bool:
        names = [f"x/{n}.png" for n in (first, 500, 501, 502, 503, 504, 505, second)]
        arrays = [half(110), *(photograph(LIGHT + surface(k)[4:-4, 4:-4], k) for k in range(20, 26)), half(111)]
        paths = [save(tmp_path / name, array) for name, array in zip(names, arrays, strict=True)]
        return [(pair.a, pair.b) for pair in find_near_duplicates(paths, names)] == [(0, 7)]

    assert joined(600, 601)
    assert not joined(100, 900)


def test_the_same_pairs_whatever_the_order_the_threads_and_the_way_of_searching(tmp_path, monkeypatch):
    paths = [
        save(tmp_path / f"{i}_{k}.png", photograph(LIGHT + surface(i)[4:-4, 4:-4], 9 * i + k, exposure=0.5 + 0.3 * k))
        for i in range(30)
        for k in range(4)
    ]

    def found(order: list[int]) -> set[frozenset[str]]:
        return {
            frozenset((paths[order[p.a]].name, paths[order[p.b]].name))
            for p in find_near_duplicates([paths[i] for i in order])
        }

    expected = found(list(range(120)))
    assert len(expected) == 30 * 6
    assert found(np.random.default_rng(0).permutation(120).tolist()) == expected
    monkeypatch.setattr(near_duplicates, "EXACT_BELOW", 0)
    assert found(list(range(120))) == expected
    monkeypatch.setattr(near_duplicates.os, "cpu_count", lambda: 1)
    assert found(list(range(120))) == expected


def test_magnetic_tiles_under_several_exposures(magnetic_tile):
    with (magnetic_tile / "groups.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names, listed = [row["image"] for row in rows], np.array([row["group"] for row in rows])
    pairs = find_near_duplicates([magnetic_tile / name for name in names], names)
    groups = np.array(join(len(names), [(pair.a, pair.b) for pair in pairs]))
    assert max(Counter(groups.tolist()).values()) == 12  # two series of six
    above = np.triu(np.ones((len(names), len(names)), bool), 1)
    same_listed, same = (x[:, None] == x[None] for x in (listed, groups))
    # Of the listed pairs only those of two tiles that the list takes for one are missing.
    apart = set(listed[np.argwhere(above & same_listed & ~same)].ravel().tolist())
    assert apart <= {"tile_284841"}
    # The list misses some too: of the bridges between its groups the 35 weakest were looked at; each shows one tile.
    assert (above & same & ~same_listed).sum() < 0.15 * (above & same).sum()


@pytest.mark.parametrize(("parts", "each"), [(40, 1), (24, 3)])
def test_parts_of_one_design_that_lie_a_little_differently_are_not_one_part(parts, each, tmp_path):
    rng = np.random.default_rng(parts)
    design = np.full((SIZE, SIZE), 90.0)
    for x, y, w, h, grey in rng.integers((5, 5, 5, 5, 0), (130, 130, 40, 40, 256), (35, 5)):
        design[y : y + h, x : x + w] = grey
    for part in range(parts):
        turn = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), rng.uniform(-1, 1), rng.uniform(0.99, 1.01))
        turn[:, 2] += rng.uniform(-1.5, 1.5, 2)
        scene = (
            cv2.warpAffine(design, turn, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT) + surface(part, 0.3)[4:-4, 4:-4]
        )
        for number in range(each):
            file = f"{int(rng.integers(10**8)):x}q{part}_{number}.png"  # in no order
            save(tmp_path / file, photograph(scene, 100 * part + number, exposure=rng.uniform(0.8, 1.1)))
    groups = groups_of(tmp_path)
    assert max(Counter(groups.values()).values()) <= max(0.2 * parts * each, 10)
    together: dict[str, set[int]] = {}
    for name, group in groups.items():
        together.setdefault(name.split("q")[1].split("_")[0], set()).add(group)
    assert all(len(found) == 1 for found in together.values())


def test_few_parts_with_many_photographs_each_stay_whole(tmp_path):
    rng = np.random.default_rng(0)
    for part in range(4):
        for number in range(14):
            scene = LIGHT + surface(part)[4:-4, 4:-4]
            file = f"{chr(97 + part)}_{int(rng.integers(10**8)):x}.png"
            save(tmp_path / file, photograph(scene, 100 * part + number, exposure=rng.uniform(0.6, 1.2)))
    assert_parts(groups_of(tmp_path))
