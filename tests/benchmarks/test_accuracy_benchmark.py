"""benchmarks/accuracy.py: folds without leaks, one run kept and not run again, and the statistics."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.accuracy_benchmark import Accuracy, accuracy_script
from helpers.forking import Launcher

from dinov3.data.defect_manifest import read_manifest
from dinov3.data.defect_synthesis.demo import write_demo
from dinov3.defect_errors import DefectError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import accuracy_metrics as metrics  # noqa: E402
import accuracy_runs  # noqa: E402
from accuracy import check_peers  # noqa: E402
from accuracy_data import keep_defects, keep_masks, trained_on, without_type  # noqa: E402
from accuracy_folds import assign_folds  # noqa: E402
from accuracy_intervals import mean_difference  # noqa: E402
from accuracy_power import print_power  # noqa: E402
from accuracy_runs import write_run  # noqa: E402
from accuracy_variants import VARIANTS  # noqa: E402

pytestmark = pytest.mark.usefixtures("undrawn")


def test_folds_hold_every_type_and_never_part_a_group() -> None:
    strata = ["good"] * 40 + ["crack"] * 12 + ["pit"] * 9
    groups = [f"{kind}{number // 3}" for number, kind in enumerate(strata)]
    folds = assign_folds(strata, groups, 3, seed=1)
    assert {(s, f) for s, f in zip(strata, folds, strict=True)} == {(s, f) for s in set(strata) for f in range(3)}
    assert len(set(zip(groups, folds, strict=True))) == len(set(groups))
    with pytest.raises(DefectError, match="pit: only in folds"):
        assign_folds(strata, groups, 5, seed=1)


def test_metrics_of_a_run_by_hand() -> None:
    images = np.zeros(3, [("score", "f8"), ("label", "i4")] + [(n, "i8") for n in ("tp", "fp", "fn", "tn")])
    images["score"] = [0.9, 0.6, 0.3]
    images["label"] = [1, 0, 1]
    images["tp"], images["fp"], images["fn"], images["tn"] = [6, 0, 0], [2, 2, 0], [0, 0, 2], [2, 8, 8]
    run, once = {"images": images}, np.ones(3)
    assert metrics.pixel_iou(run, once) == pytest.approx(6 / 12)
    assert metrics.pixel_miou(run, once) == pytest.approx((6 / 12 + 18 / 24) / 2)
    assert metrics.mean_iou_defect(run, once) == pytest.approx((6 / 8 + 0) / 2)
    assert metrics.image_ap(run, once) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert metrics.image_ap(run, np.array([2, 1, 0])) == pytest.approx(1)  # two of the first, none of the last
    assert metrics.image_ap(run, np.array([0, 2, 1])) == pytest.approx(1 / 3)
    assert metrics.mean_iou_defect(run, np.array([2.0, 1.0, 1.0])) == pytest.approx((2 * 6 / 8) / 3)


def test_threshold_and_misses_by_hand() -> None:
    images = np.zeros(6, [("score", "f8"), ("label", "i4")])
    images["score"], images["label"] = [0.1, 0.2, 0.6, 0.4, 0.7, 0.9], [0, 0, 0, 1, 1, 1]
    run, once = {"images": images}, np.ones(6)
    assert metrics.best_threshold(run) in (pytest.approx(0.65), pytest.approx(0.3))  # one wrong either way
    run["threshold"] = 0.65
    assert metrics.accuracy(run, once) == pytest.approx(5 / 6)
    assert metrics.misses(run, once) == pytest.approx(1 / 3)  # no good one may be rejected: what is at most 0.6 passes
    assert metrics.misses(run, np.array([20, 1, 1, 1, 1, 1])) == pytest.approx(0)  # one of 22 good ones may


def run_with_iou(iou: float) -> dict[str, np.ndarray]:
    """Sixteen defect images of eight parts, all outlined equally well."""
    images = np.zeros(16, [("label", "i4")] + [(n, "i8") for n in ("tp", "fp", "fn")])
    images["label"], images["tp"], images["fn"] = 1, round(100 * iou), 100 - round(100 * iou)
    return {"images": images, "group": np.repeat(np.arange(8), 2)}


def test_a_difference_is_only_as_sure_as_the_runs_agree() -> None:
    """Every part is the same here, so the whole interval is that of training's luck."""
    agree = [(fold, run_with_iou(0.5), run_with_iou(0.4)) for fold in (0, 1, 2) for _ in range(3)]
    assert mean_difference(agree, metrics.pixel_iou) == pytest.approx((0.1, 0.1, 0.1))
    differ = [(fold, run_with_iou(0.5), run_with_iou(iou)) for fold in (0, 1, 2) for iou in (0.3, 0.4, 0.5)]
    mean, low, high = mean_difference(differ, metrics.pixel_iou)
    assert mean == pytest.approx(0.1)
    # 0.2, 0.1 and 0 have a standard deviation of 0.1, the mean of nine such runs one of 0.033; 1.96 of it each side
    assert low == pytest.approx(0.035, abs=0.012) and high == pytest.approx(0.165, abs=0.012)
    two = [(fold, run_with_iou(0.5), run_with_iou(iou)) for fold in (0, 1, 2) for iou in (0.3, 0.5)]
    low, high = mean_difference(two, metrics.pixel_iou)[1:]
    assert low == pytest.approx(0.0, abs=0.02) and high == pytest.approx(0.2, abs=0.02)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo dataset; don't change it."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    write_demo(folder, 96, seed=0)
    return folder


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Accuracy:
    return accuracy_script(monkeypatch, capfd)


