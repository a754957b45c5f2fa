"""Runs that are killed, stopped or run out of disk, and what going on with them gives."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import write_squares
from helpers.forking import Child, Launcher
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dinov3.data.defect_manifest import Manifest
from dinov3.models.defect_checkpoint import load_checkpoint

EPOCHS = 8
FLAGS = "--backbone timm:test_vit --weights none --image_size 32 --batch_size 2 --num_workers 0 --device cpu"
EVERY_STEP = ("--save_every_minutes", 1e-6)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_squares(tmp_path_factory.mktemp("resume") / "data", train=12, val=4, test=2)


def flags(data: Manifest, save_dir: Path, *more: object) -> list[object]:
    common = ["--data_root", data.root, "--save_dir", save_dir, *FLAGS.split(), "--use_uncertainty_weighting"]
    return [*common, "--epochs", EPOCHS, *more]


@pytest.fixture(scope="module")
def whole(launcher: Launcher, data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    child = launcher.start(flags(data, folder, *EVERY_STEP))
    assert child.status(120) == 0, child.log.read_text()
    return folder


def wait_until(condition: Callable[[], bool], child: Child, seconds: float = 60) -> bool:
    """Whether ``condition`` came true before the process ended."""
    deadline = time.monotonic() + seconds
    while not condition():
        if child.status() is not None:
            return False
        assert time.monotonic() < deadline, child.log.read_text()
        time.sleep(0.0005)
    return True


def assert_same_run(one: Path, other: Path) -> None:
    """Equal weights, optimizer, averages, best files and logs, bit for bit; speed apart."""
    for file in ("last.pth", "best_accuracy.pth", "best_iou.pth"):
        a, b = load_checkpoint(one / file), load_checkpoint(other / file)
        for content in (a, b):
            del content["config"]
            for metrics in (content["metrics"], *content["best"].values()):
                metrics.pop("images_per_second", None)
        assert_equal(a, b, file)
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    for line in (*lines[0], *lines[1]):
        del line["images_per_second"]
    assert lines[0] == lines[1] and [line["epoch"] for line in lines[0]] == list(range(1, EPOCHS + 1))
    series = []
    for run in (one, other):
        events = EventAccumulator(str(run / "tensorboard"))
        events.Reload()
        series.append([(event.step, event.value) for event in events.Scalars("train_total_loss")])
    assert series[0] == series[1] and len(series[0]) == EPOCHS


def assert_equal(a: object, b: object, place: str) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), place
        for key in a:
            assert_equal(a[key], b[key], f"{place}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), place
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{place}/{number}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), place
    else:
        assert a == b or (a != a and b != b), place


def test_killed_at_twenty_random_moments_it_ends_as_if_never_interrupted(
    launcher: Launcher, data: Manifest, whole: Path, tmp_path: Path
) -> None:
    chance, folder = random.Random(7), tmp_path / "run"
    last, unfinished = folder / "last.pth", folder / ".last.pth.unfinished"
    arguments = flags(data, folder, *EVERY_STEP, "--resume")
    during_save, places = 0, []
    for kill in range(20):
        child = launcher.start(arguments)
        if kill % 7 == 3:  # while the file is being written
            assert wait_until(unfinished.exists, child)
        else:  # a while after the first save of this process, or (now and then) before it
            before = last.stat().st_mtime_ns if last.exists() else 0
            if chance.random() < 0.85:
                wait_until(lambda: last.exists() and last.stat().st_mtime_ns != before, child)  # noqa: B023
            time.sleep(chance.random() * 0.12)
        child.send(signal.SIGKILL)
        assert child.status(30) == -signal.SIGKILL, f"ended before kill {kill + 1}: {child.log.read_text()}"
        during_save += unfinished.exists()
        if last.exists():
            content = load_checkpoint(last)  # whole, whenever the kill came
            places.append((content["epoch"], content["progress"][0]["batches"] if content["progress"] else 0))
    child = launcher.start(arguments)
    assert child.status(120) == 0, child.log.read_text()
    assert during_save >= 1 and len(set(places)) >= 8 and any(batches for _, batches in places), places
    assert_same_run(whole, folder)
    assert not list(folder.glob(".*"))


# Sends this process a signal when it comes to a batch: number NUMBER, counted from 0, of training or validation.
SIGNAL_AT_BATCH = """
import os, signal
import dinov3.{module} as module
original, calls = module.to_device, iter(range(1000))
def to_device(*args):
    if next(calls) == {number}:
        {action}
    return original(*args)
