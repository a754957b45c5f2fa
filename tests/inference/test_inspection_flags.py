"""What the flags of inspection make of the same images: rules, sizes, disagreement, review, calibration."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.inspecting import FLAGS, records_of, rows_of, write_images

from dinov3.data.defect_masks import read_mask
from dinov3.defect_evaluation.thresholds import limit_text
from dinov3.inference.pipeline import predict_files
from dinov3.inference.predictor import DefectPredictor
from dinov3.models.defect_checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def inspect(tiny: Path, tmp_path: Path, script):
    """Runs the script on twelve images: -> status, stdout, stderr."""
    write_images(tmp_path / "in", 12)

    def run(*flags: object, checkpoint: Path = tiny) -> tuple[int, str, str]:
        base = ("--checkpoint", checkpoint, "--image_dir", tmp_path / "in", "--output_dir", tmp_path / "out")
        return script("inference_defect_model", *base, *FLAGS, "--no_visualize", *flags)

    return run


def test_disagreement_is_counted_and_its_policy_applied(inspect, tmp_path: Path) -> None:
    everywhere = ("--threshold", 1, "--mask_threshold", 0)  # the classifier accepts all, the mask marks all
    for policy, verdict in (("classifier", "accept"), ("review", "review"), ("reject", "reject")):
        status, out, _ = inspect(*everywhere, "--on_disagreement", policy)
        rows = rows_of(tmp_path / "out").values()
        assert status == 0 and f"12 {verdict}" in out and "disagree on 12" in out
        assert {(row["verdict"], row["disagreement"]) for row in rows} == {(verdict, "true")}
    assert all("disagree" in row["reason"] for row in rows)


def test_rules_reject_with_their_reason_and_sizes_are_in_millimetres(inspect, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("limits:\n  max_area_mm2: 1.0\n")
    flags = ("--threshold", 1, "--mask_threshold", 0, "--rules", rules)
    status, _, err = inspect(*flags)
    assert status == 1 and "--mm_per_pixel" in err
    assert inspect(*flags, "--mm_per_pixel", 0.5)[0] == 0
    for record in records_of(tmp_path / "out"):
        assert record["verdict"] == "reject" and record["reason"] == "rule max_area_mm2: 144 > 1"
        (cause,) = record["decided_by"]
        assert cause == {"kind": "rule", "rule": "max_area_mm2", "class": None, "value": 144, "most": 1, "regions": 1}
        region = record["regions"][0]
        assert (
            region["area"] == 24 * 24
            and region["area_mm2"] == 144
            and region["length_mm"] == pytest.approx(region["length"] / 2, abs=0.01)
        )


def test_small_regions_are_left_out_of_the_mask_too(inspect, tmp_path: Path) -> None:
    for least in (0, 577):
        inspect("--mask_threshold", 0, "--min_region_area", least)
        marked = [(read_mask(tmp_path / "out" / r["mask"]) > 0).sum() for r in records_of(tmp_path / "out")]
        assert marked == [0 if least else 576] * 12


def test_a_calibrated_checkpoint_reviews_and_says_what_it_promises(inspect, tiny: Path, tmp_path: Path) -> None:
    content = load_checkpoint(tiny)
    plain = DefectPredictor.from_checkpoint(tiny, device="cpu")(str(tmp_path / "in/0000.png"))
    content["thresholds"] |= {"classification": 1.0, "review": 0.0, "temperature": 2.0}
    content["calibration"] = {"target": "max_miss_rate 0.01", "promise": "misses at most 1% of defects"}
    content = {key: value for key, value in content.items() if key not in ("kind", "format_version")}
    save_checkpoint(tmp_path / "calibrated.pth", content)
    status, out, _ = inspect(checkpoint=tmp_path / "calibrated.pth")
    assert status == 0 and "0 accept, 12 review, 0 reject" in out
    assert "review from 0" in out and "misses at most 1% of defects" in out
    row = rows_of(tmp_path / "out")["0000.png"]
    assert row["review_threshold"] == "0.0" and "review limit" in row["reason"]
    p = np.array(list(plain.probabilities.values())) ** 0.5
    assert float(row["prob_defect"]) == pytest.approx(p[1] / p.sum(), abs=2e-6)
    alone, beside = tmp_path / "alone.yaml", tmp_path / "beside.yaml"
    alone.write_text("verdict: rules\nlimits: {max_count: 0}\n")
    beside.write_text("limits: {max_count: 0}\n")
    # The promise is not of another threshold, nor of other tiles, nor of rules that may accept.
    for flags in (("--threshold", 0.5), ("--tile_size", 16), ("--rules", alone), ("--rules", beside)):
        status, out, _ = inspect(*flags, checkpoint=tmp_path / "calibrated.pth")
        promised = beside in flags
        page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
        assert status == 0 and ("misses at most 1%" in out) == ("misses at most 1%" in page) == promised, flags


def test_a_limit_next_to_1_is_not_shown_as_1(inspect, tiny: Path, tmp_path: Path) -> None:
    content = load_checkpoint(tiny)
    content["thresholds"] |= {"classification": 1 + 1e-6}  # nothing is rejected
    save_checkpoint(tmp_path / "never.pth", {k: v for k, v in content.items() if k not in ("kind", "format_version")})
    assert "reject from 1.000001," in inspect(checkpoint=tmp_path / "never.pth")[1]
    assert "<b>1.000001</b>" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    texts = {0.43620103: "0.4362", 0.99996033: "0.99996", 1.0: "1", 0.0: "0", 3e-7: "3e-07", 1 + 1e-6: "1.000001"}
    assert {limit: limit_text(limit) for limit in texts} == texts


@pytest.mark.parametrize("more", [(), ("--watch",)])
def test_results_do_not_go_among_the_images(inspect, tiny: Path, tmp_path: Path, script, more: tuple) -> None:
    """A watcher would take its own masks for new images, and never end."""
    before = sorted(tmp_path.rglob("*"))
    status, _, err = inspect("--output_dir", tmp_path / "in", *more)
    assert status == 1 and "choose another folder" in err
    (tmp_path / "in").rename(tmp_path / "masks")
    status, _, err = inspect("--image_dir", tmp_path / "masks", "--output_dir", tmp_path, *more)
    assert status == 1 and "choose another folder" in err
    if not more:
        command = ("--checkpoint", tiny, "--image", tmp_path / "masks/0000.png", "--output_dir", tmp_path, *FLAGS)
        status, _, err = script("inference_defect_model", *command)
        assert status == 1 and "choose another --output_dir" in err
    (tmp_path / "masks").rename(tmp_path / "in")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--mm_per_pixel", 0), 2, "--mm_per_pixel"),
        (("--min_region_area", -1), 2, "--min_region_area"),
        (("--on_disagreement", "ignore"), 2, "--on_disagreement"),
        (("--rules", "absent.yaml"), 1, "absent.yaml"),
        (("--tile_overlap", 0.5), 1, "--tile_overlap 0.5: whole images have no tiles"),
    ],
)
def test_wrong_flags_are_named(inspect, tmp_path: Path, flags: tuple, status: int, message: str) -> None:
    found, _, err = inspect(*flags)
    assert found == status and message in err and not (tmp_path / "out").exists()


def test_kinds_of_images_for_the_library(tiny: Path, tmp_path: Path) -> None:
    predictor = DefectPredictor.from_checkpoint(tiny, device="cpu")
    rng = np.random.default_rng(0)
    color = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    opaque = np.dstack([color, np.full((20, 30), 255, np.uint8)])
    results = predictor([color, opaque, torch.from_numpy(color).permute(2, 0, 1), color[:, ::-1][:, ::-1]])
    assert len({result.defect_probability for result in results}) == 1
    grey = color[..., 0]
    one, other = predictor(grey), predictor(torch.from_numpy(grey)[None])
    assert one.defect_probability == pytest.approx(other.defect_probability) and one.mask.shape == (20, 30)
    assert one.reason and one.review_threshold is None and isinstance(one.disagrees, bool)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no resource module")
def test_memory_does_not_grow_with_the_number_of_images(tiny: Path, tmp_path: Path) -> None:
    names = write_images(tmp_path / "in", 8, size=1000)
    predictor = DefectPredictor.from_checkpoint(tiny, device="cpu", mask_threshold=0)
    paths = [tmp_path / "in" / name for name in names]

    def run(count: int) -> int:
        results = predict_files(predictor, paths * count, lambda *result: result, batch_size=8, num_workers=0)
        assert sum(result.mask.all() for _, result, _ in results) == 8 * count
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    few, many = run(3), run(18)  # 120 more masks of a million pixels
    assert (many - few) / 1024 < 60, "MB more for six times the images"


def test_a_compiled_network_sees_batches_of_one_size(tiny: Path, tmp_path: Path) -> None:
    """For another size it would be compiled anew: bad files and the last batch are made up for."""
    names = write_images(tmp_path, 12)
    for name in names[1:4]:
        (tmp_path / name).write_bytes(b"")
    predictor, sizes = DefectPredictor.from_checkpoint(tiny, device="cpu"), []
    predictor.engine.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    paths, results = [tmp_path / name for name in [*names[4:], *names[:4]]], {}
    for predictor.engine.compiled in (False, True):
        found = predict_files(predictor, paths, lambda *result: result, batch_size=5, num_workers=0)
        results[predictor.engine.compiled] = [getattr(r, "defect_probability", None) for _, r, _ in found]
    assert sizes == [5, 4, 5, 5]
    assert [p is None for p in results[True]] == [number >= 9 for number in range(12)]
    assert [p or 0 for p in results[True]] == pytest.approx([p or 0 for p in results[False]], abs=1e-5)