def test_masks_can_be_kept_for_some_of_the_training_defects_alone(demo: Path) -> None:
    whole, some = read_manifest(demo), keep_masks(read_manifest(demo), 25, seed=3)
    assert (some.labels == whole.labels).all()
    had, has = (manifest.columns["mask"] != "" for manifest in (whole, some))
    train = whole.columns["split"] == "train"
    assert (has == had)[~train].all() and not (has & ~had).any()
    for source in set(whole.columns["source"][had]):
        rows = train & had & (whole.columns["source"] == source)
        assert has[rows].sum() == max(round(rows.sum() / 4), 1)


def test_some_of_the_defective_parts_can_train_alone(demo: Path) -> None:
    whole = read_manifest(demo)
    some, fewer = keep_defects(whole, 50, seed=3), keep_defects(whole, 25, seed=3)
    rest = (whole.columns["split"] != "train") | (whole.labels == 0)
    assert set(whole.columns["image"][rest]) <= set(fewer.columns["image"]) < set(some.columns["image"])
    for source in set(whole.columns["source"][~rest]):
        parts, kept = (
            {g for g, s, t in zip(*(m.columns[n] for n in ("group", "source", "split")), strict=True) if s == source}
            for m in (whole.subset(~rest), some.subset((some.columns["split"] == "train") & (some.labels > 0)))
        )
        assert len(kept) == max(round(len(parts) / 2), 1)
    assert trained_on(some)["defective_parts"] < trained_on(whole)["defective_parts"]


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
    flags = [
        "--data",
        data,
        "--work_dir",
        folder / "work",
        "--runs",
        folder,
        "--seeds",
        0,
        "--folds",
        2,
        "--only_folds",
        1,
        "--weights",
        "none",
    ]
    return [*flags, "--image_size", 32, 64, "--epochs", 3, "--num_workers", 0, "--device", "cpu"]


