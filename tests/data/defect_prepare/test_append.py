"""organize --append: new images join a dataset, and what is in it stays."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.checking import edit_rows
from helpers.organizing import arguments, assert_refused, content, mask_of, masks_by_image, picture, save

from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.data.defect_prepare import append

FLAGS = ("--test_split", 0.2)


def rows(manifest: Manifest) -> list[tuple[str, ...]]:
    return list(zip(*(values.tolist() for values in manifest.columns.values()), strict=True))


def splits_of(manifest: Manifest) -> dict[str, str]:
    return dict(zip(manifest.columns["image"].tolist(), manifest.columns["split"].tolist(), strict=True))


@pytest.fixture
def more(parts, organize) -> Path:
    """A dataset in out/; since then ten defect and twenty good images have come to its source folders."""
    organize(*FLAGS)
    for i in range(10, 20):
        save(parts / "bad" / f"{i:02}.png", picture(i))
        save(parts / "masks" / f"{i:02}.png", mask_of(i))
    for i in range(20, 40):
        save(parts / "good" / f"{i:02}.png", picture(100 + i))
    return parts


def test_old_rows_and_files_stay_and_the_shares_come_out_right(more, organize):
    before, files = read_manifest(more / "out"), content(more / "out")
    after, out = organize("--append")
    assert rows(after)[:30] == rows(before)
    assert (more / "out" / "manifest.csv").read_bytes().startswith(files["manifest.csv"])
    now = content(more / "out")
    assert all(now[name] == data for name, data in files.items() if name not in ("manifest.csv", "dataset.json"))
    assert after.counts() == {
        "train": {"normal": 24, "defect": 12},
        "val": {"normal": 8, "defect": 4},
        "test": {"normal": 8, "defect": 4},
    }
    assert "30 x images that are in the dataset already" in out
    assert "30 images added to 30" in out
    masks = masks_by_image(after)
    for i in range(20):
        np.testing.assert_array_equal(masks[f"images/bad/{i:02}.png"], mask_of(i) // 255)
    info = json.loads((more / "out" / "dataset.json").read_text(encoding="utf-8"))
    assert info["counts"] == after.counts()
    assert info["command"] == json.loads(files["dataset.json"])["command"]
    assert [line.split(" --append")[0][:31] for line in info["appended"]] == ["prepare_defect_data.py organize"]
    assert sorted(os.listdir(more)) == ["bad", "good", "masks", "out"]


def test_other_shares_are_made_up_from_new_images(more, organize):
    before = splits_of(read_manifest(more / "out"))
    after, _ = organize("--append", "--val_split", 0.4, "--test_split", 0.1)
    assert splits_of(after).items() >= before.items()
    assert Counter(after.columns["split"].tolist()) == {"train": 30, "val": 24, "test": 6}


def test_appending_again_changes_nothing(more, organize):
    organize("--append")
    before = content(more / "out")
    _, out = organize("--append")
    assert content(more / "out") == before
    assert "0 images added to 60" in out


def test_a_new_picture_of_an_old_part_joins_its_split(parts, organize):
    before, _ = organize(*FLAGS)
    for i in range(20):
        darker = (picture(100 + i) * 0.6).astype(np.uint8)
        save(parts / "new" / f"{19 - i:02}_again.png", np.roll(darker, 1, axis=1))
    after, _ = organize("--append", bad="", masks="", good="new")
    split = splits_of(after)
    assert len(after) == 50
    for i in range(20):
        assert split[f"images/new/{19 - i:02}_again.png"] == split[f"images/good/{i:02}.png"]
    assert rows(after)[:30] == rows(before)


def test_an_old_image_without_a_group_is_a_part_of_its_own(parts, organize, script):
    organize(*FLAGS)
    edit_rows(parts / "out", lambda rows: [row.update(group="") for row in rows])
    table = (parts / "out" / "manifest.csv").read_bytes()
    for i in range(10):
        save(parts / "new" / f"{i:02}.png", np.roll((picture(100 + i) * 0.6).astype(np.uint8), 1, axis=1))
        save(parts / "back" / f"{i:02}.png", picture(300 + i))
    lines = [f"good/{i:02}.png,p{i}\nback/{i:02}.png,p{i}\n" for i in range(10)]
    (parts / "parts.csv").write_text("image,group\n" + "".join(lines))
    _, out = organize("--append", bad="", masks="", good="new")
    assert "very large groups" not in out and "parts that join" not in out
    after, _ = organize("--append", "--group_csv", parts / "parts.csv", bad="", masks="", good="back")
    assert len(after) == 50
    assert (parts / "out" / "manifest.csv").read_bytes().startswith(table)
    split = splits_of(after)
    group = dict(zip(after.columns["image"].tolist(), after.columns["group"].tolist(), strict=True))
    for i in range(10):
        old = f"images/good/{i:02}.png"
        assert split[f"images/new/{i:02}.png"] == split[f"images/back/{i:02}.png"] == split[old]
        assert group[f"images/new/{i:02}.png"] == group[f"images/back/{i:02}.png"] == old
    assert script("prepare_defect_data", "leaks", parts / "out")[0] == 0

    old = "images/good/00.png"  # its looks don't tell what it shares with back/00.png, the group does
    moved = {"split": {"train": "val"}.get(split[old], "train")}
    edit_rows(parts / "out", lambda rows: [row.update(moved) for row in rows if row["image"] == old])
    status, out, _ = script("prepare_defect_data", "leaks", parts / "out")
    assert status == 1 and "images/back/00.png" in out
    _, out, _ = script("prepare_defect_data", "check", parts / "out")
    assert "split_leak: 1" in out


def test_a_table_of_parts_ties_new_images_to_old_ones(parts, organize):
    organize(*FLAGS)
    for i in range(20):
        save(parts / "back" / f"{i:02}.png", picture(300 + i))
    lines = [f"good/{i:02}.png,p{i}\nback/{i:02}.png,p{i}\n" for i in range(20)]
    (parts / "parts.csv").write_text("image,group\n" + "".join(lines))
    split = splits_of(organize("--append", "--group_csv", parts / "parts.csv", bad="", masks="", good="back")[0])
    assert all(split[f"images/back/{i:02}.png"] == split[f"images/good/{i:02}.png"] for i in range(20))


def test_a_part_that_joins_several_splits_is_reported(parts, organize):
    before, _ = organize(*FLAGS)
    save(parts / "back" / "x.png", picture(300))
    split = splits_of(before)
    first = {split[f"images/good/{i:02}.png"]: f"{i:02}.png" for i in range(20)}
    lines = [f"good/{name},p\n" for name in first.values()]
    (parts / "parts.csv").write_text("image,group\nback/x.png,p\n" + "".join(lines))
    after, out = organize("--append", "--group_csv", parts / "parts.csv", bad="", masks="", good="back")
    assert "1 x parts that join images of several splits" in out
    assert rows(after)[:30] == rows(before)


def test_another_image_of_a_name_in_use_is_skipped_and_named(more, organize):
    old = content(more / "out")["images/good/03.png"]
    save(more / "good" / "03.png", picture(999))
    _, out = organize("--append")
    assert "1 x images skipped, as another one in the dataset has their name" in out
    assert "good/03.png" in out
    assert content(more / "out")["images/good/03.png"] == old


def test_an_image_is_known_whatever_folders_are_given_with_it(parts, organize):
    for kind, first in (("scratch", 30), ("dent", 40)):
        for i in range(first, first + 3):
            save(parts / "t" / kind / "Imgs" / f"{i}.png", picture(i))
            save(parts / "t" / kind / "Masks" / f"{i}.png", mask_of(i - first))
    before, _ = organize(*FLAGS, bad="t/scratch/Imgs t/dent/Imgs", masks="t/scratch/Masks t/dent/Masks")
    assert "images/dent/40.png" in before.columns["image"]
    save(parts / "t" / "dent" / "Imgs" / "43.png", picture(43))
    save(parts / "t" / "dent" / "Masks" / "43.png", mask_of(3))
    after, out = organize("--append", bad="t/dent/Imgs", masks="t/dent/Masks", good="")
    assert rows(after)[:-1] == rows(before)
    assert after.columns["image"][-1] == "images/Imgs/43.png"
    place = parts / "t" / "dent" / "Imgs" / "40.png"
    assert f"3 x images that are in the dataset already; left as they are:\n    {place}: images/dent/40.png" in out
    assert "1 images added to 26" in out
    # The names that these would have are taken, by another image.
    save(parts / "t" / "scratch" / "Imgs" / "43.png", picture(33))
    (parts / "t" / "scratch" / "Imgs" / "32.png").rename(parts / "t" / "scratch" / "Imgs" / "43_b.png")
    _, out = organize("--append", bad="t/scratch/Imgs", masks="t/scratch/Masks", good="")
    assert "3 x images that are in the dataset already" in out
    assert "1 x images skipped, as another one in the dataset has their name" in out
    assert "0 images added to 27" in out


def test_a_name_with_its_accents_written_another_way_is_the_same_name(parts, organize):
    save(parts / "good" / "\u00e9.png", picture(200))
    organize(*FLAGS)
    (parts / "good" / "\u00e9.png").unlink()
    save(parts / "good" / "e\u0301.png", picture(201))
    after, out = organize("--append")
    assert len(after) == 31
    assert "1 x images skipped, as another one in the dataset has their name" in out


def test_new_classes_come_after_the_old_ones(parts, organize):
    for i in range(30, 40):
        save(parts / "scratch" / f"{i}.png", picture(i))
        save(parts / "crack" / f"{i}.png", picture(100 + i))
        save(parts / "masks" / f"{i}.png", mask_of(i % 10))
    before, _ = organize(*FLAGS, "--classes_from_folders", bad="bad scratch")
    after, out = organize("--append", "--classes_from_folders", bad="crack bad", good="")
    assert before.classes == ["normal", "bad", "scratch"]
    assert after.classes == ["normal", "bad", "scratch", "crack"]
    assert after.mask_classes == ["bad", "scratch", "crack"]
    assert "1 x new classes" in out
    assert min(counts["crack"] for counts in after.counts().values()) >= 2
    masks = masks_by_image(after)
    for folder, value in (("bad", 1), ("scratch", 2), ("crack", 3)):
        drawn = [mask for name, mask in masks.items() if name.startswith(f"images/{folder}/")]
        assert len(drawn) == 10
        assert all(set(np.unique(mask)) == {0, value} for mask in drawn)


def test_links_and_broken_files(more, organize):
    (more / "good" / "25.png").write_text("not an image")
    after, out = organize("--append", "--link")
    assert "1 x skipped" in out
    assert len(after) == 59
    assert (more / "out" / "images" / "good" / "26.png").is_symlink()
    assert not (more / "out" / "images" / "good" / "25.png").exists()


@pytest.mark.parametrize("stop_at", [0, 1, 17, 40, 41])
def test_an_interrupted_append_leaves_the_old_dataset_and_can_be_repeated(more, organize, script, monkeypatch, stop_at):
    before = content(more / "out")
    calls = iter(range(100))

    def replace(source: object, target: object) -> None:
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        os_replace(source, target)

    os_replace = os.replace
    monkeypatch.setattr(append.os, "replace", replace)
    assert script("prepare_defect_data", *arguments(more, "--append"))[0] == 130
    monkeypatch.undo()
    old = read_manifest(more / "out")
    assert len(old) == 30
    now = content(more / "out")
    assert all(now[name] == data for name, data in before.items() if name != "dataset.json")
    assert sorted(os.listdir(more)) == ["bad", "good", "masks", "out"]
    after, _ = organize("--append")
    assert len(after) == 60


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no such processes there")
@pytest.mark.parametrize("stop_at", [3, 41, 42])
def test_killed_while_files_were_moved_it_can_be_repeated(more, organize, script, stop_at):
    """Killed, not interrupted: nothing is cleaned up then, and the next try knows whose the files are."""
    sources = content(more / "good")
    pid = os.fork()
    if not pid:
        calls, os_replace = iter(range(100)), os.replace
        os.replace = lambda *args: os._exit(9) if next(calls) == stop_at else os_replace(*args)
        script("prepare_defect_data", *arguments(more, "--append"))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] >> 8 == (9 if stop_at < 42 else 0)
    assert len(read_manifest(more / "out")) == (30 if stop_at < 42 else 60)
    after, _ = organize("--append")
    assert len(after) == 60 and content(more / "good") == sources
    for i in range(20, 40):
        assert (after.root / "images" / "good" / f"{i}.png").read_bytes() == sources[f"{i}.png"]
    assert sorted(os.listdir(after.root)) == ["dataset.json", "images", "manifest.csv", "masks"]


def test_a_file_of_the_users_in_a_dataset_is_not_replaced_by_a_new_image(more, script):
    mine = more / "out" / "images" / "good" / "21.png"
    mine.write_text("my notes")
    before = content(more / "out")
    assert_refused(script("prepare_defect_data", *arguments(more, "--append")), str(mine), "in no row")
    assert content(more / "out") == before


def test_a_dataset_from_elsewhere_keeps_its_names(more, organize):
    info = json.loads((more / "out" / "dataset.json").read_text(encoding="utf-8"))
    info |= {"classes": ["good", "defect"], "made_by": "hand"}
    (more / "out" / "dataset.json").write_text(json.dumps(info), encoding="utf-8")
    table = (more / "out" / "manifest.csv").read_text(encoding="utf-8").replace(",normal,", ",good,").rstrip()
    (more / "out" / "manifest.csv").write_text(table, encoding="utf-8")
    after, _ = organize("--append")
    assert after.classes == ["good", "defect"]
    assert Counter(after.columns["label"].tolist()) == {"good": 40, "defect": 20}
    assert json.loads((more / "out" / "dataset.json").read_text(encoding="utf-8"))["made_by"] == "hand"


@pytest.mark.parametrize(
    ("flags", "folders", "message"),
    [
        (("--append", "--overwrite"), {}, "expected one of them"),
        (("--append",), {"bad": "", "masks": "", "good": ""}, "no images to add"),
        (("--append", "--val_split", 0.9), {}, "--val_split 0.9 and --test_split 0.2"),
        (("--append",), {"output": "nothing"}, "no such dataset folder"),
        (("--append",), {"good": "out/images/good"}, "lies in --output_dir"),
    ],
)
def test_what_cannot_be_done_is_said(more, script, flags, folders, message):
    before = content(more / "out")
    assert_refused(script("prepare_defect_data", *arguments(more, *flags, **folders)), message)
    assert content(more / "out") == before
    assert not (more / "nothing").exists()
