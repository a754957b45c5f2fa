"""Exported models on onnxruntime."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from dinov3.defect_errors import DefectError
from dinov3.models.defect_engines.base import INPUT, REQUIRED, Done, Engine, EngineOutput, Started
from dinov3.models.defect_engines.onnx_file import read_facts

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider"],
}


class OnnxEngine(Engine):
    """Runs an ``.onnx`` file of export_defect_model.py.

    Args:
        device: ``auto`` or ``cpu``, or ``cuda`` or ``tensorrt`` of an onnxruntime that has them; ``cuda:1`` and
            ``tensorrt:1`` are the second GPU.
        precision: ``auto`` or ``off``; the file itself says what it computes in.
        threads: for one batch; one per core, if not given.

    Raises:
        DefectError: onnxruntime is not installed, does not have the device, or cannot run the file.
    """

    name = "onnx"

    def __init__(self, path: Path, *, device: str = "auto", precision: str = "auto", threads: int | None = None):
        self.facts = read_facts(path)
        if precision not in ("auto", "off"):
            raise DefectError(
                f"--precision {precision}: {path} computes in {self.facts.precision}, as it was exported; "
                "leave the flag out, or use --engine openvino with bf16"
            )
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise DefectError(
                f"{path}: --engine onnx needs onnxruntime ({error}); pip install 'dinov3-defect-detection[runtime]'"
            ) from None
        kind, _, number = device.partition(":")
        wanted = PROVIDERS.get("cpu" if kind == "auto" else kind)
        if wanted is None or not set(wanted) <= set(ort.get_available_providers()):
            found = ", ".join(
                name for name, needs in PROVIDERS.items() if set(needs) <= set(ort.get_available_providers())
            )
            raise DefectError(f"--device {device}: this onnxruntime has {found}; use one of those, or auto")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.log_severity_level = 3
        # Weights that are packed anew for the CPU then leave no hole behind: 20 MB less for a ViT-S.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        providers = [(name, {"device_id": int(number)}) if number.isdecimal() else name for name in wanted]
        try:
            self.session = ort.InferenceSession(str(path), options, providers=providers)
            names = [output.name for output in self.session.get_outputs()]
        except Exception as error:  # onnxruntime's own types share no base class
            reason = " ".join(str(error).split())[:300]
            raise DefectError(f"{path}: onnxruntime cannot run it ({reason}); copy it again or export anew") from None
        if self.session.get_providers()[0] != wanted[0]:
            raise DefectError(f"--device {device}: onnxruntime could not start it here; use auto or cpu")
        self.outputs = expected_outputs(path, names, self.facts.novelty)

    def start(self, images: np.ndarray) -> Started:
        self.expect_batch(images)
        begun = time.perf_counter()
        values = self.session.run(self.outputs, {INPUT: images})
        output = EngineOutput(**dict(zip(self.outputs, values, strict=True)))
        return Done(output, time.perf_counter() - begun)


def expected_outputs(path: Path, found: list[str], novelty: bool) -> list[str]:
    """The outputs to ask a file for: those it must have, and its embedding if it has one.

    Raises:
        DefectError: it lacks one.
    """
    wanted = [*REQUIRED, "novelty"] if novelty else [*REQUIRED]
    if not set(wanted) <= set(found):
        raise DefectError(f"{path}: its outputs are {', '.join(found)}; expected {', '.join(wanted)}; export it anew")
    return [*wanted, "embedding"] if "embedding" in found else wanted


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
