"""Files that take long or never end: pipes, tables of one field, nested JSON, in place of what a person wrote."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest
from helpers.checking import write_dozen

from dinov3.data.defect_formats.visa import read_visa_table
from dinov3.data.defect_manifest import read_manifest
from dinov3.data.defect_prepare.splits import read_groups
from dinov3.defect_cli import parse_with_config
from dinov3.defect_errors import DefectError
from dinov3.inference.claim import load_run
from dinov3.inference.records import read_records
from dinov3.inference.rules import Rules

LONG = "x" * 200_000


def pipe(path: Path) -> Path:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes on this system")
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("field", [LONG, "x" * 2000, '"' + "x,y\n" * 60_000], ids=["field", "name", "quote"])
@pytest.mark.parametrize("read", [read_groups, read_visa_table], ids=["groups", "visa"])
def test_table_with_an_enormous_field(tmp_path, read, field):
    path = tmp_path / "table.csv"
    path.write_text(f"image,group,object,split,label\na.png,1,x,train,normal\n{field},2,x,train,normal\n")
    with pytest.raises(DefectError, match=r"table.csv: .*line \d+: .* is a quote missing") as error:
        read(path)
    assert len(str(error.value)) < 500


def test_manifest_with_an_enormous_field(tmp_path):
    """One cell of 100,000 characters would give each row's column as many."""
    root = write_dozen(tmp_path / "data")
    with (root / "manifest.csv").open("a", encoding="utf-8") as file:
        file.write(f"images/a.png,,normal,train,{LONG[:100_000]},\n")
    with pytest.raises(DefectError, match="line 14: a field of more than 1024 characters") as error:
        read_manifest(root)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["normal", "normal"]}, "classes .* expected a list of different names"),
        ({"classes": ["normal", ["defect"]]}, "classes .* expected a list of different names"),
        ({"classes": "ab"}, "classes 'ab'; expected a list"),
        ({"mask_classes": [1]}, "mask_classes .1.; expected a list"),
    ],
)
def test_classes_that_are_no_names(tmp_path, change, message):
    path = write_dozen(tmp_path / "data") / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DefectError, match=message):
        read_manifest(path.parent)


def test_results_nested_too_deep_end_the_list(tmp_path):
    path = tmp_path / "predictions.json"
    whole = json.dumps({"image": "a.png", "mask": "masks/a.png.png"})
    path.write_text(f"[\n{whole},\n{'[' * 100_000}\n")
    assert [stored.record["image"] for stored in read_records(path)] == ["a.png"]


def test_pipes_are_not_waited_for(tmp_path, script):
    reason = "a pipe, socket or device, not a file"
    path = pipe(tmp_path / "a.yaml")
    with pytest.raises(DefectError, match=reason):
        Rules.from_yaml(path, ["defect"])
    with pytest.raises(DefectError, match=reason):
        read_groups(path)
    with pytest.raises(DefectError, match=reason):
        read_visa_table(path)
    assert load_run(path) is None
    with pytest.raises(DefectError, match=f"--config cannot be read .{reason}"):
        parse_with_config(argparse.ArgumentParser(), ["--config", str(path)])
    for kind in ("coco", "labelme", "cvat"):
        status, _, err = script("prepare_defect_data", "import", kind, path, "--output_dir", tmp_path / "out")
        assert status == 1 and "neither a folder nor a regular file" in err
