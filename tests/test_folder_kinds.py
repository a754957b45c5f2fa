"""Files that commands are told to write: over nothing but what the same command made, and in no dataset."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.organizing import content

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def data(squares, tmp_path: Path) -> Path:
    """A dataset with a leak, to be changed."""
    root = shutil.copytree(squares.root, tmp_path / "data")
    shutil.copyfile(root / "images/train/000.png", root / "images/val/000.png")
    return root


COMMANDS = [
    ("prepare_defect_data", ("check", "DATA"), "--json", "found.json"),
    ("prepare_defect_data", ("check", "DATA"), "--html", "sheet.html"),
    ("prepare_defect_data", ("leaks", "DATA"), "--json", "leaks.json"),
    ("prepare_defect_data", ("leaks", "DATA"), "--sheet", "sheet.png"),
    ("evaluate_defect_model", ("--data_root", "DATA", "--checkpoint", "MODEL"), "--output", "metrics.json"),
    ("evaluate_defect_model", ("--data_root", "DATA", "--checkpoint", "MODEL"), "--report_dir", "report"),
]


@pytest.mark.parametrize(("name", "flags", "flag", "file"), COMMANDS)
def test_only_the_same_commands_output_is_replaced(
    script, trained: Path, data: Path, tmp_path: Path, name: str, flags: tuple, flag: str, file: str
) -> None:
    known = {"DATA": data, "MODEL": trained / "best_iou.pth"}
    line = [known.get(part, part) for part in flags]
    if name.startswith("evaluate"):
        line += ["--num_workers", 0, "--device", "cpu", "--resamples", 5]
    before = content(data)
    for place in (data / "manifest.csv", data / "dataset.json", data / "images" / file, data / "images/train/000.png"):
        status, _, err = script(name, *line, flag, place)
        assert status == 1 and f"{flag} {place}" in err and "dataset" in err
    assert content(data) == before
    out = tmp_path / "out"
    mine = out / file if flag != "--report_dir" else out / file / "per_image.csv"
    mine.parent.mkdir(parents=True)
    for text in ('{"mine": 1}', "<!DOCTYPE html>\n<html>mine", "\x89PNG mine"):
        mine.write_text(text)
        status, _, err = script(name, *line, flag, out / file)
        assert status == 1 and f"{flag} {out / file}" in err and mine.read_text() == text
    mine.unlink()
    for _ in range(2):  # the second replaces what the first made
        status, _, err = script(name, *line, flag, out / file)
        assert status in (0, 1) and "error:" not in err, err
        assert mine.stat().st_size > 20
