"""Inspection, evaluation and calibration of exported models, and that they need no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from helpers.inspecting import FLAGS, records_of, rows_of, write_images
from helpers.networks import small_facts
from helpers.toy_onnx import write_toy

from dinov3.data.defect_manifest import Manifest
from dinov3.defect_errors import DefectError
from dinov3.inference import DefectPredictor
from dinov3.models.defect_engines import open_engine
from dinov3.models.defect_engines.onnx_file import read_facts

pytestmark = pytest.mark.usefixtures("sessions_end")
ENGINES = ("onnx", "openvino")
# Runs a script where what training needs beside inspection cannot be imported.
WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm", "torchmetrics", "matplotlib", "usearch"):
            raise ModuleNotFoundError(f"no {name}", name=name.split(".")[0])

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv.pop(1))
script = __import__(sys.argv.pop(1))
script.console()
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "toy.onnx", small_facts(image_size=(32, 48)))


@pytest.mark.parametrize("name", ENGINES)
def test_engines_answer_in_any_batch(toy: Path, name: str) -> None:
    pytest.importorskip("openvino" if name == "openvino" else "onnxruntime")
    engine = open_engine(toy, name, device="cpu", threads=1)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)
    whole = engine.run(images)
    np.testing.assert_allclose(whole.class_prob[:, 1], images.mean((1, 2, 3)) / 255, atol=1e-6)
    np.testing.assert_allclose(whole.mask_prob[:, 0], images.mean(3) / 255, atol=1e-6)
    first, rest = engine.run(images[:2]), engine.run(images[2:])
    for together, *apart in zip(whole[:3], first, rest, strict=False):
        np.testing.assert_allclose(together, np.concatenate(apart), atol=1e-6)
    assert whole.novelty is None and engine.facts == read_facts(toy)
    np.testing.assert_allclose(whole.embedding, images.mean((1, 2)) / 255, atol=1e-6)
    with pytest.raises(ValueError, match="expected uint8 of shape"):
        engine.run(images[:, :, :32])


def test_a_file_of_before_embeddings_answers_without_one(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = write_toy(tmp_path / "older.onnx", small_facts(), embedding=False)
    found = open_engine(path, "onnx", device="cpu", threads=1).run(np.full((1, 32, 32, 3), 51, np.uint8))
    assert found.embedding is None and found.class_prob[0, 1] == pytest.approx(0.2)


def test_options_that_an_engine_does_not_have_are_named(toy: Path, tiny: Path) -> None:
    for options, message in (
        ({"engine": "torch"}, "is an exported model, for the engine onnx or openvino"),
        ({"precision": "bf16"}, "computes in fp32"),
        ({"device": "tpu"}, "this onnxruntime has"),
        ({"compile": True}, "--compile"),
        ({"backbone": "dinov3_vitl16"}, "was trained with dinov3_vitt16"),
    ):
        with pytest.raises(DefectError, match=message):
            open_engine(toy, **options)
    with pytest.raises(DefectError, match="is a checkpoint, for the engine torch"):
        open_engine(tiny, "onnx")


def test_a_model_brings_its_rules(tmp_path: Path) -> None:
    image = np.full((40, 60, 3), 40, np.uint8)
    image[5:10, 5:10] = image[30:35, 40:45] = 250
    path = write_toy(tmp_path / "model.onnx", small_facts(rules={"limits": {"max_count": 1}}))
    prediction = DefectPredictor.from_checkpoint(path)(image)
    assert prediction.verdict == "reject" and [cause["kind"] for cause in prediction.decided_by] == ["rule"]
    allowed = write_toy(path, small_facts(rules={"limits": {"max_count": 2}}))
    assert DefectPredictor.from_checkpoint(allowed)(image).verdict == "accept"
    broken = write_toy(path, small_facts(rules={"limits": {"max_counts": 2}}))
    with pytest.raises(DefectError, match="max_counts"):
        DefectPredictor.from_checkpoint(broken)


def test_the_script_inspects_without_torch(toy: Path, tmp_path: Path, script) -> None:
    write_images(tmp_path / "in", 5, size=100)
    (tmp_path / "in/broken.png").write_bytes(b"")
    flags = ["--checkpoint", toy, "--image_dir", tmp_path / "in", "--num_workers", 1, "--threads", 1]
    for name, more in (("whole", ()), ("tiles", ("--tile_size", 48))):
        given = [*flags, "--output_dir", tmp_path / name, *more]
        command = [sys.executable, "-c", WITHOUT_TORCH, ROOT / "examples", "inference_defect_model", *given]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 3, done.stderr
        assert (tmp_path / name / "report.html").is_file() and len(rows_of(tmp_path / name)) == 6
        with_torch = tmp_path / f"{name} with torch"
        script("inference_defect_model", *flags, "--output_dir", with_torch, *more)
        found, expected = (
            [{key: value for key, value in record.items() if key != "milliseconds"} for record in records_of(folder)]
            for folder in (tmp_path / name, with_torch)
        )
        assert found == expected


def test_a_checkpoint_without_torch_says_what_to_do(tiny: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "in", 1)
    flags = ["--checkpoint", tiny, "--image_dir", tmp_path / "in", "--output_dir", tmp_path / "out"]
    command = [sys.executable, "-c", WITHOUT_TORCH, ROOT / "examples", "inference_defect_model", *flags]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "needs torch, which is not installed here; export the model" in done.stderr


def test_an_exported_model_is_calibrated_and_evaluated(squares: Manifest, tmp_path: Path, script) -> None:
    path = write_toy(tmp_path / "model.onnx", small_facts())
    common = ("--checkpoint", path, "--data_root", squares.root, *FLAGS)
    status, out, err = script("calibrate_defect_model", *common, "--max_miss_rate", 0.3)
    assert status == 0 and "calibrated on the validation images" in out, err
    facts = read_facts(path)
    assert facts.thresholds != small_facts().thresholds and facts.calibration["target"].startswith("miss rate")
    assert path.with_suffix(".calibration.json").is_file() and path.with_suffix(".reliability.png").is_file()
    status, out, err = script("evaluate_defect_model", *common, "--resamples", 0)
    assert status == 0 and "image_ap" in out and f"target: {facts.calibration['target']}" in out, err
    before = path.read_bytes()
    status, _, err = script("calibrate_defect_model", *common, "--novelty")
    assert status == 1 and "whose network stays as it is" in err and path.read_bytes() == before
