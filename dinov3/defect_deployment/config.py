"""What can be set for an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dinov3.defect_cli import PositiveInt, flag

PrecisionName = Literal["fp32", "int8", "bf16"]
EngineName = Literal["onnxruntime", "openvino"]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The flags of ``export_defect_model.py``, beside the ``Target`` of int8 and bf16."""

    checkpoint: Path = flag(help=".pth file from train_defect_model.py")
    output_dir: Path = flag(help="where the .onnx file and export.json go")
    precision: PrecisionName = flag("fp32", "what it computes in; int8 and bf16 are calibrated anew on validation")
    engine: EngineName = flag("onnxruntime", "what the gate runs the file on")
    images: Path | None = flag(None, "folder of images for the gate (default: the checkpoint's validation images)")
    data_root: Path | None = flag(None, "the checkpoint's dataset folder, if it has moved since training")
    rules: Path | None = flag(None, "YAML file of limits that the file is to carry")
    gate_images: PositiveInt = flag(200, "images that the gate takes, evenly from all")
    calibration_images: PositiveInt = flag(200, "training images whose values set the scales of int8")
    batch_size: PositiveInt = flag(16, "images at a time where int8 or bf16 are calibrated")
    device: str = flag("auto", "of the engine: cpu or, of an onnxruntime that has them, cuda or tensorrt")
    threads: PositiveInt | None = flag(None, "of the CPU (default: one per core)")
    dinov3_repo: Path | None = flag(None, "official checkout, if the model was trained on one")
