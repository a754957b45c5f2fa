"""Finding image files, whatever they are called."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dinov3.data.defect_files import list_images
from dinov3.defect_errors import DefectError


def test_list_images_finds_images_by_suffix_and_skips_the_rest(tmp_path):
    for name in ("b.JPG", "a.png", "deep/er/c.TIFF", ".hidden.png", ".cache/d.png", "sub/.x/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "plan.pdf").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    (tmp_path / "broken.png").symlink_to("nowhere")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["a.png", "b.JPG", "broken.png", "deep/er/c.TIFF"]


def test_list_images_follows_a_link_to_the_folder_itself(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").touch()
    (tmp_path / "link").symlink_to("real")
    assert list_images(tmp_path / "link") == [tmp_path / "link" / "a.png"]


def test_list_images_says_what_is_wrong(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DefectError, match="no such folder"):
        list_images(tmp_path / "absent")
    with pytest.raises(DefectError, match="not a folder"):
        list_images(tmp_path / "file")


def test_file_names_in_another_encoding_are_refused_by_name(tmp_path):
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xbb\xae\xba\xdb.png")).touch()  # GBK
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(DefectError, match="not valid UTF-8; rename") as raised:
        list_images(tmp_path)
    str(raised.value).encode()  # can be printed


def test_200_000_entries_are_listed_in_seconds(outside: Path) -> None:
    for number in range(100_000):
        os.close(os.open(outside / f"{number}.png", os.O_CREAT))
        os.close(os.open(outside / f"{number}.txt", os.O_CREAT))
    start = time.process_time()
    paths = list_images(outside)
    assert time.process_time() - start < 8
    assert len(paths) == 100_000 and paths == sorted(paths)
