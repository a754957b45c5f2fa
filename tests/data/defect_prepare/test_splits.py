"""Splits: every part on one side, every type on every side, the same on every machine."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest

from dinov3.data.defect_prepare.splits import (
    find_group,
    group_pattern,
    grouped_split,
    match_group,
    merge_groups,
    read_groups,
)
from dinov3.defect_errors import DefectError

FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


def draw(rng: np.random.Generator, images: int) -> tuple[list[str], list[str]]:
    """Strata and groups of uneven sizes; a third of the groups holds more than one stratum."""
    groups = rng.zipf(1.6, images).clip(max=images // 8)
    groups = [f"part{g}" if g > 1 else f"single{i}" for i, g in enumerate(groups)]
    strata = rng.choice(["normal", "scratch", "dent"], images, p=[0.7, 0.2, 0.1]).tolist()
    return strata, groups


@pytest.mark.parametrize("seed", range(10))
def test_no_group_is_in_two_splits_and_shares_are_kept(seed):
    strata, groups = draw(np.random.default_rng(seed), 400)
    splits = grouped_split(strata, groups, FRACTIONS, seed)
    where = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        where[group].add(split)
    assert all(len(found) == 1 for found in where.values())
    counts = Counter(splits)
    for split, fraction in FRACTIONS.items():
        assert abs(counts[split] / 400 - fraction) < 0.06
    assert set(zip(strata, splits, strict=True)) == {
        (stratum, split) for stratum in ("normal", "scratch", "dent") for split in FRACTIONS
    }


@pytest.mark.parametrize("images", [3, 4, 7, 50])
def test_a_type_with_three_parts_or_more_reaches_every_split(images):
    splits = grouped_split(["rare"] * images, [str(i) for i in range(images)], FRACTIONS, 0)
    assert set(splits) == set(FRACTIONS)


def test_shares_of_single_images_are_exact():
    splits = grouped_split(["normal"] * 50 + ["dent"] * 10, [str(i) for i in range(60)], FRACTIONS, 1)
    assert Counter(splits[:50]) == {"train": 30, "val": 10, "test": 10}
    assert Counter(splits[50:]) == {"train": 6, "val": 2, "test": 2}


def test_a_split_without_a_share_stays_empty():
    splits = grouped_split(["normal"] * 20, [str(i) for i in range(20)], {"train": 0.8, "val": 0.2, "test": 0.0}, 0)
    assert Counter(splits) == {"train": 16, "val": 4}
    assert set(grouped_split(["a"] * 5, list("abcde"), {"train": 1.0, "val": 0, "test": 0}, 0)) == {"train"}


def test_a_part_with_several_types_counts_for_its_rarest():
    # Three parts show the rare crack beside many normal images: each split gets one of them.
    strata = (["normal"] * 4 + ["crack"]) * 3 + ["normal"] * 30
    groups = [f"cracked{i // 5}" for i in range(15)] + [f"good{i}" for i in range(30)]
    splits = grouped_split(strata, groups, FRACTIONS, 0)
    assert {split for split, stratum in zip(splits, strata, strict=True) if stratum == "crack"} == set(FRACTIONS)


def test_the_seed_alone_decides_whatever_the_order_of_the_files():
    strata, groups = draw(np.random.default_rng(0), 200)
    splits = grouped_split(strata, groups, FRACTIONS, 7)
    order = np.random.default_rng(1).permutation(200)
    shuffled = grouped_split([strata[i] for i in order], [groups[i] for i in order], FRACTIONS, 7)
    assert [splits[i] for i in order] == shuffled
    assert grouped_split(strata, groups, FRACTIONS, 8) != splits


def test_the_split_is_the_same_on_every_machine_and_version():
    splits = grouped_split(["normal"] * 10, [f"images/{i}.png" for i in range(10)], FRACTIONS, 42)
    assert " ".join(splits) == "train train val test train test val train train train"


# --- parts that have their split already


@pytest.mark.parametrize("seed", range(5))
def test_what_has_a_split_keeps_it_and_the_rest_makes_up_the_shares(seed):
    order = np.random.default_rng(seed).permutation(400)
    strata = [("normal", "normal", "dent", "scratch")[i // 3 % 4] for i in order]
    groups = [f"part{i // 3}" for i in order]
    first = grouped_split(strata[:60], groups[:60], {"train": 0.7, "val": 0.3, "test": 0.0}, seed)
    fixed = dict(zip(groups[:60], first, strict=True))
    splits = grouped_split(strata, groups, FRACTIONS, seed, fixed)
    assert splits[:60] == first
    assert all(fixed.get(group, split) == split for group, split in zip(groups, splits, strict=True))
    counts = Counter(splits)
    assert all(abs(counts[split] / 400 - fraction) < 0.03 for split, fraction in FRACTIONS.items())


def test_new_single_images_make_the_shares_exact():
    fixed = {str(i): "train" for i in range(60)}
    splits = grouped_split(["normal"] * 100, [str(i) for i in range(100)], FRACTIONS, 3, fixed)
    assert Counter(splits) == {"train": 60, "val": 20, "test": 20}
    assert set(splits[:60]) == {"train"}


# --- parts from names


def test_a_pattern_names_the_part():
    names = ["good/part7_a.png", "bad/part7_b.png", "bad/part12_a.png", "bad/other.png"]
    assert [match_group(name, group_pattern("part([0-9]+)")) for name in names] == ["7", "7", "12", None]
    assert [match_group(name, group_pattern("part[0-9]+")) for name in names] == ["part7", "part7", "part12", None]
    assert [match_group(name, group_pattern("^([^/]+)/")) for name in names] == ["good", "bad", "bad", "bad"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("part(", "no regular expression"), ("(a)(b)", "has 2 groups; expected one"), ("[0-9]*", "matches an empty name")],
)
def test_a_pattern_that_cannot_be_used_is_refused(pattern, message):
    with pytest.raises(DefectError, match=message) as raised:
        group_pattern(pattern)
    assert f"--group_regex {pattern!r}" in str(raised.value)


def test_all_ways_to_tell_parts_work_together():
    names = [f"{letter}.png" for letter in "abcdefg"]
    table = ["1", "1", None, None, None, None, None]
    pattern = [None, "x", "x", None, "y", None, None]
    assert merge_groups(names, [table, pattern], [(3, 4)]) == ["1", "1", "1", "y", "y", "f.png", "g.png"]
    assert merge_groups(names, [], [(6, 2), (5, 6)]) == ["a.png", "b.png", "c.png", "d.png", "e.png", "c.png", "c.png"]
    order = [6, 3, 1, 5, 0, 2, 4]
    pairs = [(order.index(3), order.index(4))]
    shuffled = merge_groups([names[i] for i in order], [[table[i] for i in order], [pattern[i] for i in order]], pairs)
    assert shuffled == [["1", "1", "1", "y", "y", "f.png", "g.png"][i] for i in order]


# --- the CSV of groups


def test_groups_are_found_by_the_end_of_the_path(tmp_path):
    path = tmp_path / "groups.csv"
    path.write_text("image,group\na.png,loose\ncrack/a.png,part 1\n./dent/a.png,part 2\nb.png,\n")
    groups = read_groups(path)
    assert find_group(PurePosixPath("/data/crack/a.png"), groups) == "part 1"  # the longest match wins
    assert find_group(PurePosixPath("/data/dent/a.png"), groups) == "part 2"
    assert find_group(PurePosixPath("/data/new/a.png"), groups) == "loose"
    assert find_group(PurePosixPath("/data/crack/aa.png"), groups) is None
    assert find_group(PurePosixPath("/data/b.png"), groups) is None  # no group given


@pytest.mark.parametrize("listed", ["/data/imgs/a.png", r"C:\data\imgs\a.png", r"imgs\a.png", r".\imgs\a.png"])
def test_groups_written_on_any_system_are_found(tmp_path, listed):
    path = tmp_path / "groups.csv"
    path.write_text(f"image,group\r\n{listed},7\r\n", encoding="utf-8-sig")
    groups = read_groups(path)
    assert find_group(PurePosixPath("/data/imgs/a.png"), groups) == "7"
    assert find_group(PureWindowsPath(r"C:\data\imgs\a.png"), groups) == "7"


@pytest.mark.parametrize(("one", "other"), [("\u00e9", "e\u0301"), ("e\u0301", "\u00e9")])
def test_accents_written_in_two_ways(tmp_path, one, other):
    path = tmp_path / "groups.csv"
    path.write_text(f"image,group\npi{one}ces/a{one}.png,7\n", encoding="utf-8")
    assert find_group(PurePosixPath(f"/data/pi{other}ces/a{other}.png"), read_groups(path)) == "7"
    assert match_group(f"good/pi{other}ce7_a.png", group_pattern(f"pi{one}ce([0-9]+)")) == "7"


def test_more_columns_spaces_and_quotes_are_fine(tmp_path):
    path = tmp_path / "groups.csv"
    path.write_text('line, group, image\n1, 部件, "a, ""b"".png"\n', encoding="utf-8")
    assert find_group(PurePosixPath('x/a, "b".png'), read_groups(path)) == "部件"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "columns are missing; --group_csv expects image,group"),
        (b"image;group\na.png;1\n", "columns are image;group; --group_csv expects image,group"),
        (b"image,group\n\xff\xff.png,1\n", "saved as UTF-8"),
    ],
)
def test_a_csv_that_cannot_be_used_is_named(tmp_path, content, message):
    path = tmp_path / "groups.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DefectError, match=message) as raised:
        read_groups(path)
    assert str(path) in str(raised.value)
    assert "--group_csv" in str(raised.value)


@pytest.mark.parametrize(
    ("first", "second"), [("a.png", "a.png"), ("dent/a.png", r".\dent\a.png"), ("\u00e9.png", "e\u0301.png")]
)
def test_an_image_in_two_groups_is_refused(tmp_path, first, second):
    path = tmp_path / "groups.csv"
    path.write_text(f"image,group\n{first},p0\nb.png,p1\n\n{second},q5\n", encoding="utf-8")
    with pytest.raises(DefectError) as raised:
        read_groups(path)
    for text in (str(path), second, "p0 (line 2)", "q5 (line 5)", "more of their paths"):
        assert text in str(raised.value)


def test_a_row_given_twice_and_one_name_in_two_folders_are_fine(tmp_path):
    path = tmp_path / "groups.csv"
    path.write_text("image,group\na.png,1\ndent/a.png,2\na.png,1\ncrack/a.png,3\ndent/a.png,\n")
    assert read_groups(path) == {("a.png",): "1", ("dent", "a.png"): "2", ("crack", "a.png"): "3"}


def test_a_folder_is_no_csv(tmp_path):
    with pytest.raises(DefectError, match="--group_csv cannot be read"):
        read_groups(tmp_path)


def test_a_group_csv_that_a_chinese_excel_saved_is_read(tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_bytes("image,group\n产线/图.jpg,工件一\n".encode("gb18030"))
    assert read_groups(table) == {("产线", "图.jpg"): "工件一"}
