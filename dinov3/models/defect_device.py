"""Which device to run on, in which precision, and compiled or not."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import nn

from dinov3.defect_cli import PrecisionName
from dinov3.defect_errors import DefectError


def resolve_device(name: str) -> torch.device:
    """``auto`` takes CUDA, then Apple MPS, then the CPU; else any name torch knows, such as ``cuda:1``.

    Raises:
        DefectError: unknown, or not present on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # what names no device, such as a wait for it, means this one
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DefectError(f"--device {name}: not usable here ({reason}); use auto, cpu, cuda or mps") from None
    return device


@dataclass(frozen=True)
class Precision:
    """Mixed precision on one device; ``dtype`` None means plain float32."""

    device: torch.device
    dtype: torch.dtype | None

    def autocast(self) -> contextlib.AbstractContextManager:
        """Context for forward passes."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling, needed for fp16 alone; otherwise it passes everything through."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)


def resolve_precision(name: PrecisionName, device: torch.device) -> Precision:
    """``auto``: bf16 where a CUDA device computes in it, else fp16 with loss scaling, and none on other devices.

    ``off`` holds CUDA devices to full float32 from now on. All others let them round what float32 products multiply to
    10 bits of mantissa (TF32), which makes these several times faster; ``tf32`` does nothing else.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if name == "off" else "high")
        torch.backends.cudnn.allow_tf32 = name != "off"
    if name == "auto":
        if device.type != "cuda":
            return Precision(device, None)
        name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name == "fp16" and device.type == "cpu":
        raise DefectError("--mixed_precision fp16: the CPU has no fast fp16; use auto, bf16 or off")
    if name == "tf32" and device.type != "cuda":
        raise DefectError(f"--mixed_precision tf32: only CUDA devices have it, not {device.type}; use auto or off")
    return Precision(device, {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": None, "off": None}[name])


def compile_model(model: nn.Module, device: torch.device) -> None:
    """Have ``model`` compiled at its first call; names and weights stay as they are.

    Raises:
        DefectError: torch.compile does not work here.
    """
    try:
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except Exception as error:  # the compilers behind it share no base class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DefectError(
            f"--compile: torch.compile does not work here ({reason}); it needs a C++ compiler, and on CUDA "
            "Triton. Install what is missing (apt install g++), or leave --compile out"
        ) from None
    model.compile()
