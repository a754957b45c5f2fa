"""Exported models on OpenVINO."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from dinov3.defect_errors import DefectError
from dinov3.models.defect_engines.base import Done, Engine, EngineOutput, Started
from dinov3.models.defect_engines.onnx_engine import expected_outputs
from dinov3.models.defect_engines.onnx_file import read_facts


class OpenVinoEngine(Engine):
    """Runs an ``.onnx`` file of export_defect_model.py.

    On its own, OpenVINO rounds to bfloat16 on CPUs that are fast in it; here it computes in float32 unless ``bf16`` is
    asked for, so that a file says the same everywhere.

    Args:
        device: ``auto`` or ``cpu``, or another of OpenVINO's names, such as ``GPU``.
        precision: ``auto`` or ``off`` for what the file was exported in, or ``bf16``.
        threads: for one batch; as OpenVINO likes, if not given.

    Raises:
        DefectError: OpenVINO is not installed, does not have the device, or cannot run the file.
    """

    name = "openvino"

    def __init__(self, path: Path, *, device: str = "auto", precision: str = "auto", threads: int | None = None):
        self.facts = read_facts(path)
        if precision not in ("auto", "off", "bf16"):
            raise DefectError(f"--precision {precision}: OpenVINO has auto, off (float32) and bf16; use one of those")
        try:
            import openvino
        except ImportError as error:
            raise DefectError(
                f"{path}: --engine openvino needs it ({error}); pip install 'dinov3-defect-detection[openvino]'"
            ) from None
        bf16 = precision == "bf16" or self.facts.precision == "bf16"
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        place = "CPU" if device in ("auto", "cpu") else device.upper()
        core = openvino.Core()
        try:
            model = core.read_model(path)
            names = [name for output in model.outputs for name in output.get_names()]
            self.compiled = core.compile_model(model, place, config)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            found = ", ".join(core.available_devices)
            raise DefectError(f"{path}: OpenVINO cannot run it on {place} ({reason}); devices here: {found}") from None
        self.outputs = expected_outputs(path, names, self.facts.novelty)
        self.request = self.compiled.create_infer_request()

    def start(self, images: np.ndarray) -> Started:
        self.expect_batch(images)
        begun = time.perf_counter()
        self.request.infer([images], share_inputs=True)
        # Copies: the request's memory holds the next batch soon.
        values = {name: self.request.get_tensor(name).data.copy() for name in self.outputs}
        return Done(EngineOutput(**values), time.perf_counter() - begun)
