"""Opening datasets, tables of parts and earlier results: a damaged file is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

from helpers.checking import write_dozen
from helpers.fuzzing import BYTE_EDITS, TREE_EDITS, as_json, edited_bytes, edited_tree, fuzz

from dinov3.data.defect_manifest import SPLITS, read_manifest
from dinov3.data.defect_prepare.splits import read_groups
from dinov3.defect_errors import DefectError
from dinov3.inference.claim import load_run
from dinov3.inference.records import read_records


def opens(root: Path) -> None:
    try:
        manifest = read_manifest(root)
    except DefectError as error:
        assert str(error).startswith(str(root)) and len(str(error)) < 3000
        return
    assert manifest.classes[0] and len(manifest) > 0
    assert manifest.labels.min() >= -1 and set(manifest.columns["split"].tolist()) <= set(SPLITS)
    assert sum(sum(counts.values()) for counts in manifest.counts().values()) == int((manifest.labels >= 0).sum())
    assert all(isinstance(line, str) for line in manifest.weak_labels())
    assert sum(column.nbytes for column in manifest.columns.values()) < 2**20
    assert not any(".." in Path(name).parts or name.startswith("/") for name in manifest.columns["image"].tolist())


def test_dataset_json_of_other_values(tmp_path: Path):
    root = write_dozen(tmp_path / "data")
    path = root / "dataset.json"
    tree = json.loads(path.read_bytes())

    def target(edits):
        path.write_bytes(as_json(edited_tree(tree, edits)))
        opens(root)

    fuzz(target, TREE_EDITS, examples=38)


def test_damaged_dataset_json(tmp_path: Path):
    _damage(write_dozen(tmp_path / "data"), "dataset.json")


def test_damaged_manifest(tmp_path: Path):
    _damage(write_dozen(tmp_path / "data"), "manifest.csv")


def _damage(root: Path, name: str) -> None:
    data = (root / name).read_bytes()

    def target(edits):
        (root / name).write_bytes(edited_bytes(data, edits))
        opens(root)

    fuzz(target, BYTE_EDITS, examples=30)


def test_damaged_table_of_parts(tmp_path: Path):
    path = tmp_path / "groups.csv"
    data = "image,group\n" + "".join(f'"a {i}/x,{i}.png", part {i // 2}\n' for i in range(12))

    def target(edits):
        path.write_bytes(edited_bytes(data.encode(), edits))
        try:
            groups = read_groups(path)
            assert all(isinstance(part, str) for parts, group in groups.items() for part in (*parts, group))
        except DefectError as error:
            assert str(error).startswith(str(path)) and len(str(error)) < 1000

    fuzz(target, BYTE_EDITS, examples=30)


def test_damaged_results(tmp_path: Path):
    path = tmp_path / "predictions.json"
    records = [{"image": f"{i}.png", "mask": f"masks/{i}.png.png", "verdict": "accept"} for i in range(5)]
    data = "[\n" + ",\n".join(json.dumps(record) for record in records) + "\n]\n"

    def target(edits):
        path.write_bytes(edited_bytes(data.encode(), edits))
        assert all("image" in stored.record for stored in read_records(path))
        assert load_run(path) is None

    fuzz(target, BYTE_EDITS, examples=30)
