"""From a file to the engine that runs it."""

from __future__ import annotations

from pathlib import Path

from dinov3.defect_errors import DefectError
from dinov3.models.defect_engines.base import ENGINES, Engine, EngineName


def open_engine(
    path: Path | str,
    engine: EngineName | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    backbone: str | None = None,
    dinov3_repo: Path | None = None,
    compile: bool = False,  # noqa: A002  torch's own word
) -> Engine:
    """Open a checkpoint (``.pth``) or an exported model (``.onnx``). Only the engine in use is imported.

    Args:
        engine: ``torch`` for checkpoints, ``onnx`` (onnxruntime, the default) or ``openvino`` for exported models.
        device: as :func:`~dinov3.models.defect_device.resolve_device` for torch; for ``onnx``, ``auto`` and ``cpu``
            are the CPU, ``cuda`` onnxruntime's CUDA provider and ``tensorrt`` its TensorRT provider; for ``openvino``,
            ``auto`` and ``cpu`` are the CPU, other names its own.
        precision: as :func:`~dinov3.models.defect_device.resolve_precision` for torch; exported models compute in what
            they were exported in, but ``bf16`` lets OpenVINO round to bfloat16.
        threads: of the CPU, for one batch; as the engine likes, if not given.
        backbone: to make sure: the one that the model must have.
        dinov3_repo, compile: for torch alone.

    Raises:
        DefectError: the file cannot be used, the engine is not installed or not for such files, or an option is not
            for this engine.
    """
    path = Path(path)
    exported = path.suffix.lower() == ".onnx"
    name = engine or ("onnx" if exported else "torch")
    if name not in ENGINES:
        raise DefectError(f"--engine {name}: expected one of {', '.join(ENGINES)}")
    if exported == (name == "torch"):
        kind, fits = ("an exported model", "onnx or openvino") if exported else ("a checkpoint", "torch")
        remedy = "" if exported else "; export_defect_model.py makes an .onnx file of it"
        raise DefectError(f"--engine {name}: {path} is {kind}, for the engine {fits}{remedy}")
    if exported and compile:
        raise DefectError(f"--compile: {path} is an exported model, which is compiled already; leave the flag out")
    if name == "torch":
        try:
            from dinov3.models.defect_engines.torch_engine import open_checkpoint
        except ModuleNotFoundError as error:
            raise DefectError(
                f"{path}: a checkpoint needs {error.name}, which is not installed here; export the model where it is "
                "(export_defect_model.py) and give the .onnx file, or pip install 'dinov3-defect-detection[train]'"
            ) from None
        opened: Engine = open_checkpoint(
            path, device=device, precision=precision, threads=threads, dinov3_repo=dinov3_repo, compile=compile
        )
    elif name == "onnx":
        from dinov3.models.defect_engines.onnx_engine import OnnxEngine

        opened = OnnxEngine(path, device=device, precision=precision, threads=threads)
    else:
        from dinov3.models.defect_engines.openvino_engine import OpenVinoEngine

        opened = OpenVinoEngine(path, device=device, precision=precision, threads=threads)
    if backbone not in (None, opened.facts.backbone):
        raise DefectError(
            f"--backbone {backbone}: {path} was trained with {opened.facts.backbone}; leave the flag out, or "
            "give a checkpoint of that backbone"
        )
    return opened
