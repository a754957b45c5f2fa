"""Imported first by every script here: makes sure that ``dinov3`` is this project's package."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

sys.path.insert(0, str(ROOT))
_spec = importlib.util.find_spec("dinov3")
_found = _spec.origin if _spec else None
if _found is None or not Path(_found).with_name("defect_errors.py").is_file():
    sys.exit(
        f"error: the package 'dinov3' in use is not this project's: found {_found}, "
        f"expected {ROOT / 'dinov3'}\n"
        "A checkout of the official DINOv3 repository has the same package name and came first. Do one of:\n"
        f"  - put {ROOT} before the checkout on PYTHONPATH or sys.path;\n"
        "  - import dinov3.models.defect_classifier before torch.hub.load;\n"
        "  - take the checkout off the path and pass it with --dinov3_repo DIR."
    )
