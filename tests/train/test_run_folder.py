"""A training keeps its folder to itself, and other people's files as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import TRAIN_FLAGS
from helpers.organizing import content

from dinov3.defect_folders import FolderLock

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def train(script, squares):
    """Starts a training into a folder: -> status, what was printed to stderr."""

    def run(save_dir: Path, *flags: object) -> tuple[int, str]:
        line = ("--data_root", squares.root, "--save_dir", save_dir, *TRAIN_FLAGS, *flags)
        status, _, err = script("train_defect_model", *line)
        return status, err

    return run


def test_the_folder_of_another_training_is_refused(train, trained: Path, tmp_path: Path, script, squares) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    before = content(run)
    with FolderLock(run, "train_defect_model.py"):
        inside = content(run).keys() - before.keys()
        for flags in ((), ("--resume",), ("--resume", "--epochs", 3)):
            status, err = train(run, *flags)
            assert status == 1 and "in use by train_defect_model.py" in err
        flags = ("--checkpoint", run / "best_iou.pth", "--data_root", squares.root, "--device", "cpu")
        status, _, err = script("calibrate_defect_model", *flags)
        assert status == 1 and "in use by train_defect_model.py" in err
        assert {name: data for name, data in content(run).items() if name not in inside} == before
    assert content(run) == before


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "report.html", "best_accuracy.pth"])
def test_files_of_others_are_not_replaced(train, tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("epochs: 1\n")
    flags = ("--config", tmp_path / "run/config.yaml") if name == "config.yaml" else ("--epochs", 1)
    status, err = train(tmp_path / "run", *flags)
    assert status == 1 and name in err and "no training" in err
    assert content(tmp_path / "run") == {name: b"epochs: 1\n"}


def test_a_dataset_is_no_place_for_checkpoints(train, squares, tmp_path: Path) -> None:
    data = shutil.copytree(squares.root, tmp_path / "data")
    before = content(data)
    for save_dir in (data, data / "runs/1"):
        status, err = train(save_dir)
        assert status == 1 and "dataset folder" in err
    assert content(data) == before


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(train, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("*.pth"))
    status, err = train(run, "--resume", "--epochs", 1)
    assert status == 0, err
    assert (run / "last.pth").is_file() and (run / "metrics.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optimizer", {"state": {}, "param_groups": []}),
        ("optimizer", {}),
        ("criterion", {"other": 1}),
        ("guard", {"skipped": "many"}),
        ("early_stopping", {"best": []}),
        ("progress", [{"batches": "three"}]),
        ("best", {"best_iou.pth": 3}),
        ("manifest", None),
        ("epoch", None),
        ("training_state", {"model": 5}),
    ],
)
def test_a_damaged_state_is_one_sentence(train, trained: Path, tmp_path: Path, field: str, value: object) -> None:
    run = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("best*"))
    content = torch.load(run / "last.pth", weights_only=True)
    torch.save(content | {field: value}, run / "last.pth")
    status, err = train(run, "--resume", "--epochs", 3)
    assert "Traceback" not in err
    if status:
        told = err.splitlines()[-1]
        assert status == 1 and told.startswith("error:") and ("last.pth" in told or "--resume" in told)
    else:  # nothing of it is needed
        assert field in ("guard", "best", "early_stopping", "criterion")