module.to_device = to_device
"""


@pytest.mark.parametrize(
    ("number", "module", "place"),
    [
        (signal.SIGTERM, "train.train_defect_classifier", "in epoch 3, after 3 batches"),
        (signal.SIGINT, "train.train_defect_classifier", "in epoch 3, after 3 batches"),
        (signal.SIGTERM, "defect_evaluation.evaluate", "in epoch 3, while validating"),
    ],
)
def test_a_signal_saves_and_leaves_and_the_run_goes_on(
    launcher: Launcher, data: Manifest, whole: Path, tmp_path: Path, number: int, module: str, place: str
) -> None:
    folder = tmp_path / "run"
    at = 2 * 6 + 2 if module == "train.train_defect_classifier" else 2 * 2 + 1
    before = SIGNAL_AT_BATCH.format(module=module, number=at, action=f"os.kill(os.getpid(), {int(number)})")
    child = launcher.start(flags(data, folder), before=before)
    assert child.status(60) == 128 + number, child.log.read_text()
    printed = child.log.read_text()
    assert f"interrupted by {number.name} {place}" in printed and "--resume" in printed and "Traceback" not in printed
    child = launcher.start(flags(data, folder, "--resume"))
    assert child.status(60) == 0, child.log.read_text()
    assert_same_run(whole, folder)


def test_a_signal_to_all_processes_leaves_the_loading_ones_to_the_main_one(
    launcher: Launcher, data: Manifest, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    before = SIGNAL_AT_BATCH.format(
        module="train.train_defect_classifier", number=8, action="os.killpg(0, signal.SIGTERM)"
    )
    arguments = flags(data, folder, "--num_workers", 1)
    child = launcher.start(arguments, before="import os; os.setsid()\n" + before)
    assert child.status(60) == 128 + signal.SIGTERM, child.log.read_text()
    assert load_checkpoint(folder / "last.pth")["progress"][0]["batches"] == 3
    child = launcher.start([*arguments, "--resume"])
    assert child.status(60) == 0, child.log.read_text()
    assert_same_run(whole, folder)  # which had no loading process: they change nothing


def test_an_interrupted_epoch_of_tiles_goes_on_with_the_crops_that_are_left() -> None:
    from dinov3.data.defect_dataset import EpochSampler
    from dinov3.data.defect_tile_dataset import TileSampler

    rows = torch.arange(7).numpy()
    for rank in range(2):
        for sampler in (TileSampler(rows, rows[:3], 0.5, 4, 1, rank, 2), EpochSampler(23, 1, rank, 2)):
            sampler.epoch = 3
            keys = list(sampler)
            sampler.skip = 5
            assert list(sampler) == keys[5:] and len(keys) > 5


def test_writing_does_not_hold_up_training_and_changes_made_meanwhile_stay_out(tmp_path: Path, monkeypatch) -> None:
    from dinov3.train import defect_checkpointer

    let_go, original = threading.Event(), defect_checkpointer.save_checkpoint

    def slow(path: Path, content: dict, *remedy: str) -> None:
        assert let_go.wait(20)
        original(path, content, *remedy)

    monkeypatch.setattr(defect_checkpointer, "save_checkpoint", slow)
    writer, weights = defect_checkpointer.BackgroundWriter(), torch.zeros(3)
    writer.submit([tmp_path / "best_iou.pth", tmp_path / "last.pth"], {"model": {"weights": weights}})
    weights += 1  # training goes on
    assert writer.is_busy and not (tmp_path / "last.pth").exists()
    let_go.set()
    writer.wait()
    for file in ("best_iou.pth", "last.pth"):
        assert torch.load(tmp_path / file)["model"]["weights"].tolist() == [0, 0, 0]


def test_a_disk_that_fills_up_in_the_background_ends_the_run_with_the_last_checkpoint_intact(
    launcher: Launcher, data: Manifest, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    # In the third epoch no file may grow beyond 1 MB, which stands for the full disk.
    limit = "import resource; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, -1))"
    before = SIGNAL_AT_BATCH.format(module="train.train_defect_classifier", number=2 * 6 + 2, action=limit)
    child = launcher.start(flags(data, folder), before=before)
    assert child.status(60) == 1, child.log.read_text()
    printed = child.log.read_text()
    assert "could not be written (File too large)" in printed and "--resume" in printed and "Traceback" not in printed
    # Epoch 2 may still have been on its way to the disk when the limit came.
    assert load_checkpoint(folder / "last.pth")["epoch"] in (1, 2) and not list(folder.glob(".*"))
    child = launcher.start(flags(data, folder, "--resume"))
    assert child.status(60) == 0, child.log.read_text()
    assert_same_run(whole, folder)


def test_another_number_of_processes_cannot_go_on_within_an_epoch(
    launcher: Launcher, data: Manifest, tmp_path: Path
) -> None:
    before = SIGNAL_AT_BATCH.format(
        module="train.train_defect_classifier", number=2, action="os.kill(os.getpid(), signal.SIGTERM)"
    )
    child = launcher.start(flags(data, tmp_path / "run"), before=before)
    assert child.status(60) == 128 + signal.SIGTERM
    content = load_checkpoint(tmp_path / "run/last.pth")
    content["progress"] *= 2
    torch.save(content, tmp_path / "run/last.pth")
    child = launcher.start(flags(data, tmp_path / "run", "--resume"))
    assert child.status(60) == 1 and "by 2 processes, and 1 are to go on" in child.log.read_text()
