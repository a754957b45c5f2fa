"""Fixtures of the tests that need a GPU; their modules ask for them with ``pytest_plugins``.

``GPU_CHECK_DRY_RUN=1`` runs these tests on the CPU, to try the tests themselves.

Float32 runs with ``--mixed_precision off`` (no TF32) on both sides. How close is close enough:

- float32: 1e-4 relative, of losses and, by norm, of gradients;
- bf16 (8 bits of mantissa): 1e-2 of losses, 0.15 of gradients; fp16 (11 bits): 2e-3 and 0.03. Their errors add up over
  the layers; on a CPU they were a third to a tenth of that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

DRY_RUN = bool(os.environ.get("GPU_CHECK_DRY_RUN"))


@pytest.fixture
def device() -> torch.device:
    """The GPU, without TF32; the CPU in a dry run."""
    if DRY_RUN:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; GPU_CHECK_DRY_RUN=1 tries the test itself on the CPU")
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The GPU, for what has no counterpart on a CPU."""
    if device.type != "cuda":
        pytest.skip("only a CUDA device has this")
    return device


@pytest.fixture
def compiler(device: torch.device) -> Iterator[None]:
    """The compiler; in a dry run what is compiled runs as it is, as the suite's other tests compile for the CPU."""
    with torch.compiler.set_stance("force_eager" if device.type == "cpu" else "default"):
        yield