def test_one_command_runs_the_folds_and_the_next_one_runs_nothing_again(
    launcher: Launcher, demo: Path, tmp_path: Path, accuracy, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, runs, tables = tmp_path / "data", tmp_path / "runs", tmp_path / "tables.json"
    shutil.copytree(demo, data)
    flags = [*flags_for(data, runs), "--backbone", "timm:test_vit", "--variants", "guided", "dual_branch"]

    def means_of(*more: str) -> dict[str, dict[str, str]]:
        """What the script's table says of each variant."""
        status, _, error = accuracy(*flags, *more, "--json", tables)
        assert status == 0, error
        return json.loads(tables.read_text())["means"]

    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(launcher.python(tmp_path / "bin")))
        status, out, error = accuracy(*flags, "--jobs", 2, "--json", tables)
    assert status == 0, error
    means = json.loads(tables.read_text())["means"]
    assert means["dual_branch"]["runs"] == "1" and f"| {means['guided']['image AP']} | " in out
    assert out.count("fold 1, seed 0") == 2 and "| dual_branch | 1 | " in out
    assert "| mask of guided alone | 1 | " in out and "| classifier of guided alone | 1 | " in out
    kept = sorted(runs.rglob("fold1_seed0.json"))
    assert [path.parent.name for path in kept] == ["dual_branch", "guided"] and kept[0].stat().st_size < 20_000
    status, out, _ = accuracy(*flags, "--check", "--power")
    assert status == 0 and "fold 1, seed 0" not in out and "| guided | 1 | 1 |" in out
    data.rename(tmp_path / "away")
    chosen = means_of("--table_only", "--split", "val")  # which needs no data
    assert chosen["guided"] != means["guided"] and chosen["dual_branch"] != means["dual_branch"]  # of other images
    fused = means_of("--table_only", "--score_fusion")
    assert fused["guided"] == means["guided"] and fused["dual_branch"] != means["dual_branch"]
    status, out, _ = accuracy("--all", "--runs", runs)
    assert status == 0 and f"| {means['guided']['image AP']} | " in out and "## data_grouped" in out
    (tmp_path / "away").rename(data)
    status, _, error = accuracy(*flags, "--folds", 3)
    assert status == 1 and "it had another setting (folds was 2, now 3)" in error
    old = kept[1].read_text()
    kept[1].write_text(old.replace(json.loads(old)["code"], "0" * 12))
    _, out, _ = accuracy(*flags, "--table_only", "--check")
    assert "| guided | 1 | 0 |" in out and "| dual_branch | 1 | 1 |" in out  # one was run with other code
    kept[1].write_text(old[: len(old) // 2])
    status, _, error = accuracy(*flags, "--table_only")
    assert status == 1 and "fold1_seed0.json: no run of accuracy.py" in error and "Traceback" not in error
    assert not list(tmp_path.rglob("*.pth")), "weights are left behind"


def test_answers_that_come_about_otherwise_are_kept_beside_the_plain_ones(demo: Path, tmp_path: Path, accuracy) -> None:
    flags = [*flags_for(demo, tmp_path), "--backbone", "timm:test_vit", "--variants", "guided", "--novelty"]
    status, out, error = accuracy(*flags)
    assert status == 0, error
    assert "| guided without novelty | 1 | " in out
    assert {path.name for path in tmp_path.rglob("fold*.json")} == {"fold1_seed0.json", "fold1_seed0_novelty.json"}


def test_power_follows_from_the_spread_of_parts_and_runs(tmp_path: Path, capsys) -> None:
    """Forty parts that differ, two runs that agree: more runs show no smaller difference."""
    rng = np.random.default_rng(0)
    fixed = {"kinds": ["pit"], "kind": [0] * 40, "part": list(range(40)), "label": [1] * 40, "size": [[10, 10]]}
    fixed |= {"score": [0.5] * 40, "peak": [0.5] * 40, "fp": [0] * 40, "tn": [0] * 40}
    fixed["regions"] = {"image": [], "area": [], "coverage": []}
    for variant in ("guided", "unet"):
        found = rng.integers(0, 100, 40)
        packed = fixed | {"tp": found.tolist(), "fn": (100 - found).tolist()}
        for seed in (0, 1):
            path = tmp_path / variant / f"fold0_seed{seed}.json"
            write_run(path, {"variant": variant}, 1, {"val": packed, "test": packed})
    print_power(tmp_path, ["guided", "unet"], [0, 1], [0])
    rows = {line.split(" | ")[0]: line.strip("| ").split(" | ")[1:] for line in capsys.readouterr().out.splitlines()}
    parts, luck, *shown = map(float, rows["| pixel IoU"])
    # found has a standard deviation of 0.29; the mean difference of 40 parts one of 0.29 * sqrt(2 / 40)
    assert luck == 0 and parts == pytest.approx(0.065, abs=0.015)
    assert shown[0] == shown[-1] == pytest.approx(2.8 * parts, abs=0.002)
    assert set(rows["| image AP"]) == {"-"}  # nothing to tell apart


def test_a_peer_goes_through_the_same_training(demo: Path, tmp_path: Path, accuracy) -> None:
    pytest.importorskip("segmentation_models_pytorch", reason="segmentation-models-pytorch is not installed (peers)")
    status, out, error = accuracy(
        *flags_for(demo, tmp_path), "--backbone", "timm:test_efficientnet", "--variants", "unet"
    )
    assert status == 0, error
    assert "| unet | 1 | " in out


def test_a_run_is_of_todays_code_until_something_that_decides_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder of this project's says nothing about a peer, which has its own."""
    for name in ("dinov3/models", "dinov3/train", "benchmarks"):
        ignored = shutil.ignore_patterns("runs", "__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    monkeypatch.setattr(accuracy_runs, "ROOT", tmp_path)

    def digests() -> dict[str, str]:
        accuracy_runs.code_digest.cache_clear()
        return {name: accuracy_runs.code_digest(name) for name in ("guided", "two_stages", "unet")}

    def append(name: str, line: str) -> None:
        with (tmp_path / name).open("a") as file:
            file.write(f"\n{line}\n")

    before = digests()
    append("dinov3/models/defect_decoder.py", "# A comment.")
    append("benchmarks/accuracy_variants.py", "VARIANTS['more'] = VARIANTS['guided']")
    assert digests() == before and len(set(before.values())) == 3
    append("dinov3/models/defect_decoder.py", "WIDTH = 1")
    assert {name for name, digest in digests().items() if digest != before[name]} == {"guided", "two_stages"}
    append("dinov3/models/defect_loss.py", "WEIGHT = 1")
    assert digests()["unet"] != before["unet"]
    accuracy_runs.code_digest.cache_clear()
