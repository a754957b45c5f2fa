"""The console commands of the package are the scripts in ``examples/``."""

from __future__ import annotations

import importlib
import re
import runpy

import pytest
import setuptools
from conftest import ROOT

SCRIPTS = {
    "defect-prepare": "prepare_defect_data",
    "defect-train": "train_defect_model",
    "defect-calibrate": "calibrate_defect_model",
    "defect-evaluate": "evaluate_defect_model",
    "defect-inspect": "inference_defect_model",
    "defect-export": "export_defect_model",
    "defect-serve": "serve_defect_model",
    "defect-drift": "check_defect_drift",
    "defect-select": "select_defect_images",
    "defect-compare": "compare_defect_models",
    "defect-archive": "inspect_archive",
}


@pytest.fixture
def packaging(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What setup.py hands to setuptools."""
    given: dict = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    runpy.run_path(str(ROOT / "setup.py"))
    return given


def test_commands_equal_the_scripts(packaging: dict) -> None:
    commands = dict(entry.split(" = ") for entry in packaging["entry_points"]["console_scripts"])
    assert commands.keys() == SCRIPTS.keys()
    for command, script in SCRIPTS.items():
        module, function = commands[command].split(":")
        module = importlib.import_module(module)
        assert importlib.import_module(script).main is module.main and callable(getattr(module, function))


def test_only_training_asks_for_torch(packaging: dict) -> None:
    def names(requirements: list[str]) -> set[str]:
        return {re.match(r"[\w-]+", one)[0] for one in requirements}

    extras = {name: names(requirements) for name, requirements in packaging["extras_require"].items()}
    without = (
        names(packaging["install_requires"])
        | extras["runtime"]
        | extras["openvino"]
        | extras["evaluate"]
        | extras["server"]
        | extras["ray"]
    )
    heavy = {"torch", "torchvision", "timm", "torchmetrics", "tensorboard"}
    assert heavy <= extras["train"] and not heavy & without and "onnxruntime" in extras["runtime"] & extras["export"]
