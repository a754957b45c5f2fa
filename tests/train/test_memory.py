"""The largest batch that fits, and what a full device is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TRAIN_FLAGS
from helpers.networks import build_model

import dinov3.train.defect_memory as memory
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_transforms import Normalization
from dinov3.defect_errors import DefectError
from dinov3.models.defect_classifier import MultiTaskLoss
from dinov3.models.defect_device import Precision
from dinov3.train.defect_step import TrainStep

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.89 GiB of which ..."
DEMAND = memory.Demand(
    batch_size=16,
    accumulate=1,
    image_size=512,
    parameters=86_000_000,
    trained=86_000_000,
    averaged=False,
    checkpointed=False,
    autocast=False,
)
GRAY = Normalization((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 8, 13, 100, 333])
def test_the_largest_that_fits_is_found_to_an_eighth(limit: int) -> None:
    tried: list[int] = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= limit

    found = memory.largest_that(fits, 100)
    best = min(limit, 100)
    assert best - best // 8 <= found <= best and max(tried) <= 100 and len(tried) < 14


def test_the_message_has_numbers() -> None:
    text = memory.out_of_memory_message(DEMAND, torch.device("cuda"), FULL)
    for part in (
        "2.00 GiB more were wanted",
        "takes 1.28 GiB whatever the batch (86.0 M parameters, 86.0 M trained)",  # 86e6 * 4 bytes * 4
        "--batch_size 8 --accumulate 2: half of the rest",
        "--image_size 384: 56% of the rest",
        "--auto_batch",
        "--mixed_precision auto",
        "--grad_checkpointing",
        "--lora_rank 8: most of 0.96 GiB",
    ):
        assert part in text, part
    text = memory.out_of_memory_message(replace(DEMAND, image_size=(32, 1024)), torch.device("cpu"), FULL)
    assert "the area of --image_size 32 1024" in text and "--image_size 32 768: 75% of the rest" in text
    frozen = replace(DEMAND, batch_size=1, trained=1_000_000, autocast=True)
    text = memory.out_of_memory_message(frozen, torch.device("cpu"), FULL)
    assert "0.33 GiB whatever" in text
    assert not any(
        flag in text for flag in ("--batch_size 0", "--auto_batch", "--mixed_precision", "--freeze_backbone")
    )


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory.explain_out_of_memory(DEMAND, torch.device("cpu")):
        raise RuntimeError("shapes do not match")


@pytest.mark.parametrize("text", [FULL, "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..."])
def test_a_full_device_says_what_to_change(squares: Manifest, tmp_path: Path, script, monkeypatch, text: str) -> None:
    from dinov3.defect_commands import train

    def run_out(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError(text)

    monkeypatch.setattr(train, "fit", run_out)
    arguments = ["--data_root", squares.root, "--save_dir", tmp_path, *TRAIN_FLAGS]
    status, _, err = script("train_defect_model", *arguments)
    assert status == 1
    assert all(part in err for part in ("ran out of memory", "--batch_size 4 --accumulate 2", "(1.7 M parameters"))


def test_auto_batch_keeps_the_images_per_update(monkeypatch) -> None:
    def trial(step: object, batch: int, *rest: object) -> None:
        if batch > 13:
            raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr(memory, "trial_step", trial)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (8 * memory.GIB, 16 * memory.GIB))
    options = {"precision": Precision(torch.device("cuda"), None), "normalization": GRAY}
    step = torch.nn.Identity()
    assert memory.find_batch_size(step, replace(DEMAND, batch_size=64), most=1000, **options) == (13, 5)
    assert memory.find_batch_size(step, replace(DEMAND, batch_size=4), most=1000, **options) == (13, 1)
    assert memory.find_batch_size(step, replace(DEMAND, batch_size=4), most=6, **options) == (6, 1)
    # a trial that leaves next to nothing free does not count as fitting
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (memory.GIB // 2, 16 * memory.GIB))
    with pytest.raises(DefectError, match="not even one|ran out of memory"):
        memory.find_batch_size(step, DEMAND, most=1000, **options)


def test_a_trial_leaves_the_model_as_it_was() -> None:
    model = build_model("efficientnet_lite0")
    step = TrainStep(model, MultiTaskLoss())
    before = {key: value.clone() for key, value in step.state_dict().items()}
    demand = replace(DEMAND, image_size=64, trained=1000)
    memory.trial_step(step, 2, demand, Precision(torch.device("cpu"), None), GRAY)
    assert all(torch.equal(value, before[key]) for key, value in step.state_dict().items())
    assert all(parameter.grad is None for parameter in step.parameters())
