"""leaks: images of one part in different splits are found in any dataset, and organize leaves none."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from helpers.organizing import assert_refused, save
from PIL import Image
from test_near_duplicates import LIGHT, photograph, surface

from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.data.defect_prepare.leakage import find_leaks
from dinov3.data.defect_prepare.writer import DatasetWriter

PARTS, EXPOSURES = 30, (0.5, 0.8, 1.2)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Folders good/ and bad/: every part under three exposures, names that tell nothing."""
    names = np.random.default_rng(0).permutation(PARTS * len(EXPOSURES)).tolist()
    for part in range(PARTS):
        for exposure in EXPOSURES:
            array = photograph(LIGHT + surface(part)[4:-4, 4:-4], names[-1], exposure)
            save(tmp_path / ("good" if part % 3 else "bad") / f"{names.pop():03}.png", array)
    return tmp_path


def organize(script, root: Path, *flags: object, output: str = "out") -> Manifest:
    folders = ("--defect_images", root / "bad", "--normal_images", root / "good")
    splits = ("--val_split", 0.2, "--test_split", 0.2)
    status, _, err = script("prepare_defect_data", "organize", *folders, "--output_dir", root / output, *splits, *flags)
    assert status == 0, err
    return read_manifest(root / output)


def test_a_random_split_leaks_and_the_default_one_does_not(series, script):
    organize(script, series, "--no-group_similar", output="random")
    flags = ("--sheet", series / "sheets" / "sheet.png", "--json", series / "leaks.json")
    status, out, _ = script("prepare_defect_data", "leaks", series / "random", *flags)
    assert status == 1
    written = json.loads((series / "leaks.json").read_text(encoding="utf-8"))
    assert f"{written['count']} pairs in different splits" in out
    assert written["count"] == len(written["leaks"]) > PARTS / 2
    assert {leak["kind"] for leak in written["leaks"]} == {"similar"}
    scores = [leak["score"] for leak in written["leaks"]]
    assert scores == sorted(scores, reverse=True)
    assert out.startswith(f"similar {scores[0]:.2f}: images/")
    with Image.open(series / "sheets" / "sheet.png") as sheet:
        assert sheet.width > 1000 and sheet.height > 1000

    manifest = organize(script, series)
    assert len(set(manifest.columns["group"].tolist())) == PARTS
    status, out, _ = script("prepare_defect_data", "leaks", series / "out", "--sheet", series / "none.png")
    assert status == 0
    assert "90 images, no leaks" in out
    assert not (series / "none.png").exists()


def test_table_pattern_and_looks_work_together(series, script):
    groups = Counter(organize(script, series).columns["group"].tolist())
    apart = [name for name in groups if name.startswith("good/")][:2]
    (series / "parts.csv").write_text(f"image,group\n{apart[0]},front and back\n{apart[1]},front and back\n")
    flags = ("--group_csv", series / "parts.csv", "--group_regex", "(bad)/", "--overwrite")
    manifest = organize(script, series, *flags)
    groups = Counter(manifest.columns["group"].tolist())
    assert groups.pop("bad") == 30
    assert groups.pop("front and back") == 6
    assert set(groups.values()) == {3}
    assert find_leaks(manifest) == []


def test_a_pattern_that_fits_no_name_is_refused(series, script):
    folders = ("--defect_images", series / "bad", "--normal_images", series / "good", "--output_dir", series / "out")
    result = script("prepare_defect_data", "organize", *folders, "--group_regex", "tile([0-9]+)")
    assert_refused(result, "--group_regex 'tile([0-9]+)'", "in none of the 90 names; first bad/")
    assert not (series / "out").exists()


def write(folder: Path, rows: list[tuple[str, np.ndarray | Path, str, str]]) -> Manifest:
    with DatasetWriter(folder) as writer:
        for name, image, split, group in rows:
            writer.add(image, name, None, label="normal", split=split, group=group, source="made")
        return writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command="test")


def test_copies_and_groups_across_splits_are_leaks_too(tmp_path):
    pictures = [photograph(LIGHT + surface(i)[4:-4, 4:-4], i)[..., None].repeat(3, 2) for i in range(6)]
    blank = save(tmp_path / "blank.png", np.full((9, 9, 3), 80, np.uint8))
    rows = [
        ("a.png", pictures[0], "train", "a"),
        ("b.png", pictures[1], "val", "b"),
        ("c.png", pictures[2], "train", "one part"),
        ("d.png", pictures[3], "train", "one part"),
        ("e.png", pictures[4], "test", "one part"),
        ("x.png", blank, "train", ""),
        ("y.png", blank, "train", ""),
        ("z.png", blank, "test", ""),
    ]
    manifest = write(tmp_path / "data", rows)
    (tmp_path / "data" / "images" / "b.png").write_text("broken")
    found = {(leak.kind, leak.image_a[7:], leak.image_b[7:], leak.score) for leak in find_leaks(manifest)}
    assert found == {
        ("same file", "x.png", "z.png", 1.0),
        ("same group", "c.png", "e.png", None),
        ("same group", "d.png", "e.png", None),
    }


def test_a_sheet_of_odd_pictures_is_drawn(tmp_path, script):
    rows = []
    for i, shape in enumerate([(3, 400), (300, 2), (1, 1), (50, 50)]):
        image = np.random.default_rng(i).integers(0, 255, (*shape, 3), np.uint8)
        for split in ("train", "test"):
            rows.append((f"划痕 {'long ' * 30}/{split}{i}.png", image, split, str(i)))
    write(tmp_path / "data", rows)
    status, _, err = script("prepare_defect_data", "leaks", tmp_path / "data", "--sheet", tmp_path / "sheet.png")
    assert status == 1, err
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_no_dataset_is_an_error_not_a_leak(tmp_path, script):
    assert_refused(script("prepare_defect_data", "leaks", tmp_path / "none"), "no such dataset folder")


def test_magnetic_tiles_leak_in_a_random_split_and_not_in_the_default_one(magnetic_tile, tmp_path, script):
    tiles: dict[str, list[Path]] = defaultdict(list)
    with (magnetic_tile / "groups.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            tiles[row["group"]].append(magnetic_tile / row["image"])
    for tile in sorted(tiles)[::5]:
        for path in tiles[tile]:
            folder = tmp_path / ("good" if "MT_Free" in path.parts else "bad")
            save(folder / path.name, np.asarray(Image.open(path)))
    random = find_leaks(organize(script, tmp_path, "--no-group_similar", output="random"))
    leaking = {name for leak in random for name in (leak.image_a, leak.image_b)}
    assert len(leaking) > 0.7 * len(read_manifest(tmp_path / "random"))
    assert find_leaks(organize(script, tmp_path)) == []
