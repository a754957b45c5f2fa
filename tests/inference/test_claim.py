"""An inspection writes over nothing that an inspection did not make."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.inspecting import FLAGS, records_of, rows_of, write_images
from helpers.organizing import content

from dinov3.defect_folders import FolderLock


@pytest.fixture
def inspect(script, tiny: Path, tmp_path: Path):
    """Inspects three images into a folder: -> status, what was printed to stderr."""
    write_images(tmp_path / "in", 3)

    def run(output: Path, *flags: object) -> tuple[int, str]:
        line = ("--checkpoint", tiny, "--image_dir", tmp_path / "in", "--output_dir", output)
        status, _, err = script("inference_defect_model", *line, *FLAGS, "--no_visualize", *flags)
        return status, err

    return run


@pytest.mark.parametrize("below", ["", "masks", "images/val/results", "link"])
def test_a_dataset_stays_as_it_is(inspect, squares, tmp_path: Path, below: str) -> None:
    data = shutil.copytree(squares.root, tmp_path / "data")
    before = content(data)
    output = data / below
    if below == "link":  # the masks of a results folder lead into the dataset
        output = tmp_path / "results"
        output.mkdir()
        (output / "masks").symlink_to(data / "masks")
    status, err = inspect(output)
    assert status == 1 and "dataset folder" in err and content(data) == before


def test_the_folder_of_a_training_stays_as_it_is(inspect, trained: Path) -> None:
    before = content(trained)
    status, err = inspect(trained)
    assert status == 1 and "last.pth" in err and str(trained / "results") in err and content(trained) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("predictions.csv", "image,label\na.png,1\n"),
        ("predictions.json", '[\n{"image": "a.png", "label": 3}\n]\n'),
        ("run.json", '{"command": "of another program"}'),
        ("report.html", "<html>of an evaluation"),
        ("masks/0001.png.png", "drawn by hand"),
        ("visualizations/notes.txt", "mine"),
    ],
)
def test_files_of_others_are_not_replaced(inspect, tmp_path: Path, name: str, text: str) -> None:
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text(text)
    status, err = inspect(tmp_path / "out")
    assert status == 1 and name.split("/")[0] in err and "no inspection" in err
    assert content(tmp_path / "out") == {name: text.encode()}


def test_a_file_of_the_users_among_results_is_kept_and_its_image_named(inspect, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert inspect(output)[0] == 0
    write_images(tmp_path / "in", 5)
    mine = output / "masks" / "0004.png.png"
    mine.write_text("drawn by hand")
    os.utime(mine, (1e9, 1e9))
    for flags in ((), ("--resume",)):
        assert inspect(output, *flags)[0] == 3
        errors = {name: row["error"] for name, row in rows_of(output).items() if row["error"]}
        assert list(errors) == ["0004.png"] and "no inspection made it" in errors["0004.png"]
        assert mine.read_text() == "drawn by hand"


def test_masks_that_were_drawn_on_since_are_kept(inspect, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert inspect(output)[0] == 0 and inspect(output)[0] == 0
    mask = output / "masks" / "0001.png.png"
    mask.write_bytes(mask.read_bytes() + b"more")
    later = (output / "predictions.json").stat().st_mtime + 60
    os.utime(mask, (later, later))
    before = content(output)
    status, err = inspect(output)
    assert status == 1 and "masks/0001.png.png was changed" in err and content(output) == before


def test_two_inspections_at_once(tiny: Path, inspect, tmp_path: Path) -> None:
    """The second is refused; the first one's results are whole."""
    write_images(tmp_path / "in", 60)
    line = ("--checkpoint", tiny, "--image_dir", tmp_path / "in", "--output_dir", tmp_path / "out", "--watch", *FLAGS)
    command = [sys.executable, ROOT / "examples/inference_defect_model.py", *line, "--no_visualize"]
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE) as first:
        first.stdout.readline()  # it watches
        status, err = inspect(tmp_path / "out", "--resume")
        assert status == 1 and f"process {first.pid}" in err and "inference_defect_model.py" in err
        for _ in range(60):
            first.stdout.readline()
        first.terminate()
    assert len(rows_of(tmp_path / "out")) == len(records_of(tmp_path / "out")) == 60
    assert inspect(tmp_path / "out")[0] == 0


def test_a_folder_in_use_is_not_even_looked_into(inspect, tmp_path: Path) -> None:
    assert inspect(tmp_path / "out")[0] == 0
    before = json.loads((tmp_path / "out/run.json").read_text())
    with FolderLock(tmp_path / "out", "a calibration"):
        status, err = inspect(tmp_path / "out")
    assert status == 1 and "a calibration" in err and json.loads((tmp_path / "out/run.json").read_text()) == before
