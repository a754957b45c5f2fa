"""Reading rules and configurations: each is refused with its problems, or can be used."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT
from helpers.fuzzing import BYTE_EDITS, TREE_EDITS, edited_bytes, edited_tree, fuzz

from dinov3.defect_cli import make_parser, parse_with_config
from dinov3.defect_errors import DefectError
from dinov3.inference.rules import Rules
from dinov3.train.defect_config import TrainConfig

RULES = ROOT / "examples" / "rules_example.yaml"
CONFIG = ROOT / "examples" / "config_defect_detection.yaml"


def read_rules(path: Path) -> None:
    try:
        rules = Rules.from_yaml(path, ["defect"])
    except DefectError as error:
        assert str(path) in str(error)
        return
    for side in (24, 40):
        mask = np.zeros((side, 32), np.uint8)
        mask[5:20, 5:20] = 1
        outcome = rules.apply([], mask, 0.1)
        assert outcome.passed == (not outcome.fired)


def read_config(path: Path) -> None:
    try:
        args = parse_with_config(make_parser(TrainConfig, None), ["--config", str(path), "--data_root", "x"])
    except DefectError as error:
        assert str(path) in str(error)
    else:
        assert isinstance(args, argparse.Namespace)


@pytest.mark.parametrize(("example", "read"), [(RULES, read_rules), (CONFIG, read_config)], ids=["rules", "config"])
def test_other_values(tmp_path: Path, example: Path, read):
    tree, path = yaml.safe_load(example.read_text(encoding="utf-8")), tmp_path / "a.yaml"

    def target(edits):
        path.write_text(yaml.safe_dump(edited_tree(tree, edits)), encoding="utf-8", errors="replace")
        read(path)

    fuzz(target, TREE_EDITS, examples=24)


@pytest.mark.parametrize(("example", "read"), [(RULES, read_rules), (CONFIG, read_config)], ids=["rules", "config"])
def test_damaged_text(tmp_path: Path, example: Path, read):
    lines = example.read_bytes().splitlines(keepends=True)
    data, path = b"".join(line for line in lines if not line.lstrip().startswith(b"#")), tmp_path / "a.yaml"

    def target(edits):
        path.write_bytes(edited_bytes(data, edits))
        read(path)

    fuzz(target, BYTE_EDITS, examples=16)
