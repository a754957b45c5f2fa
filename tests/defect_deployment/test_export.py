"""Export: what a file holds, and that no file gets past the gate that answers otherwise than its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from helpers.exporting import change_checkpoint, wake, write_checkpoint
from helpers.networks import OfficialLike, small_facts
from helpers.toy_onnx import write_toy
from onnx import TensorProto, helper
from PIL import Image

from dinov3.data.defect_manifest import Manifest
from dinov3.defect_deployment import export, gate, quantize
from dinov3.defect_deployment.graph import SelfContained, expect_plain, export_graph
from dinov3.defect_deployment.scoring import Scored
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.targets import Target
from dinov3.models.defect_backbone import ViTBackbone
from dinov3.models.defect_checkpoint import load_checkpoint
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier
from dinov3.models.defect_engines import open_engine
from dinov3.models.defect_engines.torch_engine import TorchEngine
from dinov3.models.defect_facts import ModelFacts, fingerprint
from dinov3.models.defect_novelty import Novelty
from dinov3.models.defect_tta import FlipAugmented

pytestmark = pytest.mark.usefixtures("sessions_end")
Run = Callable[..., tuple[int, str, str]]
CALIBRATED = {"thresholds": {"classification": 0.4, "mask": 0.5, "review": 0.3, "temperature": 1.5}, "tile_size": 40}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model for tiles, with a temperature and a review band; its images are padded inside."""
    return write_checkpoint(
        tmp_path_factory.mktemp("model") / "best.pth", "timm:test_resnet", size=(40, 32), **CALIBRATED
    )


@pytest.fixture(scope="module")
def graph(checkpoint: Path) -> onnx.ModelProto:
    """What the exporter makes of it; it takes seconds, so once."""
    content = load_checkpoint(checkpoint)
    model = export.restore_model(content, checkpoint)
    facts = ModelFacts.of_checkpoint(content)
    return export_graph(SelfContained(model, facts.mean, facts.std, False).eval(), facts.image_size, "model")


@pytest.fixture
def run(
    script: Run, checkpoint: Path, graph: onnx.ModelProto, squares: Manifest, tmp_path: Path, monkeypatch: Any
) -> Callable[..., tuple[int, str, str]]:
    """Exports the checkpoint by the script into ``tmp_path/out``, with the graph that was made already."""
    monkeypatch.setattr(export, "export_graph", lambda *_: onnx.ModelProto.FromString(graph.SerializeToString()))
    images = ["--images", squares.root / "images/val"]
    flags = ["--checkpoint", checkpoint, "--output_dir", tmp_path / "out", *images, "--threads", 1]
    return lambda *more: script("export_defect_model", *flags, *more)


def test_the_file_says_all_that_the_checkpoint_does(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    status, out, err = run()
    assert status == 0, err
    engine = open_engine(tmp_path / "out/best.onnx")
    assert engine.facts == ModelFacts.of_checkpoint(load_checkpoint(checkpoint), fingerprint(checkpoint))
    assert engine.facts.thresholds == CALIBRATED["thresholds"] and engine.facts.tile_size == 40
    record = json.loads((tmp_path / "out/export.json").read_text())
    assert record["gate"]["images"] == 12 and record["gate"]["crops"] > 12 and record["gate"]["pixels"] == 0
    assert record["bytes"] == (tmp_path / "out/best.onnx").stat().st_size and "0 verdicts flip" in out
    assert {path.name for path in (tmp_path / "out").iterdir() if ".defect." not in path.name} == {
        "best.onnx",
        "export.json",
    }


def perturb_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    made = export.export_graph

    def other(*arguments: Any) -> onnx.ModelProto:
        model = made(*arguments)
        values = next(v for v in model.graph.initializer if len(v.dims) == 4 and v.data_type == TensorProto.FLOAT)
        array = onnx.numpy_helper.to_array(values).copy()
        array.flat[0] += 0.05
        values.CopyFrom(onnx.numpy_helper.from_array(array, values.name))
        return model

    monkeypatch.setattr(export, "export_graph", other)


def perturb_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    resize = gate.inspection_pixels

    def other(image: np.ndarray, facts: ModelFacts) -> np.ndarray:
        pixels = resize(image, facts).copy()
        pixels[0, 0, 0] ^= 1  # the least that can differ
        return pixels

    monkeypatch.setattr(gate, "inspection_pixels", other)


def perturb_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    write = export._write
    limits = {"thresholds": {**CALIBRATED["thresholds"], "temperature": 1.4}}
    monkeypatch.setattr(
        export, "_write", lambda model, facts, path: write(model, export.replace(facts, **limits), path)
    )


@pytest.mark.parametrize(
    ("perturb", "told"),
    [(perturb_graph, "mask_prob differs by up to"), (perturb_resize, "values of resized images differ"),
     (perturb_metadata, "another thresholds")],
)  # fmt: skip
def test_a_file_that_answers_otherwise_is_deleted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, perturb: Callable[..., None], told: str
) -> None:
    assert run()[0] == 0
    before = (tmp_path / "out/best.onnx").read_bytes()
    perturb(monkeypatch)
    status, _, err = run()
    assert status == 1 and told in err and "did not pass the gate" in err
    assert [path.name for path in (tmp_path / "out").rglob("*.onnx")] == ["best.onnx"]
    assert (tmp_path / "out/best.onnx").read_bytes() == before  # the last good one stays


