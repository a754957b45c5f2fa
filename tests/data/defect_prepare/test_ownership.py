"""What --overwrite may remove: a dataset of this project, and nothing that is not the dataset's."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from helpers.organizing import arguments, assert_refused, content, save

from dinov3.data.defect_manifest import read_manifest
from dinov3.defect_folders import FolderLock


@pytest.fixture
def prepared(parts: Path, organize) -> Path:
    """``parts`` with a dataset in ``out``."""
    organize()
    return parts


@pytest.mark.parametrize(
    "files",
    [
        {"dataset.json": '{"name": "Task01", "labels": {"0": "background"}}', "imagesTr/a.nii.gz": "x"},
        {"dataset.json": "[]", "manifest.csv": "image,mask,label,split,group,source\n", "a.txt": "x"},
        {"dataset.json": '{"classes": ["a", "b"]}', "manifest.csv": "file,class\na.png,a\n"},
        {
            "dataset.json": '{"format": "other", "format_version": 1, "classes": ["normal"], "mask_classes": []}',
            "manifest.csv": "image,mask,label,split,group,source\nimages/a.png,,normal,train,,\n",
            "images/a.png": "x",
        },
    ],
)
def test_a_folder_of_another_program_is_not_removed(parts: Path, script, files: dict[str, str]) -> None:
    for name, text in files.items():
        (parts / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (parts / "out" / name).write_text(text)
    before = content(parts)
    assert_refused(script("prepare_defect_data", *arguments(parts, "--overwrite")), str(parts / "out"), "--overwrite")
    assert content(parts) == before


@pytest.mark.parametrize(
    "name", ["notes.txt", "images/good/extra.png", "masks/bad/00.png", "runs/a/last.pth", ".hidden"]
)
def test_a_file_that_no_row_names_keeps_its_folder(prepared: Path, script, name: str) -> None:
    mine = prepared / "out" / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    before = content(prepared)
    for command in (arguments(prepared, "--overwrite"), ["demo", "--output_dir", prepared / "out", "--overwrite"]):
        assert_refused(script("prepare_defect_data", *command), name, "belong to no row")
    assert content(prepared) == before
    mine.unlink()
    if name == "runs/a/last.pth":
        mine.symlink_to(prepared / "good")  # what a link leads to would stay, but the link is the user's
        assert_refused(script("prepare_defect_data", *arguments(prepared, "--overwrite")), name)


def test_what_file_browsers_leave_is_nobodys_work(prepared: Path, organize) -> None:
    (prepared / "out/images/.DS_Store").touch()
    (prepared / "out/Thumbs.db").touch()
    organize("--overwrite")
    assert not (prepared / "out/Thumbs.db").exists()


def test_a_dataset_of_an_earlier_version_is_known_by_its_table(prepared: Path, organize) -> None:
    path = prepared / "out" / "dataset.json"
    info = json.loads(path.read_text())
    assert info.pop("format") == "dinov3-defect-dataset" and info["command"].startswith("prepare_defect_data.py")
    path.write_text(json.dumps(info))
    organize("--overwrite")


@pytest.mark.parametrize("how", ["--overwrite", "--append"])
def test_what_is_read_may_not_lie_where_is_written(prepared: Path, script, how: str) -> None:
    """A dataset's own masks and table are named by its rows, and are inputs all the same."""
    for i in range(10):
        (prepared / "masks" / f"{i:02}.png").unlink()
        (prepared / "masks" / f"{i:02}.png").symlink_to(prepared / "out" / "masks" / "bad" / f"{i:02}.png.png")
    before = content(prepared)
    for flags in ((), ("--group_csv", prepared / "out" / "manifest.csv")):
        result = script("prepare_defect_data", *arguments(prepared, how, *flags, masks="" if flags else "masks"))
        assert_refused(result, "lies in --output_dir")
    assert content(prepared) == before


def test_a_dataset_in_use_is_not_replaced(prepared: Path, script) -> None:
    before = content(prepared / "out")
    with FolderLock(prepared / "out", "some append"):
        assert_refused(script("prepare_defect_data", *arguments(prepared, "--overwrite")), "in use by some append")
        assert_refused(script("prepare_defect_data", *arguments(prepared, "--append")), "in use by some append")
    assert content(prepared / "out") == before


def test_what_comes_into_the_output_folder_meanwhile_stays(parts: Path, script, monkeypatch) -> None:
    """Another command may have been faster, or a person."""
    from dinov3.data.defect_prepare import writer

    write_mask = writer.write_mask

    def slow(path: Path, mask: object) -> None:
        save(parts / "out" / "mine.png", mask)
        write_mask(path, mask)

    monkeypatch.setattr(writer, "write_mask", slow)
    assert_refused(script("prepare_defect_data", *arguments(parts)), "exists and is not empty")
    assert os.listdir(parts / "out") == ["mine.png"]


def test_what_a_killed_run_left_goes_with_the_next(prepared: Path, organize) -> None:
    for name in (".out-unfinished-abcd1234", ".out-unfinished-abcd1234-replaced"):
        shutil.copytree(prepared / "out", prepared / name)
    organize("--overwrite")
    assert sorted(os.listdir(prepared)) == ["bad", "good", "masks", "out"]
    (prepared / "out").rename(prepared / ".out-unfinished-ab12cd34-replaced")  # killed between two renames
    assert len(read_manifest(prepared / "out")) == 30
