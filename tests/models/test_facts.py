"""The facts about a model, and the file that carries them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from helpers.networks import small_facts
from helpers.toy_onnx import write_toy

from dinov3.defect_errors import DefectError
from dinov3.models.defect_engines.onnx_file import read_facts, write_facts
from dinov3.models.defect_facts import ModelFacts

CALIBRATION = {"images": 12, "defects": 6, "target": "miss rate at most 1.00%", "promise": "at most 1% are missed"}
FULL = {
    "image_size": (48, 32),
    "thresholds": {"classification": 0.4, "mask": 0.3, "review": 0.2, "temperature": 1.5},
    "calibration": CALIBRATION,
    "tile_size": 64,
    "rules": {"limits": {"max_count": 3}},
    "precision": "int8",
    "fingerprint": "a" * 64,
    "classes": ("normal", "Kratzer ü"),
}


@pytest.mark.parametrize("changes", [{}, FULL])
def test_facts_come_back_from_a_file_as_they_were(changes: dict[str, Any], tmp_path: Path) -> None:
    facts = small_facts(**changes)
    assert ModelFacts.from_json(facts.to_json(), "text") == facts
    assert read_facts(write_toy(tmp_path / "model.onnx", facts)) == facts


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", [32]),
        ("image_size", [0, 32]),
        ("classes", ["normal"]),
        ("mask_classes", ["a", "a"]),
        ("thresholds", {"classification": "0.5", "mask": 0.5}),
        ("thresholds", {"classification": 0.5, "mask": 0.5, "review": 0.6}),
        ("normalization", {"mean": [0, 0, 0], "std": [1, 1, 0]}),
        ("resize", "pillow"),
        ("precision", "fp8"),
        ("tile_overlap", 0.9),
        ("white_level", 0),
        ("novelty", 1),
        ("rules", ["max_count"]),
        ("unheard_of", 1),
    ],
)
def test_a_field_that_nothing_here_writes_is_named(name: str, value: Any) -> None:
    content = json.loads(small_facts().to_json()) | {name: value}
    with pytest.raises(DefectError, match=f"^model.onnx: .*{name}"):
        ModelFacts.from_json(json.dumps(content), "model.onnx")
    if name not in ("normalization", "unheard_of"):
        with pytest.raises(DefectError, match=name):
            small_facts(**{name: value})


def test_files_that_are_no_model_are_told_apart(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "model.onnx", small_facts())
    whole = path.read_bytes()
    for length in (1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DefectError, match=r"model\.onnx: (damaged|an ONNX file of another program)"):
            read_facts(path)
    plain = onnx.ModelProto.FromString(whole)
    del plain.metadata_props[:]
    onnx.save(plain, path)
    with pytest.raises(DefectError, match="another program"):
        read_facts(path)
    with pytest.raises(DefectError, match="no such file"):
        read_facts(tmp_path / "absent.onnx")


def test_new_facts_leave_the_rest_of_the_file_alone(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "model.onnx", small_facts())
    before = onnx.load(path)
    changed = replace(small_facts(), thresholds={"classification": 0.7, "mask": 0.5}, calibration=CALIBRATION)
    write_facts(path, changed)
    after = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(after)
    assert read_facts(path) == changed and after.graph == before.graph
    assert {entry.key for entry in after.metadata_props} == {entry.key for entry in before.metadata_props}
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