def test_verdicts_are_compared_to_the_end_rules_and_all(tmp_path: Path) -> None:
    spots = np.full((40, 60, 3), 40, np.uint8)
    spots[5:10, 5:10] = spots[30:35, 40:45] = 250
    for name, image in (("spots.png", spots), ("clean.png", np.full((40, 60, 3), 40, np.uint8))):
        Image.fromarray(image).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"")
    paths = [tmp_path / name for name in ("spots.png", "broken.png", "clean.png")]
    reference, candidate = (
        open_engine(write_toy(tmp_path / f"{most}.onnx", small_facts(rules={"limits": {"max_area_mm2": most}})))
        for most in (1000, 3)
    )
    found = gate.compare(reference, candidate, paths)
    assert (found.images, found.flips, found.mask_prob) == (2, 1, 0)
    assert gate.compare(reference, reference, paths).flips == 0


def network(kind: str) -> tuple[SelfContained, tuple[int, int]]:
    torch.manual_seed(0)
    if kind == "rotary, light, no guidance":
        vit = timm.create_model("vit_small_patch16_dinov3_qkvb", depth=2, embed_dim=64, num_heads=2, num_classes=0)
        backbone: torch.nn.Module = ViTBackbone(vit, "small")
        size, options = (32, 48), {"decoder": "light", "guidance": "none"}
    else:
        backbone, size = OfficialLike(), (24, 24)
        options = {"num_classes": 4, "seg_channels": 3, "decoder": "full"}
    model: torch.nn.Module = wake(AttentionGuidedDefectClassifier(backbone, backbone.embed_dim, **options))
    if "novelty" in kind:
        with torch.no_grad():
            maps = model.encode(torch.randn(8, 3, *size))[2][-2:][0]
        model.novelty = Novelty.fit([maps], [maps])
        model = FlipAugmented(model)
    return SelfContained(model, (0.5, 0.4, 0.3), (0.2, 0.2, 0.3), "novelty" in kind).eval(), size


@pytest.mark.parametrize("kind", ["rotary, light, no guidance", "official, full, flips, novelty, types"])
def test_each_kind_of_model_gives_one_plain_graph_with_its_answers(kind: str, tmp_path: Path) -> None:
    import onnxruntime

    module, size = network(kind)
    model = export_graph(module, size, kind)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    facts = small_facts(image_size=size, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3), novelty="novelty" in kind)
    engine = TorchEngine(module.model, facts, device="cpu", precision="off")
    for batch in (1, 2, 5):
        images = np.random.default_rng(batch).integers(0, 256, (batch, *size, 3), dtype=np.uint8)
        with torch.inference_mode():
            expected = [value.numpy() for value in module(torch.from_numpy(images))]
        found = session.run(None, {"images": images})
        assert len(found) == len(expected) == (5 if "novelty" in kind else 4)
        for ours, theirs in zip(expected, found, strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)
        embedding = engine.run(images).embedding
        np.testing.assert_allclose(found[-1], embedding, rtol=1e-4, atol=1e-5)
        with torch.inference_mode():  # of the images as they are, whatever is mirrored beside them
            pixels = engine.normalization(torch.from_numpy(images).permute(0, 3, 1, 2))
            token = getattr(module.model, "model", module.model).encode(pixels)[1]
        np.testing.assert_allclose(embedding, token.numpy(), rtol=1e-4, atol=1e-5)
    assert np.ptp(expected[1]) > 1e-3  # the masks are not flat


def test_graphs_that_depend_on_what_they_see_are_refused() -> None:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    places = helper.make_tensor_value_info("y", TensorProto.INT64, ["batch", 4])
    graph = helper.make_graph([helper.make_node("NonZero", ["x"], ["y"])], "g", [image], [places])
    inner = helper.make_graph([], "inner", [], [])
    graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=graph, else_branch=inner))
    with pytest.raises(DefectError, match="If, NonZero"):
        expect_plain(helper.make_model(graph), "file.onnx")


def test_a_size_that_is_free_is_refused() -> None:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "width"])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [image], [image])
    with pytest.raises(DefectError, match="all other sides fixed"):
        expect_plain(helper.make_model(graph), "file.onnx")


