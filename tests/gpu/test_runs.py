"""Whole training runs on the GPU, by the script: precisions, flags, bad batches, kills, a full device."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, write_squares
from torch import Tensor

from dinov3.data.defect_manifest import Manifest
from dinov3.models.defect_checkpoint import load_checkpoint
from dinov3.train.defect_step import TrainStep

pytest_plugins = ["helpers.gpu"]
pytestmark = pytest.mark.gpu

EXACT = ("--mixed_precision", "off")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Images of 64 pixels: 16 to train, 8 to validate, 8 to test."""
    return write_squares(tmp_path_factory.mktemp("gpu") / "data", train=16, val=8, test=8)


@pytest.fixture
def train(script: Callable[..., tuple[int, str, str]], data: Manifest) -> Callable[..., str]:
    """``train(save_dir, "--flag", ...)`` runs the training script on ``data`` in this process; what it printed."""

    def run(save_dir: Path, *more: object) -> str:
        status, out, err = script("train_defect_model", *training_flags(data, save_dir, *more))
        assert status == 0, out + err
        return out + err

    return run


def training_flags(data: Manifest, save_dir: Path, *more: object) -> list[object]:
    """A small network without any chance in it but that of the data, which is the same on all devices."""
    flags = "--weights none --image_size 64 --batch_size 4 --num_workers 0 --dropout 0 --epochs 2 --lr 1e-4".split()
    backbone = [] if "--backbone" in more else ["--backbone", "timm:test_efficientnet"]
    return ["--data_root", data.root, "--save_dir", save_dir, *flags, *backbone, *more]


def losses(save_dir: Path, *names: str) -> list[float]:
    """Of every epoch, in turn."""
    lines = [json.loads(line) for line in (save_dir / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines for name in names or ("train_total_loss", "val_total_loss")]


@pytest.fixture(scope="module")
def of_the_cpu(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[float]]:
    """``of_the_cpu("--flag", ...)``: the losses of a run on the CPU, done once for the same flags."""
    import train_defect_model

    known: dict[tuple[object, ...], list[float]] = {}

    def run(*more: object) -> list[float]:
        if more not in known:
            folder = tmp_path_factory.mktemp("cpu") / "run"
            train_defect_model.main([str(a) for a in training_flags(data, folder, "--device", "cpu", *more)])
            known[more] = losses(folder)
        return known[more]

    return run


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--accumulate", 2, "--ema_decay", 0.9),
        ("--backbone", "timm:test_vit", "--grad_checkpointing", "--use_uncertainty_weighting"),
        ("--backbone", "timm:test_vit", "--lora_rank", 2),
        ("--freeze_backbone",),
    ],
    ids=["plain", "accumulated and averaged", "checkpointed", "LoRA", "frozen"],
)
def test_a_run_learns_what_it_does_on_the_cpu(
    device: torch.device, train, of_the_cpu, tmp_path: Path, flags: tuple[object, ...]
) -> None:
    if "--lora_rank" in flags:
        pytest.importorskip("peft", reason="peft is not installed")
    train(tmp_path, "--device", device, *EXACT, *flags)
    assert losses(tmp_path) == pytest.approx(of_the_cpu(*flags), rel=1e-3)


def test_a_compiled_run_learns_the_same(device: torch.device, compiler, train, of_the_cpu, tmp_path: Path) -> None:
    train(tmp_path, "--device", device, *EXACT, "--compile")
    assert losses(tmp_path) == pytest.approx(of_the_cpu(), rel=1e-3)


@pytest.mark.parametrize(("precision", "close"), [("bf16", 2e-2), ("fp16", 5e-3), ("tf32", 5e-3)])
def test_a_run_in_low_precision_follows_the_exact_one(
    device: torch.device, train, of_the_cpu, tmp_path: Path, precision: str, close: float
) -> None:
    if device.type == "cpu" and precision in ("fp16", "tf32"):
        pytest.skip("the CPU has neither fp16 nor TF32")
    train(tmp_path, "--device", device, "--mixed_precision", precision, "--accumulate", 2)
    assert losses(tmp_path, "train_total_loss") == pytest.approx(of_the_cpu("--accumulate", 2)[::2], rel=close)


