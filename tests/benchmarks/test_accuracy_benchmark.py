"""benchmarks/accuracy.py: folds without leaks, one run kept and not run again, and the statistics."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from accuracy import check_peers, main  # noqa: E402
from accuracy_data import keep_masks, without_type  # noqa: E402
from accuracy_folds import assign_folds  # noqa: E402
from accuracy_models import VARIANTS  # noqa: E402
from accuracy_table import image_ap, mean_difference, mean_iou_defect, pixel_iou, pixel_miou  # noqa: E402

from dinov3.data.defect_manifest import read_manifest  # noqa: E402
from dinov3.data.defect_synthesis.demo import write_demo  # noqa: E402
from dinov3.defect_errors import DefectError, run_script  # noqa: E402


def test_folds_hold_every_type_and_never_part_a_group() -> None:
    strata = ["good"] * 40 + ["crack"] * 12 + ["pit"] * 9
    groups = [f"{kind}{number // 3}" for number, kind in enumerate(strata)]
    folds = assign_folds(strata, groups, 3, seed=1)
    assert {(s, f) for s, f in zip(strata, folds, strict=True)} == {(s, f) for s in set(strata) for f in range(3)}
    assert len(set(zip(groups, folds, strict=True))) == len(set(groups))
    with pytest.raises(DefectError, match="pit: only in folds"):
        assign_folds(strata, groups, 5, seed=1)


def test_metrics_of_a_run_by_hand() -> None:
    images = np.zeros(3, [("class_prob", "f4", (2,)), ("label", "i4")] + [(n, "i8") for n in ("tp", "fp", "fn", "tn")])
    images["class_prob"] = [(0.1, 0.9), (0.4, 0.6), (0.7, 0.3)]
    images["label"] = [1, 0, 1]
    images["tp"], images["fp"], images["fn"], images["tn"] = [6, 0, 0], [2, 2, 0], [0, 0, 2], [2, 8, 8]
    run, once = {"images": images}, np.ones(3)
    assert pixel_iou(run, once) == pytest.approx(6 / 12)
    assert pixel_miou(run, once) == pytest.approx((6 / 12 + 18 / 24) / 2)
    assert mean_iou_defect(run, once) == pytest.approx((6 / 8 + 0) / 2)
    assert image_ap(run, once) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert image_ap(run, np.array([2, 1, 0])) == pytest.approx(1)  # two of the first, none of the last
    assert image_ap(run, np.array([0, 2, 1])) == pytest.approx(1 / 3)
    assert mean_iou_defect(run, np.array([2.0, 1.0, 1.0])) == pytest.approx((2 * 6 / 8) / 3)


def run_with_iou(iou: float) -> dict[str, np.ndarray]:
    """Sixteen defect images of eight parts, all outlined equally well."""
    images = np.zeros(16, [("label", "i4")] + [(n, "i8") for n in ("tp", "fp", "fn")])
    images["label"], images["tp"], images["fn"] = 1, round(100 * iou), 100 - round(100 * iou)
    return {"images": images, "group": np.repeat(np.arange(8), 2)}


def test_a_difference_is_only_as_sure_as_the_runs_agree() -> None:
    """Every part is the same here, so the whole interval is that of training's luck."""
    agree = [(fold, run_with_iou(0.5), run_with_iou(0.4)) for fold in (0, 1, 2) for _ in range(3)]
    assert mean_difference(agree, pixel_iou) == pytest.approx((0.1, 0.1, 0.1))
    differ = [(fold, run_with_iou(0.5), run_with_iou(iou)) for fold in (0, 1, 2) for iou in (0.3, 0.4, 0.5)]
    mean, low, high = mean_difference(differ, pixel_iou)
    assert mean == pytest.approx(0.1)
    # 0.2, 0.1 and 0 have a standard deviation of 0.1, the mean of nine such runs one of 0.033; 1.96 of it each side
    assert low == pytest.approx(0.035, abs=0.012) and high == pytest.approx(0.165, abs=0.012)
    two = [(fold, run_with_iou(0.5), run_with_iou(iou)) for fold in (0, 1, 2) for iou in (0.3, 0.5)]
    low, high = mean_difference(two, pixel_iou)[1:]
    assert low == pytest.approx(0.0, abs=0.02) and high == pytest.approx(0.2, abs=0.02)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo dataset; don't change it."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    write_demo(folder, 120, seed=0)
    return folder


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the script in this process: flags -> status, stdout, stderr."""

    def run(*flags: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks/accuracy.py"), *map(str, flags)])
        with pytest.raises(SystemExit) as exit_info:
            run_script(main)
        return int(exit_info.value.code or 0), *capfd.readouterr()

    return run


def test_masks_can_be_kept_for_some_of_the_training_defects_alone(demo: Path) -> None:
    whole, some = read_manifest(demo), keep_masks(read_manifest(demo), 25, seed=3)
    assert (some.labels == whole.labels).all()
    had, has = (manifest.columns["mask"] != "" for manifest in (whole, some))
    train = whole.columns["split"] == "train"
    assert (has == had)[~train].all() and not (has & ~had).any()
    for source in set(whole.columns["source"][had]):
        rows = train & had & (whole.columns["source"] == source)
        assert has[rows].sum() == max(round(rows.sum() / 4), 1)


def test_a_type_of_defect_can_be_tested_without_having_been_in_training(demo: Path) -> None:
    whole = read_manifest(demo)
    kind = whole.columns["source"][whole.labels > 0][0]
    rows = without_type(whole, kind)
    is_test, is_kind = rows.columns["split"] == "test", rows.columns["source"] == kind
    assert is_kind[is_test & (rows.labels > 0)].all() and not is_kind[~is_test].any()
    assert (rows.labels == 0).sum() == (whole.labels == 0).sum()
    assert (rows.labels > 0)[~is_test].any()


def test_a_missing_package_is_said_before_anything_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    check_peers(["guided", "dual_branch"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_peers(["guided", "dual_branch"])
    with pytest.raises(DefectError, match="--variants unet fpn: these need one package more"):
        check_peers(["guided", "unet", "fpn"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--only_folds", "3"), "--only_folds 3: expected 0 to 2"),
        (("--epochs", "2"), "--epochs is 2; expected at least 3"),
    ],
)
def test_what_can_not_be_run_is_said_before_anything_trains(flags: tuple[str, str], message: str, tmp_path, accuracy):
    status, _, error = accuracy("--variants", "guided", "--work_dir", tmp_path, *flags)
    assert status == 1 and message in error and "Traceback" not in error


def test_scores_are_fused_once() -> None:
    fuses = {name: variant.fuses_scores for name, variant in VARIANTS.items()}
    assert fuses["guided"] and fuses["two_stages"] and fuses["light_decoder"]
    assert not any(fuses[name] for name in ("no_fusion", "dual_branch", "progressive", "unet", "fpn"))


def flags_for(data: Path, folder: Path) -> list[object]:
    """Flags for one fold of ``data`` and three epochs, with runs in ``folder``."""
    flags = ["--data", data, "--work_dir", folder, "--seeds", 0, "--folds", 2, "--only_folds", 1, "--weights", "none"]
    return [*flags, "--image_size", 32, "--epochs", 3, "--num_workers", 0, "--device", "cpu"]


def test_one_command_runs_the_folds_and_the_next_one_runs_nothing_again(demo: Path, tmp_path: Path, accuracy) -> None:
    data, runs, tables = tmp_path / "data", tmp_path / "runs", tmp_path / "tables.json"
    shutil.copytree(demo, data)
    flags = [*flags_for(data, runs), "--backbone", "dinov3_vitt16", "--variants", "guided", "dual_branch"]

    def means_of(*more: str) -> dict[str, dict[str, str]]:
        """What the script's table says of each variant."""
        status, _, error = accuracy(*flags, *more, "--json", tables)
        assert status == 0, error
        return json.loads(tables.read_text())["means"]

    status, out, error = accuracy(*flags, "--jobs", 2, "--json", tables)
    assert status == 0, error
    means = json.loads(tables.read_text())["means"]
    assert means["dual_branch"]["runs"] == "1" and f"| {means['guided']['image AP']} | " in out
    assert out.count("fold 1, seed 0") == 2 and "| dual_branch | 1 | " in out
    assert "| mask of guided alone | 1 | " in out
    for how in ("flips", "novelty"):
        status, out, _ = accuracy(*flags, f"--{how}")
        assert status == 0 and "fold 1, seed 0" not in out
        assert f"| guided without {how} | 1 | " in out
    data.rename(tmp_path / "away")
    chosen = means_of("--table_only", "--split", "val")  # which needs no data
    assert chosen["guided"] != means["guided"] and chosen["dual_branch"] != means["dual_branch"]  # of other images
    fused = means_of("--table_only", "--score_fusion")
    assert fused["guided"] == means["guided"] and fused["dual_branch"] != means["dual_branch"]
    (tmp_path / "away").rename(data)
    status, _, error = accuracy(*flags, "--folds", 3)
    assert status == 1 and "its runs had another setting (folds was 2, now 3)" in error
    path = next(runs.rglob("setting.json"))
    old = json.loads(path.read_text())
    del old["tested"]  # before runs were tested at their last epoch
    path.write_text(json.dumps(old))
    status, _, error = accuracy(*flags)
    assert status == 1 and "tested was best epoch, now last epoch" in error
    assert not list(runs.rglob("*.pth")), "weights are left behind"


def test_a_peer_goes_through_the_same_training(demo: Path, tmp_path: Path, accuracy) -> None:
    pytest.importorskip("segmentation_models_pytorch", reason="segmentation-models-pytorch is not installed (peers)")
    status, out, error = accuracy(*flags_for(demo, tmp_path), "--backbone", "efficientnet_lite0", "--variants", "unet")
    assert status == 0, error
    assert "| unet | 1 | " in out