def test_flags_that_contradict_each_other_are_told(script: Run, checkpoint: Path, tmp_path: Path) -> None:
    flags = ["--checkpoint", checkpoint, "--output_dir", tmp_path / "out"]
    status, _, err = script("export_defect_model", *flags, "--precision", "bf16")
    assert status == 1 and "--engine openvino" in err
    status, _, err = script("export_defect_model", *flags)
    assert status == 1 and "--data_root" in err  # no images to be found
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out/best.onnx").write_bytes(b"somebody else's")
    status, _, err = script("export_defect_model", *flags)
    assert status == 1 and (tmp_path / "out/best.onnx").read_bytes() == b"somebody else's"


def test_a_promise_is_not_guessed_anew(checkpoint: Path, tmp_path: Path) -> None:
    from dinov3.defect_deployment.stored_target import target_for

    told = {"calibration": {"target": "miss rate at most 1.00%"}}
    old = ModelFacts.of_checkpoint(load_checkpoint(change_checkpoint(checkpoint, tmp_path / "old.pth", **told)))
    with pytest.raises(DefectError, match="--max_miss_rate"):
        target_for(old, Target())
    told["calibration"]["target_values"] = {"max_miss_rate": 0.0123}
    new = ModelFacts.of_checkpoint(load_checkpoint(change_checkpoint(checkpoint, tmp_path / "new.pth", **told)))
    assert target_for(new, Target()) == Target(max_miss_rate=0.0123)
    assert target_for(new, Target(max_overkill=0.1)) == Target(max_overkill=0.1)


def test_int8_carries_limits_of_its_own_or_is_refused(
    run: Run, script: Run, checkpoint: Path, squares: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"classes": ["normal", "defect"], "mask_classes": ["defect"], "tile_size": 0}
    mine = change_checkpoint(checkpoint, tmp_path / "mine.pth", **names)
    flags = ["--checkpoint", mine, "--data_root", squares.root, "--precision", "int8", "--calibration_images", 8]
    for name, value in {"MOST_AP_LOST": 1.0, "MOST_FLIPS": 1.0, "LEAST_IOU": 0.0}.items():
        monkeypatch.setattr(quantize, name, value)  # of a model that has learned nothing, the verdicts are chance
    status, out, err = run(*flags)
    assert status == 0, err
    assert "verdicts flip; mask IoU with fp32" in out and "does not carry over" in out
    facts = open_engine(tmp_path / "out/mine.int8.onnx").facts
    assert facts.precision == "int8" and facts.calibration["images"] == 12
    assert facts.thresholds != CALIBRATED["thresholds"] and facts.thresholds["mask"] == 0.5
    graph = onnx.load(tmp_path / "out/mine.int8.onnx").graph
    scales = [v for v in graph.initializer if v.data_type == TensorProto.INT8 and len(v.dims) == 4]
    assert scales and any(node.op_type == "QuantizeLinear" for node in graph.node)
    monkeypatch.setattr(quantize, "LEAST_IOU", 1.5)
    status, _, err = run(*flags, "--output_dir", tmp_path / "other")
    assert status == 1 and "mask IoU with fp32 is" in err and not list((tmp_path / "other").rglob("*.onnx"))


@pytest.mark.parametrize(
    ("change", "told"), [("ap", "image AP falls by"), ("flips", "verdicts flip"), ("iou", "mask IoU with fp32 is 0.5")]
)
def test_each_loss_of_lower_precision_is_told(change: str, told: str, checkpoint: Path) -> None:
    facts = ModelFacts.of_checkpoint(load_checkpoint(checkpoint))
    scores = np.linspace(0.02, 0.98, 20)
    other, mask = scores.copy(), np.array([255, 255], np.uint8)
    if change == "ap":
        other[5], other[14] = other[14], other[5]

    def scored(values: np.ndarray, masks: list[np.ndarray]) -> Scored:
        prob = np.stack([1 - values, values], 1).astype(np.float32)
        return Scored(prob, masks, (np.arange(20) >= 10).astype(int), np.arange(20).astype(str))

    full = scored(scores, [mask] * 20)
    reduced = scored(other, [mask & np.array([255, 0], np.uint8) if change == "iou" else mask] * 20)
    target = Target(max_overkill=0.5) if change == "flips" else Target()
    calibrations = full.calibrated(Target()), reduced.calibrated(target)
    found = quantize.Reduction.of(full, reduced, calibrations, facts, 0.0).problems()
    assert any(told in problem for problem in found), found
    same = quantize.Reduction.of(full, full, (calibrations[0], calibrations[0]), facts, 0.0)
    assert same.problems() == [] and same.flips == 0 and same.iou == 1
