"""Training in two processes: the same losses as in one, one end for all, and errors that don't hang."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TRAIN_FLAGS, write_squares
from helpers.forking import Child, Launcher
from test_resume import SIGNAL_AT_BATCH

from dinov3.data.defect_manifest import Manifest
from dinov3.models.defect_checkpoint import load_checkpoint

FLAGS = "--backbone timm:test_efficientnet --weights none --image_size 32 --num_workers 0 --device cpu --dropout 0"
# On images this small the full decoder's coarsest norms are over four values, and make much of rounding: test_fsdp.py
# compares it on a ViT, where they are over more.
FLAGS += " --decoder multiscale --use_uncertainty_weighting --class_weights balanced --epochs 3 --lr 1e-4"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Some of its images have no mask, or no verdict, so the processes' batches differ in what they teach."""
    data = write_squares(tmp_path_factory.mktemp("two") / "data", train=16, val=8, test=2)
    table = data.root / "manifest.csv"
    lines = table.read_text().splitlines()
    for number in (2, 4, 6):
        lines[number] = lines[number].replace(lines[number].split(",")[1], "", 1)
    for number in (8, 10):
        lines[number] = lines[number].replace(",defect,", ",,")
    table.write_text("\n".join(lines) + "\n")
    return data


def start_two(launcher: Launcher, arguments: list[object], before: tuple[str, str] = ("", "")) -> list[Child]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [launcher.start(arguments, common | {"RANK": r, "LOCAL_RANK": r}, before[r]) for r in range(2)]


def flags(data: Manifest, save_dir: Path, batch_size: int, *more: object) -> list[object]:
    return ["--data_root", data.root, "--save_dir", save_dir, *FLAGS.split(), "--batch_size", batch_size, *more]


def log_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def pair(launcher: Launcher, data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes."""
    folder = tmp_path_factory.mktemp("pair") / "run"
    for child in start_two(launcher, flags(data, folder, 2)):
        assert child.status(120) == 0, child.log.read_text()
    return folder


def test_two_processes_learn_what_one_with_the_same_batch_learns(
    launcher: Launcher, data: Manifest, pair: Path, tmp_path: Path
) -> None:
    child = launcher.start(flags(data, tmp_path / "one", 4))
    assert child.status(120) == 0, child.log.read_text()
    names = "train_total_loss train_cls_loss train_seg_loss alpha beta val_total_loss val_cls_loss val_seg_loss"
    for one, two in zip(log_lines(tmp_path / "one"), log_lines(pair), strict=True):
        assert (one["confusion"], one["masks_seen"]) == (two["confusion"], two["masks_seen"])
        for name in (*names.split(), "image_ap", "image_auroc", "pixel_ap", "verdicts_seen"):
            assert two[name] == pytest.approx(one[name], rel=1e-4), (one["epoch"], name)
    one, two = (load_checkpoint(folder / "last.pth")["model"] for folder in (tmp_path / "one", pair))
    for name, value in one.items():
        assert torch.allclose(value.double(), two[name].double(), rtol=1e-3, atol=1e-3), name


def test_two_processes_accumulate_and_average_what_one_does(launcher: Launcher, data: Manifest, tmp_path: Path) -> None:
    more = ("--accumulate", 3, "--ema_decay", 0.9)
    for child in start_two(launcher, flags(data, tmp_path / "two", 2, *more)):
        assert child.status(120) == 0, child.log.read_text()
    child = launcher.start(flags(data, tmp_path / "one", 4, *more))
    assert child.status(120) == 0, child.log.read_text()
    one, two = (load_checkpoint(tmp_path / name / "last.pth")["training_state"] for name in ("one", "two"))
    for part in ("model", "average"):
        for name, value in one[part].items():
            assert torch.allclose(value.double(), two[part][name].double(), rtol=1e-3, atol=1e-3), (part, name)
    for line, other in zip(log_lines(tmp_path / "one"), log_lines(tmp_path / "two"), strict=True):
        for name in ("train_total_loss", "val_total_loss", "image_auroc", "pixel_ap", "verdicts_seen"):
            assert other[name] == pytest.approx(line[name], rel=1e-4), (line["epoch"], name)


def test_a_backbone_with_a_part_that_nothing_uses_trains_in_two(
    launcher: Launcher, data: Manifest, tmp_path: Path
) -> None:
    backbone = ("--backbone", "timm:test_vit2")  # its last norm is for a head that it has not here
    for child in start_two(launcher, flags(data, tmp_path / "two", 2, *backbone, "--epochs", 1)):
        assert child.status(120) == 0, child.log.read_text()


def test_a_signal_to_one_process_ends_both_and_the_run_goes_on(
    launcher: Launcher, data: Manifest, pair: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    kill = SIGNAL_AT_BATCH.format(
        module="train.train_defect_classifier", number=5, action="os.kill(os.getpid(), signal.SIGTERM)"
    )
    children = start_two(launcher, flags(data, folder, 2), ("", kill))
    for child in children:
        assert child.status(60) == 128 + signal.SIGTERM, child.log.read_text()
    assert "interrupted by SIGTERM in epoch 2, after 2 batches" in children[0].log.read_text()
    assert "interrupted" not in children[1].log.read_text()
    for child in start_two(launcher, flags(data, folder, 2, "--resume")):
        assert child.status(60) == 0, child.log.read_text()
    one, two = (load_checkpoint(f / "last.pth")["model"] for f in (pair, folder))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    for one, two in zip(log_lines(pair), log_lines(folder), strict=True):
        del one["images_per_second"], two["images_per_second"]
        assert one == two


@pytest.mark.parametrize("action", ["os.kill(os.getpid(), signal.SIGKILL)", "raise MemoryError('no room left')"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_other_one_soon(
    launcher: Launcher, data: Manifest, tmp_path: Path, rank: int, action: str
) -> None:
    die = SIGNAL_AT_BATCH.format(module="train.train_defect_classifier", number=5, action=action)
    children = start_two(launcher, flags(data, tmp_path / "run", 2), ("", die) if rank else (die, ""))
    dead, other = children[rank], children[1 - rank]
    assert dead.status(60) in (-signal.SIGKILL, 1)
    began = time.monotonic()
    assert other.status(60) == 1, other.log.read_text()
    assert time.monotonic() - began < 15
    assert "another one has died" in other.log.read_text() and "Traceback" not in other.log.read_text()
    if "MemoryError" in action:
        assert "no room left" in dead.log.read_text()
    if rank == 1:  # else the one that writes was killed, maybe before it had written anything
        assert load_checkpoint(tmp_path / "run/last.pth")["epoch"] == 1


def test_torchrun_starts_them(launcher: Launcher, squares: Manifest, tmp_path: Path) -> None:
    python = launcher.python(tmp_path / "bin")
    command = ["--standalone", "--nproc_per_node=2", "--no-python", python, ROOT / "examples/train_defect_model.py"]
    arguments = ["--data_root", squares.root, "--save_dir", tmp_path / "run", *TRAIN_FLAGS, "--epochs", 1]
    torchrun = launcher.start([*command, *arguments], script="torch.distributed.run")
    assert torchrun.status(120) == 0, torchrun.log.read_text()
    assert sum(map(sum, log_lines(tmp_path / "run")[0]["confusion"])) == 12  # every validation image once
