"""benchmarks/accuracy.py, run in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dinov3.defect_errors import run_script

ROOT = Path(__file__).resolve().parents[2]
Accuracy = Callable[..., tuple[int, str, str]]  # flags -> status, stdout, stderr


def accuracy_script(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Accuracy:
    """Runs the script, whose folder is on the path already."""
    from accuracy import main

    def run(*flags: object) -> tuple[int, str, str]:
        monkeypatch.setattr("accuracy_intervals.RESAMPLES", 60)
        monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks/accuracy.py"), *map(str, flags)])
        with pytest.raises(SystemExit) as exit_info:
            run_script(main)
        return int(exit_info.value.code or 0), *capfd.readouterr()

    return run