def test_a_group_of_one_process_trains_as_a_plain_one(
    device: torch.device, train, of_the_cpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun starts it: over NCCL on a GPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in world.items():
        monkeypatch.setenv(name, str(value))
    train(tmp_path, "--device", device, *EXACT)
    assert losses(tmp_path) == pytest.approx(of_the_cpu(), rel=1e-3)


@pytest.mark.parametrize("precision", ["off", "bf16", "fp16"])
def test_a_bad_batch_is_skipped_and_the_weights_stay(
    device: torch.device, train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """The last batch of the run, so that the weights before it are those at the end."""
    if device.type == "cpu" and precision == "fp16":
        pytest.skip("the CPU has no fp16")
    original, before, calls = TrainStep.forward, {}, []

    def forward(step: TrainStep, images: Tensor, *rest: Any) -> dict[str, Tensor]:
        calls.append(step.training)
        if sum(calls) == 8 and step.training:
            before.update({name: value.clone() for name, value in step.model.state_dict().items()})
            images = images * float("nan")
        return original(step, images, *rest)

    monkeypatch.setattr(TrainStep, "forward", forward)
    printed = train(tmp_path, "--device", device, "--mixed_precision", precision)
    assert "epoch 2, batch 4" in printed and "not finite" in printed
    assert losses(tmp_path, "skipped_batches") == [0, 1]
    after = load_checkpoint(tmp_path / "last.pth")["model"]
    assert before and all(torch.equal(value.cpu(), after[name]) for name, value in before.items())


START = """
import sys, torch
sys.path[:0] = {paths!r}
torch.use_deterministic_algorithms(True, warn_only=True)
torch.backends.cudnn.benchmark = False
torch.set_num_threads(1)
import train_defect_model
train_defect_model.main(sys.argv[1:])
"""


def start(arguments: list[object]) -> subprocess.Popen[str]:
    """The training script in a process of its own, with deterministic algorithms."""
    code = START.format(paths=[str(ROOT), str(ROOT / "examples")])
    env = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for it: what it said about operations that are not deterministic."""
    printed, _ = process.communicate(timeout=100)
    assert process.returncode == 0, printed
    return "\n".join(line for line in printed.splitlines() if "determin" in line)


def test_killed_and_resumed_it_ends_with_the_same_weights(device: torch.device, data: Manifest, tmp_path: Path) -> None:
    more = ("--device", device, "--save_every_minutes", 1e-6, "--ema_decay", 0.9)
    whole = start(training_flags(data, tmp_path / "whole", *more))
    killed = start(training_flags(data, tmp_path / "killed", *more))
    last = tmp_path / "killed/last.pth"
    deadline = time.monotonic() + 60
    while not last.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    printed, _ = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, f"it ended by itself: {printed}"
    assert load_checkpoint(last)["epoch"] < 2
    said = finish(start(training_flags(data, tmp_path / "killed", *more, "--resume")))
    finish(whole)
    one, two = (load_checkpoint(tmp_path / name / "last.pth") for name in ("whole", "killed"))
    assert one["model"].keys() == two["model"].keys()
    assert all(torch.equal(value, two["model"][name]) for name, value in one["model"].items()), said
    for number, entry in one["optimizer"]["state"].items():
        assert all(torch.equal(value, two["optimizer"]["state"][number][name]) for name, value in entry.items())


def test_a_device_that_is_full_says_what_to_change(cuda: torch.device, script, data: Manifest, tmp_path: Path) -> None:
    """The allocator may take half a gigabyte more than it has, so that its own error comes soon."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**29) / total)
    large = ("--device", "cuda", *EXACT, "--image_size", 512, "--batch_size", 16, "--backbone", "dinov3_vitt16")
    try:
        arguments = training_flags(data, tmp_path / "full", *large)
        status, _, err = script("train_defect_model", *arguments)
        assert status == 1 and "Traceback" not in err
        for part in ("cuda", "ran out of memory when", "--batch_size 8 --accumulate 2", "--auto_batch", "GiB"):
            assert part in err, err
        gc.collect()
        torch.cuda.empty_cache()
        status, out, err = script("train_defect_model", *arguments, "--auto_batch", "--epochs", 1)
        assert status == 0, out + err
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
