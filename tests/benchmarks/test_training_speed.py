"""The benchmark of training speed: what it prints, and what one failing row does to the others."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch import nn

from dinov3.defect_errors import DefectError

sys.path.append(str(ROOT / "benchmarks"))

import chip  # noqa: E402
import training_report as report  # noqa: E402
import training_speed as speed  # noqa: E402
from training_runs import BARE, FINE, FROZEN, NotPossibleError  # noqa: E402

CPU = torch.device("cpu")
TINY = "--device cpu --image_size 64 --batch_size 2 --rounds 2 --steps 1".split()
SETTINGS = speed.build_parser().parse_args([*TINY, "--rounds", "3"])


def test_a_tiny_run_prints_every_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)  # as if it were not installed
    speed.main(
        [
            *TINY,
            "--backbone",
            "efficientnet_lite0",
            "--decoder",
            "light",
            "--epochs",
            "1",
            "2",
            "3",
            "--table",
            "--json",
            str(tmp_path / "rows.json"),
        ]
    )
    out = capsys.readouterr().out
    for name in (BARE, FINE, FROZEN):
        assert float(re.search(rf"{name} +([\d.e+]+)  - +\d+%\n", out)[1]) > 0, name
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    # Forward and backward take three times the operations of the forward pass alone, but for the first layer's.
    assert 2 * rows["frozen"]["flop_per_image"] < rows["fine"]["flop_per_image"] < 4 * rows["frozen"]["flop_per_image"]
    assert all(0 < rows[name]["of_matrix_rate"] for name in ("bare", "fine", "frozen"))
    assert re.search(r"smp +- +- +not installed \(pip install segmentation-models-pytorch\)", out)
    assert re.search(r"fine-tuning / bare backbone: [\d.]+, (reached|missed) \(aim: at least 0.9\)", out)
    assert "fine-tuning / smp: not measured (aim: at least 1)" in out
    assert re.search(r"1 \+ 2 \+ 3 epochs of 10,000 training images, .*: [\d.]+ h at these rates", out)
    header, line, row = out.strip().splitlines()[-3:]
    assert header.count("|") == line.count("|") == row.count("|")
    assert row.startswith("| efficientnet_lite0, 64 px, batch 2 |")


@pytest.mark.parametrize("groups", [1, 8])
def test_operations_are_counted_forward_and_backward(groups: int) -> None:
    layer, images = nn.Conv2d(8, 16, 3, padding=1, groups=groups), torch.rand(2, 8, 10, 10, requires_grad=True)
    forward = 2 * (2 * 16 * 10 * 10) * (8 // groups * 9)  # a multiplication and an addition for each kernel value
    assert chip.count_flop(lambda: layer(images)) == forward
    assert chip.count_flop(lambda: layer(images).sum().backward()) == 3 * forward
    assert chip.count_flop(lambda: torch.compile(layer)(images)) == forward


def test_smp_is_measured_on_a_vit(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("segmentation_models_pytorch", reason="the pair needs segmentation-models-pytorch")
    speed.main([*TINY, "--backbone", "timm:test_vit", "--image_size", "72", "--rounds", "1"])
    out = capsys.readouterr().out
    assert "(smp: 96 px, the next multiple it takes)" in out and re.search(r"fine-tuning / smp: [\d.]+", out)


def test_running_out_of_memory_loses_only_that_row() -> None:
    turns = {"fits": 0, "late": 0}

    def builds_none() -> speed.Run:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def counts(name: str, limit: float) -> speed.Run:
        def run(steps: int) -> None:
            turns[name] += 1
            if turns[name] > limit:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        return run

    def is_missing() -> speed.Run:
        raise NotPossibleError("no such pair")

    build = {"full": builds_none, "late": lambda: counts("late", 2), "missing": is_missing}
    rows = speed.measure(build | {"fits": lambda: counts("fits", math.inf)}, SETTINGS, CPU)
    assert [rows[name].note for name in rows] == ["out of memory", "out of memory", "no such pair", ""]
    assert [len(rows[name].rates) for name in rows] == [0, 0, 0, 3]
    assert turns == {"fits": 2 + 3, "late": 3}  # to warm up, to count, and the rounds


def test_other_errors_are_not_hidden() -> None:
    def broken() -> speed.Run:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        speed.measure({"broken": broken}, SETTINGS, CPU)


def test_ratios_are_taken_within_rounds_and_the_schedule_adds_up() -> None:
    rows = {FINE: report.Row(rates=[10.0, 20.0, 5.0]), FROZEN: report.Row(rates=[30.0, 40.0, 20.0])}
    assert report.ratio(rows, FROZEN, FINE) == 3.0  # of 3, 2 and 4
    # 3 epochs of 3,000 images at 30 a second, and 5 at 10: 300 s and 1,500 s.
    assert report.hours(rows, 3000, (3, 4, 1)) == pytest.approx(1800 / 3600)
    assert report.hours({FINE: report.Row(), FROZEN: report.Row()}, 3000, (3, 4, 1)) is None


def test_the_reference_settings_are_measured_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["dinov3_vitt16:2:1", "efficientnet_lite0:1:0.5"]
    speed.main(["--reference", *settings, "--device", "cpu", "--image_size", "64", "--rounds", "1", "--steps", "1"])
    out = capsys.readouterr().out
    assert re.search(r"dinov3_vitt16, 64 px, batch 2: [\d.]+ images/s; .* of 1 GiB: memory is counted on CUDA", out)
    assert re.search(r"efficientnet_lite0, 64 px, batch 1: [\d.]+ images/s; .* of 0.5 GiB: ", out)


def test_a_wrong_reference_says_what_is_expected() -> None:
    with pytest.raises(DefectError, match="--reference dinov3_vitt16: expected BACKBONE:BATCH:GIB"):
        speed.main(["--reference", "dinov3_vitt16", "--device", "cpu"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is counted on CUDA devices only")
def test_memory_is_compared_with_the_budget(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["dinov3_vitt16:2:8", "dinov3_vitt16:2:0.001"]
    speed.main(["--reference", *settings, "--device", "cuda", "--image_size", "64", "--rounds", "1", "--steps", "1"])
    out = capsys.readouterr().out
    assert "of 8 GiB: fits" in out and "of 0.001 GiB: does not fit" in out
