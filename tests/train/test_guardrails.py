"""What a run does about losses that are not finite, spikes, standstill, and stages that learn nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_squares

import dinov3.train.train_defect_classifier as loop
from dinov3.data.defect_manifest import Manifest
from dinov3.defect_errors import DefectError
from dinov3.models.defect_checkpoint import load_checkpoint
from dinov3.train.defect_config import TrainConfig
from dinov3.train.defect_guardrails import EarlyStopping, LossGuard
from dinov3.train.defect_run_diagnosis import is_constant_mask, is_constant_verdict, learned_nothing

pytestmark = pytest.mark.usefixtures("undrawn")
FLAGS = "--backbone timm:test_efficientnet --weights none --image_size 32 --batch_size 4 --num_workers 0 --device cpu"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_squares(tmp_path_factory.mktemp("guard") / "data", train=12, val=4, test=2)


def flags(data: Manifest, save_dir: Path, *more: object) -> list[object]:
    return ["--data_root", data.root, "--save_dir", save_dir, *FLAGS.split(), *more]


def log_lines(save_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (save_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch):
    """``poison(numbers)`` makes the images of these training batches, counted from 0, NaN."""

    def install(numbers: set[int]) -> None:
        original, seen = loop.to_device, []

        def to_device(*args: object) -> tuple[torch.Tensor, ...]:
            images, *rest = original(*args)
            seen.append(1)
            return (images * float("nan") if len(seen) - 1 in numbers else images, *rest)

        monkeypatch.setattr(loop, "to_device", to_device)

    return install


def test_a_batch_whose_loss_is_not_finite_is_named_and_changes_nothing(
    data: Manifest, tmp_path: Path, script, poison
) -> None:
    poison({0, 1, 2})
    status, out, err = script("train_defect_model", *flags(data, tmp_path / "none", "--epochs", 1))
    assert status == 1 and "in none of its batches" in err
    poison({4})
    status, out, err = script("train_defect_model", *flags(data, tmp_path / "one", "--epochs", 2))
    assert status == 0
    for words in ("epoch 2, batch 2", "not finite", "cls_loss nan", "gradient norm nan", "1 of at most 10"):
        assert words in out + err
    note = next(line for line in (out + err).splitlines() if "files:" in line)
    assert note.count("train/") == 4
    assert [line["skipped_batches"] for line in log_lines(tmp_path / "one")] == [0, 1]
    content = load_checkpoint(tmp_path / "one/last.pth")
    values = [*content["model"].values(), *(v for s in content["optimizer"]["state"].values() for v in s.values())]
    assert all(value.isfinite().all() for value in values)  # statistics of norms, too
    assert {int(state["step"]) for state in content["optimizer"]["state"].values()} == {5}


def test_a_bad_batch_takes_the_others_of_its_update_with_it(data: Manifest, tmp_path: Path, script, poison) -> None:
    poison({1})  # of three, in updates of two and one
    more = ("--epochs", 1, "--accumulate", 2, "--ema_decay", 0.9)
    status, out, err = script("train_defect_model", *flags(data, tmp_path, *more))
    assert status == 0 and "epoch 1, batch 2: the loss" in out + err and "batch 1:" not in out + err
    (line,) = log_lines(tmp_path)
    assert (line["skipped_batches"], line["verdicts_seen"], line["masks_seen"]) == (1, 4, 4)
    content = load_checkpoint(tmp_path / "last.pth")
    assert {int(state["step"]) for state in content["optimizer"]["state"].values()} == {1}
    for weights in content["training_state"].values():
        assert all(value.isfinite().all() for value in weights.values())
    trained = content["training_state"]["model"]
    assert {int(value) for name, value in trained.items() if "num_batches_tracked" in name} == {1}


def test_too_many_such_batches_end_the_run(data: Manifest, tmp_path: Path, script, poison) -> None:
    poison({1, 4, 7})
    more = ("--epochs", 3, "--max_skipped_batches", 2)
    status, out, err = script("train_defect_model", *flags(data, tmp_path, *more))
    assert status == 1 and "epoch 3, batch 2" in err and "2 others were skipped" in err and "--lr" in err
    assert load_checkpoint(tmp_path / "last.pth")["epoch"] == 2


def test_weights_that_explode_end_the_run(data: Manifest, tmp_path: Path, script) -> None:
    arguments = flags(data, tmp_path, "--epochs", 2, "--lr", 1e30, "--grad_clip", 0, "--max_skipped_batches", 0)
    status, _, err = script("train_defect_model", *arguments)
    assert status == 1 and "not finite" in err and "epoch 1" in err and "cls_loss" in err


def test_spikes_stand_out_of_what_is_usual() -> None:
    losses = 1 + 0.1 * np.random.default_rng(0).normal(size=300)
    guard = LossGuard(0)
    assert not any(guard.is_spike(loss) for loss in losses)
    again = LossGuard(5)
    again.load_state_dict(guard.state_dict())
    assert again.limit == 5
    for one in (guard, again):
        assert not one.is_spike(1.4) and one.is_spike(4.0) and not one.is_spike(1.0)
    fresh = LossGuard(0)
    assert not any(fresh.is_spike(loss) for loss in (1e3, 1.0, 1e3, 2.0))  # the first ones are anything


def test_the_limit_counts_over_the_whole_run() -> None:
    guard = LossGuard(1)
    assert "1 of at most 1" in guard.skip("epoch 1")
    resumed = LossGuard(1)
    resumed.load_state_dict(guard.state_dict())
    with pytest.raises(DefectError, match="epoch 2"):
        resumed.skip("epoch 2")


def test_early_stopping_ends_a_standstill_and_more_patience_goes_on(data: Manifest, tmp_path: Path, script) -> None:
    more = ("--epochs", 9, "--lr", 0, "--early_stop_metric", "pixel_iou", "--resume", "--early_stop_patience")
    status, out, err = script("train_defect_model", *flags(data, tmp_path, *more, 2))
    assert status == 0 and "stopped after epoch 3: pixel_iou has not improved since epoch 1" in out + err
    assert len(log_lines(tmp_path)) == 3
    status, out, _ = script("train_defect_model", *flags(data, tmp_path, *more, 2))
    assert status == 0 and "nothing to do" in out and "pixel_iou" in out
    assert script("train_defect_model", *flags(data, tmp_path, *more, 3))[0] == 0
    assert len(log_lines(tmp_path)) == 4


@pytest.mark.parametrize(
    ("metric", "values", "end"),
    [
        ("pixel_iou", [0.1, 0.3, 0.3, 0.2, 0.4], 4),
        ("pixel_iou", [float("nan"), 0.1, float("nan"), 0.0, 0.5], 4),
        ("pixel_iou", [float("nan")] * 5, None),
        ("val_total_loss", [3.0, 2.0, 1.5, 1.0, 0.9], None),
        ("val_total_loss", [1.0, 1.1, 1.2], 3),
    ],
)
def test_patience_counts_epochs_without_improvement(metric: str, values: list[float], end: int | None) -> None:
    stopping = EarlyStopping(metric, 2)
    over = []
    for epoch, value in enumerate(values, start=1):
        stopping.update(epoch, {metric: value})
        over.append(stopping.is_over(epoch))
    assert (over.index(True) + 1 if True in over else None) == end


def test_a_stage_that_learned_nothing_says_so_and_why(data: Manifest, tmp_path: Path, script) -> None:
    status, out, _ = script("train_defect_model", *flags(data, tmp_path / "idle", "--epochs", 3, "--lr", 0))
    assert status == 0 and "learned nothing" in out and "--lr is 0" in out
    more = ("--epochs", 1, "--freeze_backbone", "--lr", 1e-6, "--decoder", "light")
    status, out, _ = script("train_defect_model", *flags(data, tmp_path / "random", *more))
    assert status == 0 and "learned nothing" in out and "--weights" in out


def test_constant_answers_are_told_from_weak_ones() -> None:
    def metrics(confusion: list[list[int]], auroc: float) -> dict:
        right = sum(row[i] for i, row in enumerate(confusion))
        return {"confusion": confusion, "image_accuracy": right / sum(map(sum, confusion)), "image_auroc": auroc}

    assert is_constant_verdict(metrics([[90, 0], [10, 0]], 0.5))
    assert not is_constant_verdict(metrics([[90, 0], [10, 0]], 0.9))  # ranks well: the threshold is the matter
    assert not is_constant_verdict(metrics([[90, 0], [5, 5]], 0.7))
    assert not is_constant_verdict(metrics([[0, 0], [10, 0]], 0.5))  # nothing to tell apart
    share = 0.03  # of defect pixels
    assert is_constant_mask({"pixel_iou": 0.0, "pixel_miou": (1 - share) / 2})
    assert is_constant_mask({"pixel_iou": share, "pixel_miou": share / 2})
    assert not is_constant_mask({"pixel_iou": 0.02, "pixel_miou": 0.49})
    assert not is_constant_mask({"pixel_iou": None, "pixel_miou": None})


def test_a_stage_that_learned_is_not_warned_about(trained: Path, tmp_path: Path) -> None:
    content = load_checkpoint(trained / "last.pth")
    log = tmp_path / "metrics.jsonl"
    record = log_lines(trained)[-1] | {"image_accuracy": 0.9, "image_auroc": 0.95, "confusion": [[6, 0], [1, 5]]}
    log.write_text(
        "".join(json.dumps(record | {"epoch": e, "pixel_iou": 0.3, "pixel_miou": 0.6}) + "\n" for e in (1, 2))
    )
    config = TrainConfig(data_root=tmp_path)
    assert learned_nothing(content["best"], log, config) == ""
    lost = {"epoch": 3, "pixel_iou": 0.0, "pixel_miou": 0.48}  # the next stage would start from it
    with log.open("a") as file:
        file.write(json.dumps(record | lost) + "\n")
    warning = learned_nothing(content["best"], log, config)
    assert "the masks of the last epoch" in warning and "the verdicts" not in warning and "--lr" in warning
